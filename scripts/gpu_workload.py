"""What ``gpu_check.py`` measures: a model, examples, and the contestants that train on them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import LlamaForCausalLM

    from epi_bench import EncodedExample, Strategy
    from epi_bench.spec.run_spec import TrainingSpec
    from epi_bench.training.loop import TrainingLoop

SEED = 0
RATIO = 0.5


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        vocabulary: Of the model.
        hidden: Its width; the layers inside are ``8 / 3`` as wide.
        layers: Of the model.
        heads: Attention heads; a third of them for keys and values.
        batch: Examples of a step.
        length: Longest example, in tokens; the shortest is half as long.
        steps: Of a turn.
        rounds: Turns of each contestant.
        answers: Prompts that are answered.
        new_tokens: Of each answer.
    """

    vocabulary: int = 49152
    hidden: int = 576
    layers: int = 30
    heads: int = 9
    batch: int = 8
    length: int = 512
    steps: int = 20
    rounds: int = 5
    answers: int = 64
    new_tokens: int = 64


SMALL = Size(300, 24, 2, 3, batch=3, length=12, steps=3, rounds=2, answers=4, new_tokens=3)


def make_model(size: Size, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A Llama with random weights, the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 3,
        max_position_embeddings=4 * size.length,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(device=device, dtype=dtype or torch.float32)


def make_examples(size: Size, count: int) -> list[EncodedExample]:
    """Random tokens of random lengths; the second half of each carries loss."""
    from epi_bench.model.chat.encoded_example import EncodedExample

    draws = random.Random("examples")
    made = []
    for _ in range(count):
        length = draws.randint(size.length // 2, size.length)
        ids = tuple(draws.randrange(size.vocabulary) for _ in range(length))
        made.append(EncodedExample(ids, tuple(i >= length // 2 for i in range(length))))
    return made


def training_spec(size: Size, **changes: Any) -> TrainingSpec:
    """AdamW with clipping at a constant learning rate: what all contestants do."""
    from epi_bench.spec.run_spec import TrainingSpec

    fixed = {"steps": size.steps, "batch_size": size.batch, "learning_rate": 1e-4}
    schedule = {"warmup_share": 0.0, "decay": "constant"}
    return TrainingSpec(**{**fixed, **schedule, **changes})


def make_loop(
    size: Size, strategy: Strategy, model: nn.Module, spec: TrainingSpec, cpu: bool
) -> TrainingLoop:
    """The benchmark's own loop."""
    from epi_bench.training.accelerator import create_accelerator
    from epi_bench.training.loop import TrainingLoop

    return TrainingLoop(
        spec=spec,
        strategy=strategy,
        model=model,
        pad_token_id=0,
        seed=SEED,
        accelerator=create_accelerator(spec, cpu, str(next(model.parameters()).dtype)[6:]),
        total_steps=size.steps * (size.rounds + 1),
        experience_count=size.rounds + 1,
    ).start()


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """A strategy; a mask is in force from the first step on."""
    from epi_bench.strategy.strategy import create_strategy

    early = {"warmup": 1, "ratio": RATIO} if name == "epi" else {}
    return create_strategy(name, {**early, **(options or {})})


def drawn_batches(
    examples: Sequence[EncodedExample], spec: TrainingSpec, turn: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """The batches that the loop draws in its experience ``turn``."""
    from epi_bench.model.batching import collate, drawn_steps
    from epi_bench.spec.randomness import seeded_generator

    draws = seeded_generator(f"batches of experience {turn}", SEED)
    steps = drawn_steps(len(examples), spec.batch_size, draws)
    drawn = [[examples[p] for p in next(steps)] for _ in range(spec.steps or 0)]
    return [collate(sorted(step, key=len, reverse=True), 0, device) for step in drawn]


class Contestants:
    """A bare loop, the Trainer, and the benchmark's loop, each with a model of its own."""

    def __init__(self, size: Size, device: torch.device, cpu: bool) -> None:
        self.size, self.device, self.cpu = size, device, cpu
        self.spec = training_spec(size)
        self.examples = make_examples(size, size.batch * size.steps)
        self.models: dict[str, LlamaForCausalLM] = {}
        self.loops: dict[str, TrainingLoop] = {}
        for name in ("bare", "trainer"):
            self.models[name] = make_model(size, device)
        for name in ("full_sft", "epi"):
            model = make_model(size, device)
            self.loops[name] = make_loop(size, make_strategy(name), model, self.spec, cpu)
            self.models[name] = model

    def names(self) -> list[str]:
        """All contestants, the one that others are measured by first."""
        return ["bare", "trainer", "full_sft", "epi"]

    def take_turn(self, name: str, turn: int) -> None:
        """Train one experience."""
        if name in self.loops:
            self.loops[name].train(make_experience(turn, self.examples, self.size.steps))
        elif name == "bare":
            self._bare(turn)
        else:
            self._trainer(turn)

    def _bare(self, turn: int) -> None:
        """What anybody would write: forward, backward, clip, step."""
        from torch import nn

        from epi_bench.training.optimizer import build_optimizer

        model = self.models["bare"]
        optimizer = build_optimizer(model.parameters(), self.spec, self.spec.learning_rate)
        model.train()
        for batch in drawn_batches(self.examples, self.spec, turn, self.device):
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), self.spec.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _trainer(self, turn: int) -> None:
        """transformers' Trainer on ready-made batches."""
        from torch.utils.data import DataLoader
        from transformers import Trainer, TrainingArguments

        batches = drawn_batches(self.examples, self.spec, turn, self.device)

        class OnGivenBatches(Trainer):
            def get_train_dataloader(self) -> DataLoader:
                return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=len(batches),
                learning_rate=self.spec.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=self.spec.weight_decay,
                max_grad_norm=self.spec.max_gradient_norm,
                optim="adamw_torch_fused",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=self.cpu,
            )
            OnGivenBatches(self.models["trainer"], arguments, train_dataset=batches).train()


def make_experience(turn: int, examples: Sequence[EncodedExample], steps: int) -> Any:
    """One experience of the loop."""
    from epi_bench.strategy.hooks import Experience

    return Experience(turn, f"turn {turn}", ("timing",), examples, steps)
