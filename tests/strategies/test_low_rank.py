"""Variants of LoRA, and adapters that are merged after each experience."""

from __future__ import annotations

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.strategy.strategy import create_strategy
from epi_bench.testing import check_strategy
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import STEPS, own_numerics, toy_loop, toy_model, toy_tasks

IDS = torch.arange(2, 12)[None]


def _loop(name, model=None, **options):
    return toy_loop(create_strategy(name, {"rank": 2, **options}), model=model)


def _logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", "pissa", "adalora"])
def test_a_variant_begins_as_the_model_and_ends_as_it_was_trained(variant):
    with own_numerics():
        base = _logits(toy_model())
        loop = _loop("lora", variant=variant)
        assert torch.allclose(_logits(loop.model), base, atol=1e-5)
        loop.train(toy_tasks()[0])
        trained = _logits(loop.model)
        assert not torch.allclose(trained, base, atol=1e-4)
        assert torch.allclose(_logits(loop.strategy.finalize_model(loop.model)), trained, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank():
    with own_numerics():
        loops = {variant: _loop("lora", rank=4, variant=variant) for variant in ("plain", "rslora")}
    scales = {
        variant: {layer.scaling["default"] for layer in loop.strategy.adapted_layers.values()}
        for variant, loop in loops.items()
    }
    assert scales == {"plain": {32 / 4}, "rslora": {32 / 2}}


def test_variants_are_other_trainings():
    found = []
    for variant in ("plain", "rslora", "dora", "pissa", "adalora"):
        with own_numerics():
            loop = _loop("lora", variant=variant)
            loop.train(toy_tasks()[0])
            found.append(_logits(loop.model))
    for number, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[number + 1 :])


def test_adalora_ends_with_the_rank_that_was_asked_for():
    with own_numerics():
        loop = _loop("lora", variant="adalora")
        ranks = []
        for experience in toy_tasks():
            at_rest = lambda: ranks.append(loop.strategy.diagnostics()["mean_rank"])  # noqa: E731
            loop.train(experience, at_rest=at_rest)
        layers = loop.strategy.adapted_layers.values()
        assert {len(layer.lora_E["default"]) for layer in layers} == {3}
    assert len(ranks) == 2 * STEPS
    assert ranks[-1] == 2
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > 2


def test_adalora_passes_the_checks_of_a_strategy():
    assert len(check_strategy("lora", rank=2, variant="adalora")) == 11


def test_adalora_adds_what_peft_adds_to_a_loss_of_its_own():
    with own_numerics():
        loop = _loop("lora", variant="adalora")
        loop.train(toy_tasks()[0])
        model = loop.model.eval()
        found = model(input_ids=IDS, labels=IDS)
        plain = torch.nn.functional.cross_entropy(found.logits[0, :-1], IDS[0, 1:])
        expected = float(found.loss - plain)
        assert float(loop.strategy.penalty(model)) == pytest.approx(expected, rel=1e-4)
        assert expected > 0.1


def test_adalora_goes_on_exactly_before_and_after_its_last_allocation():
    def make():
        return create_strategy("lora", {"rank": 2, "variant": "adalora"})

    assert resuming_problem(make, points=(1, 2 * STEPS - 1, 2 * STEPS)) is None


def test_adalora_must_know_the_number_of_steps(tmp_path):
    from transformers import Trainer, TrainingArguments

    from epi_bench.bridges import with_strategy

    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(UserError, match=r"variant=adalora .* is not known here: choose another"):
        with_strategy(Trainer, "lora", variant="adalora")(model=toy_model(), args=arguments)


def _grown(**options):
    return _loop("increlora", **{"warmup": 2, "interval": 1, "layers": 5, **options})


def test_increlora_grows_to_the_rank_that_was_asked_for_and_no_further():
    totals, largest = [], []
    with own_numerics():
        loop = _grown()

        def look():
            totals.append(int(loop.strategy._ranks.sum()))
            largest.append(loop.strategy.diagnostics()["largest_rank"])

        for experience in toy_tasks():
            loop.train(experience, at_rest=look)
    assert totals == [14, 19, 24, 28, 28, 28]  # 14 layers, 5 at a time, to a mean of 2
    assert max(largest) <= 8


def test_ranks_to_come_are_held_still_and_change_nothing():
    with own_numerics():
        loop = _grown()
        first = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
        for experience in toy_tasks():
            loop.train(experience)
        ranks = loop.strategy._ranks.tolist()
    assert set(ranks) > {1}
    for rank, (path, layer) in zip(ranks, loop.strategy.adapted_layers.items(), strict=True):
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert torch.equal(down[rank:], first[f"{path}.lora_A.default.weight"][rank:])
        assert not up[:, rank:].any()
        assert up[:, :1].any()


