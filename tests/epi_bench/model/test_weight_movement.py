"""The share of weights that training has moved, and when it is warned of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epi_bench import Strategy
from epi_bench.model.weight_movement import WeightMovement, warn_of_little_movement
from epi_bench.runs.observer import RunObserver
from epi_bench.strategy.strategy import STRATEGIES, register_strategy


def _movement(model, loaded=None):
    generator = torch.Generator().manual_seed(0)
    return WeightMovement(loaded or dict(model.named_parameters()), model, generator)


class TestShare:
    def test_by_hand(self):
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))  # 8 and 3 weights
        model[1].requires_grad_(False)
        movement = _movement(model)
        assert movement.share(model) == 0
        with torch.no_grad():
            model[0].weight[0] += 1
            model[1].weight += 1  # frozen: not counted
        assert movement.share(model) == 3 / 8

    def test_what_is_rounded_away_has_not_moved(self):
        model = nn.Linear(4, 1, bias=False)
        nn.init.ones_(model.weight)
        movement = _movement(model.bfloat16())
        model.float()
        with torch.no_grad():
            model.weight += torch.tensor([[0.0, 1e-3, 1e-2, 1e-1]])
        assert movement.share(model) == 3 / 4
        assert movement.share(model.bfloat16()) == 2 / 4

    def test_large_models_are_sampled(self, monkeypatch):
        monkeypatch.setattr("epi_bench.model.weight_movement.WATCHED", 4000)
        model = nn.Sequential(nn.Linear(200, 300, bias=False), nn.Linear(300, 100, bias=False))
        movement = _movement(model)
        watched = sum(w.values.numel() for w in movement._watched.values())
        assert watched == 4000
        with torch.no_grad():
            model[0].weight += 1  # 60,000 of 90,000
        assert movement.share(model) == pytest.approx(2 / 3, abs=1e-6)
        with torch.no_grad():
            model[1].weight[::2] += 1  # and half of the rest
        assert movement.share(model) == pytest.approx(5 / 6, abs=0.02)

    def test_an_adapter_counts_as_what_it_is_merged_into(self, train_toy):
        """All linear layers but the head; embeddings and norms stay."""
        from epi_bench.strategy.strategy import create_strategy

        strategy = create_strategy("lora", {"rank": 2})
        loop = train_toy(strategy=strategy, tasks=["toy_first"], steps=2)
        assert loop.movement.share(loop.model) > 0.5  # not merged: the adapter's own weights
        merged = strategy.finalize_model(loop.model)
        assert loop.movement.share(merged) > 0.99
        with torch.no_grad():
            merged.model.embed_tokens.weight += 1  # frozen: not counted
        assert loop.movement.share(merged) <= 1

    def test_a_model_of_other_weights_has_no_share(self):
        assert _movement(nn.Linear(2, 2)).share(nn.Conv1d(1, 1, 1)) is None


class TestWarning:
    @pytest.mark.parametrize(
        ("share", "held", "rounded", "warned"),
        [
            (0.064, 0.0, True, "only 6.4 %"),
            (0.49, 0.0, True, "only 49.0 %"),
            (0.5, 0.0, True, None),
            (0.3, 0.5, True, None),
            (0.2, 0.5, True, "only 20.0 %"),
            (0.064, 0.0, False, None),
            (0.0, 0.0, False, "moved no weight"),
            (1.0, 0.0, True, None),
        ],
    )
    def test_it_comes_where_rounding_may_be_why(self, share, held, rounded, warned):
        messages = warn_of_little_movement(share, held, rounded)
        assert (warned in messages[0]) if warned else not messages

    @pytest.mark.parametrize(
        ("settings", "warned"),
        [({"learning_rate": 1e-7}, True), ({"learning_rate": 3e-3}, False)],
    )
    def test_a_run_tells_and_records_it(self, run_toy, settings, warned):
        messages = []

        class Listener(RunObserver):
            def warning(self, message):
                messages.append(message)

        outcome = run_toy(
            dtype="bfloat16", tasks=["toy_first"], steps=3, observer=Listener(), **settings
        )
        assert (outcome.record.moved_weights < 0.1) == warned
        assert any("rounded away" in message for message in messages) == warned

    def test_a_static_mask_is_no_reason(self, run_toy):
        messages = []

        class Listener(RunObserver):
            def warning(self, message):
                messages.append(message)

        settings = {"dtype": "bfloat16", "learning_rate": 1e-5, "observer": Listener()}
        record = run_toy("static_mask", {"ratio": 0.7, "warmup": 1}, **settings).record
        assert 0.15 < record.moved_weights < 0.5
        assert not [message for message in messages if "weight" in message]

    def test_a_run_that_moves_nothing_says_so(self, run_toy):
        messages = []

        class Listener(RunObserver):
            def warning(self, message):
                messages.append(message)

        class Undone(Strategy):
            """Every step is undone."""

            def gradients_ready(self, step):
                for parameter in step.model.parameters():
                    parameter.grad = None

        if "toy_undone" not in STRATEGIES.names():
            register_strategy("toy_undone")(Undone)
        record = run_toy("toy_undone", tasks=["toy_first"], observer=Listener()).record
        assert record.moved_weights == 0
        assert any("moved no weight" in message for message in messages)
