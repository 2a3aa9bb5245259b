"""Everything that can go wrong before a run starts, done before anything is written.

Names are resolved, data read and encoded, sizes and options checked, and the run's identity is
computed; what comes out is ready to train.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from epi_bench.errors import UserError, foreign_code, one_line
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoding_cache import EncodingCache
from epi_bench.model.load import load_tokenizer
from epi_bench.model.location import locate_model
from epi_bench.model.stored_weights import check_files
from epi_bench.runs.examples import Encoding, permitted, prepare_task
from epi_bench.runs.identity import plugin_fingerprints, run_id
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.prepared import PreparedRun, PreparedTask
from epi_bench.runs.reproducibility import current_execution, overruled_settings
from epi_bench.runs.warnings import data_warnings, precision_warnings, warn_of_idle
from epi_bench.spec.run_spec import RunSpec
from epi_bench.spec.streams import (
    ExperiencePlan,
    build_stream,
    mix_examples,
    order_tasks,
)
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import Strategy, create_strategy
from epi_bench.task.task import create_task
from epi_bench.training.schedule import steps_of


def prepare_run(
    spec: RunSpec,
    data_dir: Path | None = None,
    allow_code_execution: bool = False,
    observer: RunObserver | None = None,
) -> PreparedRun:
    """Resolve, read, encode and check everything a run needs.

    Args:
        spec: The run.
        data_dir: Folder with local data sets; ``None`` loads from the hub.
        allow_code_execution: Whether tasks may run code that the model wrote.
        observer: Is told how the encoding of large data sets goes on.

    Raises:
        UserError: For anything the user can mend.
    """
    execution = current_execution()
    spec = execution.resolve(spec)
    strategy = create_strategy(spec.strategy.name, spec.strategy.options)
    order = order_tasks(spec.data.tasks, spec.stream.order, spec.seed)
    plans = build_stream(spec.stream.kind, order, dict(spec.stream.options))
    made = {name: create_task(name, data_dir, spec.data.options.get(name)) for name in order}
    plugins = plugin_fingerprints(spec)
    location = locate_model(spec.model)
    check_files(location)
    encoder = ChatEncoder(
        load_tokenizer(location), spec.data.max_length, mask_history=spec.data.mask_history
    )
    encoding = Encoding(encoder, EncodingCache(), observer or RunObserver())
    tasks = {
        name: prepare_task(
            permitted(task, allow_code_execution),
            spec,
            encoding,
            plugins.get(f"task:{name}"),
        )
        for name, task in made.items()
    }
    fingerprints = {
        "model": location.fingerprint,
        **{f"task:{name}": tasks[name].fingerprint for name in sorted(tasks)},
        **{name: value for name, value in plugins.items() if not name.startswith("task:")},
    }
    experiences = _experiences(plans, tasks, spec, execution.processes)
    steps = [experience.steps for experience in experiences]
    return PreparedRun(
        run_id=run_id(spec, fingerprints, execution.identity()),
        spec=spec,
        execution=execution,
        strategy=strategy,
        location=location,
        encoder=encoder,
        tasks=tasks,
        plans=plans,
        experiences=experiences,
        fingerprints=fingerprints,
        plugins=plugins,
        warnings=[
            *data_warnings(tasks, encoder),
            *encoding.cache.warnings,
            *overruled_settings(spec.training, spec.model.dtype),
            *warn_of_idle(strategy, len(experiences)),
            *precision_warnings(spec, execution.device),
            *_check_run(strategy, spec, steps),
        ],
    )


def _check_run(strategy: Strategy, spec: RunSpec, steps: Sequence[int]) -> Sequence[str]:
    with foreign_code(f"strategy {spec.strategy.name!r} fails to check the run"):
        return [one_line(str(told)) for told in strategy.check_run(spec.training, steps)]


def _experiences(
    plans: Sequence[ExperiencePlan],
    tasks: Mapping[str, PreparedTask],
    spec: RunSpec,
    processes: int,
) -> list[Experience]:
    experiences = []
    for index, plan in enumerate(plans):
        pools = [tasks[name].train for name in plan.tasks]
        generator = random.Random(f"mixing of experience {index} {spec.seed}")
        examples = mix_examples(pools, plan, generator)
        steps = steps_of(len(examples), plan.budget, spec.training, processes)
        if steps < plan.evaluations:
            raise UserError(
                f"experience {plan.name!r} has {steps} steps, too few for its "
                f"{plan.evaluations} evaluations: raise --steps"
            )
        experiences.append(Experience(index, plan.name, plan.tasks, examples, steps))
    return experiences
