"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["EPI_BENCH_CACHE"] = "off"  # tests that need a cache make one of their own
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def default_signals():
    """What each test of signals needs, whatever came before.

    A suite that a shell starts in the background inherits an ignored SIGINT, one under nohup an
    ignored SIGHUP, and so would what it starts; Ray leaves a SIGTERM handler of its own behind.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _width_of_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as wide as where nobody said how wide a terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of published data sets, or a skip that says so."""
    given = os.environ.get("EPI_BENCH_TEST_DATA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no published data sets in {folder} (set EPI_BENCH_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 20,000 parameters and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("toy_model")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["user assistant copy the word red green blue one two three " * 4],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(fast),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=fast.eos_token_id,
                pad_token_id=fast.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    return folder


TOY_TASKS = '''
from epi_bench import Example, Task, TaskCard, register_task

WORDS = ["red", "green", "blue", "one", "two", "three", "copy", "word"]


def _example(asked, answer, options=()):
    messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    return Example(messages, answer, options)


class _Toy(Task):
    def examples(self, split):
        pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
        test = split == "test"
        return [self.make(*pair) for i, pair in enumerate(pairs) if (i % 4 == 0) == test]


@register_task("toy_first")
class ToyFirst(_Toy):
    """The first of two words."""
    card = TaskCard("the first word", "toy", "teacher_forced", "exact_match", "Apache-2.0")

    def make(self, a, b):
        return _example(f"first: {a} {b}", a)


@register_task("toy_second")
class ToySecond(_Toy):
    """The second of two words, generated."""
    card = TaskCard("the second word", "toy", "generate", "exact", "Apache-2.0", max_new_tokens=6)

    def make(self, a, b):
        return _example(f"second: {a} {b}", b)

    def score(self, example, prediction):
        return {"exact": float(prediction.text == example.reference)}


@register_task("toy_choice")
class ToyChoice(_Toy):
    """Which of three words comes second."""
    card = TaskCard("choose", "toy", "choice", "acc", "Apache-2.0", chance=100 / 3)

    def make(self, a, b):
        other = next(word for word in WORDS if word not in (a, b))
        return _example(f"choose: {a} {b}", b, tuple(sorted((a, b, other))))
'''


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin file with three tasks, one for each scoring mode, registered already."""
    from epi_bench.plugins.loading import load_plugin_file

    path = tmp_path_factory.mktemp("toy_tasks") / "toy_tasks.py"
    path.write_text(TOY_TASKS, encoding="utf-8")
    load_plugin_file(path)
    return path


@pytest.fixture
def forgotten_tasks():
    """Tasks that a test registers are forgotten after it, so that others may use their names."""
    from epi_bench.task.task import TASKS

    before = set(TASKS._registered)
    yield
    for name in set(TASKS._registered) - before:
        if not TASKS.is_builtin(name):
            del TASKS._registered[name]


@pytest.fixture
def forgotten_plugins():
    """What plugin files register is forgotten after a test; called, it is forgotten at once."""
    import sys

    import epi_bench.spec.streams
    import epi_bench.strategy.strategy
    import epi_bench.task.task  # noqa: F401  (each makes its registry)
    from epi_bench.plugins.loading import REGISTRIES

    before = [(registry, registry.content()) for registry in REGISTRIES]
    modules = set(sys.modules)

    def forget():
        for registry, (items, code) in before:
            registry.go_back_to((dict(items), dict(code)))
        for name in set(sys.modules) - modules:
            if name.startswith(("epi_bench_plugin_", "beside_")):
                del sys.modules[name]

    yield forget
    forget()


@pytest.fixture
def toy_spec(toy_model: Path, toy_tasks: Path):
    """Makes small specifications: ``toy_spec("epi", {"ratio": 0.3}, steps=5)``."""
    from epi_bench.spec.defaults import complete_spec

    def make(
        strategy="full_sft",
        options=None,
        tasks=None,
        eval_tasks=(),
        stream=None,
        seed=0,
        dtype="float32",
        adapter=None,
        **training,
    ):
        return complete_spec(
            {
                "model": {"name": str(toy_model), "dtype": dtype},
                "strategy": {"name": strategy, "options": options or {}},
                "adapter": adapter or {},
                "stream": stream or {},
                "data": {
                    "tasks": tasks or ["toy_first", "toy_second"],
                    "eval_tasks": eval_tasks,
                    "max_length": 64,
                },
                "training": {"steps": 6, "learning_rate": 3e-3, **training},
                "evaluation": {"probe_examples": 4},
                "seed": seed,
                "threads": 1,
            }
        )

    return make


@pytest.fixture
def train_toy(toy_spec):
    """Trains a toy run without files; returns the loop after the stream."""
    from epi_bench.evaluation.answers import ending_texts
    from epi_bench.model.load import load_backbone
    from epi_bench.runs.known_tasks import KnownTasks
    from epi_bench.runs.preparation import prepare_run
    from epi_bench.training.accelerator import create_accelerator
    from epi_bench.training.loop import TrainingLoop

    def train(*arguments, on_step=None, strategy=None, **keywords):
        import torch

        prepared = prepare_run(toy_spec(*arguments, **keywords))
        backbone = load_backbone(prepared.spec.model, prepared.location)
        with torch.random.fork_rng():
            torch.manual_seed(prepared.spec.seed)
            loop = TrainingLoop(
                spec=prepared.spec.training,
                strategy=strategy or prepared.strategy,
                model=backbone.model,
                pad_token_id=backbone.tokenizer.pad_token_id,
                seed=prepared.spec.seed,
                accelerator=create_accelerator(
                    prepared.spec.training, cpu=True, dtype=prepared.spec.model.dtype
                ),
                total_steps=prepared.total_steps,
                experience_count=len(prepared.experiences),
                tasks=KnownTasks(prepared, ending_texts(backbone.model)),
            ).start()
            for experience in prepared.experiences:
                loop.train(experience, on_step)
        return loop

    return train


@pytest.fixture
def run_toy(toy_spec, tmp_path: Path):
    """Makes a whole toy run in a temporary folder and returns its outcome."""
    from epi_bench.results.record.workspace import Workspace
    from epi_bench.runs.launch import run_one
    from epi_bench.runs.observer import RunObserver
    from epi_bench.runs.request import RunRequest

    def run(*arguments, out=tmp_path, observer=None, request=None, **keywords):
        made = RunRequest(Workspace(out), **(request or {}))
        return run_one(toy_spec(*arguments, **keywords), made, observer or RunObserver())

    return run
