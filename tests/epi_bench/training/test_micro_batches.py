"""The gradient of a step, however it is cut into micro-batches."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from epi_bench import EncodedExample, TrainingFailedError
from epi_bench.model.batching import collate
from epi_bench.model.losses import training_loss
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.training.accelerator import create_accelerator
from epi_bench.training.micro_batches import MicroBatches, predicted_tokens

LENGTHS = (3, 40, 5, 38, 4)
EXAMPLES = [
    EncodedExample(tuple(range(1, length + 1)), (False,) + (True,) * (length - 1))
    for length in LENGTHS
]


@pytest.fixture(scope="module")
def model(toy_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(toy_model).eval()


def micro_batches(model, batch_size):
    accelerator = create_accelerator(TrainingSpec(steps=1), cpu=True)
    return MicroBatches(model, accelerator, batch_size, pad_token_id=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_gradient_is_that_of_the_mean_loss_of_the_step(model, batch_size):
    """As transformers computes loss and gradient of the whole step at once."""
    whole, cut = copy.deepcopy(model), copy.deepcopy(model)
    expected = whole(**collate(EXAMPLES, 0)).loss
    expected.backward()
    done = micro_batches(cut, batch_size).backward(EXAMPLES, lambda: None)
    assert done.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not done.loss.requires_grad
    assert (done.tokens, done.supervised_tokens) == (sum(LENGTHS), sum(LENGTHS) - len(LENGTHS))
    pairs = list(zip(whole.parameters(), cut.parameters(), strict=True))
    assert pairs
    for a, b in pairs:
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_a_penalty_is_asked_for_once_a_step_and_is_not_divided(model):
    cut, calls = copy.deepcopy(model), []

    def penalty():
        calls.append(None)
        return sum(parameter.sum() for parameter in cut.parameters())

    batches = micro_batches(cut, 1)
    plain = batches.backward(EXAMPLES, lambda: None)
    before = [parameter.grad.clone() for parameter in cut.parameters()]
    cut.zero_grad()
    with_penalty = batches.backward(EXAMPLES, penalty)
    assert len(calls) == 1
    assert torch.equal(plain.loss, with_penalty.loss)  # the loss that is reported is the data's
    assert before
    for old, parameter in zip(before, cut.parameters(), strict=True):
        assert torch.allclose(parameter.grad, old + 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_every_example_is_in_one_micro_batch_of_like_length(model, batch_size):
    cuts = micro_batches(model, batch_size).cut(EXAMPLES)
    assert sorted(len(e) for cut in cuts for e in cut) == sorted(LENGTHS)
    assert all(1 <= len(cut) <= batch_size for cut in cuts)
    assert [len(e) for cut in cuts for e in cut] == sorted(LENGTHS, reverse=True)


def test_several_processes_have_as_many_micro_batches_and_idle_ones_carry_no_loss():
    """Two examples on three processes: the third reads the shortest, without loss."""

    class Process:
        device, num_processes = torch.device("cpu"), 3

        def __init__(self, rank):
            self.process_index = rank

    step = [EXAMPLES[0], EXAMPLES[1]]
    cuts = [MicroBatches(nn.Identity(), Process(rank), 4, 0).cut(step) for rank in range(3)]
    assert [len(cut) for cut in cuts] == [1, 1, 1]
    assert cuts[0] == [[EXAMPLES[1]]]
    assert cuts[1] == [[EXAMPLES[0]]]
    ((idle,),) = cuts[2]
    assert idle.input_ids == EXAMPLES[0].input_ids
    assert predicted_tokens(idle) == 0


def test_the_first_token_is_predicted_from_nothing():
    assert predicted_tokens(EncodedExample((1, 2, 3), (True, False, True))) == 1
    assert predicted_tokens(EncodedExample((1,), (True,))) == 0


def test_the_norm_is_that_of_all_gradients_together():
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1), torch.zeros(1)])
    model[0].grad, model[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert micro_batches(model, 1).gradient_norm().item() == 5.0  # the third has no gradient
    model[1].grad = torch.tensor([float("nan")])
    assert not torch.isfinite(micro_batches(model, 1).gradient_norm())


def _weighted(model, examples, batch_size, hooks=None):
    """The gradients of a step, in one row."""
    cut = copy.deepcopy(model)
    done = micro_batches(cut, batch_size).backward(examples, lambda: None, hooks)
    return done, torch.cat([parameter.grad.flatten() for parameter in cut.parameters()])


class ByPosition:
    """Weighs a token by its position; adds the log-likelihood of token 7 at supervised places."""

    def __init__(self):
        self.calls = []

    def token_weights(self, batch, logits):
        assert not logits.requires_grad
        self.calls.append(len(logits))
        return torch.arange(logits.shape[1] - 1).expand(len(logits), -1) / 10

    def batch_penalty(self, batch, logits):
        assert logits.requires_grad
        supervised = batch["labels"][:, 1:] >= 0
        return -logits[:, :-1].log_softmax(-1)[..., 7][supervised].sum()


def test_the_weights_of_examples_multiply_their_losses_and_leave_the_denominator(model):
    """Weight 2 on the first and 0 on the others: twice its loss, over the tokens of all."""
    weights = (2.0, 0.0, 0.0, 0.0, 0.0)
    weighted = [replace(e, weight=w) for e, w in zip(EXAMPLES, weights, strict=True)]
    done, found = _weighted(model, weighted, 5)
    plain, _ = _weighted(model, EXAMPLES, 5)
    alone, expected = _weighted(model, EXAMPLES[:1], 5)
    share = 2 * alone.supervised_tokens / done.supervised_tokens
    assert torch.allclose(found, share * expected, atol=1e-6)
    assert done.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)  # reported unweighted
    same, _ = _weighted(model, [replace(e, weight=1.0) for e in EXAMPLES], 5)
    assert torch.equal(same.loss, plain.loss)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_weights_and_penalties_of_micro_batches_are_those_of_one_batch(model, batch_size):
    weighted = [replace(e, weight=1 / (1 + i)) for i, e in enumerate(EXAMPLES)]
    hooks, at_once = ByPosition(), copy.deepcopy(model)
    loss, _ = training_loss(at_once, collate(weighted, 0), hooks)
    (loss / sum(map(predicted_tokens, weighted))).backward()
    assert hooks.calls == [5]
    whole = torch.cat([parameter.grad.flatten() for parameter in at_once.parameters()])
    _, parts = _weighted(model, weighted, batch_size, ByPosition())
    assert torch.allclose(whole, parts, atol=1e-6)
    _, plain = _weighted(model, EXAMPLES, 5)
    assert (whole - plain).norm() > 0.1 * plain.norm()


def test_two_processes_together_have_the_gradient_of_one(model):
    """Each averages its own micro-batch's, as data-parallel training does."""

    class Process:
        device, num_processes = torch.device("cpu"), 2

        def __init__(self, rank):
            self.process_index = rank

        def no_sync(self, model):
            return nullcontext()

        def backward(self, loss):
            loss.backward()

        def reduce(self, value, reduction):
            return value

    weighted = [replace(e, weight=1 / (1 + i)) for i, e in enumerate(EXAMPLES[:4])]
    _, whole = _weighted(model, weighted, 4, ByPosition())
    found = []
    for rank in range(2):
        cut = copy.deepcopy(model)
        MicroBatches(cut, Process(rank), 2, 0).backward(weighted, lambda: None, ByPosition())
        found.append(torch.cat([parameter.grad.flatten() for parameter in cut.parameters()]))
    assert torch.allclose(whole, (found[0] + found[1]) / 2, atol=1e-6)


def test_a_hook_that_gives_another_shape_is_told(model):
    class OneNumber(ByPosition):
        def token_weights(self, batch, logits):
            return torch.ones(len(logits))

    class EachToken(ByPosition):
        def batch_penalty(self, batch, logits):
            return logits.sum(-1)

    with pytest.raises(
        TrainingFailedError, match=r"token_weights must .* shape \(\d, \d+\), not .*"
    ):
        _weighted(model, EXAMPLES, 5, OneNumber())
    with pytest.raises(TrainingFailedError, match=r"batch_penalty must return .* of shape \(\)"):
        _weighted(model, EXAMPLES, 5, EachToken())
