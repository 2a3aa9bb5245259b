"""What a judge is asked, from a TOML file, and the score in what it answers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from epi_bench.files import shipped_file
from epi_bench.model.chat.drafts import without_drafts
from epi_bench.spec.defaults import overlay
from epi_bench.spec.explain import explain_validation
from epi_bench.spec.toml import read_toml
from epi_bench.task.example import Example, Message

BEST_SCORE = 10.0
"""Upper end of the scale; the lower end is 0."""

LONGEST_VERDICT = 20_000
"""Characters at the end of a verdict in which the score is looked for."""

PLACEHOLDERS = frozenset({"question", "reference", "answer"})

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _checked_pattern(pattern: str) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if "score" not in compiled.groupindex:
        raise ValueError("needs a group named 'score', such as (?P<score>\\d+)")
    return pattern


class JudgePrompt(BaseModel):
    """The messages for one kind of task; the placeholders are those of the shipped file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    user: str

    @model_validator(mode="after")
    def _placeholders_fit(self) -> Self:
        found = set(_PLACEHOLDER.findall(self.user))
        unknown, missing = found - PLACEHOLDERS, {"question", "answer"} - found
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
            raise ValueError(f"user has an unknown {{{min(unknown)}}}: choose from {known}")
        if missing:
            raise ValueError(f"user lacks {{{min(missing)}}}")
        return self


class JudgePrompts(BaseModel):
    """All prompts and how their answers are read.

    Attributes:
        answer_tokens: Longest verdict, in tokens.
        score_patterns: Regular expressions with a group ``score``, tried in order.
        reminder: Said once where a verdict holds no score.
        prompts: By the ability on a task's card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer_tokens: int = Field(ge=1)
    score_patterns: tuple[Annotated[str, AfterValidator(_checked_pattern)], ...] = Field(
        min_length=1
    )
    reminder: str
    prompts: dict[str, JudgePrompt]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything above: equal fingerprints, equal questions."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def messages(self, kind: str, example: Example, answer: str) -> list[Message]:
        """The conversation that asks for one grade.

        Args:
            kind: A key of :attr:`prompts`.
            example: What the model was asked, with the reference.
            answer: What it wrote.
        """
        prompt = self.prompts[kind]
        values = {
            "question": conversation_text(example.prompt),
            "reference": example.reference,
            "answer": answer,
        }
        # One pass, so that braces in the texts themselves are left alone.
        user = _PLACEHOLDER.sub(lambda match: values[match[1]], prompt.user)
        return [
            {"role": "system", "content": prompt.system.strip()},
            {"role": "user", "content": user.strip()},
        ]

    def score_in(self, verdict: str) -> float | None:
        """The score from 0 to 10 that a verdict gives, or ``None`` if it gives none.

        Drafts are not looked at. The last match of the first pattern that matches counts.
        """
        text = without_drafts(verdict)[-LONGEST_VERDICT:]
        for pattern in self.score_patterns:
            found = [match["score"] for match in re.finditer(pattern, text)]
            if found:
                return _on_scale(found[-1])
        return None


def load_prompts(path: Path | None = None) -> JudgePrompts:
    """The shipped prompts, with those of a file laid over them.

    Args:
        path: TOML file with any of the shipped file's settings, or ``None``.

    Raises:
        UserError: If the file cannot be read or a setting is not valid; both are named.
    """
    shipped = read_toml(shipped_file("judge_prompts.toml"))
    values = overlay(shipped, read_toml(path)) if path else shipped
    try:
        return JudgePrompts.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, JudgePrompts, f"judge prompts in {path}: ") from error


def conversation_text(messages: tuple[Message, ...]) -> str:
    """A conversation as one text: the bare question, or each turn under its role."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def _on_scale(number: str | None) -> float | None:
    try:
        score = float((number or "").replace(",", "."))
    except ValueError:
        return None
    return score if 0 <= score <= BEST_SCORE else None
