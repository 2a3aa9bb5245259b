"""Runs the engine in this process or, under torchrun, in several; what comes out is compared.

    python several_processes.py OUT
    torchrun --standalone --nproc_per_node 2 several_processes.py OUT

Every case is a function that returns named tensors: of sharded parameters those of this process.
They lie in ``OUT/<case>.<rank>.safetensors`` afterwards.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerState

from epi_bench import Isolation, UserError, protect
from epi_bench.bridges import EPICallback
from epi_bench.isolation.sharding import local
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import create_strategy
from epi_bench.training.accelerator import create_accelerator
from epi_bench.training.loop import TrainingLoop

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
STEPS, PAUSE = 9, 5
GLOBAL_BATCH = 8
NORMALISATIONS = ("mean", "rank", "min_max")
IMPORTANCE = ("ema", "factored", "optimizer")


class Regression(nn.Module):
    """Shapes that two processes cannot halve: 11 and 7 rows, and one row, of which one has none."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 7)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 1)

    def forward(self, tokens):
        return self.head(self.norm(torch.tanh(self.hidden(self.embed(tokens)))))


def build(how: str) -> nn.Module:
    """The model, sharded, replicated or as it is."""
    torch.manual_seed(0)
    model = Regression()
    if PROCESSES == 1:
        return model
    if how == "data_parallel":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in (model.embed, model.hidden, model.head):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if not all(isinstance(p, DTensor) for p in model.parameters()):
        raise RuntimeError("the model is not sharded")
    return model


def names_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the names of the bare model."""
    return {name.removeprefix("module."): p for name, p in model.named_parameters()}


def parts_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What this process holds of each parameter."""
    return {name: local(p.detach()).clone() for name, p in names_of(model).items()}


def masks_from_equal_gradients(normalisation: str) -> dict[str, torch.Tensor]:
    """The mask after three steps of gradients that are given, of few values, hence with ties."""
    model = build("sharded")
    engine = Isolation(model.named_parameters(), ratio=0.37, normalisation=normalisation)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in model.parameters():
            gradient = torch.randint(0, 4, parameter.shape, generator=generator).float()
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, [Shard(0)])
            parameter.grad = gradient
        engine.observe()
    engine.refresh()
    engine.refresh()
    statistics = {f"#{k}": torch.tensor(v) for k, v in engine.statistics().items()}
    return {**engine.masks, **statistics, "#count": torch.tensor(float(engine.protected_count))}


def poisoned_in_one_process() -> dict[str, torch.Tensor]:
    """Whether a gradient that is not finite in one process is noticed by all."""
    model = build("sharded")
    engine = Isolation(model.named_parameters(), ratio=0.37)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight = local(names_of(model)["embed.weight"].grad)
    if RANK == PROCESSES - 1:
        weight[0, 0] = float("nan")
    taken = engine.observe()
    values = {name: value.clone() for name, value in engine.importance.values.items()}
    return {**values, "#taken": torch.tensor(float(taken))}


def train(how: str, interrupt: bool = False, **options) -> dict[str, torch.Tensor]:
    """Weights and masks after some steps; ``moved`` counts protected weights that changed.

    Interrupted, everything is built anew in the middle from what was saved.
    """
    model, optimizer, protection = _start(how, options)
    generator = torch.Generator().manual_seed(2)
    moved = 0
    for step in range(STEPS):
        if interrupt and step == PAUSE:
            model, optimizer, protection = _resume(how, options, model, optimizer, protection)
        held = {n: m.clone() for n, m in protection.isolation.masks.items()}
        before = parts_of(model)
        refreshes = protection.refreshes
        _one_step(model, optimizer, generator)
        after = parts_of(model)
        for name, mask in held.items():
            changed = before[name].view(-1).view(torch.int32) != after[name].view(-1).view(
                torch.int32
            )
            moved += int((changed & mask).sum())
        if (
            refreshes == protection.refreshes
            and step > 1
            and not any(m.any() for m in held.values())
        ):
            moved += 1  # nothing was protected where something should be
    masks = {f"mask.{name}": mask for name, mask in protection.isolation.masks.items()}
    return {**parts_of(model), **masks, "#moved": torch.tensor(float(moved))}


