"""A setting's name, type, range, default, help and flag are read from its field."""

from __future__ import annotations

import pytest

from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import RunSpec
from epi_bench.spec.settings import all_settings, setting_flags


def test_every_field_of_every_section_is_a_setting_with_help_and_flag():
    fields = {
        f"{section}.{name}" if hasattr(field.annotation, "model_fields") else section
        for section, field in RunSpec.model_fields.items()
        for name in getattr(field.annotation, "model_fields", [""])
    }
    assert len(fields) > 30
    assert set(all_settings()) == fields
    for setting in all_settings().values():
        assert setting.description.endswith("."), setting.name
        assert setting.flag.panel
        assert setting.flag_name.startswith("--")
    assert len(set(setting_flags().values())) == len(fields)


@pytest.mark.parametrize(
    ("name", "flag", "kind", "limits", "default"),
    [
        ("data.max_length", "--max-length", "integer", "at least 8", "128 on tiny, else 1024"),
        ("training.steps", "--steps", "integer", "at least 1", "100 on tiny, else epochs=1"),
        ("training.epochs", "--epochs", "number", "more than 0", "steps=100 on tiny, else 1"),
        ("training.warmup_share", "--warmup-share", "number", "at least 0, at most 1", "0.05"),
        ("training.decay", "--decay", "linear, cosine or constant", "", "linear"),
        ("evaluation.batch_size", "--evaluation-batch-size", "integer", "at least 1",
         "200 on tiny, else 32"),
        ("threads", "--threads", "integer", "at least 1, at most 1024",
             "1 on tiny, else torch's choice"),
        ("data.tasks", "--tasks", "list of texts", "", "mini"),
        ("data.train_examples", "--train-examples", "integer", "at least 1", "all"),
        ("data.mask_history", "--mask-history", "true or false", "", "false"),
    ],
)  # fmt: skip
def test_what_a_field_says(name, flag, kind, limits, default):
    setting = all_settings()[name]
    assert (setting.flag_name, setting.type_name) == (flag, kind)
    assert (setting.limits, setting.default) == (limits, default)


@pytest.mark.parametrize("model", ["tiny", "models/another"])
def test_the_default_in_words_is_the_one_that_a_run_gets(model):
    spec = complete_spec({"model": {"name": model}}).model_dump()
    checked = 0
    for name, setting in all_settings().items():
        section, _, key = name.rpartition(".")
        value = spec[section][key] if section else spec[key]
        if name == "model.name" or isinstance(value, tuple | dict | bool | None):
            continue
        on_tiny, _, else_ = setting.default.partition(" on tiny, else ")
        shown = on_tiny if model == "tiny" or not else_ else else_
        assert type(value)(shown) == value, name
        checked += 1
    assert checked >= 18


def test_no_word_of_another_program_stands_for_two_settings():
    words = [word for setting in all_settings().values() for word in setting.flag.elsewhere]
    assert len(words) == len(set(words))
    assert {f"--{word}" for word in words}.isdisjoint(setting_flags().values())
