"""The isolation engine: protected weights are bit-identical, whatever the optimizer does."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from epi_bench.errors import UserError
from epi_bench.isolation import Isolation
from epi_bench.isolation.bit_mask import BitMask
from epi_bench.isolation.mask_statistics import (
    MaskHistory,
    layer_of,
    pack_bits,
    unpack_bits,
)
from epi_bench.isolation.protected_weights import ProtectedWeights, flat_view

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5, fused=True),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.5),
}


def _model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)).to(dtype)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The stored bits, so that NaN equals itself and -0.0 differs from 0.0."""
    return tensor.detach().clone().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def _train(model, optimizer, engine, steps, autocast=False, clip=False, accumulation=1):
    for _ in range(steps):
        for _ in range(accumulation):
            dtype = next(model.parameters()).dtype
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                loss = model(torch.randn(8, 6, dtype=dtype)).float().square().mean() / accumulation
            loss.backward()
        engine.observe()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        engine.restore()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "how",
    [{}, {"clip": True}, {"accumulation": 3}, {"autocast": True}],
    ids=["plain", "clipping", "accumulation", "autocast"],
)
def test_protected_weights_are_bit_identical_between_refreshes(optimizer, ratio, how):
    model = _model()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    engine = Isolation(model.named_parameters(), ratio=ratio)
    _train(model, optimizer, engine, 3, **how)
    for _ in range(2):  # the mask moves, and what is locked now stays too
        engine.refresh()
        before = {name: _bits(p) for name, p in engine.parameters.items()}
        _train(model, optimizer, engine, 4, **how)
        for name, mask in engine.masks.items():
            same = (_bits(engine.parameters[name]) == before[name]).view(-1)
            assert bool(same[mask].all())
        free = torch.cat([~mask for mask in engine.masks.values()])
        moved = torch.cat([(_bits(p) != before[n]).view(-1) for n, p in engine.parameters.items()])
        assert bool(moved[free].float().mean() > 0.9)


def test_bfloat16_weights_are_held_too():
    model = _model(torch.bfloat16)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    engine = Isolation(model.named_parameters(), ratio=0.5)
    _train(model, optimizer, engine, 2)
    engine.refresh()
    before = {name: _bits(p) for name, p in engine.parameters.items()}
    _train(model, optimizer, engine, 3)
    for name, mask in engine.masks.items():
        assert bool((_bits(engine.parameters[name]) == before[name]).view(-1)[mask].all())


@pytest.mark.parametrize("normalisation", ["min_max", "mean", "rank"])
@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.3, 0.5, 0.9])
def test_achieved_ratio_is_the_asked_one(normalisation, ratio):
    model = nn.Sequential(nn.Linear(500, 400), nn.Linear(400, 751))
    engine = Isolation(model.named_parameters(), ratio=ratio, normalisation=normalisation)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter) + 0.01
    engine.observe()
    engine.refresh()
    assert engine.protected_count == engine.target_count
    assert engine.protected_count / engine.size == pytest.approx(ratio, rel=1e-3)


def test_importance_is_the_moving_average_of_squared_gradients():
    weight = nn.Parameter(torch.zeros(2))
    engine = Isolation([("w", weight)], beta=0.9)
    for gradient in ([1.0, 2.0], [3.0, 0.0]):
        weight.grad = torch.tensor(gradient)
        engine.observe()
    # 0.9 * (0.1 * 1) + 0.1 * 9 = 0.99 and 0.9 * (0.1 * 4) + 0 = 0.36
    assert engine.importance.values["w"].tolist() == pytest.approx([0.99, 0.36])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_do_not_poison_the_importance(poison):
    weight = nn.Parameter(torch.zeros(2))
    engine = Isolation([("w", weight)])
    weight.grad = torch.tensor([1.0, 2.0])
    assert engine.observe()
    before = engine.importance.values["w"].clone()
    weight.grad = torch.tensor([poison, 1.0])
    assert not engine.observe()
    assert torch.equal(engine.importance.values["w"], before)


def test_a_global_threshold_prefers_the_tensor_with_larger_normalised_scores():
    flat, peaked = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    engine = Isolation([("flat", flat), ("peaked", peaked)], ratio=0.25, normalisation="mean")
    engine.refresh_from(
        {"flat": torch.tensor([1.0, 1, 1, 1]), "peaked": torch.tensor([9.0, 0, 9, 0])}
    )
    assert engine.masks["flat"].tolist() == [False] * 4
    assert engine.masks["peaked"].tolist() == [True, False, True, False]


