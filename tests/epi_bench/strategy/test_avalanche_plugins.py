"""Plugins of avalanche as strategies: beside this package's own, and beside avalanche's loop."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.strategy import STRATEGIES, create_strategy
from epi_bench.testing import check_strategy
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks
from epi_bench.training.optimizer import build_optimizer

pytest.importorskip("avalanche")

WHOLE = {
    "batch_size": 32,  # all of an experience's examples: no batch is drawn
    "fresh_optimizer": False,
    "weight_decay": 0.0,
    "max_gradient_norm": 0.0,
    "warmup_share": 0.0,
    "decay": "constant",
    "learning_rate": 3e-3,
}
"""Training as avalanche's ``Naive`` does it with one batch an epoch."""

STRONG = {
    "avalanche:EWCPlugin": {"ewc_lambda": 1000.0},
    "avalanche:MASPlugin": {"lambda_reg": 10.0},
    "avalanche:AGEMPlugin": {"sample_size": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRONG)
def test_the_contract(name):
    check_strategy(name, **STRONG[name])


@pytest.mark.slow
def test_the_contract_of_one_importance_for_all():
    check_strategy("avalanche:EWCPlugin", ewc_lambda=1000.0, mode="online", decay_factor=0.5)


def _farthest(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def _conflicting():
    """The toy tasks with the same prompts: what the second teaches unlearns the first."""
    return [
        dataclasses.replace(
            experience,
            examples=[
                EncodedExample((2, *example.input_ids[1:]), example.supervised)
                for example in experience.examples
            ],
        )
        for experience in toy_tasks(steps=12)
    ]


def _here(name, options, stream=toy_tasks, **training):
    with own_numerics():
        loop = toy_loop(create_strategy(name, options), training={**WHOLE, **training})
        for experience in stream():
            loop.train(experience)
    return loop.model


def _in_avalanche(*plugins, stream=toy_tasks, **training):
    """The toy model trained on the toy tasks by avalanche's own loop."""
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    from epi_bench.bridges import TokenModel, to_avalanche, token_loss
    from epi_bench.testing.toys import toy_model

    model = toy_model()
    spec = TrainingSpec(steps=1, **{**WHOLE, **training})
    with own_numerics():
        strategy = Naive(
            model=TokenModel(model),
            optimizer=build_optimizer(model.parameters(), spec, spec.learning_rate),
            criterion=token_loss,
            train_mb_size=32,
            train_epochs=stream()[0].steps,
            plugins=list(plugins),
            evaluator=EvaluationPlugin(),
        )
        for experience in to_avalanche(stream(), pad_token_id=0).train_stream:
            strategy.train(experience)
    return model


def test_ewc_agrees_with_this_packages():
    """The plugin has no factor 1/2; batches of one give the Fisher of single examples."""
    ours = _here("ewc", {"strength": 2000.0, "mode": "separate", "fisher_samples": 32})
    theirs = _here("avalanche:EWCPlugin", {"ewc_lambda": 1000.0, "batch_size": 1})
    assert _farthest(ours, theirs) < 1e-5
    assert _farthest(ours, _here("full_sft", {})) > 1e-3  # it did something


def test_ewc_agrees_with_avalanches_own_loop():
    from avalanche.training.plugins import EWCPlugin

    ours = _here("avalanche:EWCPlugin", {"ewc_lambda": 1000.0, "batch_size": 32})
    assert _farthest(ours, _in_avalanche(EWCPlugin(1000.0))) < 1e-5
    assert _farthest(ours, _in_avalanche()) > 1e-3


def test_mas_agrees_with_avalanches_own_loop():
    from avalanche.training.plugins import MASPlugin

    ours = _here("avalanche:MASPlugin", {"lambda_reg": 10.0, "batch_size": 32})
    assert _farthest(ours, _in_avalanche(MASPlugin(10.0))) < 1e-5
    assert _farthest(ours, _in_avalanche()) > 1e-3


def test_agem_agrees_with_this_packages_and_with_avalanches_own_loop():
    """The memory is the whole first experience, so that nothing is drawn."""
    from avalanche.training.plugins import AGEMPlugin

    fast = {"optimizer": "sgd", "learning_rate": 0.1, "stream": _conflicting}
    ours = _here("agem", {"memory_size": 32, "batch_size": 32}, **fast)
    options = {"patterns_per_experience": 32, "sample_size": 32}
    theirs = _here("avalanche:AGEMPlugin", options, **fast)
    assert _farthest(ours, theirs) < 1e-5
    assert _farthest(ours, _in_avalanche(AGEMPlugin(32, 32), **fast)) < 1e-5
    assert _farthest(ours, _in_avalanche(**fast)) > 1e-3


def test_plain_training_is_that_of_avalanche():
    assert _farthest(_here("full_sft", {}), _in_avalanche()) < 1e-5


def test_si_follows_the_path_of_the_plugin_once_that_copies_weights(monkeypatch):
    """Its importance has other constants; the path that both divide is the same."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    paths = []

    class Copying(SynapticIntelligencePlugin):
        def after_training_exp(self, strategy, **keywords):
            paths.append({n: p.data.clone() for n, p in self.syn_data["trajectory"].items()})
            super().after_training_exp(strategy, **keywords)

    def copied(model, target, excluded):
        for name, parameter in SynapticIntelligencePlugin.allowed_parameters(model, excluded):
            target[name].data = parameter.detach().clone().flatten()

    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(copied))
    _in_avalanche(Copying(1.0))
    strategy = create_strategy("si", {})
    with own_numerics():
        toy_loop(strategy, training=WHOLE).train(toy_tasks()[0])
    state = strategy.state_dict()
    assert paths[0].keys() == {f"model.{n[5:]}" for n in state if n.startswith("path.")}
    for name, theirs in paths[0].items():
        ours = state[f"path.{name.removeprefix('model.')}"].flatten()
        assert float(ours.sum()) > 0  # the loss fell
        assert torch.allclose(
            ours, -theirs, rtol=1e-4, atol=1e-7 * float(theirs.abs().max()) + 1e-9
        )


def test_why_synaptic_intelligence_is_refused():
    """On the CPU the plugin adds nothing, however strong it is."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    plain, strong = _in_avalanche(), _in_avalanche(SynapticIntelligencePlugin(1e9))
    assert _farthest(plain, strong) == 0
    with pytest.raises(UserError, match=r"SynapticIntelligencePlugin cannot .*its penalty is 0"):
        STRATEGIES.get("avalanche:SynapticIntelligencePlugin")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("avalanche:LwFPlugin", "cannot be a strategy: it distils at positions of padding"),
        ("avalanche:ReplayPlugin", "a data loader of its own.* take replay"),
        ("avalanche:GEMPlugin", "needs batches of one fixed length"),
        ("avalanche:CWRStarPlugin", "is for classifiers, or nobody has tried it.*AGEMPlugin"),
        ("avalanche:EWCPlugins", "unknown plugin of avalanche .*did you mean 'EWCPlugin'"),
        ("avalanch:EWCPlugin", "unknown strategy 'avalanch:EWCPlugin'"),
    ],
)
def test_what_cannot_be_a_strategy_is_told(name, message):
    with pytest.raises(UserError, match=message):
        STRATEGIES.get(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("EWCPlugin", {"ewc_lambda": -1}, "EWCPlugin: ewc_lambda=-1.0 must be at least 0"),
        ("EWCPlugin", {"decay_factor": 2}, r"decay_factor=2.0 must lie in \[0, 1\]"),
        ("EWCPlugin", {"batch_size": 0}, "batch_size=0 must be at least 1"),
        ("MASPlugin", {"alpha": -0.1}, r"alpha=-0.1 must lie in \[0, 1\]"),
        ("AGEMPlugin", {"sample_size": 0}, "sample_size=0 must be at least 1"),
        ("EWCPlugin", {"lambda": 1}, "unknown option"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        create_strategy(f"avalanche:{name}", options)


def test_a_batch_of_the_memory_must_hold_every_experience():
    strategy = create_strategy("avalanche:AGEMPlugin", {"sample_size": 2})
    spec = TrainingSpec(steps=1)
    assert strategy.check_run(spec, [1, 1, 1]) == ()
    with pytest.raises(UserError, match="sample_size=2 is less than the 3 experiences"):
        strategy.check_run(spec, [1, 1, 1, 1])


def test_global_generators_are_left_alone():
    import random

    strategy = create_strategy("avalanche:AGEMPlugin", {"patterns_per_experience": 4})
    with own_numerics():
        loop = toy_loop(strategy)
        random.seed(3)
        expected = random.Random(3).random()
        state = torch.get_rng_state()
        for experience in toy_tasks():
            loop.train(experience)
        assert random.random() == expected
        assert torch.equal(torch.get_rng_state(), state)
    assert len(strategy.state_dict()["buffer.1.lengths"]) == 4


def test_avalanche_is_imported_where_it_is_used():
    code = (
        "import sys, epi_bench\nfrom epi_bench.strategy.strategy import STRATEGIES\n"
        "assert STRATEGIES.knows('avalanche:EWCPlugin')\nSTRATEGIES.get('avalanche:EWCPlugin')\n"
        "assert 'avalanche' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
