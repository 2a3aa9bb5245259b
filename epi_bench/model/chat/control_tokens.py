"""Control tokens: what a template may write and data may not.

A vocabulary has tokens that stand for something other than words: the end of a turn, a role, a
thought, a tool call. A tokenizer finds them by their text, so a message that merely shows
``<|im_end|>`` would end its turn. Here data stays text: for tokenising, the marks that the template
writes are given private names, and a copy of the tokenizer knows them by these names only. The copy
has no token with the text ``<|im_end|>``, so no message can make one; everything else about it is
the same. A name is as long as the text it stands for, so character positions are kept.

Texts without the text of a control token never come here: they are tokenised as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epi_bench.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Offsets = Sequence[tuple[int, int]]

_MARK = re.compile(r"[<\[{].*[>\]}]", re.DOTALL)

_MARKUP = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|"
    r"table|tbody|td|tfoot|th|thead|tr|u|ul)/?>"
)
"""HTML tags: some vocabularies (Gemma's) hold them as added tokens, and they are ordinary text."""

_PRIVATE = range(0x100000, 0x10FFFE)
"""A plane of Unicode without characters; names are made of code points that the data lacks."""


class ControlTokens:
    """The control tokens of a tokenizer.

    These are its special tokens, and those added tokens that are written like a mark (in brackets:
    ``<think>``, ``<tool_call>``). Other added tokens are ordinary text: runs of spaces, HTML tags,
    words of a field.

    Args:
        tokenizer: A fast tokenizer.

    Attributes:
        ids: Their token ids.
        pattern: Matches the text of one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        control = {
            token.content: int(position)
            for position, token in tokenizer.added_tokens_decoder.items()
            if _is_control(token.content, token.special)
        }
        self.ids = frozenset(control.values())
        self._texts = sorted(control)
        self.pattern = re.compile(_longest_of(self._texts) if control else r"(?!)")
        self._normalizer: Any = (
            self._backend.normalizer
            if any(token.normalized for token in tokenizer.added_tokens_decoder.values())
            else None
        )
        self._alphabet = sorted({character for text in control for character in text})
        self._renamed: dict[int, _RenamedTokenizer] = {}

    def are_in(self, text: str) -> bool:
        """Whether tokenising ``text`` as it is could make a control token."""
        if self.pattern.search(text):
            return True
        if self._normalizer is None:
            return False
        return bool(self.pattern.search(self._normalizer.normalize_str(text)))

    def disguise(self, texts: Iterable[str]) -> Disguise:
        """Private characters for data that holds control tokens.

        Raises:
            UserError: If the texts leave no private characters.
        """
        taken = {ord(character) for text in texts for character in text}
        names = len(self._texts)
        size = names + len(self._alphabet)
        for base in range(_PRIVATE.start, _PRIVATE.stop - size, size):
            if not any(base <= character < base + size for character in taken):
                break
        else:
            raise UserError("a conversation holds characters of all of Unicode's private plane 16")
        if base not in self._renamed:
            private = {text: chr(base + n) * len(text) for n, text in enumerate(self._texts)}
            self._renamed[base] = _RenamedTokenizer(self._backend, private)
        hidden = {
            ord(character): base + names + position
            for position, character in enumerate(self._alphabet)
        }
        return Disguise(self, hidden, self._renamed[base])

    def find(self, text: str) -> list[tuple[int, str]]:
        """Where tokenising ``text`` as it is makes control tokens, and their texts."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        found = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.ids and (match := self.pattern.search(text, start, end)):
                found.append((match.start(), match.group()))
        return found

    def encode_data(self, text: str) -> list[int] | None:
        """Token ids of a text that is data throughout; ``None`` where it holds no control token."""
        if not self.are_in(text):
            return None
        return self.disguise([text]).tokenizer.encode(text)[0]


class Disguise:
    """Tells, for some texts, the control tokens that the template writes from those in the data.

    Args:
        control_tokens: What to look for.
        hidden: Character of a control token's text -> private character for it in data.
        tokenizer: Knows control tokens by private names.
    """

    def __init__(
        self,
        control_tokens: ControlTokens,
        hidden: Mapping[int, int],
        tokenizer: _RenamedTokenizer,
    ) -> None:
        self._control_tokens = control_tokens
        self._hidden = dict(hidden)
        self._shown = {private: character for character, private in hidden.items()}
        self.tokenizer = tokenizer

    def hide(self, data: str) -> str:
        """``data`` in which no control token is to be found; as long as before."""
        pattern = self._control_tokens.pattern
        return pattern.sub(lambda match: match.group().translate(self._hidden), data)

    def show(self, text: str) -> str:
        """A rendered conversation of hidden data as the model reads it."""
        return text.translate(self._shown)

    def name_marks(self, text: str) -> str:
        """A rendered conversation of hidden data as :attr:`tokenizer` takes it."""
        pieces = []
        cursor = 0
        for start, mark in self._control_tokens.find(text):
            pieces += [text[cursor:start], self.tokenizer.names[mark]]
            cursor = start + len(mark)
        return self.show("".join([*pieces, text[cursor:]]))


@dataclass(frozen=True, slots=True)
class _Copy:
    """A tokenizer and, where they differ, the ids that its tokens have in the original."""

    tokenizer: Tokenizer
    original_ids: Mapping[int, int]


class _RenamedTokenizer:
    """A copy of a tokenizer in which control tokens have other texts.

    Args:
        backend: The tokenizer.
        names: Text of a control token -> its name, of the same length.
    """

    def __init__(self, backend: Tokenizer, names: Mapping[str, str]) -> None:
        self.names = names
        self._copy = _rename(backend, names)

    def encode(self, text: str) -> tuple[list[int], Offsets]:
        """Token ids and character ranges of a text whose marks are named."""
        encoding = self._copy.tokenizer.encode(text, add_special_tokens=False)
        original = self._copy.original_ids
        return [original.get(token, token) for token in encoding.ids], encoding.offsets


def _rename(backend: Tokenizer, names: Mapping[str, str]) -> _Copy:
    from tokenizers import Tokenizer

    source = json.loads(backend.to_str())
    source["truncation"] = source["padding"] = None
    _rename_in_vocabulary(source["model"], names)
    original = {}
    for token in source["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
        original[token["content"]] = token["id"]
    copy = Tokenizer.from_str(json.dumps(source))
    found = {copy.token_to_id(content): identity for content, identity in original.items()}
    return _Copy(copy, {new: old for new, old in found.items() if new is not None and new != old})


def _rename_in_vocabulary(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Most vocabularies hold their special tokens too, and some models could find them there."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [
            pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])
        ]


def _is_control(text: str, special: bool) -> bool:
    if not text.strip():
        return False
    return special or bool(_MARK.fullmatch(text) and not _MARKUP.fullmatch(text))


def _longest_of(texts: Sequence[str]) -> str:
    """A regular expression for the longest of some texts; some vocabularies have thousands."""
    tails: dict[str, list[str]] = {}
    for text in texts:
        if text:
            tails.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(first) + _longest_of(rest) for first, rest in tails.items()]
    if not branches:
        return ""
    either = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{either})?" if "" in texts else either
