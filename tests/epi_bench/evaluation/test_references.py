"""Scores of a reference's tokens, against one plain forward pass."""

from __future__ import annotations

import pytest
import torch

from epi_bench.evaluation.references import reference_token_scores


def test_every_supervised_token_is_scored_as_in_a_plain_forward_pass(model, encoder):
    messages = [{"role": "user", "content": "copy the word"}]
    for answer in ("red", "red green blue"):
        reference = encoder.scoring([*messages, {"role": "assistant", "content": answer}])
        with torch.no_grad():
            (found,) = reference_token_scores(model, [reference], 0, 1)
            logits = model(torch.tensor([reference.input_ids])).logits[0]
        positions = [i for i, counts in enumerate(reference.supervised) if counts]
        expected = [logits[i - 1].log_softmax(-1)[reference.input_ids[i]].item() for i in positions]
        assert found.log_probabilities == pytest.approx(expected, abs=1e-4)
        assert found.correct == tuple(
            int(logits[i - 1].argmax()) == reference.input_ids[i] for i in positions
        )


def test_logits_are_computed_only_where_a_token_is_scored(model, encoder):
    prompts = [[{"role": "user", "content": "copy the word " * n}] for n in (1, 2, 3)]
    references = [
        encoder.scoring([*prompt, {"role": "assistant", "content": "red " * n}])
        for n, prompt in enumerate(prompts, start=1)
    ]
    widths = []
    hook = model.lm_head.register_forward_hook(
        lambda _module, _inputs, output: widths.append(tuple(output.shape[:2]))
    )
    try:
        with torch.no_grad():
            scores = reference_token_scores(model, references, 0, 1)
    finally:
        hook.remove()
    assert sorted(widths) == sorted((1, r.supervised_tokens) for r in references)
    assert [len(found.correct) for found in scores] == [r.supervised_tokens for r in references]
