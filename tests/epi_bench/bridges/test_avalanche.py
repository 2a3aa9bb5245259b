"""``EPIPlugin`` inside avalanche's own strategies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench import UserError

pytest.importorskip("avalanche")


class _Scores(nn.Module):
    """A causal language model as avalanche calls it: token ids in, scores of the next token out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids).logits[:, -1]


def _benchmark(targets=(64, 64), rows=12):
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    generator = torch.Generator().manual_seed(0)
    sets = []
    for classes in targets:
        ids = torch.randint(0, 64, (rows, 8), generator=generator)
        labels = ids[:, 0] % classes
        tensors = TensorDataset(ids, labels)
        tensors.targets = labels.tolist()
        sets.append(as_classification_dataset(tensors))
    return with_classes_timeline(benchmark_from_datasets(train=sets, test=sets))


def _strategy(model, *plugins, optimizer=None, strategy=None):
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    return (strategy or Naive)(
        model=model,
        optimizer=optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=1,
        device="cpu",
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def _watching(plugin, witness):
    from avalanche.training.plugins import SupervisedPlugin

    class Watch(SupervisedPlugin):
        seen = None

        def before_training_exp(self, strategy, *args, **kwargs):
            self.seen = self.seen or witness(plugin.protection.isolation)

        def after_training_iteration(self, strategy, *args, **kwargs):
            self.seen.check()

    return Watch()


def test_protected_weights_are_bit_identical_over_experiences(tiny_llama, witness):
    from epi_bench.bridges import EPIPlugin

    epi = EPIPlugin(ratio=0.3, interval=2, warmup=1)
    watch = _watching(epi, witness)
    strategy = _strategy(_Scores(tiny_llama()), epi, watch)
    for experience in _benchmark().train_stream:
        strategy.train(experience)
    assert epi.statistics()["steps"] == 6  # two experiences of three batches
    assert epi.statistics()["refreshes"] == 3
    assert epi.statistics()["achieved_ratio"] == pytest.approx(0.3, rel=1e-3)
    assert watch.seen.checked == 5 * epi.protection.isolation.target_count


def test_it_goes_together_with_other_plugins(tiny_llama, witness):
    from avalanche.training.plugins import EWCPlugin, ReplayPlugin

    from epi_bench.bridges import EPIPlugin

    epi = EPIPlugin(ratio=0.3, interval=2, warmup=1)
    watch = _watching(epi, witness)
    others = (EWCPlugin(ewc_lambda=1.0), ReplayPlugin(mem_size=8))
    strategy = _strategy(_Scores(tiny_llama()), *others, epi, watch)
    for experience in _benchmark().train_stream:
        strategy.train(experience)
    assert watch.seen.steps == epi.statistics()["steps"] >= 6


def test_it_resumes_exactly(tiny_llama):
    from epi_bench.bridges import EPIPlugin

    def plugin():
        return EPIPlugin(ratio=0.3, interval=2, warmup=1)

    def train(model, optimizer, epi, experience):
        torch.manual_seed(0)  # avalanche shuffles with the global generator
        _strategy(model, epi, optimizer=optimizer).train(experience)

    def sgd(model):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    first, second = _benchmark().train_stream
    straight, epi = _Scores(tiny_llama()), plugin()
    optimizer = sgd(straight)
    train(straight, optimizer, epi, first)
    saved = {name: tensor.clone() for name, tensor in epi.state_dict().items()}
    resumed, later = _Scores(tiny_llama()), plugin()
    resumed.load_state_dict(straight.state_dict())
    later.load_state_dict(saved)
    train(straight, optimizer, epi, second)
    train(resumed, sgd(resumed), later, second)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert later.statistics() == epi.statistics()


@pytest.mark.parametrize("importance", ["ema", "factored"])
def test_a_head_that_grows_keeps_what_the_body_has_learned(importance, tiny_llama):
    from avalanche.models import IncrementalClassifier

    from epi_bench.bridges import EPIPlugin

    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_llama().model
            self.head = IncrementalClassifier(16, initial_out_features=1, masking=False)

        def forward(self, ids):
            return self.head(self.body(input_ids=ids).last_hidden_state[:, -1])

    epi = EPIPlugin(ratio=0.3, interval=1, warmup=1, importance=importance)
    strategy = _strategy(Growing(), epi)
    kept = []
    for experience in _benchmark(targets=(4, 8)).train_stream:
        if epi.protection is not None:
            kept = [(n, m) for n, m in epi.protection.isolation.masks.items() if "head" not in n]
            strategy.train_epochs = 0  # the model changes, but is not trained
            size = epi.protection.isolation.size
        strategy.train(experience)
    assert epi.protection.isolation.size == size + 4 * 17  # four new classes
    for name, mask in kept:
        assert torch.equal(epi.protection.isolation.masks[name], mask)
    assert not bool(epi.protection.isolation.masks["head.classifier.weight"].any())
    assert epi.protection.steps == 3
    strategy.train_epochs = 1
    strategy.train(experience)
    assert epi.statistics()["steps"] == 6
    assert 0 < epi.statistics()["jaccard_first"] < 1


def test_the_best_weights_that_early_stopping_loads_back_are_held():
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin
    from avalanche.training.supervised import Naive

    from epi_bench.bridges import EPIPlugin

    class Model(nn.Sequential):
        loads = 0

        def load_state_dict(self, *args, **kwargs):
            self.loads += 1
            return super().load_state_dict(*args, **kwargs)

    torch.manual_seed(0)
    model = Model(nn.Embedding(64, 4), nn.Flatten(), nn.Linear(32, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    epi = EPIPlugin(ratio=0.4, interval=3, warmup=3)
    stop = EarlyStoppingPlugin(patience=2, val_stream_name="test_stream")
    strategy = Naive(
        model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_mb_size=4,
        train_epochs=12, plugins=[epi, stop], eval_every=1,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )  # fmt: skip
    first, second = _benchmark().train_stream
    strategy.train(first, eval_streams=[_benchmark(rows=4).test_stream])
    assert model.loads == 1
    best = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    strategy.train_epochs, strategy.eval_every = 1, -1
    strategy.train(second)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), best, strict=True))
    assert epi.protection.taken_up > 0


def test_without_an_experience_there_is_nothing_to_update():
    from epi_bench.bridges import EPIPlugin

    epi = EPIPlugin()
    assert epi.statistics() == {}
    assert epi.state_dict() == {}
    with pytest.raises(UserError, match="no experience has begun"):
        epi.before_update(None)
