"""Texts that a model writes, drawn or the likeliest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench.model.sampling import sampled
from epi_bench.testing.toys import own_numerics, toy_model


class Fixed(nn.Module):
    """Expects tokens 0 to 3 with the same probabilities whatever it has read."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 0.25, 0.15, 0.1]).log())

    def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=None):
        return SimpleNamespace(logits=self.weight.expand(*input_ids.shape, -1))


def _shares(**options):
    generator = torch.Generator().manual_seed(0)
    written = sampled(
        Fixed(), [[9]] * 600, longest=1, is_ended=lambda new: False, generator=generator, **options
    )
    tokens = [token for (token,) in written]
    return [tokens.count(token) / 600 for token in range(4)]


# sd of a share of 600 is at most 0.02
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.0}, [1.0, 0.0, 0.0, 0.0]),
        ({"temperature": 0.5}, [0.725, 0.181, 0.065, 0.029]),  # squares, of 0.345
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0.0, 0.0]),
        ({"top_p": 0.5}, [1.0, 0.0, 0.0, 0.0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_are_likely(options, expected):
    assert _shares(**options) == pytest.approx(expected, abs=0.08)


def test_a_text_ends_where_it_is_told_to_and_others_go_on():
    """Prompts of several lengths, each with its own continuation."""

    class Counts(Fixed):
        def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=None):
            following = (input_ids + 1).clamp(max=19)
            return SimpleNamespace(logits=nn.functional.one_hot(following, 20).float())

    written = sampled(
        Counts(),
        [[7], [1, 2], [3], [4, 8]],
        longest=4,
        is_ended=lambda new: new[-1] in (5, 10),
        generator=torch.Generator(),
        temperature=0.0,
    )
    assert written == [[8, 9, 10], [3, 4, 5], [4, 5], [9, 10]]


def test_nothing_is_written_beyond_what_the_model_reads():
    with own_numerics():
        model = toy_model()  # 32 positions
        written = sampled(
            model.train(),
            [[4] * 30, [4] * 32],
            longest=9,
            is_ended=lambda new: False,
            generator=torch.Generator().manual_seed(0),
        )
    assert [len(text) for text in written] == [2, 0]
    assert model.training
