"""Write the page of all strategies from their classes.

python scripts/write_strategies_page.py        # after every change of a strategy's documentation

``tests/test_documentation.py`` fails where the page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from epi_bench.cli.docstrings import without_markup
from epi_bench.files import write_atomically
from epi_bench.foreign_text import markdown_code
from epi_bench.plugins.options import options_of
from epi_bench.strategy.catalogue import StrategyEntry, catalogue
from epi_bench.strategy.facts import FAMILIES, NEEDS
from epi_bench.strategy.strategy import STRATEGIES
from epi_bench.tables.fitted_table import markdown_row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "strategies.md"

HEAD = """<!-- Written by scripts/write_strategies_page.py: change strategies, not this page. -->

# Strategies

Every built-in strategy by family. `epi-bench run --strategy NAME` trains with one, `--strategy
FAMILY` with all of a family, `--strategy all` with every one there is. `epi-bench strategies list`
shows the same in a terminal. To write your own: [Write a strategy](own_strategy.md).

- **needs**: what a strategy cannot do without. {needs}
- **bytes**: what it keeps for each parameter of the model, beside model and optimizer, at most, at
  its default options and with float32 weights. `experiences` counts the finished ones, `width` is
  that of the model.
- **strength**: the one option that trades learning for keeping, and the values worth trying, from
  weak to strong.
- **known**: what is known about when it helps. Where nothing stands, nothing is. Figures of a paper
  are its authors'. What is said of the embedded suite is from the [published board](findings.md).
"""


def strategies_page() -> str:
    """The page: for each family a table, and then what each strategy says about itself."""
    builtin = {n: STRATEGIES.get(n) for n in STRATEGIES.names() if STRATEGIES.is_builtin(n)}
    needs = "; ".join(f"*{need}*: {text}" for need, text in NEEDS.items())
    parts = [HEAD.format(needs=f"{needs}.")]
    for family, entries in catalogue(builtin).items():
        means = FAMILIES[family]
        parts.append(f"## {family.capitalize()}\n\n{means[0].upper()}{means[1:]}.\n")
        parts.append(_table(entries))
        parts += [_section(entry) for entry in entries]
    return "\n".join(parts)


def _table(entries: list[StrategyEntry]) -> str:
    lines = [
        markdown_row(["strategy", "what it does", "needs", "bytes", "strength"]),
        markdown_row(["---"] * 5),
    ]
    for entry in entries:
        summary = (inspect.getdoc(entry.strategy) or "").split("\n", 1)[0]
        lines.append(
            markdown_row(
                [
                    f"[`{entry.name}`](#{entry.name})",
                    _code(re.sub(r" \([^()]*arXiv[^()]*\)", "", summary)),
                    ", ".join(entry.needs) or "–",
                    markdown_code(entry.bytes_per_parameter.replace(" * ", " × ")),
                    markdown_code(entry.trade_off.option) if entry.trade_off else "–",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _section(entry: StrategyEntry) -> str:
    """What a strategy says about itself, its facts, and its options."""
    text = (inspect.getdoc(entry.strategy) or "").split("\nArgs:", 1)[0].rstrip()
    facts = []
    if entry.acts_from:
        facts.append(f"- **acts** from experience {entry.acts_from + 1} on")
    if entry.trade_off:
        values = ", ".join(f"{value:g}" for value in entry.trade_off.values)
        facts.append(f"- **strength**: `{entry.trade_off.option}`, from weak to strong {values}")
    if entry.evidence:
        facts.append(f"- **known**: {_code(entry.evidence)}")
    rows = [
        markdown_row(
            [
                markdown_code(option.name),
                markdown_code(str(option.default)),
                _code(option.description).replace("|", "&#124;"),
            ]
        )
        for option in options_of(entry.strategy).values()
    ]
    table = [markdown_row(["option", "default", "meaning"]), markdown_row(["---"] * 3), *rows]
    return "\n".join(
        [
            f"### {entry.name}\n",
            _code(_unindented(text)) + "\n",
            *([*facts, ""] if facts else []),
            *([*table, ""] if rows else []),
        ]
    )


def _unindented(text: str) -> str:
    """Formulas that stand by themselves as paragraphs: an indented one would be a code block."""
    return re.sub(r"(?m)^ {4}(?=\S)(?!\s*\d\.)", "", text)


def _code(text: str) -> str:
    """A docstring's literals as code, papers as links, other markup as text."""
    parts = re.split(r"(``.+?``)", text, flags=re.DOTALL)
    shown = [
        f"`{' '.join(part[2:-2].split())}`"
        if part.startswith("``")
        else _linked(without_markup(part))
        for part in parts
    ]
    return "".join(shown)


def _linked(text: str) -> str:
    escaped = text.replace("<", "&lt;").replace("_", r"\_")
    return re.sub(r"arXiv\s+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", escaped)


if __name__ == "__main__":
    write_atomically(PAGE, strategies_page())
