"""The diagonal Fisher information, by hand, and the examples that it is measured on."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from epi_bench import Experience, diagonal_fisher, experience_fisher


class Context:
    """Of a model ``w x`` whose loss on the example x is its output: the gradient is x."""

    def __init__(self):
        self.model = nn.Linear(1, 1, bias=False).train()
        self.purposes = []

    def generator(self, purpose):
        self.purposes.append(purpose)
        return random.Random(f"{purpose} 0")

    def batches(self, examples, batch_size):
        assert batch_size == 1  # the square of a batch's mean gradient is another quantity
        return ({"x": torch.tensor([[x]])} for x in examples)

    def loss(self, model, batch):
        assert not model.training
        return model(batch["x"]).sum()


@pytest.fixture
def context():
    return Context()


def experience(*examples):
    return Experience(3, "sums", ("sums",), list(examples), 10)


def parameters(context):
    return dict(context.model.named_parameters())


def test_it_is_the_mean_of_the_squared_gradients(context):
    found = diagonal_fisher(context, parameters(context), [1.0, 3.0])
    assert found["weight"].tolist() == [[pytest.approx((1 + 9) / 2)]]
    assert context.model.training
    assert all(parameter.grad is None for parameter in context.model.parameters())


def test_examples_are_drawn_without_replacement_under_the_experiences_name(context):
    examples = [float(2**n) for n in range(6)]
    found = experience_fisher(context, parameters(context), experience(*examples), samples=3)
    drawn = random.Random("fisher samples of experience 3 0").sample(examples, 3)
    assert found["weight"].item() == pytest.approx(sum(x * x for x in drawn) / 3)
    assert context.purposes == ["fisher samples of experience 3"]


def test_all_are_taken_where_there_are_fewer(context):
    found = experience_fisher(context, parameters(context), experience(1.0, 3.0), 64, "once more")
    assert found["weight"].item() == pytest.approx(5.0)
    assert context.purposes == ["once more"]
