"""Environment variables and torch's global settings: no effect, in the identity, or refused."""

import os
import subprocess
import sys

import pytest
import torch

from epi_bench.errors import UserError
from epi_bench.results.record.record_file import comparable, load_record
from epi_bench.runs.preparation import prepare_run
from epi_bench.runs.reproducibility import (
    CPU_VARIABLES,
    REFUSED_FLAGS,
    Execution,
    _global_settings,
    current_execution,
    fixed_numerics,
    overruled_settings,
)
from epi_bench.spec.defaults import complete_spec
from epi_bench.training.accelerator import create_accelerator

WITHOUT_EFFECT = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_DYNAMO_MODE": "max-autotune",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "True",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "True",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "True",
    "ACCELERATE_DOWNCAST_BF16": "1",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_DEBUG_MODE": "1",
    "ACCELERATE_USE_CPU": "1",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "ACCELERATE_FP8_FORMAT": "E4M3",
    "ACCELERATE_ALLOW_CP_STANDALONE": "true",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "0",
}
"""On the CPU, with one process."""


@pytest.fixture
def no_variables(monkeypatch):
    """The process as a user's shell starts it."""
    for name in (*CPU_VARIABLES, *REFUSED_FLAGS, *WITHOUT_EFFECT, "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def train(train_toy):
    loop = train_toy(steps=2, accumulation=2, optimizer="sgd", learning_rate=0.1)
    return torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()])


def test_variables_without_effect(train_toy, toy_spec, no_variables, monkeypatch):
    plain, identity = train(train_toy), prepare_run(toy_spec()).run_id
    assert torch.equal(train(train_toy), plain)
    changing = []
    for name, value in WITHOUT_EFFECT.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            if not torch.equal(train(train_toy), plain):
                changing.append(name)
            assert prepare_run(toy_spec()).run_id == identity, name
    assert not changing


def test_settings_of_the_launcher_that_the_run_overrules_are_told(no_variables, monkeypatch):
    training = complete_spec({"training": {"accumulation": 2}}).training
    assert overruled_settings(training) == []
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    assert overruled_settings(training) == [
        "ACCELERATE_MIXED_PRECISION=fp16 has no effect on a run: set training.autocast instead"
    ]
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    assert len(overruled_settings(training)) == 3
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert len(overruled_settings(training)) == 3
    assert len(overruled_settings(training, "bfloat16")) == 2  # master weights compute in it


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, "true") for name in REFUSED_FLAGS), ("ACCELERATE_FP8_BACKEND", "TE")],
)
def test_what_hands_the_numbers_to_something_else_is_refused(
    name, value, toy_spec, no_variables, monkeypatch
):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value} is refused: .*; unset it"):
        prepare_run(toy_spec())
    monkeypatch.setenv(name, "no")
    prepare_run(toy_spec())


def test_autocast_around_a_run_is_refused(toy_spec):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UserError, match="call it outside"):
        prepare_run(toy_spec())


@pytest.mark.parametrize("name", CPU_VARIABLES)
def test_variables_of_the_numerical_libraries_make_another_run(
    name, toy_spec, no_variables, monkeypatch
):
    plain = prepare_run(toy_spec()).run_id
    monkeypatch.setenv(name, "1")
    assert current_execution().identity() == {"variables": {name: "1"}}
    assert prepare_run(toy_spec()).run_id != plain


def test_a_plain_process_adds_nothing_to_the_identity(no_variables):
    assert Execution().identity() == {}
    everything = Execution("cuda", 2, True, {"CUBLAS_WORKSPACE_CONFIG": ":16:8"})
    assert everything.identity() == {
        "device": "cuda",
        "processes": 2,
        "deterministic": True,
        "variables": {"CUBLAS_WORKSPACE_CONFIG": ":16:8"},
    }


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 1),  # a cluster may set it for processes that train alone
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 4),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1", "ACCELERATE_USE_CPU": "true"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "3", "ACCELERATE_USE_CPU": "1"}, 3),
    ],
)
def test_the_processes_of_a_launcher_are_in_the_identity(
    variables, processes, no_variables, monkeypatch
):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert current_execution().processes == processes


