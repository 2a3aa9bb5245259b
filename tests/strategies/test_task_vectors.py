"""Merging what the experiences changed, checked by hand and against peft's functions."""

from __future__ import annotations

import math

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.adapted_weights import updated_weights
from epi_bench.strategy.strategy import create_strategy
from epi_bench.strategy.task_vectors import elected_mean, trimmed
from epi_bench.testing.toys import STEPS, own_numerics, toy_loop, toy_model, toy_tasks

NAMES = ["task_arithmetic", "ties", "dare"]

ADAPTER = {"kind": "lora", "rank": 2, "alpha": 4.0}


def _vectors(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"a": torch.randn(6, 10, generator=generator), "b": torch.randn(10, generator=generator)}
        for _ in range(count)
    ]


def _merged(name, vectors, **options):
    return create_strategy(name, options).merged(vectors)


def test_ties_by_hand():
    vectors = [{"w": torch.tensor(t)} for t in ([3.0, -1.0], [1.0, -2.0], [-4.0, 0.0])]
    assert _merged("ties", vectors, density=1.0)["w"].tolist() == [2.0, -1.5]
    # with 1 of 2 entries each: (3, 0), (0, -2), (-4, 0); the sum of the first is -1
    assert _merged("ties", vectors, density=0.5)["w"].tolist() == [-4.0, -2.0]
    # by number of values the first entry is a tie, which is +
    found = _merged("ties", vectors, density=0.5, method="frequency")["w"].tolist()
    assert found == [3.0, -2.0]


def test_the_model_is_trimmed_as_a_whole_if_asked_for():
    vector = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([2.0, 1.0])}
    of_tensors = {name: t.tolist() for name, t in trimmed(vector, 0.5).items()}
    assert of_tensors == {"a": [4.0, 0.0], "b": [2.0, 0.0]}
    of_model = {name: t.tolist() for name, t in trimmed(vector, 0.5, "model").items()}
    assert of_model == {"a": [4.0, 3.0], "b": [0.0, 0.0]}


def test_task_arithmetic_by_hand():
    vectors = [{"w": torch.tensor(t)} for t in ([3.0, -1.0], [1.0, -2.0])]
    assert _merged("task_arithmetic", vectors)["w"].tolist() == [4.0, -3.0]


@pytest.mark.parametrize("method", ["total", "frequency"])
def test_the_same_as_peft(method):
    from peft.utils import merge_utils

    vectors = _vectors()
    for name in ("a", "b"):
        tensors = [vector[name] for vector in vectors]
        theirs = merge_utils.ties(tensors, torch.ones(3), 0.3, method)
        ours = _merged("ties", vectors, density=0.3, method=method)[name]
        torch.testing.assert_close(ours, theirs)
        theirs = merge_utils.task_arithmetic(tensors, torch.ones(3))
        torch.testing.assert_close(_merged("task_arithmetic", vectors)[name], theirs)


def test_dare_keeps_a_share_enlarged_and_the_sum_on_average():
    with own_numerics():
        loop = toy_loop(create_strategy("dare", {"density": 0.25}))
    vectors = [{"w": torch.ones(200, 200)} for _ in range(2)]
    found = loop.strategy.merged(vectors)["w"]
    assert set(found.unique().tolist()) == {0.0, 4.0, 8.0}
    for value, chance in ((0.0, 0.5625), (4.0, 0.375), (8.0, 0.0625)):
        share = float((found == value).float().mean())
        assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / found.numel())
    assert torch.equal(found, loop.strategy.merged(vectors)["w"])


def test_dare_with_elected_signs_is_that_of_peft_on_the_same_masks():
    with own_numerics():
        loop = toy_loop(create_strategy("dare", {"density": 0.5, "method": "ties"}))
    vectors = _vectors()
    kept = [loop.strategy._thinned(k, "a", vector["a"]) for k, vector in enumerate(vectors)]
    assert torch.equal(loop.strategy.merged(vectors)["a"], elected_mean(kept))
    assert {tuple((t == 0).flatten().tolist()) for t in kept}.__len__() == 3


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _apart(model):
    """What each toy task changes, trained alone from the base model."""
    changes = []
    for experience in toy_tasks():
        with own_numerics():
            loop = toy_loop(create_strategy("full_sft", {}))
            loop.train(experience)
            ends = _weights(loop.model)
        changes.append({name: ends[name] - start for name, start in model.items()})
    return changes


