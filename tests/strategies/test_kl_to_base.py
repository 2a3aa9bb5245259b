"""Distance of predictions to an earlier model's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.distillation import CHUNK, summed_divergence
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing.checks import CHECKS, _Subject
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

P, Q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()


def test_both_directions_by_hand():
    assert summed_divergence(P, Q).item() == pytest.approx(0.5108, abs=1e-4)
    assert summed_divergence(P, Q, "reverse").item() == pytest.approx(0.3681, abs=1e-4)
    assert summed_divergence(P, P).item() == 0


def test_chunks_are_torchs_divergence_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2 * CHUNK + 5, 7, generator=generator) for _ in range(2))
    q.requires_grad_()
    expected = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), reduction="sum", log_target=True
    )
    found = summed_divergence(p, q)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, q)
    (theirs,) = torch.autograd.grad(expected, q)
    assert torch.allclose(gradient, theirs, atol=1e-6)


def test_a_temperature_divides_both_logits():
    found = summed_divergence(2 * P, 2 * Q, temperature=2.0)
    assert found.item() == pytest.approx(0.5108, abs=1e-4)


@pytest.mark.parametrize("teacher", ["base", "previous"])
def test_the_first_step_is_that_of_full_fine_tuning(teacher):
    """The model is its own teacher there: neither the loss nor the gradient changes."""
    weights = []
    for name, options in (("full_sft", {}), ("kl_to_base", {"strength": 9.0, "teacher": teacher})):
        with own_numerics():
            loop = toy_loop(create_strategy(name, options))
            seen = []
            loop.train(
                toy_tasks()[0],
                lambda step, _, kept=seen: kept.append(
                    [p.detach().clone() for p in step.model.parameters()]
                ),
            )
        weights.append(seen)
    first, second = (
        max(float((a - b).abs().max()) for a, b in zip(*pair, strict=True))
        for pair in list(zip(*weights, strict=True))[:2]
    )
    assert first < 1e-5
    assert second > 1e-4


def _divergence_at_the_end(**options):
    with own_numerics():
        strategy = create_strategy("kl_to_base", options)
        loop = toy_loop(strategy, training={"learning_rate": 0.02})
        for experience in toy_tasks():
            loop.train(experience)
        return strategy.diagnostics()["divergence"]


def test_a_stronger_pull_stays_nearer_to_the_base():
    weak, strong = (_divergence_at_the_end(strength=strength) for strength in (0.001, 10.0))
    assert 0 < strong < 0.5 * weak


def test_the_previous_model_is_nearer_than_the_base():
    near = _divergence_at_the_end(strength=0.001, teacher="previous")
    assert 0 < near < _divergence_at_the_end(strength=0.001)


@pytest.mark.parametrize("teacher", ["base", "previous"])
def test_an_interruption_changes_nothing(teacher):
    def make():
        return create_strategy("kl_to_base", {"teacher": teacher})

    assert resuming_problem(make, points=(0, 4)) is None


def test_micro_batches_are_one_batch_and_the_copy_is_reported():
    subject = _Subject(type(create_strategy("kl_to_base", {})), {})
    assert CHECKS["accumulation"](subject) is None
    assert CHECKS["memory"](subject) is None


def test_a_model_with_an_adapter_is_its_own_base():
    """The teacher's pass is made with the adapter off, and there is no copy."""

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.is_on = True

        def disable_adapter(self):
            from contextlib import contextmanager

            @contextmanager
            def off():
                self.is_on = False
                yield
                self.is_on = True

            return off()

        def forward(self, input_ids, attention_mask):
            row = Q if self.is_on else P
            return SimpleNamespace(logits=row.expand(*input_ids.shape, -1))

    strategy = create_strategy("kl_to_base", {"strength": 2.0})
    model = strategy.prepare_model(Adapted())
    counted = []
    strategy.context = SimpleNamespace(model=model, count_tokens=counted.append)
    ids = torch.zeros(1, 3, dtype=torch.int64)
    batch = {"input_ids": ids, "attention_mask": ids + 1, "labels": ids}
    found = strategy.batch_penalty(batch, model(ids, None).logits)
    assert found.item() == pytest.approx(2.0 * 2 * 0.5108, abs=1e-3)  # two predicted tokens
    assert strategy.state_bytes() == 4
    assert counted == [3]  # what the teacher read


def test_values_out_of_range_are_refused():
    for options in ({"strength": -1.0}, {"temperature": 0.0}):
        with pytest.raises(UserError, match="kl_to_base: "):
            create_strategy("kl_to_base", options)
