"""L2-SP, replay and LoRA."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench import EncodedExample, Experience
from epi_bench.errors import UserError
from epi_bench.plugins.options import options_of
from epi_bench.strategy.strategy import STRATEGIES, create_strategy


def _experience(index: int, tokens: range) -> Experience:
    examples = [EncodedExample((token, token + 1), (False, True)) for token in tokens]
    return Experience(index, str(index), (str(index),), examples, 1)


def _context(model: nn.Module | None = None) -> SimpleNamespace:
    return SimpleNamespace(model=model, generator=lambda purpose: random.Random(purpose))


def test_l2_sp_penalty_by_hand():
    model = nn.Linear(2, 1, bias=False)
    strategy = create_strategy("l2_sp", {"strength": 3.0, "anchor": "base"})
    strategy.context = _context(model)
    strategy.begin_experience(_experience(0, range(1)))
    with torch.no_grad():
        model.weight += torch.tensor([[1.0, 2.0]])
    assert strategy.penalty(model).item() == pytest.approx(3 / 2 * (1 + 4))


def test_l2_sp_previous_anchor_starts_with_the_second_experience():
    model = nn.Linear(2, 1, bias=False)
    strategy = create_strategy("l2_sp", {"strength": 1.0, "anchor": "previous"})
    strategy.context = _context(model)
    strategy.begin_experience(_experience(0, range(1)))
    assert strategy.penalty(model) is None
    strategy.begin_experience(_experience(1, range(1)))
    assert strategy.penalty(model).item() == 0.0


def test_replay_mixes_the_asked_share_of_old_examples():
    strategy = create_strategy("replay", {"memory_size": 10, "share": 0.25})
    strategy.context = _context()
    first, second = _experience(0, range(100)), _experience(1, range(1000, 1300))
    assert list(strategy.training_examples(first)) == list(first.examples)
    strategy.end_experience(first)
    mixed = strategy.training_examples(second)
    old = [example for example in mixed if example in set(first.examples)]
    assert len(old) / len(mixed) == 0.25
    assert len(set(old)) == 10  # the whole memory is used, and nothing beyond it


def test_replay_memory_is_a_uniform_sample_of_everything_seen():
    from_first = []
    for seed in range(200):
        strategy = create_strategy("replay", {"memory_size": 20})
        strategy.context = SimpleNamespace(
            generator=lambda purpose, seed=seed: random.Random(f"{purpose} {seed}")
        )
        first = _experience(0, range(50))
        strategy.end_experience(first)
        strategy.end_experience(_experience(1, range(1000, 1150)))
        from_first.append(sum(e.input_ids[0] < 50 for e in strategy._memory.examples))
    # 20 places, a quarter of all examples came from the first experience; sd of the mean is 0.13
    assert sum(from_first) / 200 == pytest.approx(5.0, abs=0.5)


def test_replay_state_round_trip():
    strategy = create_strategy("replay", {"memory_size": 8})
    strategy.context = _context()
    strategy.end_experience(_experience(0, range(30)))
    again = create_strategy("replay", {"memory_size": 8})
    again.load_state_dict(strategy.state_dict())
    assert again._memory.examples == strategy._memory.examples
    assert again._memory._offered == 30


def test_lora_trains_only_the_adapter_and_merging_keeps_the_function(train_toy):
    loop = train_toy("lora", {"rank": 2})
    trained = [name for name, p in loop.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        adapted = loop.model.eval()(ids).logits
        merged_model = loop.strategy.finalize_model(loop.model)
        merged = merged_model(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    assert not any("lora" in name for name, _ in merged_model.named_parameters())


def test_lora_leaves_the_base_weights_alone(train_toy, toy_model):
    from transformers import AutoModelForCausalLM

    base = dict(AutoModelForCausalLM.from_pretrained(toy_model).named_parameters())
    loop = train_toy("lora", {"rank": 2})
    compared = 0
    for name, parameter in loop.model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")])
            compared += 1
    assert compared == len(base)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("l2_sp", {"strength": -1}),
        ("replay", {"memory_size": 0}),
        ("replay", {"share": 1.0}),
        ("lora", {"rank": 0}),
        ("lora", {"dropout": 1.0}),
        ("epi", {"ratio": 1.0}),
        ("epi", {"interval": 0}),
        ("epi", {"warmup": -1}),
    ],
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=f"{name}: {next(iter(options))}="):
        create_strategy(name, options)


@pytest.fixture(scope="module")
def mixed_weights():
    return {}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_strategy_acts_from_the_experience_it_says(name, train_toy, mixed_weights):
    """Bit-identical to full fine-tuning on a stream of one experience, or not."""
    early = {
        "warmup": 1, "interval": 1, "margin": 1e-3, "longest_interval": 1, "per_task": 8,
        "least_yield": 0.0,
    }  # fmt: skip
    known = options_of(STRATEGIES.get(name))
    options = {key: value for key, value in early.items() if key in known}
    for run, given in (("full_sft", {}), (name, options)):
        if run not in mixed_weights:
            loop = train_toy(run, given, stream={"kind": "mixed"}, steps=3)
            final = loop.strategy.finalize_model(loop.model)
            mixed_weights[run] = {k: v.clone() for k, v in final.state_dict().items()}
    plain, own = mixed_weights["full_sft"], mixed_weights[name]
    same = all(torch.equal(tensor, own[key]) for key, tensor in plain.items())
    # toy tasks know one right answer, the given one: there self_output has nothing to choose
    idle = name in ("full_sft", "self_output") or create_strategy(name, {}).acts_from > 0
    assert same == idle
