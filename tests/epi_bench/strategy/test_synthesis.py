"""New instances of a task, with a writer that writes what it is told to."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from epi_bench import EncodedExample, PromptFrame, UserError, representative, write_prompts
from epi_bench.strategy import synthesis
from epi_bench.testing.toys import own_numerics, toy_model, toy_tasks


def _example(*prompt, answer=(9, 1)):
    size = len(prompt)
    return EncodedExample((*prompt, *answer), (False,) * size + (True,) * len(answer))


SEEDS = [_example(2, 30, 40, 5, 3), _example(2, 30, 41, 42, 5, 3), _example(2, 30, 43, 5, 3)]


def test_the_frame_is_what_all_prompts_share():
    frame = PromptFrame.of(SEEDS)
    assert (frame.opening, frame.closing, frame.longest, frame.ending) == ((2, 30), (5, 3), 2, 1)
    # one prompt is the beginning of the other: they share no end that is not their beginning
    nested = [_example(2, 3, 4), _example(2, 3, 4, 2, 3, 4)]
    with pytest.raises(UserError, match="do not end alike"):
        PromptFrame.of(nested)
    with pytest.raises(UserError, match="are all the same"):
        PromptFrame.of([_example(2, 30, 3), _example(2, 30, 3, answer=(8, 1))])
    with pytest.raises(UserError, match="its answers do not end alike"):
        PromptFrame.of([_example(2, n, 3, answer=(n,)) for n in (40, 41, 42)])


def test_a_question_that_ends_as_an_answer_does_is_complete_with_that_token(monkeypatch):
    """As in ChatML; what all questions say last, here 7, is the model's to write or to leave."""
    seeds = [_example(2, n, 7, 1, 3) for n in (40, 41, 42)]
    frame = PromptFrame.of(seeds)
    assert (frame.closing, frame.mark, frame.longest) == ((1, 3), (1,), 2)
    monkeypatch.setattr(synthesis, "sampled", lambda *_, is_ended, **__: [[50, 1], [2, 50, 1], [9]])
    found = write_prompts(
        None, seeds, frame, attempts=3, shots=1, temperature=1.0, top_p=1.0,
        generator=torch.Generator(),
    )  # fmt: skip
    assert found.prompts == [(2, 50, 1, 3)]


def _write(monkeypatch, texts, **options):
    """Prompts from a writer that writes these texts, and the contexts that it was given."""
    given = []

    def writer(model, prompts, *, longest, is_ended, generator, temperature, top_p):
        given.extend(prompts)
        assert [is_ended(text) for text in texts] == [
            text[-1] == 1 or text[-2:] == [5, 3] for text in texts
        ]
        return texts

    monkeypatch.setattr(synthesis, "sampled", writer)
    settings = {
        "attempts": len(texts), "shots": 2, "temperature": 1.0, "top_p": 1.0,
        "generator": torch.Generator().manual_seed(0), **options,
    }  # fmt: skip
    return write_prompts(None, SEEDS, PromptFrame.of(SEEDS), **settings), given


def test_what_is_incomplete_or_a_copy_is_left_out(monkeypatch):
    texts = [
        [50, 51, 5, 3],  # new
        [52, 5, 3],  # new
        [50, 51, 5, 3],  # written before
        [41, 42, 5, 3],  # a seed
        [42, 41, 5, 3],  # the same tokens in another order
        [53, 54, 55],  # has not come to the end
        [53, 1],  # has ended without an answer's beginning
        [5, 3],  # nothing between
    ]
    found, _ = _write(monkeypatch, texts)
    assert found.prompts == [(2, 30, 50, 51, 5, 3), (2, 30, 52, 5, 3)]
    assert (found.attempts, found.tokens, found.share) == (8, 4 + 3 + 4 + 4 + 4 + 3 + 2 + 2, 2 / 8)


def test_the_writer_is_shown_examples_in_orders_of_their_own(monkeypatch):
    _, given = _write(monkeypatch, [[50, 5, 3]] * 12)
    shown = {tuple(context) for context in given}
    assert len(shown) > 3
    for context in given:
        assert context[-2:] == [2, 30]
        assert sum(token == 1 for token in context) == 2  # two answers that have ended
    assert _write(monkeypatch, [[50, 5, 3]] * 12)[1] == given
    bare, contexts = _write(monkeypatch, [[50, 5, 3]], shots=0)
    assert contexts == [[2, 30]]
    assert bare.prompts == [(2, 30, 50, 5, 3)]


def test_without_a_beginning_the_writer_has_to_be_shown_something():
    seeds = [_example(40, 3), _example(41, 3)]
    with pytest.raises(UserError, match="set shots to 1 or more"):
        write_prompts(
            None, seeds, PromptFrame.of(seeds), attempts=1, shots=0, temperature=1.0, top_p=1.0,
            generator=torch.Generator(),
        )  # fmt: skip


def test_each_cluster_gives_its_share_and_of_it_what_is_nearest_to_the_centre():
    """Six points around 1.41 give two, three around 52 give one."""
    points = torch.tensor([[0.0], [1.0], [1.1], [1.2], [4.0], [1.15], [50.0], [51.0], [55.0]])
    for seed in range(3):
        assert representative(points, 3, clusters=2, seed=seed) == [3, 5, 7]
    assert representative(points[:3], 5, clusters=2, seed=0) == [0, 1, 2]


def test_a_model_writes_prompts_of_the_toy_task():
    examples = toy_tasks()[0].examples
    with own_numerics():
        found = write_prompts(
            toy_model(), random.Random(0).sample(examples, 8), PromptFrame.of(examples),
            attempts=40, shots=1, temperature=1.0, top_p=1.0,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    assert 0.05 < found.share < 0.8
    assert all(prompt[0] == 2 and prompt[-1] == 3 for prompt in found.prompts)
    assert len(set(found.prompts)) == len(found.prompts)


def test_prompts_lie_where_the_models_last_states_do():
    with own_numerics():
        model = toy_model().train()
        context = SimpleNamespace(
            batches=lambda examples, batch_size: (
                {
                    "input_ids": torch.tensor([e.input_ids]),
                    "attention_mask": torch.ones(1, len(e), dtype=torch.int64),
                }
                for e in examples
            )
        )
        found = synthesis.prompt_embeddings(context, model, [(2, 4, 3), (2, 5)])
        hidden = model.eval()(
            input_ids=torch.tensor([[2, 5]]), output_hidden_states=True
        ).hidden_states[-1]
    assert found.shape == (2, 16)
    assert torch.allclose(found[1], hidden[0].mean(0), atol=1e-6)
