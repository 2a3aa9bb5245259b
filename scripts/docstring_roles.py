"""An extension of the documentation site: roles of Sphinx in docstrings become plain code.

Docstrings say ``:class:`Strategy```; the site shows Markdown, where that would stay as it is.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([^`]+)`")


class DocstringRoles(griffe.Extension):
    """Rewrites the docstring of each object that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
