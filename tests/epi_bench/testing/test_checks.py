"""The kit for authors: every built-in strategy passes, and each check finds what it looks for."""

from __future__ import annotations

import contextlib
import random

import pytest
import torch

from epi_bench import IsolationStrategy, Strategy, UserError
from epi_bench.plugins.options import options_of
from epi_bench.strategy.strategy import STRATEGIES
from epi_bench.testing import (
    StrategyCheckError,
    Witness,
    check_strategy,
    checks,
    toy_loop,
    toy_model,
    toy_tasks,
    train_toy,
)
from epi_bench.testing.toys import own_numerics

SOON = {
    "warmup": 1, "interval": 2, "fisher_samples": 4, "samples": 4, "per_task": 8,
    "least_yield": 0.0, "candidates": 1,
}  # fmt: skip
"""Options with which a strategy acts within the few steps of a check, and is quick."""


@pytest.mark.parametrize("name", [n for n in STRATEGIES.names() if STRATEGIES.is_builtin(n)])
def test_built_in_strategies_pass(name):
    known = options_of(STRATEGIES.get(name))
    passed = check_strategy(name, **{k: v for k, v in SOON.items() if k in known})
    assert passed == list(checks.CHECKS)
    assert len(passed) == 11


def _extremes():
    """Each built-in strategy with the weakest and the strongest value of its trade-off."""
    for name in STRATEGIES.names():
        trade_off = STRATEGIES.get(name).trade_off
        if STRATEGIES.is_builtin(name) and trade_off is not None:
            for value in (trade_off.values[0], trade_off.values[-1]):
                yield pytest.param(name, trade_off.option, value, id=f"{name}-{value:g}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option", "value"), _extremes())
def test_built_in_strategies_pass_at_their_weakest_and_strongest(name, option, value, monkeypatch):
    """Of the checks the one that a value may break: whether all weights stay finite.

    All of them, at the defaults, are made above; at each value they would take minutes.
    """
    depend = ("bfloat16",)
    monkeypatch.setattr(checks, "CHECKS", {check: checks.CHECKS[check] for check in depend})
    known = options_of(STRATEGIES.get(name))
    soon = {key: SOON[key] for key in SOON if key in known}
    assert check_strategy(name, **{**soon, option: value}) == list(depend)


class Misspelled(Strategy):
    def begin_experiance(self, experience):
        pass


class EndsEarly(Strategy):
    """Ends the first task after two steps, the second after one."""

    def stop_experience(self, step):
        return step.number_in_experience == 2 - step.experience.index


class ForgetsThatItEnds(Strategy):
    """Ends a task by what it counted itself, which is not in its state."""

    def __init__(self):
        self.steps = 0

    def parameters_updated(self, step):
        self.steps += 1

    def stop_experience(self, step):
        return self.steps == 2


def test_a_strategy_may_end_tasks_early():
    assert check_strategy(EndsEarly) == list(checks.CHECKS)
    with own_numerics():
        loop = toy_loop(EndsEarly())
        for experience in toy_tasks():
            loop.train(experience)
    assert loop.steps_done == 3
    assert loop.cost.steps_made == {"0": 2, "1": 1}


def test_what_decides_over_the_end_must_be_in_the_state():
    with pytest.raises(StrategyCheckError, match="keeps steps, which its state_dict does not"):
        check_strategy(ForgetsThatItEnds)


class CallsItsOwnHooks(Strategy):
    def parameters_updated(self, step):
        if step.number_in_experience == 2:
            self.end_experience(step.experience)


class ReturnsNoModel(Strategy):
    def finalize_model(self, model):
        return None


class ScoresAnotherModel(Strategy):
    @contextlib.contextmanager
    def as_finished(self, model):
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        yield model


