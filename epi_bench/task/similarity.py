"""How alike the questions of tasks are, measured on their words alone: no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epi_bench.errors import UserError
from epi_bench.task.example import Example


def prompt_text(example: Example) -> str:
    """What the user asks in an example, all turns of it."""
    return "\n".join(m["content"] for m in example.prompt if m["role"] == "user")


def prompt_similarity(prompts: Mapping[str, Sequence[str]]) -> list[list[float]]:
    """Cosines between tasks' mean TF-IDF vectors.

    Each prompt is a document: its words count by how often they occur in it and how few prompts of
    all tasks have them (scikit-learn's ``TfidfVectorizer``, words in lower case). A task's vector
    is the mean over its prompts. Languages that write no spaces between words are not divided.

    Args:
        prompts: For each task the texts of its training prompts; not empty.

    Returns:
        A symmetric matrix in the order of ``prompts``: 1 where the words occur in the same
        proportions (the diagonal), 0 where no word is shared.

    Raises:
        UserError: If the prompts of a task hold no word.

    >>> same, other = prompt_similarity({"first": ["red one"], "second": ["red one", "two"]})
    >>> round(same[0], 6), same[1] == other[0], same[1] < 1
    (1.0, True, True)
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    texts = [text for listed in prompts.values() for text in listed]
    try:
        vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    except ValueError as error:  # an empty vocabulary
        raise UserError(f"no task of {', '.join(prompts)} has a word in its prompts") from error
    ends = np.cumsum([len(listed) for listed in prompts.values()])
    means = np.stack(
        [
            np.asarray(vectors[end - len(listed) : end].mean(axis=0)).ravel()
            for end, listed in zip(ends, prompts.values(), strict=True)
        ]
    )
    for name, mean in zip(prompts, means, strict=True):
        if not mean.any():
            raise UserError(f"the prompts of task {name!r} hold no word")
    units = normalize(means)
    cosines: list[list[float]] = np.clip(units @ units.T, 0.0, 1.0).tolist()
    return cosines
