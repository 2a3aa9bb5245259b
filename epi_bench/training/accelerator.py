"""The accelerator that a run trains on, made from its specification alone."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from epi_bench.errors import UserError
from epi_bench.model.precision import computes_in_bfloat16
from epi_bench.spec.run_spec import TrainingSpec


def create_accelerator(
    spec: TrainingSpec, cpu: bool = False, dtype: str = "float32"
) -> Accelerator:
    """The accelerator of one run; several runs of one process may differ in precision.

    Every setting that accelerate would otherwise take from the environment is given: the loop
    divides losses and counts micro-batches by itself.

    Args:
        spec: Precision of the training.
        cpu: Whether a GPU is left alone.
        dtype: Of the model, as in ``ModelSpec``.

    Raises:
        UserError: If accelerate cannot start as it is asked to.
    """
    AcceleratorState._reset_state()  # runs of one process may differ in precision
    threads = torch.get_num_threads()
    try:
        return Accelerator(
            mixed_precision="bf16" if computes_in_bfloat16(spec, dtype) else "no",
            cpu=cpu,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(
                backend="no",
                mode="default",
                fullgraph=False,
                dynamic=False,
                use_regional_compilation=False,
            ),
        )
    except ValueError as error:
        raise UserError(f"accelerate cannot start: {' '.join(str(error).split())}") from error
    finally:
        torch.set_num_threads(threads)  # it chooses a number of its own for several processes