class DrawsFromAnywhere(Strategy):
    def gradients_ready(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(random.random())


class RemembersTheLastRun(Strategy):
    seeds: list = []  # noqa: RUF012  (that is what is wrong with it)

    def begin_experience(self, experience):
        self.seeds.append(self.context.seed)

    def gradients_ready(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(-1 if 4 in self.seeds else 1)


class ForgetsItsState(Strategy):
    def __init__(self):
        self.factor = 1.0

    def end_experience(self, experience):
        self.factor = -1.0

    def gradients_ready(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(self.factor)


class ForgetsItsAnchor(Strategy):
    """Takes it where the second task begins, which is not called again in its middle."""

    def __init__(self):
        self._anchor = {}

    def begin_experience(self, experience):
        if experience.index == 1:
            named = self.context.model.named_parameters()
            self._anchor = {name: p.detach().clone() for name, p in named}

    def penalty(self, model):
        named = model.named_parameters()
        pulls = [(p - self._anchor[n]).square().sum() for n, p in named if n in self._anchor]
        return 10 * torch.stack(pulls).sum() if pulls else None


class ForgetsItsGenerator(Strategy):
    def begin_experience(self, experience):
        self.draws = self.context.generator("signs")

    def gradients_ready(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(self.draws.random())


class ForgetsItsCount(Strategy):
    def __init__(self):
        self.memory = SimpleMemory()

    def gradients_ready(self, step):
        self.memory.steps += 1


class SimpleMemory:
    def __init__(self):
        self.steps = 0


class ForgetsOneOfTwo(Strategy):
    """It returns both, and takes up one."""

    def __init__(self):
        self.first, self.second = 0, 0

    def parameters_updated(self, step):
        self.first, self.second = step.number, 2 * step.number

    def state_dict(self):
        return {"first": torch.tensor(self.first), "second": torch.tensor(self.second)}

    def load_state_dict(self, state):
        self.first = int(state["first"])


class ReturnsANumber(Strategy):
    def state_dict(self):
        return {"steps": 3}


class CannotTakeUpItsState(Strategy):
    def state_dict(self):
        return {"steps": torch.tensor(3)}

    def load_state_dict(self, state):
        self.steps = state["step"]


class CountsInTheModule(Strategy):
    """No attribute tells it: only the weights do."""

    def prepare_model(self, model):
        model.count = 0
        return model

    def gradients_ready(self, step):
        step.model.count += 1
        for parameter in step.model.parameters():
            parameter.grad.mul_(1 if step.model.count % 2 else -1)


class ForgetsItsRounding(Strategy):
    """It draws for bfloat16 weights alone."""

    def begin_experience(self, experience):
        parameter = next(self.context.model.parameters())
        half = parameter.dtype == torch.bfloat16
        self.noise = self.context.generator("noise") if half else None

    def gradients_ready(self, step):
        if self.noise is not None:
            self.noise.random()


class HidesItsMemory(Strategy):
    def begin_experience(self, experience):
        self.kept = {"before": [p.detach().clone() for p in self.context.model.parameters()]}


class CountsMicroBatches(Strategy):
    def check_run(self, training, steps):
        self.sign = 1 if training.accumulation == 1 else -1
        return ()

    def gradients_ready(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(self.sign)


class OverflowsInBfloat16(Strategy):
    def finalize_model(self, model):
        for parameter in model.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.data.fill_(float("inf"))
        return model


class UntiesTheEmbeddings(Strategy):
    def finalize_model(self, model):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        return model


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (Misspelled, "names", "did you mean begin_experience"),
        (CallsItsOwnHooks, "hooks", "not called in the documented order"),
        (ReturnsNoModel, "hooks", "finalize_model returned NoneType: return the model"),
        (ScoresAnotherModel, "scoring", "as_finished changed .*put back"),
        (DrawsFromAnywhere, "determinism", r"draw from self.context.generator\(PURPOSE\)"),
        (RemembersTheLastRun, "leak", "not in the class or the module"),
        (ForgetsItsState, "state", "ForgetsItsState keeps factor, which .* keep everything in"),
        (ForgetsItsAnchor, "state", r"after step 2 of the second task: .* keeps _anchor, which"),
        (ForgetsItsGenerator, "state", r"after step 1 of the first task: .* keeps draws, which"),
        (ForgetsItsCount, "state", r"keeps memory\.steps, which its state_dict does not return"),
        (ForgetsOneOfTwo, "state", "keeps second, which its state_dict does not return"),
        (ReturnsANumber, "state", "gives int for 'steps': give tensors, a number as torch.tensor"),
        (CannotTakeUpItsState, "state", "cannot take up its state: KeyError: 'step'"),
        (
            CountsInTheModule,
            "state",
            "interrupted after step 1 of the first task ends with another",
        ),
        (ForgetsItsRounding, "bfloat16 state", "keeps noise, which its state_dict does not"),
        (HidesItsMemory, "memory", "state_bytes reports 0 bytes, its attributes hold tensors of"),
        (CountsMicroBatches, "accumulation", "let nothing depend on batch_size"),
        (OverflowsInBfloat16, "bfloat16", "is not finite"),
        (UntiesTheEmbeddings, "tied weights", "no longer one tensor"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_check_finds_what_it_looks_for(broken, check, message, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {check: checks.CHECKS[check]})
    with pytest.raises(StrategyCheckError, match=message) as error:
        check_strategy(broken)
    assert error.value.check == check
    assert str(error.value).startswith(f"check '{check}': ")


def test_each_check_has_a_strategy_that_fails_it():
    broken = test_each_check_finds_what_it_looks_for.pytestmark[0].args[1]
    assert {check for _, check, _ in broken} == set(checks.CHECKS)


def test_what_a_strategy_raises_names_the_check(monkeypatch):
    class Raises(Strategy):
        def penalty(self, model):
            raise KeyError("gone")

    monkeypatch.setattr(checks, "CHECKS", {"hooks": checks.CHECKS["hooks"]})
    with pytest.raises(StrategyCheckError, match="check 'hooks': KeyError: 'gone'"):
        check_strategy(Raises)


def test_holds_is_given_the_weights_before_and_after(monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {})
    loaded = dict(toy_model().named_parameters())

    def still(before, after):
        assert all(torch.equal(before[name], tensor) for name, tensor in loaded.items())
        assert any(not torch.equal(before[name], after[name]) for name in before)
        return False

    with pytest.raises(StrategyCheckError, match="check 'holds'"):
        check_strategy("full_sft", holds=still)
    assert check_strategy("full_sft", holds=lambda before, after: None) == ["holds"]


def test_options_and_names_are_checked():
    with pytest.raises(UserError, match="did you mean 'ratio'"):
        check_strategy("epi", ratioo=0.3)
    with pytest.raises(UserError, match="unknown strategy 'epy'"):
        check_strategy("epy")
    assert issubclass(StrategyCheckError, AssertionError)


def test_the_toy_tasks_are_learned_and_the_second_overwrites_the_first():
    """So a strategy that protects something has something to protect."""
    model = train_toy(Strategy(), training={"learning_rate": 3e-2, "max_gradient_norm": 0.0})
    before, after = toy_model(), model
    losses = []
    for scored in (before, after):
        for experience in toy_tasks():
            ids = torch.tensor([example.input_ids for example in experience.examples])
            logits = scored(input_ids=ids).logits[:, 3]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[:, 4]).item())
    assert losses[3] < 0.9 * losses[1]  # the second task, after and before
    assert losses[3] < losses[2]


class Isolated(IsolationStrategy):
    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__(ratio, interval=1, warmup=1)


def test_a_witness_sees_protected_weights_move():
    strategy = Isolated()
    with own_numerics():
        loop = toy_loop(strategy)
        first, second = toy_tasks()
        loop.train(first)
        witness = Witness(strategy.isolation)
        strategy.refresh_due = lambda step: False
        loop.train(second, lambda step, rate: witness.check())
    assert witness.steps == second.steps
    assert witness.checked > 1000
    name = next(name for name, mask in strategy.isolation.masks.items() if mask.any())
    with torch.no_grad():
        strategy.isolation.parameters[name].add_(1)
    with pytest.raises(AssertionError, match=r"protected weights of .* moved"):
        witness.check()
