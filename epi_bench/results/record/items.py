"""The score of every test item, packed into one short text."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping

from epi_bench.errors import UserError
from epi_bench.results.record.part import finite_or_none
from epi_bench.results.record.strict_json import parse_json

MAX_ITEM_BYTES = 256 * 1024 * 1024
"""Item scores that unpack to more are refused, so that no file can exhaust the memory."""


def pack_items(scores: Mapping[str, float | None]) -> str:
    """Item scores as text: JSON, compressed by zlib, in base64.

    Args:
        scores: By item id, 0..100.
    """
    cleaned = {item: finite_or_none(score) for item, score in scores.items()}
    content = json.dumps(cleaned, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(content.encode(), 9)).decode("ascii")


def unpack_items(packed: str) -> dict[str, float | None]:
    """The item scores that :func:`pack_items` packed.

    Raises:
        UserError: If the text is damaged.
    """
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(base64.b64decode(packed, validate=True), MAX_ITEM_BYTES)
        if not decompressor.eof:
            raise ValueError("too long or cut off")
        scores = parse_json(content.decode())
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"packed item scores are damaged: {error}") from error
    if not isinstance(scores, dict):
        raise UserError("packed item scores are damaged: they are no JSON object")
    for item, score in scores.items():
        if not (score is None or type(score) in (int, float)):
            raise UserError(f"packed item scores are damaged: that of {item!r:.60} is no number")
    return scores
