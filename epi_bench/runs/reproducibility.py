"""What of the process can change a run's numbers, and what is done about it.

A run's numbers depend on its specification. Everything else that a process can carry into them is
one of four things: set by the run, whatever it was before (:func:`fixed_numerics`, and the settings
that :func:`epi_bench.training.accelerator.create_accelerator` gives); part of the run's identity
(:class:`Execution`); refused (:func:`current_execution`); or without effect. The table in
``docs/reproducibility.md`` lists all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from epi_bench.errors import UserError
from epi_bench.spec.run_spec import RunSpec, TrainingSpec

MATMUL_PRECISION = "highest"
"""Of float32 matrix products in every run: no TF32, no bfloat16."""

_OTHER_LOOP = "epi-bench runs its own training loop on DDP or FSDP"

REFUSED_FLAGS = {
    "ACCELERATE_USE_DEEPSPEED": _OTHER_LOOP,
    "ACCELERATE_USE_MEGATRON_LM": _OTHER_LOOP,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _OTHER_LOOP,
    "ACCELERATE_USE_SAGEMAKER": _OTHER_LOOP,
    "NVIDIA_TF32_OVERRIDE": "it rounds float32 matrix products, against what the run asks for",
}
"""Variables that hand the numbers to something else, with the reason, if they are switched on."""

CPU_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
)
"""Variables that choose instructions, sums or threads of the CPU's numerical libraries."""

GPU_VARIABLES = (
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "DISABLE_ADDMM_CUDA_LT",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE",
    "TORCH_LINALG_PREFER_CUSOLVER",
    "TORCH_LINALG_PREFER_HIPSOLVER",
    "TORCH_ROCM_FA_PREFER_CK",
)
"""Variables that choose algorithms of the GPU's numerical libraries."""

MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")
"""Where launchers say how many processes there are, in the order in which accelerate looks."""


@dataclass(frozen=True)
class Execution:
    """How the process at hand makes runs, as far as that changes numbers.

    Attributes:
        device: Type of the device: ``cpu``, ``cuda``, ``mps`` and so on.
        processes: Processes that train together.
        deterministic: Whether the caller had torch use deterministic algorithms.
        variables: Environment variables that choose algorithms, with their values.
    """

    device: str = "cpu"
    processes: int = 1
    deterministic: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, JsonValue]:
        """What of it counts in a run's identity; empty for one plain process on the CPU."""
        usual = Execution()
        content: dict[str, JsonValue] = {
            name: getattr(self, name)
            for name in ("device", "processes", "deterministic")
            if getattr(self, name) != getattr(usual, name)
        }
        if self.variables:
            content["variables"] = dict(sorted(self.variables.items()))
        return content

    def resolve(self, spec: RunSpec) -> RunSpec:
        """The specification with the number of CPU threads that torch has chosen written out.

        Sums on the CPU depend on it, so it belongs to the run's identity and to its ``run.toml``.
        On another device it changes nothing and stays open.
        """
        import torch

        if spec.threads is not None or self.device != "cpu":
            return spec
        return spec.model_copy(update={"threads": torch.get_num_threads()})

    def check(self, device: str, processes: int) -> None:
        """Hold the run to what its identity says.

        Args:
            device: Type of the device that accelerate chose.
            processes: Processes that accelerate found.

        Raises:
            UserError: If accelerate started otherwise than this process looked like.
        """
        if (device, processes) != (self.device, self.processes):
            raise UserError(
                f"accelerate trains on {device} with {processes} processes, the run was prepared "
                f"for {self.device} with {self.processes}: start it with `accelerate launch`, or "
                "without WORLD_SIZE and LOCAL_RANK"
            )


def current_execution() -> Execution:
    """How this process would make a run.

    Raises:
        UserError: If a variable or the caller hands the numbers to something else.
    """
    import torch

    _refuse()
    device = _device_type()
    names = CPU_VARIABLES if device == "cpu" else (*CPU_VARIABLES, *GPU_VARIABLES)
    variables = {name: os.environ[name] for name in names if os.environ.get(name)}
    if device != "cpu" and _switched_on("ACCELERATE_USE_FSDP"):
        variables["ACCELERATE_USE_FSDP"] = "true"
        variables |= {name: text for name, text in os.environ.items() if name.startswith("FSDP_")}
    return Execution(
        device, _processes(device), torch.are_deterministic_algorithms_enabled(), variables
    )


def overruled_settings(training: TrainingSpec, dtype: str = "float32") -> list[str]:
    """Warnings about settings of accelerate's that ask for something else than the run does.

    Args:
        training: What the run does; it alone counts.
        dtype: Of the model.
    """
    from epi_bench.model.precision import computes_in_bfloat16

    precision = "bf16" if computes_in_bfloat16(training, dtype) else "no"
    asked = (
        ("ACCELERATE_MIXED_PRECISION", precision, "training.autocast"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            str(training.accumulation),
            "training.accumulation",
        ),
        ("ACCELERATE_DYNAMO_BACKEND", "no", None),
    )
    warnings = []
    for name, value, setting in asked:
        found = os.environ.get(name, "").strip()
        neutral = {"", value, "no", "1"}
        if found.lower() in neutral:
            continue
        remedy = f": set {setting} instead" if setting else ": runs are not compiled"
        warnings.append(f"{name}={found} has no effect on a run{remedy}")
    return warnings


