"""Selective token masking, and memory aware synapses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import mean_loss
from epi_bench.strategy.strategy import create_strategy
from epi_bench.strategy.token_losses import token_losses
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks
from epi_bench.training.context import TrainingContext


class Table(nn.Module):
    """Predicts token j with probability row[j], whatever came before."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def _context(model):
    return TrainingContext(model, 0, torch.device("cpu"), 0, 1, 1)


def test_token_losses_by_hand():
    model = Table([0.5, 0.25, 0.125, 0.125])
    examples = [
        EncodedExample((0, 1, 2), (False, True, True)),
        EncodedExample((0, 3, 0, 1), (False, False, True, True)),
    ]
    for batch_size in (1, 2):
        first, second = token_losses(_context(model), model, examples, batch_size)
        assert (first / torch.log(torch.tensor(2.0))).tolist() == pytest.approx([2.0, 3.0])
        assert second.isnan().tolist() == [True, False, False]
        assert (second[1:] / torch.log(torch.tensor(2.0))).tolist() == pytest.approx([1.0, 2.0])


def test_token_losses_have_the_mean_that_is_trained():
    with own_numerics():
        loop = toy_loop(create_strategy("full_sft", {}))
        examples = toy_tasks()[0].examples[:6]
        losses = torch.cat(token_losses(loop.context, loop.model, examples))
        (batch,) = loop.context.batches(examples, 6)
        assert losses.nanmean().item() == pytest.approx(mean_loss(loop.model, batch).item())


def _masked(threshold, *examples):
    model = Table([0.5, 0.25, 0.125, 0.125])
    strategy = create_strategy("stm", {"threshold": threshold})
    strategy.context = _context(model)
    kept = strategy.training_examples(SimpleNamespace(name="x", examples=examples))
    return [list(example.supervised) for example in kept], strategy


def test_stm_masks_what_has_a_perplexity_above_its_threshold():
    example = EncodedExample((0, 0, 1, 2, 3), (False, True, True, True, True))
    # perplexities 2, 4, 8, 8: the third is masked, the last one ends the answer
    found, strategy = _masked(5.0, example)
    assert found == [[False, True, True, False, True]]
    assert strategy.diagnostics() == {"masked_tokens": 0.25, "dropped_examples": 0.0}
    assert _masked(8.0001, example)[0] == [list(example.supervised)]


def test_stm_leaves_out_examples_of_which_nothing_is_left():
    easy = EncodedExample((1, 0, 0), (False, True, True))
    hard = EncodedExample((1, 3, 3), (False, True, True))
    short = EncodedExample((1, 3), (False, True))
    found, strategy = _masked(3.0, easy, hard, short)
    assert found == [[False, True, True], [False, True]]
    assert strategy.diagnostics()["dropped_examples"] == 1
    with pytest.raises(UserError, match="raise it"):
        _masked(3.0, hard)


def test_stm_masks_the_share_of_the_tokens_that_surprise_most():
    model = Table([0.5, 0.25, 0.15, 0.1])
    strategy = create_strategy("stm", {"share": 0.4})
    strategy.context = _context(model)
    examples = [
        EncodedExample((0, 1, 3, 0), (False, True, True, True)),
        EncodedExample((0, 2, 0), (False, True, True)),
    ]
    kept = strategy.training_examples(SimpleNamespace(name="x", examples=examples))
    assert [list(example.supervised) for example in kept] == [[False, True, False, True]]
    assert strategy.diagnostics() == {"masked_tokens": pytest.approx(0.6), "dropped_examples": 1.0}


def test_stm_with_a_high_threshold_is_full_fine_tuning():
    weights = []
    for name, options in (("stm", {"share": 0.0}), ("full_sft", {})):
        with own_numerics():
            loop = toy_loop(create_strategy(name, options))
            loop.train(toy_tasks()[0])
        weights.append([p.detach() for p in loop.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class Features(nn.Module):
    """Hidden state ``w x`` of one dimension."""

    def __init__(self, weight):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))

    def forward(self, input_ids, attention_mask, output_hidden_states):
        return SimpleNamespace(hidden_states=[(self.w * input_ids)[..., None]])


def test_mas_by_hand():
    model = Features(3.0)
    strategy = create_strategy("mas", {"strength": 0.5})
    strategy.context = _context(model)
    examples = [EncodedExample((x,), (True,)) for x in (1, 2, 4)]
    strategy.end_experience(SimpleNamespace(index=0, examples=examples))
    importance = (1 + 4 + 16) / 3 * 2 * 3.0  # mean of |2 w x^2|
    assert strategy._importance["w"].item() == pytest.approx(importance)
    with torch.no_grad():
        model.w += 2
    assert strategy.penalty(model).item() == pytest.approx(0.5 * importance * 4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stm", {"threshold": 0.5}),
        ("stm", {"share": 1.0}),
        ("mas", {"strength": -1.0}),
        ("mas", {"samples": 0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)
