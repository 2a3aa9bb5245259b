"""EWC against hand-computed values and avalanche's plugin."""

from __future__ import annotations

import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from epi_bench import Experience
from epi_bench.errors import UserError
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.strategy import STRATEGIES, complete_strategy_options, create_strategy
from epi_bench.testing.checks import CHECKS, _Subject
from epi_bench.testing.resuming import resuming_problem
from epi_bench.testing.toys import own_numerics, toy_loop, toy_tasks

FORMS = ("diagonal", "diagonal_bf16", "factored", "optimizer")


class _Context:
    """A linear model ``y = w x`` with loss ``(w x - y)^2`` a sample."""

    device = torch.device("cpu")

    def __init__(self, weight: float) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.model.weight.fill_(weight)

    def generator(self, purpose):
        import random

        return random.Random(purpose)

    def batches(self, examples, batch_size):
        for start in range(0, len(examples), batch_size):
            yield torch.tensor(examples[start : start + batch_size])

    def loss(self, model, batch):
        return (model(batch[:, :1]) - batch[:, 1:]).square().mean()


def _experience(index, samples):
    return Experience(index, f"task {index}", (f"task {index}",), samples, 1)


def test_penalty_by_hand():
    ewc = create_strategy("ewc", {"strength": 4.0, "fisher_samples": 2})
    ewc.context = _Context(weight=1.0)
    assert ewc.penalty(ewc.context.model) is None
    # gradients at w = 1: 2 (w x - y) x = 2 (1 - 0) 1 = 2 and 2 (2 - 1) 2 = 4; Fisher (4 + 16) / 2
    ewc.end_experience(_experience(0, [[1.0, 0.0], [2.0, 1.0]]))
    with torch.no_grad():
        ewc.context.model.weight.fill_(1.5)
    assert ewc.penalty(ewc.context.model).item() == pytest.approx(4 / 2 * 10 * 0.5**2)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # first Fisher 4 at w = 1, second: gradient 2 (2 - 0) = 4, Fisher 16 at w = 2; now w = 3
        ("separate", 0.5 * (4 * (3 - 1) ** 2 + 16 * (3 - 2) ** 2)),
        ("online", 0.5 * (0.5 * 4 + 16) * (3 - 2) ** 2),
    ],
)
def test_two_experiences_by_hand(mode, expected):
    ewc = create_strategy("ewc", {"strength": 1.0, "mode": mode, "decay": 0.5})
    ewc.context = _Context(weight=1.0)
    for index, weight in enumerate((1.0, 2.0)):
        with torch.no_grad():
            ewc.context.model.weight.fill_(weight)
        ewc.end_experience(_experience(index, [[1.0, 0.0]]))
    with torch.no_grad():
        ewc.context.model.weight.fill_(3.0)
    assert ewc.penalty(ewc.context.model).item() == pytest.approx(expected)
    again = create_strategy("ewc", {"strength": 1.0, "mode": mode, "decay": 0.5})
    again.context = ewc.context
    again.load_state_dict(ewc.state_dict())
    assert again.penalty(ewc.context.model).item() == pytest.approx(expected)


@pytest.mark.slow
def test_agrees_with_avalanche_at_batch_size_one():
    """avalanche squares the gradient of a batch's mean loss and has no factor 1/2."""
    plugins = pytest.importorskip("avalanche.training.plugins")
    torch.manual_seed(0)
    features, targets = torch.randn(12, 3), torch.randint(0, 4, (12,))
    model = nn.Linear(3, 4)
    peer = plugins.EWCPlugin(ewc_lambda=5.0, mode="separate")
    samples = torch.utils.data.TensorDataset(features, targets, torch.zeros(12))
    importances = peer.compute_importances(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), 0.1),
        samples,
        torch.device("cpu"),
        1,
        0,
    )
    ewc = create_strategy("ewc", {"strength": 10.0, "mode": "separate", "fisher_samples": 12})
    ewc.context = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        generator=lambda purpose: SimpleNamespace(sample=lambda items, count: items),
        batches=lambda items, batch_size: iter(items),
        loss=lambda m, item: nn.functional.cross_entropy(m(item[0][None]), item[1][None]),
    )
    ewc.end_experience(_experience(0, list(zip(features, targets, strict=True))))
    anchor = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    theirs = 5.0 * sum(
        (importances[name].data * (parameter - anchor[name]).square()).sum()
        for name, parameter in model.named_parameters()
    )
    assert ewc.penalty(model).item() == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"strength": -1}, {"decay": 1.5}, {"fisher_samples": 0}], ids=str
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        create_strategy("ewc", options)


def test_the_optimizers_moment_weighs_the_penalty():
    ewc = create_strategy("ewc", {"strength": 2.0, "fisher": "optimizer"})
    ewc.context = _Context(weight=1.0)
    weight = ewc.context.model.weight
    ewc.context.optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.5), weight_decay=0.0)
    weight.grad = torch.tensor([[3.0]])
    ewc.context.optimizer.step()
    ewc.end_experience(_experience(0, [[1.0, 0.0]]))
    with torch.no_grad():
        weight.add_(0.5)
    assert ewc.penalty(ewc.context.model).item() == pytest.approx(2 / 2 * 9 * 0.5**2, rel=1e-5)


