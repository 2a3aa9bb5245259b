"""Stay near what an earlier model predicts on the new task's own examples."""

from __future__ import annotations

from typing import Literal

from epi_bench import DistillationStrategy, TradeOff, register_strategy


@register_strategy("kl_to_base")
class KLToBase(DistillationStrategy):
    """A penalty on how far the predictions are from an earlier model's.

    ``loss + strength T^2 / N sum_t KL(p_t || q_t)`` over the ``N`` supervised tokens of the step,
    with ``p`` the teacher's and ``q`` the trained model's distribution of the next token, both of
    logits divided by ``T``. Needs no old data. How much a model forgets is reported to follow this
    divergence on the new task (RL's Razor, arXiv 2509.04259), so it is held directly. ``lwf`` is
    the same with the model before the experience as its teacher.

    The trained model's logits are those of the loss; the teacher costs a forward pass a step, and a
    copy of the model in memory. A model with a peft adapter is its own base: the adapter is turned
    off for the teacher's pass, and there is no copy. Distributions are made for 256 tokens at a
    time, so the vocabulary is never copied for a whole batch.

    Args:
        strength: Weight of the divergence, at least 0 (alpha); 0 is full fine-tuning.
        teacher: ``base``, the model as it was loaded, or ``previous``, as the present experience
            found it.
        direction: ``forward``, ``KL(teacher || model)``, which keeps everything that the teacher
            finds likely, or ``reverse``, ``KL(model || teacher)``.
        temperature: T, above 0; above 1 unlikely tokens count for more.
    """

    needs = ("old weights",)
    bytes_per_parameter = "4"
    trade_off = TradeOff("strength", (0.1, 0.3, 1.0, 3.0, 10.0))
    evidence = "Forgetting is reported to follow this divergence, not how far the weights move."

    def __init__(
        self,
        strength: float = 1.0,
        teacher: Literal["base", "previous"] = "base",
        direction: Literal["forward", "reverse"] = "forward",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(strength, teacher, direction, temperature)
