"""What is installed and published is what lies in the repository."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import yaml

import epi_bench

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
SOURCES = {
    "epi_bench": "epi_bench",
    "epi_bench.strategies": "strategies",
    "epi_bench.tasks": "tasks",
}


def _packages_on_disk():
    for package, folder in SOURCES.items():
        for marker in (ROOT / folder).rglob("__init__.py"):
            below = marker.parent.relative_to(ROOT / folder).parts
            yield ".".join([package, *below])


def test_every_package_is_listed_and_every_listed_package_is_there():
    assert SETUPTOOLS["package-dir"] == SOURCES
    assert sorted(SETUPTOOLS["packages"]) == sorted(_packages_on_disk())


def test_a_folder_with_modules_is_a_package():
    for folder in SOURCES.values():
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_every_data_file_is_installed():
    listed = set()
    for pattern in SETUPTOOLS["package-data"]["epi_bench"]:
        listed.update(p for p in (ROOT / "epi_bench").glob(pattern) if p.is_file())
    files = {p for p in (ROOT / "epi_bench").rglob("*") if p.is_file()}
    left_out = {p for p in files - listed if p.suffix not in {".py", ".pyc"}}
    assert not left_out


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = PYPROJECT["project"]["version"]
    assert epi_bench.__version__ == version
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == version
    assert re.findall(r"^## (\d+\.\d+\.\d+)", changes, re.MULTILINE)[0] == version


def test_the_citation_file_is_complete():
    """The keys that version 1.2.0 of the Citation File Format requires, for the paper as well."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["identifiers"][0]["value"] == "arXiv:2604.14010"
    assert all({"family-names", "given-names"} == set(author) for author in paper["authors"])


def test_every_requirement_has_a_tested_version():
    pinned = {
        _canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    }
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {_canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in wanted}
    assert names
    assert names <= pinned, names - pinned


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()