def test_a_gpu_is_in_the_identity_with_its_libraries_and_processes(no_variables, monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda", 0)
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert current_execution().identity() == {"device": "cuda"}
    spec = complete_spec({"model": {"name": "other"}})
    assert current_execution().resolve(spec) is spec
    for name, value in {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert current_execution().identity() == {
        "device": "cuda",
        "processes": 2,
        "variables": {
            "ACCELERATE_USE_FSDP": "true",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "FSDP_VERSION": "2",
        },
    }
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert current_execution().device == "cpu"


def test_the_run_is_held_to_what_its_identity_says():
    Execution().check("cpu", 1)
    with pytest.raises(UserError, match="accelerate trains on cpu with 2 processes"):
        Execution().check("cpu", 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_torch_chose_are_in_identity_and_record(
    threads, toy_spec, run_toy, no_variables
):
    open_spec = toy_spec(steps=1).model_copy(update={"threads": None})
    given = toy_spec(steps=1).model_copy(update={"threads": threads})
    with fixed_numerics(threads):
        prepared = prepare_run(open_spec)
    assert prepared.spec == given
    assert prepared.run_id == prepare_run(given).run_id


def test_accelerate_leaves_the_number_of_threads(monkeypatch, toy_spec):
    def start(*_, **__):
        torch.set_num_threads(3)
        raise ValueError("bf16 mixed precision requires\nanother device")

    monkeypatch.setattr("epi_bench.training.accelerator.Accelerator", start)
    with fixed_numerics(2):
        with pytest.raises(UserError, match="cannot start: bf16 mixed precision requires another"):
            create_accelerator(toy_spec().training)
        assert torch.get_num_threads() == 2


def global_state():
    return [setting.present() for setting in _global_settings(1)]


@pytest.fixture
def restored():
    """Whatever a test does to torch's settings is undone."""
    settings = [(setting, setting.present()) for setting in _global_settings(1)]
    yield
    torch.set_default_device(None)
    for setting, value in settings:
        setting.put(value)


def spoil():
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cudnn.benchmark = True
    torch.set_default_device("meta")
    torch.set_num_threads(2)


def test_global_settings_are_those_of_a_run_inside_and_the_callers_after_it(restored):
    usual = global_state()
    with fixed_numerics(1):
        inside = global_state()
        assert torch.get_float32_matmul_precision() == "highest"
    assert global_state() == usual
    spoil()
    spoiled = global_state()
    assert spoiled != usual
    with pytest.raises(KeyError), fixed_numerics(1):
        assert global_state() == inside
        assert torch.ones(1).device.type == "cpu"
        raise KeyError
    assert global_state() == spoiled
    assert torch.ones(1).device.type == "meta"


def test_newer_names_of_the_precisions_are_set_and_given_back(restored):
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this version of torch has the older names only")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # the older name cannot tell this
    spoiled = global_state()
    with fixed_numerics():
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert global_state() == spoiled


def test_a_run_is_the_same_whatever_the_caller_did_to_torch(run_toy, tmp_path, restored):
    plain = run_toy("lora", out=tmp_path / "plain").record
    spoil()
    torch.manual_seed(1234)
    spoiled = run_toy("lora", out=tmp_path / "spoiled").record
    assert plain.status == "finished", plain.error
    assert spoiled.environment.matmul_precision == "highest"
    assert comparable(spoiled) == comparable(plain)
    assert spoiled.run_id == plain.run_id


def test_a_new_process_with_every_variable_gives_the_same_record(
    run_toy, toy_tasks, tmp_path, no_variables
):
    plain = run_toy(steps=2, out=tmp_path / "plain")
    command = [sys.executable, "-m", "epi_bench", "run", "--quiet", "--no-publish"]
    command += ["--config", str(plain.path.with_name("run.toml")), "--out", str(tmp_path / "new")]
    more = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    environment = {**os.environ, **WITHOUT_EFFECT, **more}
    result = subprocess.run(
        [*command, "--plugin", str(toy_tasks)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    again = load_record(next((tmp_path / "new").glob("runs/*/record.json")))
    assert again.run_id == plain.record.run_id
    assert comparable(again) == comparable(plain.record)
