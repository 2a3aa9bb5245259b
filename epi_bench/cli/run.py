"""``epi-bench run``: train strategies on a stream."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epi_bench.cli import completion
from epi_bench.cli.printing import say
from epi_bench.cli.setting_flags import SettingFlags, help_text, takes_settings
from epi_bench.evaluation.judge.settings import REQUESTS_PER_MINUTE
from epi_bench.runs.checkpoint_settings import DEFAULT_EVERY
from epi_bench.runs.saving import KeepModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epi_bench.runs.request import RunRequest
    from epi_bench.spec.run_spec import RunSpec

STREAM, DATA, OUTPUT = "Stream", "Model and data", "Output"
JUDGE = "Judge model for open-ended answers"
MACHINES = "Several runs at a time, on one machine or many"


@takes_settings()
def run(
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            "-s",
            help=help_text("strategy.name", "Names and families separated by commas, or all."),
            autocompletion=completion.strategies,
        ),
    ] = None,
    set_option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[STRATEGY.]NAME=VALUE",
            help="Hyperparameter of a strategy; repeatable. See: epi-bench strategies show NAME.",
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file that registers more; repeatable."),
    ] = None,
    *,
    settings: SettingFlags,
    stream_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the stream; repeatable.", rich_help_panel=STREAM
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many seeds, counting up.", rich_help_panel=STREAM)
    ] = 1,
    tasks: Annotated[
        str | None,
        typer.Option(
            help=help_text(
                "data.tasks",
                "Names of tasks or suites, or .toml files that describe them, separated by "
                "commas. See: epi-bench tasks list.",
            ),
            rich_help_panel=DATA,
            autocompletion=completion.tasks,
        ),
    ] = None,
    eval_tasks: Annotated[
        str | None,
        typer.Option(
            help=help_text(
                "data.eval_tasks",
                "Tasks that are scored whenever the trained ones are, and never trained: what the "
                "model should keep. Written as --tasks; lm_eval:TASK is one of "
                "lm-evaluation-harness.",
            ),
            rich_help_panel=DATA,
            autocompletion=completion.tasks,
        ),
    ] = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TASK.]NAME=VALUE",
            help="Option of a task; repeatable. See: epi-bench tasks show NAME.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="EPI_BENCH_DATA",
            help="Folder with local data sets instead of the hub.",
            rich_help_panel=DATA,
        ),
    ] = None,
    lm_eval_path: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with tasks of lm-evaluation-harness (.yaml), beside those that it brings, "
            "for lm_eval:TASK among the eval tasks.",
            rich_help_panel=DATA,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with any of these settings; flags override it. "
            "Every run writes the file that repeats it."
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            help="Train the single-task references first, for intransigence, interference and "
            "the normalised score.",
        ),
    ] = False,
    allow_code_execution: Annotated[
        bool, typer.Option(help="Let tasks run code that the model wrote, in a sandbox.")
    ] = False,
    judge_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible endpoint; its key is read from EPI_BENCH_JUDGE_KEY.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Judge model at that endpoint.", rich_help_panel=JUDGE),
    ] = None,
    judge_prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file laid over the shipped prompts, see docs/judge.md.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_rate: Annotated[
        int | None,
        typer.Option(
            help=f"Requests a minute at most; 0 sets no limit. \\[default: {REQUESTS_PER_MINUTE}]",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    checkpoint_every: Annotated[
        str,
        typer.Option(
            metavar="STEPS|TIME",
            help="Save what a run needs to go on every 200 steps (200) or five minutes (5m; also s "
            "and h), and after each experience; 0 never. The same command goes on from there.",
        ),
    ] = DEFAULT_EVERY,
    keep_checkpoints: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Checkpoints kept beside the newest while a run goes on."
        ),
    ] = 0,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Runs at a time, each in its own process.", rich_help_panel=MACHINES
        ),
    ] = 1,
    backend: Annotated[
        str,
        typer.Option(
            metavar="local|ray",
            help="What makes the runs: this machine or Ray, see docs/many_machines.md.",
            rich_help_panel=MACHINES,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: auto for that of this machine, or HOST:PORT. Without it, a Ray of "
            "this machine alone.",
            rich_help_panel=MACHINES,
        ),
    ] = None,
    cpus_per_run: Annotated[
        float | None,
        typer.Option(
            help="CPUs that Ray sets aside for a run. \\[default: 1]", rich_help_panel=MACHINES
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            help="GPUs that Ray sets aside for a run; of 0.5, two runs share one. \\[default: 0]",
            rich_help_panel=MACHINES,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            help="Make finished runs again, and interrupted ones from the beginning; old results "
            "stay until new ones replace them."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make runs again that failed before.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="Folder for runs/ and results/.", rich_help_panel=OUTPUT),
    ] = Path(),
    save_model: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the trained model of a single run, loadable by transformers.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    keep_model: Annotated[
        KeepModel,
        typer.Option(
            help="Which trained models each run keeps beside its record.", rich_help_panel=OUTPUT
        ),
    ] = KeepModel.NONE,
    log_predictions: Annotated[
        bool,
        typer.Option(
            help="Write what the trained model said to each test item to predictions.jsonl.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            help="Copy the record to results/, where it is ranked.", rich_help_panel=OUTPUT
        ),
    ] = True,
    quiet: Annotated[
        bool, typer.Option(help="No progress, no tables.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Train one or more strategies on a stream of tasks and record what they keep and cost."""
    from epi_bench.api.selection import Selection
    from epi_bench.cli.execution import execute
    from epi_bench.evaluation.judge.settings import judge_settings
    from epi_bench.runs.backend_choice import choose_backend
    from epi_bench.runs.checkpoint_settings import checkpoint_settings

    selection = Selection(
        given=settings,
        strategies=strategy,
        strategy_options=set_option or [],
        tasks=tasks,
        stream_options=stream_option or [],
        task_options=task_option or [],
        eval_tasks=eval_tasks,
        seeds=seeds,
        config=config,
        plugins=plugin or [],
        data_dir=data_dir,
        lm_eval_path=lm_eval_path,
    )
    with _shown_to_start(quiet):
        specs, request = _resolve(
            selection,
            out=out,
            references=references,
            force=force,
            retry_failed=retry_failed,
            allow_code_execution=allow_code_execution,
            save_model=save_model,
            keep_model=keep_model,
            log_predictions=log_predictions,
            published=publish,
            checkpoints=checkpoint_settings(checkpoint_every, keep_checkpoints),
            judge=judge_settings(judge_url, judge_model, judge_prompts, judge_rate),
        )
    chosen = choose_backend(
        backend,
        jobs,
        len(specs),
        address=address,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
    )
    if selection.left_out and not quiet:
        say(
            "left out, because on a stream of one experience they train as full_sft does: "
            + ", ".join(selection.left_out)
        )
    if selection.refusing and not quiet:
        say(
            "left out, because they cannot train an adapter that the run puts on the model: "
            + ", ".join(selection.refusing)
        )
    execute(specs, request, chosen, quiet=quiet)


@contextmanager
def _shown_to_start(quiet: bool) -> Iterator[None]:
    """Say at once that the command is at work: importing torch takes seconds."""
    from epi_bench.tables import make_console

    console = make_console(quiet)
    if console.is_terminal and not quiet:
        with console.status("starting"):
            yield
    else:
        console.print("starting")
        yield


def _resolve(selection: Any, out: Path, **how: Any) -> tuple[list[RunSpec], RunRequest]:
    from epi_bench.errors import UserError
    from epi_bench.results.record.workspace import Workspace
    from epi_bench.runs.request import RunRequest

    specs = selection.specs()
    if how["save_model"] and len(specs) > 1:
        raise UserError(
            f"save_model keeps one model, but {len(specs)} runs were asked for: "
            "name one strategy and one seed, or keep each run's with keep_model (--keep-model)",
            setting="save_model",
        )
    return specs, RunRequest(
        workspace=Workspace(out),
        data_dir=selection.data_folder,
        plugins=tuple(selection.plugin_files),
        task_files=tuple(selection.task_files),
        lm_eval_path=selection.harness_folder,
        **how,
    )