def test_inverted_selection_protects_the_least_important():
    weight = nn.Parameter(torch.zeros(4))
    engine = Isolation([("w", weight)], ratio=0.5, largest=False)
    engine.refresh_from({"w": torch.tensor([4.0, 1.0, 3.0, 2.0])})
    assert engine.masks["w"].tolist() == [False, True, False, True]


def test_tied_weights_count_once_and_frozen_ones_not_at_all():
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    frozen = nn.Parameter(torch.zeros(100), requires_grad=False)
    names = [("embedding", embedding.weight), ("head", head.weight), ("frozen", frozen)]
    engine = Isolation(names, ratio=0.5)
    assert list(engine.parameters) == ["embedding"]
    assert engine.size == 20


def test_a_weight_that_is_not_contiguous_is_held():
    weight = nn.Parameter(torch.arange(12.0).view(3, 4).t())
    assert not weight.is_contiguous()
    engine = Isolation([("w", weight)], ratio=0.25, normalisation="min_max")
    scores = torch.zeros(4, 3)
    scores[1, 2] = scores[0, 1] = scores[3, 0] = 1.0
    engine.refresh_from({"w": scores})
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    engine.restore()
    assert torch.equal(weight == before, scores > 0)


def test_overlapping_memory_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        flat_view(torch.zeros(3).expand(4, 3))


def test_special_bit_patterns_survive():
    weight = nn.Parameter(torch.tensor([-0.0, float("nan"), float("inf"), 1.0] * 5))
    for mask in (torch.tensor([True, True, True, False] * 5), torch.arange(20) < 3):
        protected = ProtectedWeights({"w": weight})  # once with a mask, once with indices
        protected.protect({"w": mask})
        before = _bits(weight)
        with torch.no_grad():
            weight.fill_(2.0)
        protected.restore()
        assert torch.equal(_bits(weight)[mask], before[mask])
        with torch.no_grad():
            weight.view(torch.int32).copy_(before)


def test_state_round_trip_continues_identically():
    first, second = _model(), _model()
    engines = []
    for model in (first, second):
        engine = Isolation(model.named_parameters(), ratio=0.4)
        torch.manual_seed(1)
        _train(model, OPTIMIZERS["sgd_momentum"](model.parameters()), engine, 3)
        engine.refresh()
        engines.append(engine)
    resumed = Isolation(second.named_parameters(), ratio=0.4)
    resumed.load_state_dict({k: v.clone() for k, v in engines[1].state_dict().items()})
    for model, engine in ((first, engines[0]), (second, resumed)):
        torch.manual_seed(2)
        _train(model, OPTIMIZERS["sgd_momentum"](model.parameters()), engine, 3)
        engine.refresh()
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert pairs
    for a, b in pairs:
        assert torch.equal(a, b)
    assert engines[0].statistics() == resumed.statistics()


