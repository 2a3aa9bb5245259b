"""Every failed validation is one line that names place, value and reason."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from epi_bench.errors import UserError
from epi_bench.plugins.options import check_options
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.explain import explain_in_file, explain_validation
from epi_bench.spec.toml_lines import TomlLines


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(default=1, ge=1)


class Root(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    leaf: Leaf | None = None
    leaves: dict[str, Leaf] = {}
    rows: tuple[Leaf, ...] = ()


def _refused(content) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Root.model_validate(content)
    return refused.value


@pytest.mark.parametrize(
    ("content", "line", "settings"),
    [
        ({}, "name is missing", ("name",)),
        ({"name": "a", "leaf": {"size": 0}},
         "leaf.size=0: input should be greater than or equal to 1", ("leaf.size",)),
        ({"name": "a", "leaf": {"sise": 2}},
         "unknown setting 'leaf.sise': did you mean 'leaf.size'?", ()),
        ({"name": "a", "leaves": {"x": {"sise": 2}}},
         "unknown setting 'leaves.x.sise': did you mean 'leaves.x.size'?", ()),
        ({"name": "a", "rows": [{"size": 1}, {"sise": 2}]},
         "unknown setting 'rows.1.sise': did you mean 'rows.1.size'?", ()),
        ({"name": ["long text"] * 20}, "name: input should be a valid string", ("name",)),
        ({"leaf": {"size": 0}}, "name is missing (and 1 more)", ("name",)),
    ],
)  # fmt: skip
def test_the_first_problem_in_one_line(content, line, settings):
    explained = explain_validation(_refused(content), Root, "file.toml: ")
    assert str(explained) == f"file.toml: {line}"
    assert explained.settings == settings


def test_in_a_file_every_problem_has_its_line(tmp_path):
    lines = TomlLines("name = 3\n\n[leaf]\nsize = 0\n")
    error = _refused({"name": 3, "leaf": {"size": 0}})
    assert explain_in_file(error, Root, tmp_path / "x.toml", lines).problems == [
        f"{tmp_path}/x.toml line 1: name=3: input should be a valid string",
        f"{tmp_path}/x.toml line 4: leaf.size=0: input should be greater than or equal to 1",
    ]


def test_a_rule_over_several_settings_names_each_once():
    with pytest.raises(UserError) as refused:
        complete_spec({"training": {"steps": 3, "epochs": 1}})
    assert str(refused.value) == "give either training.steps or training.epochs"


def test_options_of_plugins_are_explained_alike():
    def stream(share: float = 0.5) -> None: ...

    with pytest.raises(UserError, match="share='much' is not a valid float: input should be"):
        check_options("stream 'mine'", stream, {"share": "much"})


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), [10**5000], {"x": [10**5000]}],
    ids=["long", "negative", "list", "dictionary"],
)
@pytest.mark.parametrize("section", ["training.batch_size", "training.epochs", "stream.options"])
def test_an_integer_that_no_file_holds_is_one_line(section, value):
    table, key = section.split(".")
    with pytest.raises(UserError) as refused:
        complete_spec({table: {key: {"x": value} if key == "options" else value}})
    assert str(refused.value).startswith(section)
    assert len(str(refused.value)) < 200


def test_integers_of_64_bits_are_settings():
    largest = {"stream": {"options": {"low": -(2**63), "high": [2**63 - 1]}}, "seed": 2**63 - 1}
    assert complete_spec(largest).stream.options == {"low": -(2**63), "high": [2**63 - 1]}
    with pytest.raises(UserError, match=r"seed.*between -2\^63 and 9223372036854775807"):
        complete_spec({"seed": 2**63})


@pytest.mark.parametrize(
    "settings",
    [{"model": {"name": "\udcff"}}, {"stream": {"options": {"a\ud800": 1}}},
     {"data": {"tasks": ["mini_math", "\udcff"]}}],
)  # fmt: skip
def test_text_that_is_no_unicode_is_refused(settings):
    with pytest.raises(UserError, match="no Unicode text"):
        complete_spec(settings)