def _start(how, options):
    model = build(how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return model, optimizer, protect(optimizer, model, 0.4, interval=3, warmup=1, **options)


def _resume(how, options, model, optimizer, protection):
    weights, moments = parts_of(model), optimizer.state_dict()
    state = {name: tensor.clone() for name, tensor in protection.state_dict().items()}
    model, optimizer, protection = _start(how, options)
    with torch.no_grad():
        for name, parameter in names_of(model).items():
            local(parameter).copy_(weights[name])
    optimizer.load_state_dict(moments)
    protection.load_state_dict(state)
    return model, optimizer, protection


def _one_step(model, optimizer, generator):
    tokens = torch.randint(0, 11, (GLOBAL_BATCH,), generator=generator)
    share = GLOBAL_BATCH // PROCESSES
    tokens = tokens[RANK * share : (RANK + 1) * share]
    target = (tokens.float() / 11).unsqueeze(1)
    (model(tokens) - target).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def trainer_callback(folder: Path) -> dict[str, torch.Tensor]:
    """What the Trainer's callback saves, and loads into a callback of the same weights.

    The callback's methods are called as a Trainer does: a Trainer shards on GPUs only.
    """
    model = build("sharded")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    arguments = SimpleNamespace(
        output_dir=str(folder), should_save=RANK == 0, resume_from_checkpoint=None
    )
    state = TrainerState(global_step=0, max_steps=9)
    first, later = (EPICallback(ratio=0.4, interval=3, warmup=1) for _ in range(2))
    first.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        _one_step(model, optimizer, generator)
    state.global_step = 4
    first.on_save(arguments, state, None)
    first.on_train_end(arguments, state, None)
    later.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
    before, after = first.protection.state_dict(), later.protection.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    files = sorted(path.name for path in (folder / "checkpoint-4").iterdir())
    masks = {f"mask.{name}": mask for name, mask in later.protection.isolation.masks.items()}
    with torch.no_grad():
        local(names_of(model)["hidden.weight"]).add_(1)
    try:
        later.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
        refused = False
    except UserError:
        refused = True
    return {
        **masks,
        "#same": torch.tensor(same),
        "#refused": torch.tensor(refused),
        "#mine": torch.tensor(
            files.index(f"epi_protection-{RANK + 1:05}-of-{PROCESSES:05}.safetensors")
            if PROCESSES > 1
            else 0
        ),
    }


def training_loop(strategy: str) -> dict[str, torch.Tensor]:
    """The benchmark's own loop: two processes, or one that accumulates two micro-batches."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
        )
    )
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 40, (32, 12), generator=generator).tolist()
    examples = [
        EncodedExample(tuple(row[: 6 + number % 6]), (True,) * (6 + number % 6))
        for number, row in enumerate(rows)
    ]
    spec = TrainingSpec(steps=8, batch_size=4, accumulation=2 // PROCESSES, learning_rate=1e-3)
    options = {"warmup": 2, "interval": 3, "ratio": 0.4} if strategy == "epi" else {}
    loop = TrainingLoop(
        spec=spec,
        strategy=create_strategy(strategy, options),
        model=model,
        pad_token_id=0,
        seed=5,
        accelerator=create_accelerator(spec, cpu=True),
        total_steps=16,
        experience_count=2,
    ).start()
    if loop.accelerator.num_processes != PROCESSES:
        raise RuntimeError(f"{loop.accelerator.num_processes} processes instead of {PROCESSES}")
    for index in range(2):  # passes of 8 and 1 examples: in every second step a process is idle
        loop.train(Experience(index, f"task {index}", ("task",), examples[16 * index :][:9], 8))
    result = parts_of(loop.model)
    if strategy == "epi":
        masks = loop.strategy.isolation.masks
        result |= {f"mask.{name}": mask for name, mask in masks.items()}
    return result


def main() -> None:
    """All cases."""
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    if PROCESSES > 1:
        distributed.init_process_group("gloo")
    cases = {f"equal_{kind}": masks_from_equal_gradients(kind) for kind in NORMALISATIONS}
    cases["poisoned"] = poisoned_in_one_process()
    for mode in IMPORTANCE:
        cases[f"sharded_{mode}"] = train("sharded", importance=mode)
    cases["sharded_resumed"] = train("sharded", interrupt=True, importance="ema")
    cases["callback"] = trainer_callback(out / f"callback of {PROCESSES}")
    cases["replicated"] = train("data_parallel")
    cases["replicated_resumed"] = train("data_parallel", interrupt=True)
    for strategy in ("full_sft", "epi"):
        cases[f"loop_{strategy}"] = training_loop(strategy)
    for name, tensors in cases.items():
        whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(whole, str(out / f"{name}.{RANK}.safetensors"))
    if PROCESSES > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
