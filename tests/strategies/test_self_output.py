"""Training on the model's own right answers."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategies import self_output
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing.checks import _Subject
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks


def _chosen(monkeypatch, written, scores, **options):
    """The training examples, where the model writes these answers to every prompt."""
    asked = []

    def write(model, prompts, *, count, **_):
        assert count == len(written)
        return [list(written) for _ in prompts]

    strategy = create_strategy("self_output", {"candidates": len(written), **options})
    with own_numerics():
        loop = toy_loop(strategy)
    first = toy_tasks()[0]
    monkeypatch.setattr(self_output, "write_answers", write)

    def score(experience, answers):
        asked.extend(answers)
        return [scores[tuple(ids)] for _, ids in answers]

    monkeypatch.setattr(loop.context, "answer_scores", score)
    found = strategy.training_examples(first)
    tokens = sum(4 + len(ids) for ids in written)  # of a prompt and of each answer
    assert loop.cost.extra_tokens == len(first.examples) * tokens
    return found, first.examples, asked, strategy.diagnostics()


def test_the_first_answer_that_is_right_and_has_ended_is_trained(monkeypatch):
    written = [(20, 1), (21, 22), (23, 1), (24, 1)]  # wrong, not ended, right, right
    scores = {(20,): 50.0, (23,): 100.0, (24,): 100.0}
    found, given, asked, told = _chosen(monkeypatch, written, scores)
    assert [e.input_ids for e in found] == [(*e.input_ids[:4], 23, 1) for e in given]
    assert all(e.supervised == (False,) * 4 + (True, True) for e in found)
    assert {ids for _, ids in asked} == scores.keys()  # without the token that ends them
    assert told == {"replaced_share": 1.0, "generated_tokens": 32 * 8.0}


def test_without_a_right_answer_the_given_one_is_trained(monkeypatch):
    found, given, _, told = _chosen(monkeypatch, [(20, 1)], {(20,): 99.0})
    assert list(found) == list(given)
    assert told["replaced_share"] == 0.0
    found, given, _, _ = _chosen(monkeypatch, [(20, 1)], {(20,): 99.0}, least_score=90.0)
    assert found[0].input_ids[4] == 20


def test_the_base_answers_unless_the_present_model_is_asked(monkeypatch):
    writers = []
    write = self_output.write_answers

    def watched(model, *arguments, **options):
        writers.append([p.detach().clone() for p in model.parameters()])
        return write(model, *arguments, **options)

    monkeypatch.setattr(self_output, "write_answers", watched)
    for writer in ("base", "present"):
        with own_numerics():
            strategy = create_strategy("self_output", {"candidates": 1, "writer": writer})
            loop = toy_loop(strategy)
            for experience in toy_tasks():
                loop.train(experience)
            assert (strategy.state_bytes() > 1000) == (writer == "base")
    base, again, first, moved = writers
    assert torch.equal(base[0], again[0])
    assert torch.equal(base[0], first[0])
    assert not torch.equal(base[0], moved[0])


def test_no_candidates_are_full_fine_tuning():
    none = _Subject(STRATEGIES.get("self_output"), {"candidates": 0}).trained()
    plain = _Subject(STRATEGIES.get("full_sft"), {}).trained()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in none.items())


@pytest.mark.parametrize(
    "options",
    [{"candidates": -1}, {"temperature": -1.0}, {"top_p": 0.0}, {"least_score": 101.0}],
    ids=str,
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"self_output: {next(iter(options))}="):
        create_strategy("self_output", options)