def test_experiences_are_trained_apart_from_the_base():
    base = _weights(toy_model())
    first, second = _apart(base)
    with own_numerics():
        loop = toy_loop(create_strategy("task_arithmetic", {"scale": 0.5}))
        for number, experience in enumerate(toy_tasks()):
            loop.train(experience)
            assert all(torch.equal(base[name], p) for name, p in loop.model.named_parameters())
            with loop.as_finished() as model:
                for name, weight in model.named_parameters():
                    expected = base[name] + 0.5 * (first[name] + number * second[name])
                    assert torch.allclose(weight, expected, atol=1e-6)
        finished = _weights(loop.finalize_model())
    for name, start in base.items():
        expected = start + 0.5 * (first[name] + second[name])
        assert torch.allclose(finished[name], expected, atol=1e-6), name


def test_along_the_stream_a_scale_of_one_is_full_fine_tuning():
    found = []
    for name, options in (
        ("task_arithmetic", {"scale": 1.0, "from_base": False}),
        ("full_sft", {}),
    ):
        with own_numerics():
            loop = toy_loop(create_strategy(name, options))
            for experience in toy_tasks():
                loop.train(experience)
            found.append(_weights(loop.finalize_model()))
    assert all(torch.allclose(t, found[1][name], atol=1e-6) for name, t in found[0].items())
    told = create_strategy("task_arithmetic", {"scale": 1.0, "from_base": False}).check_run(
        None, []
    )
    assert told == ["task_arithmetic with scale=1 and from_base=false trains as full_sft does"]
    assert create_strategy("task_arithmetic", {}).check_run(None, []) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_of_zero_is_the_base_model(name):
    base = _weights(toy_model())
    with own_numerics():
        loop = toy_loop(create_strategy(name, {"scale": 0.0}))
        for experience in toy_tasks():
            loop.train(experience)
        finished = loop.finalize_model()
    assert all(torch.equal(base[name], p) for name, p in finished.named_parameters())


def test_within_an_experience_it_counts_with_what_it_has_changed():
    rows = []
    with own_numerics():
        loop = toy_loop(create_strategy("task_arithmetic", {"scale": 1.0}))

        def look(number):
            trained = _weights(loop.model)
            with loop.as_finished() as model:
                rows.append(all(torch.allclose(trained[n], p, atol=1e-6)
                                for n, p in model.named_parameters()))  # fmt: skip

        loop.train(toy_tasks()[0], pauses=[STEPS - 1], on_pause=look)
    assert rows == [True]


@pytest.mark.parametrize("from_base", [True, False])
def test_each_experience_has_an_adapter_and_the_products_are_summed(from_base):
    """Sums of the factors would have cross terms ``B_1 A_2``."""
    base = {n: p.detach().clone() for n, p in toy_model().named_parameters()}
    ends = []
    with own_numerics():
        options = {"scale": 1.0, "from_base": from_base}
        loop = toy_loop(create_strategy("task_arithmetic", options), adapter=ADAPTER)
        restart = loop.strategy.end_experience

        def look(experience):
            ends.append(updated_weights(loop.model))
            restart(experience)

        loop.strategy.end_experience = look
        for experience in toy_tasks():
            loop.train(experience)
        finished = _weights(loop.finalize_model())
    for name in ends[0]:
        own = name.removeprefix("base_model.model.").replace(".base_layer", "")
        start = base[own]
        changed = [end[name] - start for end in ends]
        expected = start + (sum(changed) if from_base else changed[1])
        assert torch.allclose(finished[own], expected, atol=1e-5), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("task_arithmetic", {"scale": -1.0}),
        ("ties", {"density": 0.0}),
        ("dare", {"density": 1.5}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)
