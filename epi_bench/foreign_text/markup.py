"""Foreign text in Markdown and HTML: no character of it is markup."""

from __future__ import annotations

import html
import re

from epi_bench.foreign_text.terminal import for_terminal

_ACTIVE = re.compile(
    r"""
    [\\*`\[\]|<>&~${@]              # markup wherever it stands; $ and { on some sites
    | (?<!\w)_++ | _++(?![^\W_])    # an underscore within a word is only an underscore
    | (?i:(?<=http)|(?<=https)|(?<=ftp)|(?<=mailto)|(?<=xmpp)):     # becomes a link by itself
    | (?i:(?<=www))\.
    | ^[\#=] | ^-(?=[-\s]|$) | ^\+(?=\s|$) | ^:(?=-)                # headings, lists, tables
    | ^\d{1,9}[.)](?=\s|$)
    | ^\s+ | \s+\Z
    """,
    re.VERBOSE,
)
"""Characters of a line that Markdown could read as markup (CommonMark, and GitHub's additions)."""

_WITH_BACKSLASH = frozenset("\\*`[]_#=-+.)")
"""What every Markdown takes for itself after a backslash; of others the number is written."""


def for_markdown(text: str) -> str:
    r"""Text as one line of Markdown that shows it literally, also within a cell of a table.

    Plain names stay as they are, so that the source can be read.

    >>> for_markdown("full_sft <b>*new*</b> | x")
    'full_sft &lt;b&gt;\\*new\\*&lt;/b&gt; &#124; x'
    """
    return _ACTIVE.sub(lambda found: "".join(map(_literal, found[0])), for_terminal(text))


def markdown_code(text: str) -> str:
    """Text as code in Markdown, or as plain text where it holds what code in a table cannot.

    >>> markdown_code("epi (ratio=0.3)")
    '`epi (ratio=0.3)`'
    """
    shown = for_terminal(text)
    fits = shown == shown.strip() != "" and not any(sign in shown for sign in "`|\\")
    return f"`{shown}`" if fits else for_markdown(shown)


def for_html(text: str, *, several_lines: bool = False) -> str:
    """Text for an element or an attribute of HTML, with the same characters written out.

    Args:
        text: Of whatever origin.
        several_lines: As :func:`~epi_bench.foreign_text.for_terminal`.

    >>> for_html('<a href="x">')
    '&lt;a href=&quot;x&quot;&gt;'
    """
    return html.escape(for_terminal(text, several_lines=several_lines), quote=True)


def _literal(sign: str) -> str:
    if sign.isalnum():  # of the number before a list's item
        return sign
    if sign in _WITH_BACKSLASH:
        return f"\\{sign}"
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign, f"&#{ord(sign)};")
