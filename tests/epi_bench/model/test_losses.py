"""The training loss of mixtures of experts, against transformers."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import LlamaConfig

from epi_bench.errors import TrainingFailedError
from epi_bench.model.batching import collate
from epi_bench.model.chat.encoded_example import EncodedExample
from epi_bench.model.losses import mean_loss, summed_loss, training_loss
from epi_bench.spec.run_spec import TrainingSpec
from epi_bench.strategy.hooks import Experience
from epi_bench.strategy.strategy import create_strategy
from epi_bench.training.accelerator import create_accelerator
from epi_bench.training.loop import TrainingLoop

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {**EXPERTS, "moe_intermediate_size": 16, "head_dim": 16},
    "Olmoe": EXPERTS,
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "JetMoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 16},
}


def mixture(family="Mixtral", balanced=True, **options):
    config = getattr(transformers, f"{family}Config")(
        **{**SHAPE, **FAMILIES[family], "output_router_logits": balanced, **options}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def examples(count=6):
    return [
        EncodedExample(
            tuple(range(2 + i, 12 + 3 * i)), tuple(j > 4 for j in range(10 + 2 * i))
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_load_balancing_loss_counts_where_the_configuration_asks_for_it(family):
    model, batch = mixture(family), collate(examples(), 0)
    expected = model(**batch).loss
    cross_entropy, tokens = summed_loss(model, batch)
    objective, summed = training_loss(model, batch)
    assert torch.equal(summed, cross_entropy)
    assert (objective / tokens).item() == pytest.approx(expected.item(), rel=1e-6)
    assert objective.item() > summed.item()
    assert mean_loss(model, batch).item() == pytest.approx(summed.item() / tokens)
    plain = mixture(family, balanced=False)
    objective, summed = training_loss(plain, batch)
    assert torch.equal(objective, summed)
    assert (objective / tokens).item() == pytest.approx(plain(**batch).loss.item(), rel=1e-6)


def test_the_coefficient_is_the_configurations():
    batch = collate(examples(), 0)
    added = []
    for coefficient in (0.0, 0.5, 1.0):
        objective, summed = training_loss(mixture(router_aux_loss_coef=coefficient), batch)
        added.append((objective - summed).item())
    assert added[0] == 0
    assert added[2] == pytest.approx(2 * added[1])


def test_a_load_balancing_loss_without_a_coefficient_is_told():
    class Nameless(torch.nn.Module):
        config = LlamaConfig()

        def forward(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, 64)
            return SimpleNamespace(logits=logits, aux_loss=torch.ones(()))

    with pytest.raises(TrainingFailedError, match="names no router_aux_loss_coef"):
        training_loss(Nameless(), collate(examples(), 0))


def test_a_step_of_the_loop_is_that_of_transformers_loss():
    spec = TrainingSpec(
        steps=1, batch_size=6, optimizer="sgd", learning_rate=0.5, decay="constant",
        warmup_share=0, weight_decay=0, max_gradient_norm=0,
    )  # fmt: skip
    model, by_hand = mixture(router_aux_loss_coef=1.0), mixture(router_aux_loss_coef=1.0)
    same_length = [EncodedExample(tuple(range(i, i + 9)), (False,) + (True,) * 8) for i in range(6)]
    loop = TrainingLoop(
        spec=spec,
        strategy=create_strategy("full_sft", {}),
        model=model,
        pad_token_id=0,
        seed=0,
        accelerator=create_accelerator(spec, cpu=True),
        total_steps=1,
        experience_count=1,
    ).start()
    losses = []
    loop.train(
        Experience(0, "a", ("a",), same_length, 1), lambda step, _: losses.append(step.loss.item())
    )
    batch = collate(same_length, 0)
    by_hand(**batch).loss.backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.5 * parameter.grad
    pairs = list(zip(model.parameters(), by_hand.parameters(), strict=True))
    assert pairs
    for trained, expected in pairs:
        assert torch.allclose(trained, expected, atol=1e-6)
    reported = mean_loss(mixture(), batch).item()  # the cross-entropy alone, as everywhere
    assert losses == pytest.approx([reported], rel=1e-5)
