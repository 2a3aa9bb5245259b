"""Learning without forgetting: the model before the task teaches, on the new task's examples."""

from __future__ import annotations

from epi_bench import DistillationStrategy, TradeOff, register_strategy


@register_strategy("lwf")
class LearningWithoutForgetting(DistillationStrategy):
    """Answers like the model as the experience found it, as far as the new task allows.

    ``loss + strength T^2 / N sum_t KL(p_t || q_t)`` over the supervised tokens (Li and Hoiem 2016,
    arXiv 1606.09282; the distillation loss of Hinton et al. 2015, arXiv 1503.02531, whose ``T^2``
    keeps the gradient's size whatever ``T`` is). ``p`` is the teacher's and ``q`` the trained
    model's distribution of the next token. The teacher is the model before the experience, so
    what the first task taught is kept in the second one; ``kl_to_base`` keeps to the base model
    throughout. Needs no old data: a forward pass of the teacher a step, and a copy of the model.

    Args:
        strength: Weight of the divergence, at least 0 (lambda_o in the paper, which has 1); 0 is
            full fine-tuning.
        temperature: T, above 0; above 1 unlikely tokens count for more. The paper has 2.
    """

    needs = ("boundaries", "old weights")
    bytes_per_parameter = "4"
    trade_off = TradeOff("strength", (0.1, 0.3, 1.0, 3.0, 10.0))
    evidence = (
        "The oldest of the methods that keep predictions and not weights; forgetting is reported "
        "to follow this divergence (arXiv 2509.04259)."
    )

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(strength, "previous", "forward", temperature)
