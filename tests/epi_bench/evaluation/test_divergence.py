"""The divergence from the base model, against hand values and the whole vocabulary."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from epi_bench.evaluation.divergence import BaseDistributions
from epi_bench.model.batching import collate
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.testing.toys import toy_model, toy_tasks

ONE = {"a": [EncodedExample((0, 1, 0), (False, True, True))]}


class Fixed(nn.Module):
    """Says the same at every position."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids, attention_mask):
        shape = (*input_ids.shape, len(self.logits))
        return type("Output", (), {"logits": self.logits.expand(shape)})


def between(base, model, examples=ONE, **options):
    found = BaseDistributions(examples, pad_token_id=0, **options)
    found.remember(base)
    return found.divergence(model, list(examples))


def test_it_is_the_forward_divergence():
    """KL(p||q) of p = (.5, .5), q = (.9, .1) is .5108; the other way round it is .3681."""
    assert between(Fixed(0.5, 0.5), Fixed(0.9, 0.1)).nats == pytest.approx(0.5108, abs=1e-4)
    assert between(Fixed(0.9, 0.1), Fixed(0.5, 0.5)).nats == pytest.approx(0.3681, abs=1e-4)
    assert between(Fixed(0.5, 0.5), Fixed(0.9, 0.1)).tokens == 2


def test_tokens_beyond_the_likeliest_are_one_class():
    """Of (.6, .3, .07, .03) the first two stay; the others are .1 against .5."""
    base, model = Fixed(0.6, 0.3, 0.07, 0.03), Fixed(0.3, 0.2, 0.1, 0.4)
    expected = 0.6 * math.log(2) + 0.3 * math.log(1.5) + 0.1 * math.log(0.2)
    assert between(base, model, top=2).nats == pytest.approx(expected, rel=1e-5)
    whole = between(base, model, top=4).nats
    assert whole > expected
    assert whole == pytest.approx(between(base, model, top=9).nats)


def test_rounding_makes_no_divergence_negative():
    """Of two distributions that differ in their last bits the sum of the terms may be below 0."""
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(16, generator=generator).softmax(dim=0)
        noise = 1 + 1e-7 * torch.randn(16, generator=generator)
        assert between(Fixed(*share), Fixed(*(share * noise))).nats >= 0


def moved(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for number, parameter in enumerate(other.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return other


def test_it_is_the_mean_over_all_supervised_tokens_of_all_examples():
    """Batches of examples of unequal length, against one example after the other."""
    base, examples = toy_model(), list(toy_tasks()[0].examples)[:19]
    longer = EncodedExample((2, 5, 9, 3, 5, 7, 1), (False,) * 4 + (True,) * 3)
    examples.append(longer)
    model, terms = moved(base), []
    for example in examples:
        batch = collate([example], 0, "cpu")
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        p, q = (m(**inputs).logits[0, :-1].double().log_softmax(-1) for m in (base, model))
        chosen = [position - 1 for position, s in enumerate(example.supervised) if s]
        terms += (p.exp() * (p - q)).sum(-1)[chosen].tolist()
    found = between(base, model, {"a": examples[:7], "b": examples[7:]})
    assert found.tokens == len(terms) == 19 * 2 + 3
    assert found.nats == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_the_base_model_is_not_away_from_itself_and_modes_are_kept():
    base = toy_model().train()
    examples = {"a": toy_tasks()[0].examples, "none": [EncodedExample((1, 2), (True, False))]}
    kept = BaseDistributions(examples, 0, top=4)
    kept.remember(base)
    assert kept.divergence(base, ["a"]).nats == 0.0
    assert kept.divergence(base, ["none"]) is None
    assert base.training
    positions = 2 * len(examples["a"])
    assert kept.bytes == positions * (4 * 4 + 5 * 4)
