"""DBpedia: the class of an encyclopedia entry (Zhang et al. 2015, arXiv 1509.01626)."""

from __future__ import annotations

from epi_bench import (
    ClassificationTask,
    DataSource,
    TaskCard,
    register_task,
)


@register_task("dbpedia")
class DBpedia(ClassificationTask):
    """Fourteen classes, named as in the CL benchmark."""

    labels = (
        "Company",
        "Educational Institution",
        "Artist",
        "Athlete",
        "Office Holder",
        "Mean of Transportation",
        "Building",
        "Natural Place",
        "Village",
        "Animal",
        "Plant",
        "Album",
        "Film",
        "Written Work",
    )
    row_limit = 50_000
    card = TaskCard(
        summary="The class of an encyclopedia entry, one of fourteen",
        ability="topic classification",
        scoring="choice",
        metric="acc",
        licence="CC BY-SA 3.0",
        chance=100 / 14,
        source=DataSource(
            hub_id="fancyzhx/dbpedia_14",
            config=None,
            revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
            splits={"train": "train", "test": "test"},
            files={
                "train": ("cl_benchmark/dbpedia/train.json", "CL_Benchmark/TC/dbpedia/train.json"),
                "test": ("cl_benchmark/dbpedia/test.json", "CL_Benchmark/TC/dbpedia/test.json"),
            },
        ),
    )
