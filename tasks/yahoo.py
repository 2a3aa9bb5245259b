"""Yahoo Answers: the topic of a question (Zhang et al. 2015, arXiv 1509.01626)."""

from __future__ import annotations

from epi_bench import (
    ClassificationTask,
    DataSource,
    Row,
    TaskCard,
    register_task,
)


@register_task("yahoo")
class YahooAnswers(ClassificationTask):
    """Ten topics. The text is the question's title, then its body and the best answer.

    Only the hub's layout is read.
    """

    labels = (
        "Society & Culture",
        "Science & Mathematics",
        "Health",
        "Education & Reference",
        "Computers & Internet",
        "Sports",
        "Business & Finance",
        "Entertainment & Music",
        "Family & Relationships",
        "Politics & Government",
    )
    label_fields = ("topic",)
    row_limit = 50_000
    card = TaskCard(
        summary="The topic of a question and its answer, one of ten",
        ability="topic classification",
        scoring="choice",
        metric="acc",
        licence="not stated; published for research and other non-commercial use",
        chance=10.0,
        source=DataSource(
            hub_id="community-datasets/yahoo_answers_topics",
            config=None,
            revision="6652a1e7c94f7260a0bfd0c9092dd48e2d536ea1",
            splits={"train": "train", "test": "test"},
            files={},
        ),
    )

    def row_text(self, row: Row) -> str:
        """``Title: ...`` and ``Text: ...``; a body or an answer may be missing."""
        body = [row.text("question_content"), row.text("best_answer")]
        return self.title_and_text(row.text("question_title"), " ".join(filter(None, body)))
