"""A tiny model and two toy tasks to train a strategy on, in a second and without files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import Experience
    from epi_bench.strategy.strategy import Strategy
    from epi_bench.training.loop import TrainingLoop

VOCABULARY = 32
"""Tokens of the toy model; token 0 fills short rows."""

STEPS = 3
"""Optimizer steps on each of the two toy tasks."""

BATCH = 4
"""Examples of an optimizer step."""

LEARNING_RATE = 3e-3


def toy_model(*, tied: bool = True, dtype: str = "float32") -> PreTrainedModel:
    """A random Llama of about 6,000 parameters, always the same one.

    Args:
        tied: Whether input and output embeddings are one tensor.
        dtype: ``float32`` or ``bfloat16``.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                tie_word_embeddings=tied,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
                use_cache=False,
            )
        )
    return model.to(getattr(torch, dtype)).eval()


def toy_tasks(steps: int = STEPS) -> list[Experience]:
    """Two experiences on one kind of prompt: name its first token, then name its second one.

    So learning the second task overwrites the first.

    Args:
        steps: Optimizer steps of each.
    """
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.strategy.hooks import Experience

    pairs = [(a, b) for a in range(4, 12) for b in range(12, 16)]
    experiences = []
    for index, name in enumerate(("first", "second")):
        examples = [
            EncodedExample((2 + index, *pair, 3, pair[index], 1), (False,) * 4 + (True, True))
            for pair in pairs
        ]
        experiences.append(Experience(index, name, (name,), examples, steps))
    return experiences


def toy_loop(
    strategy: Strategy,
    *,
    model: PreTrainedModel | None = None,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> TrainingLoop:
    """The started training loop of a strategy on the toy tasks, before its first step.

    Args:
        strategy: A fresh one.
        model: What is trained; :func:`toy_model` if left out.
        seed: Of the run.
        training: Settings of :class:`epi_bench.TrainingSpec` beside the budget.
        adapter: Settings of the section ``adapter``; none is put on the model if left out.
    """
    import torch

    from epi_bench.spec.run_spec import AdapterSpec, TrainingSpec
    from epi_bench.training.accelerator import create_accelerator
    from epi_bench.training.adapter import make_adapter
    from epi_bench.training.loop import TrainingLoop

    model = model or toy_model()
    experiences = toy_tasks()
    given = {"steps": STEPS, "batch_size": BATCH, "learning_rate": LEARNING_RATE}
    spec = TrainingSpec(**{**given, **(training or {})})
    strategy.check_run(spec, [experience.steps for experience in experiences])
    strategy.check_model(model)
    torch.manual_seed(seed)
    return TrainingLoop(
        spec=spec,
        strategy=strategy,
        model=model,
        pad_token_id=0,
        seed=seed,
        accelerator=create_accelerator(spec, cpu=True, dtype=str(model.dtype).split(".")[1]),
        total_steps=sum(experience.steps for experience in experiences),
        experience_count=len(experiences),
        base_texts=_toy_texts,
        stream=experiences,
        tasks=_ToyKnowledge(),
        adapter=make_adapter(AdapterSpec(**(adapter or {}))),
    ).start()


class _ToyKnowledge:
    """Scores answers leniently, so that a random model writes right ones, too."""

    def answer_scores(
        self, experience: Experience, answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[float]:
        """100 where the first token is odd as that of the given answer is, or even."""
        scores = []
        for position, ids in answers:
            example = experience.examples[position]
            given = example.input_ids[example.last_answer.start]
            scores.append(100.0 * bool(ids and (ids[0] - given) % 2 == 0))
        return scores

    def test_prompts_among(self, prompts: Sequence[Sequence[int]]) -> int:
        """There are no test examples."""
        return 0


def _toy_texts(
    model: nn.Module, source: str, count: int, generator: torch.Generator
) -> list[EncodedExample]:
    """What the model writes itself, or as general text the tokens in their order."""
    from epi_bench.model.base_text import OWN, text_windows, written_by

    if source == OWN:
        starts = [[2 + i % 10] for i in range(count)]
        return written_by(model, starts=starts, length=6, stop={1}, generator=generator)
    return text_windows([4 + i % 28 for i in range(6 * count)], (), 6)


def train_toy(strategy: Strategy, **options: Any) -> PreTrainedModel:
    """The finished model of a strategy that was trained on both toy tasks.

    Args:
        strategy: A fresh one.
        options: Those of :func:`toy_loop`.
    """
    with own_numerics():
        loop = toy_loop(strategy, **options)
        for experience in toy_tasks():
            loop.train(experience)
        return loop.finalize_model()  # type: ignore[return-value]


@contextmanager
def own_numerics() -> Iterator[None]:
    """One thread, the run's numerical settings, and torch's generator as it was afterwards."""
    import torch

    from epi_bench.runs.reproducibility import fixed_numerics

    with torch.random.fork_rng(), fixed_numerics(1):
        yield
