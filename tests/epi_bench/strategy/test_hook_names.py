"""Methods that look like hooks and are none are refused when a strategy is registered."""

from __future__ import annotations

import pytest

from epi_bench import Strategy, UserError, register_strategy
from epi_bench.strategy.hook_names import hook_problem
from epi_bench.strategy.strategy import STRATEGIES


def _with(name, function=lambda self, experience: None, bases=(Strategy,)):
    return type("Mine", bases, {name: function, "__module__": "mine"})


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("experience_started", "begin_experience"),
        ("experience_ended", "end_experience"),
        ("begin_experiance", "begin_experience"),
        ("task_started", "begin_experience"),
        ("before_training_exp", "begin_experience"),
        ("after_training_exp", "end_experience"),
        ("on_epoch_end", "end_experience"),
        ("on_step_end", "parameters_updated"),
        ("parameters_update", "parameters_updated"),
        ("after_update", "parameters_updated"),
        ("after_backward", "gradients_ready"),
        ("compute_loss", "penalty"),
        ("token_weight", "token_weights"),
    ],
)
def test_a_name_like_a_hooks_is_told_with_the_hook_that_is_meant(name, hook):
    assert f"did you mean {hook}?" in hook_problem(_with(name), Strategy)
    between = _with(name)  # it may stand in a class in between, too
    assert f"did you mean {hook}?" in hook_problem(type("Child", (between,), {}), Strategy)


@pytest.mark.parametrize(
    "name", ["refresh", "observe", "draw", "_experience_started", "loss", "step", "protected_share"]
)
def test_methods_of_ones_own_have_other_names(name):
    assert hook_problem(_with(name), Strategy) is None


def test_it_is_an_error_where_the_strategy_is_registered():
    with pytest.raises(
        UserError, match=r"experience_started, which is no hook .* begin_experience\?"
    ):
        register_strategy("mine")(_with("experience_started"))
    assert "mine" not in STRATEGIES.names()


def test_a_hook_with_other_arguments_is_told():
    problem = hook_problem(_with("token_weights", lambda self, tokens: None), Strategy)
    assert "token_weights that cannot be called with (batch, logits)" in problem
    assert hook_problem(_with("penalty", lambda self, model, scale=1.0: None), Strategy) is None
    assert hook_problem(_with("penalty", lambda self, *given: None), Strategy) is None


def test_every_strategy_of_the_package_keeps_to_the_hooks_names():
    loaded, broken = STRATEGIES.load_all()
    assert broken == []
    assert [name for name, cls in loaded.items() if hook_problem(cls, Strategy)] == []