def test_released_weights_move_again():
    weight = nn.Parameter(torch.ones(4))
    engine = Isolation([("w", weight)], ratio=0.5)
    engine.refresh_from({"w": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    engine.release()
    with torch.no_grad():
        weight.zero_()
    engine.restore()
    assert weight.tolist() == [0.0] * 4


def test_state_bytes_count_importance_mask_values_and_history():
    weight = nn.Parameter(torch.ones(800))
    engine = Isolation([("w", weight)], ratio=0.1)
    assert engine.state_bytes() == 4 * 800
    engine.refresh_from({"w": torch.rand(800) + 0.1})
    assert engine.state_bytes() == 4 * 800 + 80 * (4 + 4) + 100  # index, value, packed mask


def test_state_bytes_of_a_large_share_are_those_of_a_copy_and_a_bit_a_weight():
    weight = nn.Parameter(torch.ones(800))
    engine = Isolation([("w", weight)], ratio=0.5)
    engine.refresh_from({"w": torch.rand(800) + 0.1})
    assert engine.state_bytes() == 4 * 800 + (4 * 800 + 100) + 100


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [1, 31, 64, 65, 1000, (1 << 18) + 77])
def test_bits_write_back_exactly_the_masked_values(dtype, size):
    generator = torch.Generator().manual_seed(size)
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    kind = integers[dtype.itemsize]
    limits = torch.iinfo(kind)
    saved, weights = (
        torch.randint(limits.min, limits.max, (size,), dtype=kind, generator=generator)
        for _ in range(2)
    )
    mask = torch.rand(size, generator=generator) < 0.4
    bits = BitMask(mask, dtype.itemsize)
    assert torch.equal(bits.mask(), mask)
    assert bits.bytes() <= size / 8 + 8 * dtype.itemsize
    changed = int((mask & (saved != weights)).sum())
    assert bits.count_changed(weights.view(dtype), saved.view(dtype)) == changed
    expected = torch.where(mask, saved, weights)
    bits.write_back(weights.view(dtype), saved.view(dtype))
    assert torch.equal(weights, expected)
    assert bits.count_changed(weights.view(dtype), saved.view(dtype)) == 0


def test_statistics_of_a_moving_mask_by_hand():
    history = MaskHistory({"mlp.w": 4, "attn.w": 4})
    history.add({"mlp.w": torch.tensor([1, 1, 0, 0]) > 0, "attn.w": torch.tensor([1, 0, 0, 0]) > 0})
    history.add({"mlp.w": torch.tensor([1, 0, 0, 0]) > 0, "attn.w": torch.tensor([1, 1, 0, 0]) > 0})
    found = history.statistics()
    assert found["jaccard_previous"] == 2 / 4
    assert found["churn"] == 1 / 2
    assert found["achieved_ratio"] == 3 / 8
    assert found["jaccard_chance"] == pytest.approx((3 / 8) / (2 - 3 / 8))
    assert found["protected_mlp"] == 1 / 4
    assert found["protected_attention"] == 2 / 4


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000])
def test_packed_bits_round_trip(size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) > 0.5
    packed = pack_bits(mask)
    assert packed.numel() == -(-size // 8)
    assert torch.equal(unpack_bits(packed, size), mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"ratio": -0.1}, "ratio=-0.1"),
        ({"beta": 1.0}, "beta=1.0"),
        ({"normalisation": "max"}, "min_max, mean or rank"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Isolation(_model().named_parameters(), **options)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(UserError, match="no trainable parameters"):
        Isolation(_model().requires_grad_(False).named_parameters())


def test_the_masks_of_experiences_are_kept_and_compared():
    history = MaskHistory({"w": 4})
    masks = [torch.tensor(bits).bool() for bits in ([1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0])]
    seen = []
    for mask in masks:
        history.add({"w": mask})
        assert not any("experience" in name for name in history.statistics())
        history.end_experience()
        seen.append(history.statistics())
    assert "jaccard_experience_1" not in seen[0]
    assert seen[1]["jaccard_experience_1"] == pytest.approx(1 / 3)
    assert seen[2]["jaccard_experience_1"] == 1
    assert seen[2]["jaccard_experience_2"] == pytest.approx(1 / 3)
    assert history.bytes() == 2  # of four masks two are different, of one byte each
    resumed = MaskHistory({"w": 4})
    resumed.load_state_dict(history.state_dict())
    assert resumed.bytes() == 2
    assert resumed.statistics() == history.statistics()  # before the mask moves again, too
    for each in (history, resumed):
        each.add({"w": masks[1]})
        each.end_experience()
    assert resumed.statistics() == history.statistics()


def test_an_experience_that_ends_before_the_first_mask_leaves_nothing_to_compare():
    history = MaskHistory({"w": 4})
    history.end_experience()
    history.add({"w": torch.tensor([1, 0, 0, 0]).bool()})
    history.end_experience()
    assert not any("experience" in name for name in history.statistics())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "layer_12"),
        ("transformer.h.0.mlp.c_fc.weight", "layer_0"),
        ("gpt_neox.layers.3.attention.dense.bias", "layer_3"),
        ("model.embed_tokens.weight", None),
        ("model.norm.weight", None),
    ],
)
def test_the_layer_is_told_from_the_name(name, layer):
    assert layer_of(name) == layer
    history = MaskHistory({name: 2})
    history.add({name: torch.tensor([True, False])})
    shares = {k for k in history.statistics() if k.startswith("protected_layer")}
    assert shares == ({f"protected_{layer}"} if layer else set())
