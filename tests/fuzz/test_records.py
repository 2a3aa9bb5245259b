"""Record files: whatever one holds, it is refused in one line, and every other one is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st

from epi_bench.errors import UserError
from epi_bench.files import shipped_file
from epi_bench.results.record.record_file import load_record

PUBLISHED = shipped_file().parents[1] / "leaderboards"
RAW = [
    b"", b"null", b"[]", b"{}", b"{", b"\xff\xfe", b'{"schema_version": 99}', b"[" * 100_000,
    b'{"schema_version": 1e400}', b'{"schema_version": true}', b'{"schema_version": -1}',
    b'{"a":' * 50_000, b'{"schema_version": 1' + b"0" * 5000 + b"}", b'"' + b"x" * 10**6 + b'"',
    b'{"schema_version": NaN}', b'{"run_id": "\\ud800"}', b"\0" * 1000, b"\x1f\x8b\x08\x00",
]  # fmt: skip
WORDS = [
    "../../x", "/etc/passwd", "x" * 3000, "\x1b[31m", "\0", "CON", "", "a\nb", "<script>", "|", "`",
    1e308, -1e308, 1e400, 2**63, -1, 0, True, None, [], {}, [[]], "nan", "inf", float("nan"),
]  # fmt: skip


@pytest.fixture(scope="module")
def published() -> dict:
    """The content of a published record."""
    paths = sorted(PUBLISHED.glob("*/*.json"))
    assert paths, "this checkout has no published records"
    return json.loads(min(paths, key=lambda path: path.stat().st_size).read_text())


def _places(value: object, before: tuple = ()) -> list[tuple]:
    """Every place of a JSON value, those of long lists left out."""
    found = [before] if before else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*before, key))
    if isinstance(value, list):
        for position, inner in enumerate(value[:3]):
            found += _places(inner, (*before, position))
    return found


def _changed(content: dict, changes: list[tuple[tuple, object, bool]]) -> str:
    changed = json.loads(json.dumps(content))
    for place, value, is_removed in changes:
        inside = changed
        try:
            for part in place[:-1]:
                inside = inside[part]
            if is_removed:
                del inside[place[-1]]
            else:
                inside[place[-1]] = value
        except (LookupError, TypeError):  # an earlier change took it away
            continue
    return json.dumps(changed)


@pytest.fixture
def changes(hostile, published):
    values = hostile.json_value | st.sampled_from(WORDS)
    places = st.sampled_from(_places(published))
    return st.lists(st.tuples(places, values, st.booleans()), min_size=1, max_size=2)


def test_records(fuzz, published, changes, tmp_path):
    path = tmp_path / "record.json"

    @fuzz(
        300, changes.map(lambda drawn: _changed(published, drawn).encode()) | st.sampled_from(RAW)
    )
    def case(content):
        path.write_bytes(content)
        try:
            record = load_record(path)
        except UserError as error:
            assert str(error).startswith((str(path), "cannot read"))
            return
        assert record.run_id == published["run_id"]


def test_the_board_is_shown_whatever_lies_in_it(fuzz, published, changes, command):
    track, run_id = published["track"]["name"], published["run_id"]
    folder = command.folder / "leaderboards" / track
    folder.mkdir(parents=True)
    command.write(f"leaderboards/{track}/{run_id}.json", json.dumps(published))
    formats = st.sampled_from(["table", "markdown", "csv", "json"])

    @fuzz(60, changes.map(lambda drawn: _changed(published, drawn).encode()) | st.sampled_from(RAW),
          formats)  # fmt: skip
    def case(content, form):
        command.write(f"leaderboards/{track}/0123456789ab.json", content)
        ended = command("leaderboard", "leaderboards", "--format", form)
        assert ended.code == 0
        assert len(ended.lines) == 1
        assert published["strategy"]["name"] in ended.output