def test_each_experience_weighs_the_same_once_it_is_normalised():
    penalties = []
    for factor in (1.0, 10.0):  # gradients ten times as large
        ewc = create_strategy("ewc", {"strength": 1.0, "normalise": "mean"})
        ewc.context = _Context(weight=1.0)
        ewc.end_experience(_experience(0, [[factor, 0.0]]))
        with torch.no_grad():
            ewc.context.model.weight.fill_(3.0)
        penalties.append(ewc.penalty(ewc.context.model).item())
    assert penalties == pytest.approx([0.5 * 1 * 2**2] * 2)


def test_a_cheaper_fisher_is_refused_where_it_cannot_be_had():
    ewc = create_strategy("ewc", {"fisher": "optimizer"})
    assert not ewc.check_run(TrainingSpec(steps=3), [3])
    with pytest.raises(UserError, match="reads Adam's second moment, which sgd does not keep"):
        ewc.check_run(TrainingSpec(steps=3, optimizer="sgd"), [3])
    protecting = create_strategy("ewc", {"fisher": "optimizer", "protect_base": "self"})
    with pytest.raises(UserError, match="nothing to read before the first step"):
        protecting.check_run(TrainingSpec(steps=3), [3])


def test_options_that_came_later_are_no_options_of_earlier_runs():
    assert complete_strategy_options("ewc", {}) == {
        "strength": 1e4, "mode": "online", "decay": 1.0, "fisher_samples": 64,
    }  # fmt: skip


@pytest.mark.parametrize("fisher", FORMS)
def test_a_form_keeps_as_many_bytes_as_it_says(fisher):
    stated = eval(STRATEGIES.get("ewc").bytes_per_parameter, {"fisher": fisher, "width": 64})
    ewc = create_strategy("ewc", {"fisher": fisher, "fisher_samples": 2})
    with own_numerics():
        loop = toy_loop(ewc, model=_model(64))
        loop.train(toy_tasks()[0])
        parameters = sum(p.numel() for p in loop.model.parameters())
    assert 0.95 * stated <= ewc.state_bytes() / parameters <= 1.01 * stated + 0.01


@pytest.mark.parametrize("fisher", FORMS[1:])
def test_a_form_is_a_strategy_of_its_own_and_keeps_the_contract(fisher):
    options = {"fisher": fisher, "strength": 1e6, "fisher_samples": 4}
    assert resuming_problem(lambda: create_strategy("ewc", options), points=(4,)) is None
    subject = _Subject(STRATEGIES.get("ewc"), options)
    for check in ("memory", "bfloat16"):
        assert CHECKS[check](subject) is None
    plain = _Subject(STRATEGIES.get("ewc"), {**options, "fisher": "diagonal"}).trained()
    assert any(not torch.equal(tensor, plain[n]) for n, tensor in subject.trained().items())


def test_offloaded_it_is_the_same_training_but_for_rounding():
    """Tied weights have three gradients, which are added in another order."""
    options = {"strength": 1e6, "fisher_samples": 4}
    first, second = (
        _Subject(STRATEGIES.get("ewc"), {**options, "offload": offload}).trained()
        for offload in (False, True)
    )
    assert all(torch.allclose(t, second[name], atol=1e-5) for name, t in first.items())


class _Peak(TorchDispatchMode):
    """Bytes of all tensors that were made since and are alive, and the most there have been."""

    def __init__(self):
        super().__init__()
        self.alive = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage):
        if not hasattr(storage, "counted"):
            storage.counted = True
            self.alive += storage.nbytes()
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self._let_go, storage.nbytes())

    def _let_go(self, count):
        self.alive -= count


def _model(width):
    """Of which the parameters are nearly all the memory that a step of the toy tasks takes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32, hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=6, num_attention_heads=2, max_position_embeddings=32,
                bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
            )
        ).eval()  # fmt: skip


def _peak(name, **options):
    """The most bytes a parameter, beside the model, over three experiences."""
    first, second = toy_tasks(2)
    with own_numerics():
        loop = toy_loop(create_strategy(name, options), model=_model(96))
        with _Peak() as peak:
            for experience in (first, second, replace(first, index=2)):
                loop.train(experience)
    return peak.most / sum(p.numel() for p in loop.model.parameters())


def test_offloaded_it_needs_no_more_memory_than_full_fine_tuning_but_for_what_it_keeps():
    """And that is in host memory then, which here is the model's too.

    Neither the penalty nor the Fisher pass adds to the peak, beside a few tensors of the largest
    size. Within the loss the penalty's gradients do.
    """
    plain = _peak("full_sft")
    assert plain > 12  # gradients and two moments
    for fisher, kept in (("diagonal", 8), ("factored", 4), ("optimizer", 8)):
        more = _peak("ewc", fisher=fisher, fisher_samples=3, offload=True) - plain
        assert kept - 0.1 <= more <= kept + 1
    assert _peak("ewc", fisher_samples=3) - plain > 8 + 1.5
