"""Fisher information in its forms, by hand."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.strategy.fisher import example_gradients
from epi_bench.strategy.fisher_information import FisherInformation
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

EXAMPLES = [
    torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]),
    torch.tensor([[2.0, 0.0], [1.0, 1.0], [5.0, 2.0]]),
]
SQUARES = (EXAMPLES[0].square() + EXAMPLES[1].square()) / 2


class Context:
    """Of a model whose loss on the example x is the sum of ``w x``: the gradient is x."""

    def __init__(self, shape=(3, 2)):
        self.model = nn.Module()
        self.model.w = nn.Parameter(torch.zeros(shape))

    def generator(self, purpose):
        return random.Random(purpose)

    def batches(self, examples, batch_size):
        return iter(examples)

    def loss(self, model, batch):
        return (model.w * batch).sum()


def _measured(form, **options):
    context = Context()
    return FisherInformation.measured(context, {"w": context.model.w}, EXAMPLES, form, **options)


def test_the_diagonal_is_the_mean_of_the_squares():
    assert torch.equal(_measured("diagonal").parts["w"][0], SQUARES)


def test_bfloat16_rounds_the_sum_and_not_its_parts():
    (found,) = _measured("diagonal_bf16").parts["w"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, SQUARES.bfloat16())


def test_factors_keep_the_sums_of_rows_and_columns():
    values = _measured("factored").values("w", torch.Size([3, 2]))
    assert torch.allclose(values.sum(0), SQUARES.sum(0))
    assert torch.allclose(values.sum(1), SQUARES.sum(1))
    # row sums 4.5, 13.5, 15; column sums 20, 13; all 33
    assert values[1, 0].item() == pytest.approx(13.5 * 20 / 33)


def test_factors_are_exact_for_rank_one():
    context = Context()
    example = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]))
    fisher = FisherInformation.measured(context, {"w": context.model.w}, [example], "factored")
    assert torch.allclose(fisher.values("w", torch.Size([3, 2])), example.square())


def test_a_vector_has_no_factors():
    context = Context((2,))
    fisher = FisherInformation.measured(
        context, {"w": context.model.w}, [torch.tensor([1.0, 3.0])], "factored"
    )
    assert [part.tolist() for part in fisher.parts["w"]] == [[1.0, 9.0]]


@pytest.mark.parametrize("form", ["diagonal", "diagonal_bf16", "factored"])
def test_sums_and_scales_are_those_of_the_values(form):
    shape = torch.Size([3, 2])
    fisher = _measured(form)
    values = fisher.values("w", shape).float()
    twice = fisher.decayed_and(0.5, fisher).values("w", shape)
    assert torch.allclose(twice.float(), 1.5 * values, rtol=1e-2)
    unit = fisher.with_unit_mean({"w": shape}).values("w", shape)
    assert unit.float().mean().item() == pytest.approx(1, rel=1e-2)
    assert torch.allclose(unit.float() * values.mean(), values, rtol=1e-2)


@pytest.mark.parametrize("form", ["diagonal", "diagonal_bf16", "factored"])
def test_a_state_gives_the_same_back_in_memory_of_its_own(form):
    fisher = _measured(form)
    again = FisherInformation.from_state(fisher.state_dict(), torch.device("cpu"))
    pairs = zip(fisher.parts["w"], again.parts["w"], strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_the_optimizers_moment_is_adams_at_this_point():
    weight = nn.Parameter(torch.zeros(2))
    unused = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight, unused], lr=0.1, betas=(0.9, 0.5))
    for gradient in ([2.0, 1.0], [4.0, 0.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # moments 0.5 (0.5 4 + 16) = 9 and 0.5 0.5 1 = 0.25, of weight 1 - 0.5^2 = 0.75
    fisher = FisherInformation.of_optimizer(optimizer, {"w": weight, "unused": unused})
    assert fisher.parts.keys() == {"w"}
    assert fisher.parts["w"][0].tolist() == pytest.approx([9 / 0.75, 0.25 / 0.75])
    assert optimizer.state[weight]["exp_avg_sq"].tolist() == [9.0, 0.25]


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)])
def test_an_optimizer_without_a_second_moment_is_refused(optimizer):
    with pytest.raises(UserError, match="reads Adam's second moment, and this training has"):
        FisherInformation.of_optimizer(optimizer, {})


def test_labels_of_the_model_are_drawn_from_what_it_expects():
    """The gradient of a logit z_i is p_i - 1 or p_i; its square has the mean p_i (1 - p_i)."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.5, 0.3, 0.2]).log())

        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))

    from epi_bench.model.losses import mean_loss

    model, counted = Fixed(), []
    context = SimpleNamespace(
        model=model,
        torch_generator=lambda purpose: torch.Generator().manual_seed(0),
        batches=lambda examples, batch_size: iter(examples),
        loss=mean_loss,
        count_tokens=counted.append,
    )
    ids = torch.tensor([[0, 0]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([[-100, 0]]),
    }
    count = 400
    total = torch.zeros(3)
    for _, gradient in example_gradients(
        context, {"logits": model.logits}, [batch] * count, labels="model"
    ):
        total += gradient.square() / count
    # sd of a mean over 400 is below 0.015
    assert total.tolist() == pytest.approx([0.25, 0.21, 0.16], abs=0.06)
    assert batch["labels"].tolist() == [[-100, 0]]
    assert counted == [2] * count  # drawing takes a forward pass of its own


def test_one_examples_gradients_are_let_go_before_the_next():
    """Otherwise a Fisher pass would need twice the memory of a training step's gradients."""
    import weakref

    with own_numerics():
        loop = toy_loop(_plain())
        parameters = dict(loop.model.named_parameters())
        alive: list[weakref.ref] = []
        most = 0
        for _, gradient in example_gradients(loop.context, parameters, toy_tasks()[0].examples[:3]):
            alive = [ref for ref in alive if ref() is not None]
            most = max(most, len(alive))
            alive.append(weakref.ref(gradient))
            del gradient
    assert most <= 1


def _plain():
    from epi_bench.strategy.strategy import Strategy

    return Strategy()
