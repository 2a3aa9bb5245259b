"""Options with which a strategy does nothing of its own are told of, in one line."""

from __future__ import annotations

import pytest

from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.strategy import create_strategy

IDLE = [
    ("ewc", "strength"), ("ewc_lora", "strength"), ("kl_to_base", "strength"), ("lwf", "strength"),
    ("replay", "share"), ("self_output", "candidates"), ("ssr", "share"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option"), IDLE)
def test_a_value_of_zero_is_warned_of(name, option):
    spec = TrainingSpec(steps=3)
    (warning,) = create_strategy(name, {option: 0}).check_run(spec, [3])
    same = "inc_lora" if name == "ewc_lora" else "full_sft"
    assert warning == f"{name} with {option}=0 trains as {same} does"
    assert not create_strategy(name, {}).check_run(spec, [3])
