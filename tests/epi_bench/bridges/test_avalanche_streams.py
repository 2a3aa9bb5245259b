"""Streams of texts as benchmarks of avalanche."""

from __future__ import annotations

import pytest
import torch

from epi_bench.bridges import TokenModel, to_avalanche, token_loss
from epi_bench.errors import UserError
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.strategy.avalanche_tokens import dataset_examples, token_dataset
from epi_bench.testing.toys import toy_model, toy_tasks

pytest.importorskip("avalanche")

EXAMPLES = [
    EncodedExample((2, 5, 3, 7, 1), (False, False, False, True, True)),
    EncodedExample((2, 6, 1), (False, False, True)),
]


def test_a_batch_is_padded_and_its_targets_are_the_next_tokens():
    dataset = token_dataset(EXAMPLES, 9)
    x, y = dataset.collate_fn([dataset[0], dataset[1]])
    assert x[..., 0].tolist() == [[2, 5, 3, 7, 1], [2, 6, 1, 9, 9]]
    assert x[..., 1].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert y.tolist() == [[-100, -100, 7, 1], [-100, 1, -100, -100]]
    assert dataset_examples(dataset) == EXAMPLES
    assert dataset_examples(dataset.subset([1])) == EXAMPLES[1:]


def test_the_loss_is_that_of_transformers():
    model = toy_model()
    dataset = token_dataset(EXAMPLES, 0)
    x, y = dataset.collate_fn([dataset[0], dataset[1]])
    labels = torch.cat([torch.full((2, 1), -100), y], dim=1)
    expected = model(input_ids=x[..., 0], attention_mask=x[..., 1], labels=labels).loss
    assert token_loss(TokenModel(model)(x), y).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_stream_is_a_benchmark_in_its_order():
    benchmark = to_avalanche(toy_tasks(), pad_token_id=0, test=toy_tasks()[:1])
    assert len(benchmark.train_stream) == 2
    assert len(benchmark.test_stream) == 1
    for number, (experience, ours) in enumerate(
        zip(benchmark.train_stream, toy_tasks(), strict=True)
    ):
        assert dataset_examples(experience.dataset) == list(ours.examples)
        assert experience.task_labels == [number]


def test_rows_of_ones_own_are_taken():
    rows = [
        {"input_ids": list(e.input_ids), "labels": [t if s else -100 for t, s in
                                                    zip(e.input_ids, e.supervised, strict=True)]}
        for e in EXAMPLES
    ]  # fmt: skip
    benchmark = to_avalanche({"mine": rows}, pad_token_id=0)
    assert dataset_examples(benchmark.train_stream[0].dataset) == EXAMPLES


def test_avalanches_own_strategies_train_and_evaluate_on_it():
    from avalanche.evaluation.metrics import loss_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Replay

    model = toy_model()
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.random.fork_rng():
        strategy = Replay(
            model=TokenModel(model),
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            criterion=token_loss,
            mem_size=8,
            train_mb_size=8,
            eval_mb_size=8,
            evaluator=EvaluationPlugin(loss_metrics(stream=True)),
        )
        benchmark = to_avalanche(toy_tasks(), pad_token_id=0, test=toy_tasks())
        for experience in benchmark.train_stream:
            strategy.train(experience)
        found = strategy.eval(benchmark.test_stream)
    assert all(value > 0 for value in found.values())
    assert any(not a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_no_stream_is_told():
    with pytest.raises(UserError, match="the stream has no experience"):
        to_avalanche([], pad_token_id=0)
    with pytest.raises(UserError, match="experience 'mine' has no examples"):
        to_avalanche({"mine": []}, pad_token_id=0)
    with pytest.raises(UserError, match="row 0 of the training data gives no 'labels'"):
        to_avalanche({"mine": [{"input_ids": [1, 2]}]}, pad_token_id=0)