def test_a_rank_that_is_added_begins_with_small_steps():
    with own_numerics():
        loop = _grown(interval=4)
        strategy = loop.strategy
        strategy._ranks[3], strategy._grown[3] = 2, 10
        shares = [strategy._shares(3, 4, step).tolist() for step in (11, 12, 14, 20)]
    assert shares == [[1, 0.25, 0, 0], [1, 0.5, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_increlora_that_never_grows_says_so():
    [told] = create_strategy("increlora", {}).check_run(None, [5, 5])
    assert told.startswith("increlora adds no rank: its warm-up of 20 steps is longer than the run")
    assert create_strategy("increlora", {}).check_run(None, [5, 20]) == ()


@pytest.mark.parametrize("name", ["inc_lora", "o_lora", "n_lora"])
def test_merging_after_an_experience_changes_nothing(name):
    with own_numerics():
        loop = _loop(name)
        merge, seen = loop.strategy.merge_and_restart, []

        def look(purpose):
            seen.append(_logits(loop.model))
            merge(purpose)
            seen.append(_logits(loop.model))

        loop.strategy.merge_and_restart = look
        for experience in toy_tasks():
            loop.train(experience)
    assert len(seen) == 4
    for before, after in (seen[:2], seen[2:]):
        assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)
    for layer in loop.strategy.adapted_layers.values():
        assert not layer.lora_B["default"].weight.any()
        assert layer.lora_A["default"].weight.any()


def test_the_first_experience_of_inc_lora_is_that_of_lora():
    found = []
    for name in ("inc_lora", "lora"):
        with own_numerics():
            loop = _loop(name, alpha=4.0)
            loop.train(toy_tasks()[0])
            found.append(_logits(loop.model))
    assert torch.allclose(*found, atol=1e-5)


def test_new_adapters_do_not_depend_on_what_else_was_drawn():
    found = []
    for draws in (0, 5):
        with own_numerics():
            loop = _loop("inc_lora")
            loop.train(toy_tasks()[0])
            torch.rand(draws)
            loop.strategy.merge_and_restart("x")
            found.append(
                [layer.lora_A["default"].weight for layer in loop.strategy.adapted_layers.values()]
            )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _set(layer, rows):
    with torch.no_grad():
        layer.lora_A["default"].weight.zero_()
        layer.lora_A["default"].weight[: len(rows), : len(rows[0])] = torch.tensor(rows)


@pytest.mark.parametrize(("norm", "expected"), [("absolute", 0.5 * 1.5), ("squares", 0.5 * 1.25)])
def test_o_lora_by_hand(norm, expected):
    with own_numerics():
        loop = _loop("o_lora", target_modules="q_proj", norm=norm)
        assert loop.strategy.penalty(loop.model) is None
        first, second = loop.strategy.adapted_layers.values()
        _set(first, [[1.0, 0.0], [0.0, 1.0]])
        _set(second, [[0.0, 0.0]])
        loop.strategy.end_experience(toy_tasks()[0])
        _set(first, [[0.5, 1.0]])  # with the rows before: 0.5 and 1
        _set(second, [[7.0, 7.0]])
        assert loop.strategy.penalty(loop.model).item() == pytest.approx(expected)


def test_o_lora_keeps_out_of_used_directions():
    overlaps = []
    for strength in (0.0, 5.0):
        with own_numerics():
            loop = _loop("o_lora", orthogonality=strength)
            for experience in toy_tasks(30):
                last = {
                    name: layer.lora_A["default"].weight
                    for name, layer in loop.strategy.adapted_layers.items()
                }
                past = dict(loop.strategy._past)
                merge = loop.strategy.merge_and_restart
                loop.strategy.merge_and_restart = lambda purpose: None
                loop.train(experience)
                loop.strategy.merge_and_restart = merge
                if past:
                    overlaps.append(sum(float((past[n] @ last[n].T).abs().sum()) for n in past))
                merge("x")
    assert overlaps[1] < 0.5 * overlaps[0]


def test_n_lora_by_hand():
    with own_numerics():
        loop = _loop("n_lora", target_modules="q_proj", sparsity=0.5, alpha=2.0)
        for layer in loop.strategy.adapted_layers.values():
            _set(layer, [[1.0, -2.0]])
            with torch.no_grad():
                layer.lora_B["default"].weight[0, 0] = 3.0
        assert loop.strategy.penalty(loop.model).item() == pytest.approx(0.5 * 2 * (3 + 6))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("o_lora", "reads no input directions"), ("increlora", "other factors than a linear layer")],
)
def test_embeddings_are_refused(name, reason):
    with pytest.raises(UserError, match=f"{name}: .*'model.embed_tokens', which .*{reason}"):
        _loop(name, model=toy_model(tied=False), target_modules="embed_tokens")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inc_lora", {"rank": 0}),
        ("o_lora", {"orthogonality": -1.0}),
        ("n_lora", {"sparsity": -1.0}),
        ("increlora", {"interval": 0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)
