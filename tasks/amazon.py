"""Amazon reviews: how satisfied a buyer is (Zhang et al. 2015, arXiv 1509.01626)."""

from __future__ import annotations

from epi_bench import (
    ClassificationTask,
    DataSource,
    TaskCard,
    register_task,
)


@register_task("amazon")
class AmazonReviews(ClassificationTask):
    """Five degrees, from one star to five.

    The hub has no copy by the authors; the one that is named here counts the stars from 1.
    """

    labels = ("very negative", "negative", "neutral", "positive", "very positive")
    first_label = 1
    instruction = "What is the sentiment of the following paragraph?"
    label_fields = ("label", "class_index")
    title_fields = ("review_title",)
    content_fields = ("review_text",)
    row_limit = 50_000
    card = TaskCard(
        summary="The sentiment of a product review, one of five degrees",
        ability="sentiment",
        scoring="choice",
        metric="acc",
        licence="not stated; published for research",
        chance=20.0,
        source=DataSource(
            hub_id="yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes",
            config=None,
            revision="main",
            splits={"train": "train", "test": "test"},
            files={
                "train": ("cl_benchmark/amazon/train.json", "CL_Benchmark/SC/amazon/train.json"),
                "test": ("cl_benchmark/amazon/test.json", "CL_Benchmark/SC/amazon/test.json"),
            },
        ),
    )
