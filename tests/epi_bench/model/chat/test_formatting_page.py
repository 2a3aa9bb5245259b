"""What docs/formatting.md says about encoding is so."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from epi_bench.model.chat.chat_encoder import ChatEncoder
from epi_bench.model.chat.encoding_cache import MAX_CACHE_BYTES, SMALLEST_CACHED
from epi_bench.results.record.circumstances import TaskDataRecord
from epi_bench.spec.defaults import complete_spec
from epi_bench.spec.run_spec import DataSpec

PAGE = (Path(__file__).parents[4] / "docs" / "formatting.md").read_text(encoding="utf-8")
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture(scope="module")
def templates():
    """The module with the templates of the model families."""
    spec = importlib.util.spec_from_file_location(
        "chat_templates_for_page", Path(__file__).with_name("test_chat_encoder.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_table_of_families_shows_the_supervised_text(templates):
    table = PAGE.partition("<!-- test: families -->")[2].partition("\n\n- ")[0]
    rows = re.findall(r"^\| ([^|]+) \| `(.+?)` \|", table, re.M)
    sources = {
        "Llama 3": templates.LLAMA3,
        "Gemma": templates.GEMMA,
        "Qwen 3": templates.QWEN3,
        "Phi 3": templates.PHI3,
        "Mistral": templates.MISTRAL,
        "ChatML with a default system message": templates.CHATML,
        "none": None,
    }
    assert [name for name, _ in rows] == list(sources)
    for name, shown in rows:
        encoder = ChatEncoder(templates.tokenizer_with(sources[name]), 1000)
        found = templates.supervised_texts(encoder, encoder.encode(MESSAGES))
        assert found == [shown.replace("\\|", "|")], name


def test_the_python_example_runs(toy_model):
    code = re.search(r"<!-- test: python -->\n```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    names: dict = {}
    exec(code.replace("path/to/model", str(toy_model)), names)
    assert names["supervised"] == "Hello.<|im_end|>"


def test_defaults_limits_and_field_names_are_those_of_the_code():
    fields = DataSpec.model_fields
    tiny = complete_spec({}).data.max_length
    assert f"| {fields['max_length'].default} (`tiny`: {tiny}) |" in PAGE
    assert "`--mask-history` | off |" in PAGE and fields["mask_history"].default is False
    assert f"of {SMALLEST_CACHED:,} training examples or more" in PAGE
    assert f"above {MAX_CACHE_BYTES // 2**30} GiB" in PAGE
    shown = re.search(r'"task_data": (\{.*?\}\}\}\})\n```', PAGE, re.DOTALL).group(1)
    for counts in json.loads(shown).values():
        assert set(counts) == set(TaskDataRecord.model_fields)
        TaskDataRecord.model_validate(counts)
