"""What a strategy may ask about the tasks of its run: scores of answers, and test prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from epi_bench.runs.examples import published_examples, select_examples
from epi_bench.task.example import Example, Prediction

if TYPE_CHECKING:
    from epi_bench.model.chat.encoded_example import EncodedExample
    from epi_bench.runs.prepared import PreparedRun, PreparedTask
    from epi_bench.strategy.hooks import Experience
    from epi_bench.task.task import Task


class KnownTasks:
    """The tasks of a run, as its strategy may use them.

    Args:
        prepared: The run.
        endings: Texts that end an answer of the model.
    """

    def __init__(self, prepared: PreparedRun, endings: Sequence[str] = ()) -> None:
        self._prepared = prepared
        self._endings = endings
        self._origins: dict[str, dict[EncodedExample, Example]] = {}

    def answer_scores(
        self, experience: Experience, answers: Sequence[tuple[int, Sequence[int]]]
    ) -> list[float]:
        """Scores, 0..100, of answers to an experience's own training examples.

        Args:
            experience: Of the run.
            answers: Position of an example, and the tokens in place of its last answer, without
                those that end a turn.
        """
        from epi_bench.evaluation.answers import AnswerReader

        reader = AnswerReader(self._prepared.encoder.tokenizer, self._endings)
        texts = [reader.read(ids)[0] for _, ids in answers]
        scores = [0.0] * len(answers)
        for name in experience.tasks:
            known = self._origins_of(name)
            asked = [
                (number, known[example])
                for number, (position, _) in enumerate(answers)
                if (example := experience.examples[position]) in known
            ]
            found = _scores(
                self._prepared.tasks[name].task,
                [example for _, example in asked],
                [texts[number] for number, _ in asked],
            )
            for (number, _), score in zip(asked, found, strict=True):
                scores[number] = score
        return scores

    def test_prompts_among(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many prompts are those of test examples of the run's tasks.

        Args:
            prompts: Token ids up to where an answer begins.
        """
        return sum(tuple(prompt) in self._test_prompts for prompt in prompts)

    @cached_property
    def _test_prompts(self) -> frozenset[tuple[int, ...]]:
        encoder = self._prepared.encoder
        return frozenset(
            encoder.prompt(example.messages).input_ids
            for scored in self._prepared.scored_tasks.values()
            for example in scored.test
        )

    def _origins_of(self, name: str) -> Mapping[EncodedExample, Example]:
        """Each training example of a task, as it is trained, and what it was made of."""
        if name not in self._origins:
            self._origins[name] = _origins(self._prepared, self._prepared.tasks[name])
        return self._origins[name]


def _origins(prepared: PreparedRun, known: PreparedTask) -> dict[EncodedExample, Example]:
    """Read again: a run that asks for no scores need not keep them."""
    task = known.task
    published = published_examples(task, ("train",))["train"]
    examples = select_examples(task, "train", prepared.spec.data.train_examples, published)
    if not known.report.unsupervised:  # none was left out
        return dict(zip(known.train, examples, strict=True))
    return {prepared.encoder.encode(example.messages): example for example in examples}


def _scores(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> Sequence[float]:
    """Of answers to one task's examples."""
    from epi_bench.evaluation.evaluator import primary_scores

    if not examples:
        return ()
    if task.card.scoring != "generate":
        pairs = zip(examples, texts, strict=True)
        given = ((e.messages[-1]["content"].strip(), text.strip()) for e, text in pairs)
        return [100.0 * (answer == text) for answer, text in given]
    predictions = [Prediction(text) for text in texts]
    return primary_scores(task, task.score_all(examples, predictions))
