"""The variants of EPI beyond the paper: consolidated, adaptive, similarity-weighted."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from epi_bench import Experience, reassign
from epi_bench.errors import UserError
from epi_bench.strategy.hooks import Step
from epi_bench.strategy.strategy import create_strategy

SETTINGS = {
    "consolidated": (
        "epi_consolidated",
        {"ratio": 0.4, "current": True, "interval": 2, "penalty": 0.0},
    ),
    "consolidated_fisher": (
        "epi_consolidated",
        {"ratio": 0.3, "source": "fisher", "current": False, "penalty": 5.0},
    ),
    "consolidated_mean": ("epi_consolidated", {"ratio": 0.3, "merge": "mean", "penalty": 0.0}),
    "adaptive": ("epi_adaptive", {"longest_interval": 3, "slow": 0.9, "fast": 0.5}),
    "similarity": ("epi_similarity", {"ratio": 0.4, "penalty": 5.0}),
}


class _Context:
    """A linear regression with mean squared error; an example is (inputs, targets)."""

    optimizer = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seed = 0

    def generator(self, purpose):
        return random.Random(purpose)

    def torch_generator(self, purpose):
        return torch.Generator().manual_seed(len(purpose))

    def batches(self, examples, batch_size):
        for start in range(0, len(examples), batch_size):
            chosen = examples[start : start + batch_size]
            yield {
                "x": torch.stack([x for x, _ in chosen]),
                "y": torch.stack([y for _, y in chosen]),
            }

    def loss(self, model, batch):
        return (model(batch["x"]) - batch["y"]).square().mean()


class _SmallLoop:
    """Trains a small network with a strategy the way the training loop does."""

    def __init__(self, strategy, model=None) -> None:
        torch.manual_seed(0)
        self.model = model or nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.strategy = strategy
        strategy.context = self.context = _Context(self.model)
        self.number = 0

    def begin(self, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        weights = torch.randn(6, 3, generator=generator)
        inputs = torch.randn(16, 6, generator=generator)
        examples = list(zip(inputs, inputs @ weights, strict=True))
        self.experience = Experience(index, f"task {index}", (f"task {index}",), examples, 6)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05, weight_decay=0.1)
        self.strategy.begin_experience(self.experience)
        self.in_experience = 0

    def steps(self, count: int, check=None) -> None:
        for _ in range(count):
            self.number += 1
            self.in_experience += 1
            examples = self.experience.examples
            batch = next(self.context.batches(examples[self.in_experience % 8 :], 8))
            loss = self.context.loss(self.model, batch)
            loss.backward()
            step = Step(
                self.number,
                self.in_experience,
                self.experience,
                self.model,
                self.optimizer,
                loss.detach(),
            )
            self.strategy.gradients_ready(step)
            before = _weights(self.model)
            masks = self.strategy.isolation.masks
            self.optimizer.step()
            self.strategy.parameters_updated(step)
            self.optimizer.zero_grad()
            if check:
                check(before, masks, _weights(self.model))

    def end(self) -> None:
        self.strategy.end_experience(self.experience)


def _weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _new(setting):
    return create_strategy(*SETTINGS[setting])


@pytest.mark.parametrize("setting", SETTINGS)
def test_protected_weights_are_bit_identical_and_the_others_move(setting):
    held = moved = 0

    def check(before, masks, after):
        nonlocal held, moved
        for name, mask in masks.items():
            same = before[name].view(-1) == after[name].view(-1)
            assert bool(same[mask].all())
            held += int(mask.sum())
            moved += int((~same[~mask]).sum())

    loop = _SmallLoop(_new(setting))
    for index in range(3):
        loop.begin(index)
        loop.steps(6, check)
        loop.end()
    assert held > 50
    assert moved > 50


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("at", [0, 3, 6], ids=["begin", "middle", "end"])
def test_resuming_from_the_state_is_exact(setting, at):
    whole = _SmallLoop(_new(setting))
    for index in range(2):
        whole.begin(index)
        whole.steps(6)
        whole.end()
    whole.begin(2)
    whole.steps(at)
    state = {k: v.clone() for k, v in whole.strategy.state_dict().items()}
    again = copy.deepcopy(whole)
    again.strategy = _new(setting)
    again.strategy.context = again.context
    again.strategy.load_state_dict(state)
    for loop in (whole, again):
        loop.steps(6 - at)
        loop.end()
        loop.begin(3)
        loop.steps(6)
    assert again.strategy.state_bytes() == whole.strategy.state_bytes() > 0
    assert again.strategy.diagnostics() == whole.strategy.diagnostics()
    resumed = _weights(again.model)
    for name, values in _weights(whole.model).items():
        assert torch.equal(values, resumed[name])


@pytest.mark.parametrize("name", ["epi_consolidated", "epi_similarity"])
def test_without_ratio_and_penalty_it_is_full_fine_tuning(name, train_toy):
    plain, free = train_toy("full_sft"), train_toy(name, {"ratio": 0, "penalty": 0})
    pairs = list(zip(plain.model.parameters(), free.model.parameters(), strict=True))
    assert pairs
    for first, second in pairs:
        assert torch.equal(first, second)
    assert free.strategy.state_bytes() == 0


def test_nothing_is_protected_before_the_first_experience_has_ended():
    strategy = _new("consolidated")
    loop = _SmallLoop(strategy)
    loop.begin(0)
    loop.steps(6)
    assert strategy.isolation.protected_count == 0
    loop.end()
    assert strategy.isolation.protected_count == strategy.isolation.target_count


def _one_weight_a_task(strategy, weights):
    """A model ``y = w . x`` that is at ``weights`` when each experience ends, one input each."""
    model = nn.Linear(4, 1, bias=False)
    strategy.context = _Context(model)
    for index in range(len(weights)):
        inputs = torch.zeros(4)
        inputs[index] = 1.0
        examples = [(inputs, torch.zeros(1))]
        with torch.no_grad():
            model.weight.copy_(torch.tensor([weights[index]]))
        strategy.end_experience(Experience(index, f"task {index}", ("task",), examples, 1))
    return model


@pytest.mark.parametrize(("merge", "expected"), [("max", [4.0, 4.0]), ("mean", [2.0, 2.0])])
def test_importance_of_finished_experiences_is_merged(merge, expected):
    """Fisher (2 w_k)^2 at the one weight a task uses, divided by the tensor's mean: 4 or 0."""
    strategy = create_strategy(
        "epi_consolidated", {"ratio": 0.5, "source": "fisher", "merge": merge, "penalty": 0.0}
    )
    _one_weight_a_task(strategy, [[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    merged = next(iter(strategy._past.values()))
    assert merged.tolist() == [pytest.approx([*expected, 0.0, 0.0])]
    mask = next(iter(strategy.isolation.masks.values()))
    assert mask.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("none", [[3.0, 1.0], [2.0, 4.0]]),
        ("inverted", [[2.0, 4.0], [3.0, 1.0]]),
        ("permuted", None),
    ],
)
def test_controls_keep_the_values_and_lose_the_aim(control, expected):
    scores = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    found = reassign(scores, control, torch.Generator().manual_seed(1))
    assert sorted(found.view(-1).tolist()) == [1.0, 2.0, 3.0, 4.0]
    if expected is None:
        assert not torch.equal(found, scores)
        assert torch.equal(found, reassign(scores, control, torch.Generator().manual_seed(1)))
    else:
        assert found.tolist() == expected


@pytest.mark.parametrize("name", ["epi_consolidated", "epi_similarity"])
def test_an_inverted_control_protects_what_did_not_matter(name):
    """Only weight 0 of four mattered; the control gives its importance to weight 1."""
    options = {"ratio": 0.25, "penalty": 0.0, "control": "inverted"}
    strategy = create_strategy(name, options)
    _one_weight_a_task(strategy, [[1.0] * 4])
    unlike = [(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.zeros(1))]
    strategy.begin_experience(Experience(1, "new", ("new",), unlike, 1))
    assert next(iter(strategy.isolation.masks.values())).tolist() == [False, True, False, False]


def test_every_finished_experience_pulls_with_the_same_mean_strength():
    """Fisher information 4 and 36 at one of four weights each: both count as 4 in units of the
    mean, so with rate 0.5 and penalty 0.5 a displacement of 1 is divided by 1 + 0.25 * 4."""
    strategy = create_strategy("epi_consolidated", {"ratio": 0, "source": "fisher", "penalty": 0.5})
    model = _one_weight_a_task(strategy, [[1.0] * 4, [3.0] * 4])
    with torch.no_grad():
        model.weight.add_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    step = SimpleNamespace(optimizer=optimizer, number=1, number_in_experience=1)
    strategy.parameters_updated(step)
    assert model.weight.tolist() == [pytest.approx([3.5, 3.5, 4.0, 4.0])]


def test_the_adaptive_ratio_follows_the_conflict():
    """The past asked for weights 0 and 1, the present asks for 1 and 2: protect 0, no conflict."""
    strategy = create_strategy("epi_adaptive", {"slow": 0.9, "fast": 0.0})
    model = nn.Linear(4, 1, bias=False)
    strategy.context = SimpleNamespace(model=model, seed=0)
    step = SimpleNamespace(optimizer=None)
    for gradient in ([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]):
        model.weight.grad = torch.tensor([gradient])
        strategy.gradients_ready(step)
    strategy.refresh()
    strategy._refreshes = 1
    # slow: 0.09, 0.19, 0.1, 0 over a mean of 0.095; fast: 0, 1, 1, 0 over a mean of 0.5
    assert next(iter(strategy.isolation.masks.values())).tolist() == [True, False, False, False]
    assert strategy.diagnostics()["achieved_ratio"] == 0.25
    assert strategy.diagnostics()["blocked_gradient"] == 0.0


def test_the_adaptive_interval_stays_in_its_bounds_and_follows_the_band():
    strategy = create_strategy(
        "epi_adaptive", {"lowest_overlap": 0.5, "highest_overlap": 0.9, "longest_interval": 50}
    )
    intervals = []
    for overlap in (0.95, 0.95, 0.95, 0.7, *[0.1] * 7):
        strategy._adapt_interval(overlap)
        intervals.append(strategy._next_interval)
    assert intervals == [40, 50, 50, 50, 25, 12, 6, 3, 1, 1, 1]


def test_overlap_of_nested_masks_is_full():
    from epi_bench.strategies.epi_adaptive import relative_overlap

    small, large = (
        torch.tensor([True, False, False, False]),
        torch.tensor([True, True, False, True]),
    )
    apart, none = torch.tensor([False, True, False, False]), torch.zeros(4, dtype=torch.bool)
    assert relative_overlap({"w": small}, {"w": large}) == pytest.approx(1.0)
    assert relative_overlap({"w": small}, {"w": apart}) == 0.0
    assert relative_overlap({"w": none}, {"w": large}) == 1.0


def test_similarity_is_the_cosine_of_roots():
    from epi_bench.strategies.epi_similarity import similarity

    first = {"w": torch.tensor([4.0, 0.0]), "v": torch.tensor([1.0])}
    second = {"w": torch.tensor([9.0, 16.0]), "v": torch.tensor([0.0])}
    assert similarity(first, first) == pytest.approx(1.0)
    assert similarity(first, second) == pytest.approx(6 / (5**0.5 * 5))  # roots 2 0 1 and 3 4 0
    assert similarity(first, {"w": torch.zeros(2), "v": torch.zeros(1)}) == 0.0


def test_a_new_experience_like_the_past_one_is_hardly_held_back():
    """Past tasks used weights 0 and 1; the new one uses weight 1, so weight 0 stays protected."""
    strategy = create_strategy("epi_similarity", {"ratio": 0.25, "penalty": 0.0})
    _one_weight_a_task(strategy, [[1.0] * 4, [1.0] * 4])
    new = Experience(2, "new", ("new",), [(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(1))], 1)
    strategy.begin_experience(new)
    assert strategy._similarities == pytest.approx([0.0, 1.0])
    assert next(iter(strategy.isolation.masks.values())).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("epi_consolidated", {"penalty": -1}),
        ("epi_consolidated", {"fisher_samples": 0}),
        ("epi_similarity", {"sharpness": -1}),
        ("epi_similarity", {"penalty": -1}),
        ("epi_adaptive", {"margin": 0}),
        ("epi_adaptive", {"fast": 0.9999}),
        ("epi_adaptive", {"lowest_overlap": 0.99}),
        ("epi_adaptive", {"longest_interval": 0}),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match=next(iter(options))):
        create_strategy(name, options)
