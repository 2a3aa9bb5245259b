"""AG News: the topic of a news item (Zhang et al. 2015, arXiv 1509.01626)."""

from __future__ import annotations

from epi_bench import (
    ClassificationTask,
    DataSource,
    Row,
    TaskCard,
    register_task,
)


@register_task("agnews")
class AGNews(ClassificationTask):
    """Four topics.

    The hub writes title and text in one line; the CL benchmark's files are brought into that form.
    """

    labels = ("World", "Sports", "Business", "Science or Technology")
    card = TaskCard(
        summary="The topic of a news item, one of four",
        ability="topic classification",
        scoring="choice",
        metric="acc",
        licence="not stated; published for research and other non-commercial use",
        chance=25.0,
        source=DataSource(
            hub_id="fancyzhx/ag_news",
            config=None,
            revision="eb185aade064a813bc0b7f42de02595523103ca4",
            splits={"train": "train", "test": "test"},
            files={
                "train": ("cl_benchmark/agnews/train.json", "CL_Benchmark/TC/agnews/train.json"),
                "test": ("cl_benchmark/agnews/test.json", "CL_Benchmark/TC/agnews/test.json"),
            },
        ),
    )

    def row_text(self, row: Row) -> str:
        """Title and text, with one blank between them."""
        if row.has_column("sentence"):
            return " ".join(part for part in self.split_sentence(row) if part)
        return row.text("text")
