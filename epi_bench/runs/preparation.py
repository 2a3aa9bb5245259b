"""Everything that can go wrong before a run starts, done before anything is written.

Names are resolved, data read and encoded, sizes and options checked, and the run's identity is
computed; what comes out is ready to train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from epi_bench.errors import UserError, foreign_code
from epi_bench.foreign_text import for_terminal
from epi_bench.model.base_examples import check_base_text
from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoding_cache import EncodingCache
from epi_bench.model.load import load_tokenizer
from epi_bench.model.location import ModelLocation, locate_model
from epi_bench.model.stored_weights import check_files
from epi_bench.runs.examples import (
    ExampleEncoding,
    permitted,
    prepare_eval_task,
    prepare_task,
)
from epi_bench.runs.given_text import given_text
from epi_bench.runs.identity import plugin_fingerprints, run_id
from epi_bench.runs.observer import RunObserver
from epi_bench.runs.prepared import PreparedRun, PreparedTask, ScoredTask
from epi_bench.runs.reproducibility import current_execution, overruled_settings
from epi_bench.runs.warnings import (
    adapter_warnings,
    base_text_warnings,
    data_warnings,
    idle_warnings,
    own_answer_warnings,
    precision_warnings,
)
from epi_bench.spec.randomness import seeded_generator
from epi_bench.spec.run_spec import RunSpec
from epi_bench.spec.streams import (
    ExperiencePlan,
    build_stream,
    complete_stream_options,
    mix_examples,
    order_tasks,
)
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import Strategy, complete_strategy_options, create_strategy
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
        observer: Hears how the encoding of large data sets goes on.

    Raises:
        UserError: For anything the user can fix; nothing has been written then.

    Example:
        .. code-block:: python

            prepared = prepare_run(complete_spec({"training": {"steps": 50}}))
            prepared.run_id, prepared.total_steps, prepared.warnings
    """
    execution = current_execution()
    spec = execution.resolve(spec)
    strategy = create_strategy(spec.strategy.name, spec.strategy.options)
    order = order_tasks(spec.data.tasks, spec.stream.order, spec.seed)
    plans = build_stream(spec.stream.kind, order, dict(spec.stream.options))
    strategy_options = complete_strategy_options(spec.strategy.name, spec.strategy.options)
    stream_options = complete_stream_options(spec.stream.kind, spec.stream.options)
    made = {
        name: create_task(name, data_dir, spec.data.options.get(name))
        for name in (*order, *spec.data.eval_tasks)
    }
    plugins = plugin_fingerprints(spec)
    location = locate_model(spec.model)
    check_files(location)
    encoding = _encoding(spec, location, observer or RunObserver())
    allowed = {name: permitted(task, allow_code_execution) for name, task in made.items()}
    tasks = {
        name: prepare_task(allowed[name], spec.data, encoding, plugins.get(f"task:{name}"))
        for name in order
    }
    eval_tasks = {
        name: prepare_eval_task(allowed[name], spec.data, plugins.get(f"task:{name}"))
        for name in spec.data.eval_tasks
    }
    general = given_text(spec.data, data_dir)
    experiences = _experiences(plans, tasks, spec, execution.processes)
    warnings = [
        *data_warnings(tasks, eval_tasks, encoding.encoder),
        *encoding.cache.warnings,
        *overruled_settings(spec.training, spec.model.dtype),
        *idle_warnings(strategy, len(experiences)),
        *own_answer_warnings(strategy, tasks),
        *adapter_warnings(strategy, spec.adapter),
        *precision_warnings(spec, execution.device),
        *_check_strategy(strategy, spec, experiences),
        *base_text_warnings(strategy.protect_base),
        *(general.warnings(encoding.encoder.tokenizer) if general else ()),
    ]
    base_text = check_base_text(strategy.protect_base, encoding.encoder.tokenizer)
    texts = {} if base_text is None else {"protect_base": base_text}
    if general is not None:
        texts["general_text"] = general.fingerprint
    fingerprints = _fingerprints(location, {**tasks, **eval_tasks}, plugins, texts)
    return PreparedRun(
        run_id=run_id(
            spec,
            fingerprints,
            execution.identity(),
            strategy_options=strategy_options,
            stream_options=stream_options,
        ),
        spec=spec,
        execution=execution,
        strategy=strategy,
        strategy_options=strategy_options,
        stream_options=stream_options,
        location=location,
        encoder=encoding.encoder,
        tasks=tasks,
        eval_tasks=eval_tasks,
        plans=plans,
        experiences=experiences,
        fingerprints=fingerprints,
        plugins=plugins,
        texts=texts,
        general_texts=general.texts if general else None,
        warnings=warnings,
    )


def _encoding(spec: RunSpec, location: ModelLocation, observer: RunObserver) -> ExampleEncoding:
    encoder = ChatEncoder(
        load_tokenizer(location), spec.data.max_length, mask_history=spec.data.mask_history
    )
    return ExampleEncoding(encoder, EncodingCache(), observer)


def _experiences(
    plans: Sequence[ExperiencePlan],
    tasks: Mapping[str, PreparedTask],
    spec: RunSpec,
    processes: int,
) -> list[Experience]:
    """The stream with its examples and steps."""
    experiences = []
    for index, plan in enumerate(plans):
        pools = [tasks[name].train for name in plan.tasks]
        generator = seeded_generator(f"mixing of experience {index}", spec.seed)
        examples = mix_examples(pools, plan, generator)
        steps = steps_of(len(examples), plan.budget, spec.training, processes)
        if steps < plan.evaluations:
            raise UserError(
                f"experience {plan.name!r} has {steps} steps, too few for its "
                f"{plan.evaluations} evaluations: raise training.steps or training.epochs",
                setting=("training.steps", "training.epochs"),
            )
        experiences.append(Experience(index, plan.name, plan.tasks, examples, steps))
    return experiences


def _check_strategy(
    strategy: Strategy, spec: RunSpec, experiences: Sequence[Experience]
) -> list[str]:
    """Let the strategy refuse the run; what it warns of otherwise."""
    if spec.adapter.kind != "none" and strategy.refuses_adapter:
        raise UserError(
            f"{spec.strategy.name} {strategy.refuses_adapter}: leave "
            f"adapter.kind={spec.adapter.kind} out, or choose another strategy",
            setting="adapter.kind",
        )
    steps = [experience.steps for experience in experiences]
    with foreign_code(f"strategy {spec.strategy.name!r} fails to check the run"):
        return [for_terminal(str(warning)) for warning in strategy.check_run(spec.training, steps)]


def _fingerprints(
    location: ModelLocation,
    tasks: Mapping[str, ScoredTask],
    plugins: Mapping[str, str],
    texts: Mapping[str, str],
) -> dict[str, str]:
    """Content hashes of what the specification only names; a task's hash covers its code."""
    return {
        "model": location.fingerprint,
        **{f"task:{name}": tasks[name].fingerprint for name in sorted(tasks)},
        **{name: value for name, value in plugins.items() if not name.startswith("task:")},
        **{f"text:{name}": value for name, value in texts.items()},
    }
