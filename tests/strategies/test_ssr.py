"""Self-synthesised rehearsal."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategies import ssr
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.strategy.synthesis import WrittenPrompts
from epi_bench.testing.checks import _Subject
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

PROMPTS = [(2, a, b, 3) for a in (20, 21, 22) for b in (23, 24)]


def _stub(monkeypatch, prompts=PROMPTS, attempts=12):
    """The base writes these prompts and nothing else."""
    monkeypatch.setattr(
        ssr, "write_prompts", lambda *_, **__: WrittenPrompts(list(prompts), attempts, 99, 100)
    )


def _after_the_first(**options):
    with own_numerics():
        strategy = create_strategy("ssr", {"per_task": 4, **options})
        loop = toy_loop(strategy)
        loop.train(toy_tasks()[0])
    return strategy, loop


def test_what_is_kept_is_the_same_every_time(monkeypatch):
    _stub(monkeypatch)
    (strategy, loop), (again, _) = _after_the_first(), _after_the_first()
    (kept,) = strategy._kept
    assert kept == again._kept[0]
    assert len(kept) == 4
    assert {e.input_ids[:4] for e in kept} <= set(PROMPTS)
    for example in kept:  # answered with the likeliest tokens of the model that has learned
        assert example.supervised[:4] == (False,) * 4
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            likeliest = loop.model.eval()(input_ids=ids).logits.argmax(-1)[0]
        answer = example.input_ids[4:]
        assert list(answer) == likeliest[3 : 3 + len(answer)].tolist()
        assert len(answer) == 2 or answer[-1] == 1  # no longer than the given ones
    told = strategy.diagnostics()
    assert (told["yield"], told["kept"], told["usable"]) == (0.5, 4.0, 6.0)
    assert told["generated_tokens"] == 99 + sum(len(e) - 4 for e in kept)
    embedded = sum(map(len, PROMPTS))  # to be clustered
    assert loop.cost.extra_tokens == 100 + 99 + embedded + sum(map(len, kept))


def test_it_is_mixed_into_the_next_task_and_no_old_example_is_there(monkeypatch):
    _stub(monkeypatch)
    strategy, _ = _after_the_first(share=0.2)
    second = toy_tasks()[1]
    found = strategy.training_examples(second)
    own, replayed = found[: len(second.examples)], found[len(second.examples) :]
    assert list(own) == list(second.examples)
    assert len(replayed) == 8  # of 40
    assert set(replayed) == set(strategy._kept[0])
    old = set(toy_tasks()[0].examples)
    assert not old & set(found)
    assert not old & {e for task in strategy._kept for e in task}


@pytest.mark.parametrize("answers", ["latest", "own"])
def test_older_prompts_are_answered_anew_if_that_is_asked_for(monkeypatch, answers):
    _stub(monkeypatch)
    strategy, _ = _after_the_first(answers=answers)
    before = list(strategy._kept[0])
    monkeypatch.setattr(
        ssr, "write_answers", lambda model, prompts, **_: [[(31, 1)] for _ in prompts]
    )
    with own_numerics():
        strategy.end_experience(toy_tasks()[1])
    assert [e.input_ids[:4] for e in before] == [e.input_ids[:4] for e in strategy._kept[0]]
    assert (before == strategy._kept[0]) == (answers == "own")
    assert all(e.input_ids[4:] == (31, 1) for e in strategy._kept[1])


def test_a_model_that_cannot_write_a_task_is_told_of_in_one_line(monkeypatch):
    _stub(monkeypatch, PROMPTS[:1], attempts=12)
    with pytest.raises(UserError, match="of 12 texts that the model wrote for 'first', 1 can") as e:
        _after_the_first()
    assert "least_yield asks for 10%" in str(e.value)
    assert "\n" not in str(e.value)
    strategy, _ = _after_the_first(least_yield=0.05)
    assert len(strategy._kept[0]) == 1


def test_test_prompts_among_what_is_written_are_counted(monkeypatch):
    _stub(monkeypatch)
    with own_numerics():
        strategy = create_strategy("ssr", {"per_task": 4})
        loop = toy_loop(strategy)
        monkeypatch.setattr(loop.context, "test_prompts_among", lambda prompts: len(prompts) - 1)
        loop.train(toy_tasks()[0])
    assert strategy.diagnostics()["test_prompts"] == len(PROMPTS) - 1


def test_the_latest_model_writes_without_a_copy_of_the_base():
    with own_numerics():
        strategy = create_strategy("ssr", {"per_task": 4, "writer": "latest", "least_yield": 0.0})
        loop = toy_loop(strategy)
        loop.train(toy_tasks()[0])
    assert strategy.state_bytes() < 1000


def test_an_interruption_changes_nothing():
    options = {"per_task": 4, "answers": "latest"}
    assert resuming_problem(lambda: create_strategy("ssr", options), points=(2, 4)) is None


def test_a_share_of_zero_is_full_fine_tuning():
    none = _Subject(STRATEGIES.get("ssr"), {"share": 0.0}).trained()
    plain = _Subject(STRATEGIES.get("full_sft"), {}).trained()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in none.items())


@pytest.mark.parametrize(
    "options",
    [
        {"per_task": 0}, {"share": 1.0}, {"seeds": 1}, {"attempts": 0}, {"temperature": 0.0},
        {"top_p": 0.0}, {"clusters": 0}, {"least_yield": 1.5}, {"shots": -1},
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"ssr: {next(iter(options))}="):
        create_strategy("ssr", options)
