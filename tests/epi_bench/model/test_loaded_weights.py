"""Weights that a model does not have, or has and does not use, are refused in one line."""

from __future__ import annotations

from pathlib import Path

import torch


def test_weights_without_their_head_are_refused(saved, refusal, llama, change_tensors):
    folder = saved(llama(tie_word_embeddings=False))
    change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k[:2] != "lm"})
    message = refusal(folder)
    assert "lack 1 of the model's tensors (lm_head.weight)" in message
    assert "LlamaForCausalLM" in message


def test_a_tied_head_is_not_missing(saved, load, llama):
    model = llama(tie_word_embeddings=True)
    backbone = load(saved(model))
    assert backbone.warnings == ()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(backbone.model(ids).logits, model.eval()(ids).logits)


def test_a_model_saved_without_its_head_class_but_tied_is_read(saved, load, llama):
    model = llama(tie_word_embeddings=True)
    backbone = load(saved(model.model))
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(backbone.model(ids).logits, model.eval()(ids).logits)


def test_one_missing_tensor_of_a_layer_is_refused(folder: Path, refusal, change_tensors):
    gone = "model.layers.1.mlp.up_proj.weight"
    change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k != gone})
    assert f"lack 1 of the model's tensors ({gone})" in refusal(folder)


def test_weights_with_none_of_the_models_tensors_are_refused(folder: Path, refusal, change_tensors):
    change_tensors(folder, lambda _: {f"t.{i}": torch.ones(9000) for i in range(9)})
    assert "which would be random" in refusal(folder)


def test_the_configuration_of_another_architecture_is_refused(folder: Path, refusal, edit):
    edit(folder / "config.json", model_type="bert", architectures=["BertForMaskedLM"])
    assert "which would be random" in refusal(folder)


def test_another_shape_is_refused_by_name(folder: Path, refusal, edit):
    edit(folder / "config.json", intermediate_size=96)
    assert "mlp.down_proj.weight has the shape (32, 64), the configuration says (32, 96)" in (
        refusal(folder)
    )


def test_fewer_layers_than_the_weights_have_are_refused(folder: Path, refusal, edit):
    edit(folder / "config.json", num_hidden_layers=1)
    message = refusal(folder)
    assert "leaves out 9 tensors" in message
    assert "model.layers.1." in message


def test_a_few_foreign_tensors_are_used_by_nobody_and_named(folder: Path, load, change_tensors):
    change_tensors(folder, lambda tensors: {**tensors, "v_head.weight": torch.ones(32)})
    assert load(folder).warnings == (
        f"1 tensors in the weights of {folder} are not used: v_head.weight",
    )


def test_many_foreign_tensors_are_refused(folder: Path, refusal, change_tensors):
    def change(tensors):
        return {**tensors, **{f"vision.a{chr(97 + i)}": torch.ones(2) for i in range(9)}}

    change_tensors(folder, change)
    assert "uses 20 of the 29 tensors" in refusal(folder)


def test_layers_that_predict_several_tokens_are_left_out_knowingly(
    folder: Path, load, refusal, edit, change_tensors
):
    extra = {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}
    change_tensors(folder, lambda tensors: {**tensors, **extra})
    assert "leaves out 1 tensors" in refusal(folder)
    edit(folder / "config.json", num_nextn_predict_layers=1)
    assert "model.layers.2.mlp.up_proj.weight" in load(folder).warnings[0]


def test_old_rotary_buffers_are_no_matter(folder: Path, load, change_tensors):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_tensors(folder, lambda tensors: {**tensors, **buffer})
    assert load(folder).warnings == ()


def test_weights_that_are_not_finite_are_refused(folder: Path, refusal, change_tensors):
    def change(tensors):
        tensors["model.norm.weight"][3] = float("inf")
        return tensors

    change_tensors(folder, change)
    assert "model.norm.weight holds NaN or infinity" in refusal(folder)