@contextmanager
def numerics_of_run(spec: RunSpec) -> Iterator[None]:
    """Torch's settings and random state, as a run has them; the caller's come back afterwards.

    Args:
        spec: Gives the seed, which dropout and the initialisation of adapters draw from, and the
            number of CPU threads.
    """
    import torch

    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), fixed_numerics(spec.threads):
        torch.manual_seed(spec.seed)
        yield


@contextmanager
def fixed_numerics(threads: int | None = None) -> Iterator[None]:
    """Give torch's global settings the values of every run, and the caller's back afterwards.

    Args:
        threads: CPU threads of torch; ``None`` leaves their number.
    """
    import torch

    settings = _global_settings(threads)
    found = [(setting, setting.present()) for setting in settings]
    with torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext():
        try:
            for setting in settings:
                setting.put(setting.value)
            yield
        finally:
            for setting, value in found:
                if value is not None:
                    setting.put(value)


@dataclass(frozen=True)
class _GlobalSetting:
    """How to ask for a setting of torch's, how to put it, and its value in every run."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    value: Any

    def present(self) -> Any:
        """The value now; ``None`` where torch cannot tell or does not know the setting."""
        try:
            return self.get()
        except RuntimeError:  # the older and the newer names of a precision disagree
            return None

    @classmethod
    def attribute(cls, owner: object, name: str, value: Any) -> _GlobalSetting:
        return cls(lambda: getattr(owner, name), lambda new: setattr(owner, name, new), value)


def _global_settings(threads: int | None) -> list[_GlobalSetting]:
    """In the order in which they are put: a precision's older name sets several newer ones."""
    import torch

    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    threading = _GlobalSetting(torch.get_num_threads, torch.set_num_threads, threads)
    return [
        *([threading] if threads is not None else []),
        _GlobalSetting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _GlobalSetting(
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            MATMUL_PRECISION,
        ),
        _GlobalSetting.attribute(cudnn, "allow_tf32", False),
        *(
            _GlobalSetting.attribute(operation, "fp32_precision", "ieee")
            for operation in _float32_operations()
        ),
        _GlobalSetting.attribute(cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
        _GlobalSetting.attribute(cudnn, "benchmark", False),
        _GlobalSetting.attribute(cudnn, "deterministic", True),
        _GlobalSetting(cuda.flash_sdp_enabled, cuda.enable_flash_sdp, True),
        _GlobalSetting(cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, True),
        _GlobalSetting(cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
        _GlobalSetting(cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, True),
    ]


def _float32_operations() -> list[object]:
    """What has a float32 precision of its own, in versions of torch that tell them apart."""
    import torch

    names = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    found = []
    for backend, operation in (name.split(".") for name in names):
        owner = getattr(getattr(torch.backends, backend), operation, None)
        if hasattr(owner, "fp32_precision"):
            found.append(owner)
    return found


def _refuse() -> None:
    import torch

    for name, reason in REFUSED_FLAGS.items():
        if _switched_on(name):
            raise UserError(f"{name}={os.environ[name]} is refused: {reason}; unset it")
    backend = os.environ.get("ACCELERATE_FP8_BACKEND", "NO")
    if backend.upper() != "NO":
        raise UserError(
            f"ACCELERATE_FP8_BACKEND={backend} is refused: runs train in float32 or bfloat16; "
            "unset it"
        )
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        # turning it off inside would not do: the outermost autocast keeps its cast weights
        raise UserError(
            "torch.autocast is on around the run, which sets its own precision with "
            "training.autocast: call it outside",
            setting="training.autocast",
        )


def _device_type() -> str:
    """Type of the device that accelerate will choose."""
    import torch

    if _switched_on("ACCELERATE_USE_CPU"):
        return "cpu"
    asked = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if asked:
        try:
            return torch.device(asked).type
        except RuntimeError as error:
            raise UserError(f"ACCELERATE_TORCH_DEVICE={asked} is not a device of torch") from error
    if torch.backends.mps.is_available():
        return "mps"
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found else "cpu"


def _processes(device: str) -> int:
    """Processes that accelerate will train with: it minds their number only after a launcher."""
    launched = _number("LOCAL_RANK", -1) != -1
    if device != "cpu":
        return _number("WORLD_SIZE", 1) if launched else 1
    if not launched and not _switched_on("ACCELERATE_USE_CPU"):
        return 1
    return next((size for size in (_number(name, 0) for name in MPI_SIZES) if size > 0), 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name}={text} in the environment is not a whole number") from error


def _switched_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() not in {"", "0", "false", "no", "n", "f", "off"}
