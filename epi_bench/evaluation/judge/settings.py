"""Which judge is asked, and how often; free of heavy imports, because every start-up reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from epi_bench.errors import UserError

KEY_VARIABLE = "EPI_BENCH_JUDGE_KEY"
"""Environment variable with the key of the endpoint. It is read when the judge is opened, sent in
the ``Authorization`` header, and kept nowhere else."""

REQUESTS_PER_MINUTE = 300


@dataclass(frozen=True)
class JudgeSettings:
    """A judge as the user names it. The key is not among the fields on purpose.

    Attributes:
        url: Base address of the endpoint, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the judge model there.
        prompts: TOML file laid over the shipped prompts, or ``None``.
        requests_per_minute: Highest rate of requests of one run; 0 sets no limit.

    Raises:
        UserError: If the address is not a plain http(s) address, the name is empty or the rate is
            negative.
    """

    url: str
    model: str
    prompts: Path | None = None
    requests_per_minute: int = REQUESTS_PER_MINUTE

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port  # reading it checks it
        except ValueError as error:
            raise UserError(f"judge.url is not an address: {error}", setting="judge.url") from error
        plain = self.url.isascii() and self.url.isprintable() and " " not in self.url
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise UserError(
                "judge.url must be an address such as http://127.0.0.1:8000/v1, with http or "
                "https and a host",
                setting="judge.url",
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "judge.url must hold no name, password or query: give a key in the environment "
                f"variable {KEY_VARIABLE}",
                setting="judge.url",
            )
        if not self.model.strip():
            raise UserError(
                "judge.model is empty: name the judge model that the endpoint serves",
                setting="judge.model",
            )
        if self.requests_per_minute < 0:
            raise UserError(
                "judge.requests_per_minute must be 0 (no limit) or more",
                setting="judge.requests_per_minute",
            )

    @property
    def completions_url(self) -> str:
        """The address that requests go to."""
        base = self.url.rstrip("/")
        ending = "/chat/completions"
        return base if base.endswith(ending) else base + ending

    def shared_by(self, runs: int) -> JudgeSettings:
        """Settings for each of ``runs`` runs at a time, so that together they keep to the rate."""
        if self.requests_per_minute == 0:
            return self
        return replace(self, requests_per_minute=max(1, self.requests_per_minute // runs))


def judge_settings(
    url: str | None, model: str | None, prompts: Path | None, requests_per_minute: int | None
) -> JudgeSettings | None:
    """The judge that flags describe, or ``None`` if none of them was given.

    Raises:
        UserError: If only a part was given, or a value is not valid.
    """
    if url is not None and model is not None:
        rate = REQUESTS_PER_MINUTE if requests_per_minute is None else requests_per_minute
        return JudgeSettings(url, model, prompts, rate)
    if url is None and model is None and prompts is None and requests_per_minute is None:
        return None
    missing = [
        name for name, value in (("judge.url", url), ("judge.model", model)) if value is None
    ]
    raise UserError(
        f"a judge needs an address and a model: {' and '.join(missing)} missing", setting=missing
    )
