"""AG News, Amazon, DBpedia and Yahoo: prompts, labels, and the same examples in each layout."""

import json

import pytest

from epi_bench import Prediction, UserError
from epi_bench.tasks.agnews import AGNews
from epi_bench.tasks.amazon import AmazonReviews
from epi_bench.tasks.dbpedia import DBpedia
from epi_bench.tasks.yahoo import YahooAnswers


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def benchmark_file(folder, name, rows):
    path = folder / "cl_benchmark" / name / "train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))
    return folder


def hub_copy(folder, repository, rows, classes=None, column="label"):
    from datasets import ClassLabel, Dataset

    data = Dataset.from_list(rows)
    if classes:
        data = data.cast_column(column, ClassLabel(names=classes))
    place = folder / repository / "data"
    place.mkdir(parents=True)
    data.to_parquet(str(place / "train-00000-of-00001.parquet"))
    return folder


def test_the_prompt_is_that_of_the_benchmark(tmp_path):
    row = {"label": "negative", "sentence": "Title: Meh\nText: It broke.\n"}
    (example,) = AmazonReviews(benchmark_file(tmp_path, "amazon", [row])).examples("train")
    assert example.messages[0]["content"] == (
        "What is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: very negative, negative, neutral, positive, very positive\n"
        "Title: Meh\nText: It broke.\nAnswer:"
    )
    assert example.messages[1]["content"] == example.reference == "negative"
    assert example.options == AmazonReviews.labels


def test_agnews_is_the_same_from_the_hub_and_from_the_benchmark(tmp_path):
    local = [
        {"label": "Science or Technology", "sentence": "Title: Up (AP)\nText:  AP - NASA #39;s\n"},
        {"label": "World", "sentence": "Title: Peace\nText: They met.\n"},
    ]
    hub = [{"text": "Up (AP) AP - NASA #39;s", "label": 3}, {"text": "Peace They met.", "label": 0}]
    classes = ["World", "Sports", "Business", "Sci/Tech"]
    ours = AGNews(benchmark_file(tmp_path / "a", "agnews", local)).examples("train")
    theirs = AGNews(hub_copy(tmp_path / "b", "fancyzhx/ag_news", hub, classes)).examples("train")
    assert ours == theirs
    assert "\nUp (AP) AP - NASA #39;s\nAnswer:" in ours[0].messages[0]["content"]


def test_dbpedia_is_the_same_from_the_hub_and_from_the_benchmark(tmp_path):
    local = [{"label": "Mean of Transportation", "sentence": "Title: USS X\nText:  A ship.\n"}]
    hub = [{"label": 5, "title": "USS X", "content": " A ship."}]
    classes = [name.replace(" ", "") for name in DBpedia.labels]
    ours = DBpedia(benchmark_file(tmp_path / "a", "dbpedia", local)).examples("train")
    theirs = DBpedia(hub_copy(tmp_path / "b", "dbpedia_14", hub, classes)).examples("train")
    assert ours == theirs
    assert ours[0].reference == "Mean of Transportation"
    assert "\nTitle: USS X\nText: A ship.\nAnswer:" in ours[0].messages[0]["content"]


def test_amazon_is_the_same_from_the_hub_and_from_the_benchmark(tmp_path):
    local = [
        {"label": "very negative", "sentence": "Title: No\nText: Bad.\n"},
        {"label": "very positive", "sentence": "Title: Yes\nText: Good.\n"},
    ]
    hub = [
        {"class_index": 1, "review_title": "No", "review_text": "Bad."},
        {"class_index": 5, "review_title": "Yes", "review_text": "Good."},
    ]
    repository = AmazonReviews.card.source.hub_id
    ours = AmazonReviews(benchmark_file(tmp_path / "a", "amazon", local)).examples("train")
    theirs = AmazonReviews(hub_copy(tmp_path / "b", repository, hub)).examples("train")
    assert ours == theirs


def test_yahoo_joins_the_question_and_its_best_answer(tmp_path):
    rows = [
        {"topic": topic, "question_title": title, "question_content": body, "best_answer": answer}
        for topic, title, body, answer in [
            (2, "Ill?", "I sneeze.", "Rest."),
            (5, "Who won?", "", "We did."),
            (5, "Who?", None, ""),
            (0, "", "", ""),
        ]
    ]
    task = YahooAnswers(hub_copy(tmp_path, "yahoo_answers_topics", rows))
    examples = task.examples("train")
    texts = [e.messages[0]["content"].partition("Government\n")[2] for e in examples]
    assert texts == [
        "Title: Ill?\nText: I sneeze. Rest.\nAnswer:",
        "Title: Who won?\nText: We did.\nAnswer:",
        "Title: Who?\nAnswer:",
    ]
    assert [e.reference for e in examples] == ["Health", "Sports", "Sports"]
    assert task.report("train").skipped == {"empty text": 1}


@pytest.mark.parametrize("label", ["Sience", 4, -1, True, 1.5])
def test_an_unknown_label_is_an_error_with_its_line(tmp_path, label):
    rows = [{"label": label, "sentence": "Title: a\nText: b"}]
    with pytest.raises(
        UserError, match=r"agnews/train\.json line 1, row 1 has label .* none of World"
    ):
        AGNews(benchmark_file(tmp_path, "agnews", rows)).examples("train")


def test_rows_without_text_or_label_are_left_out_and_counted(tmp_path):
    rows = [
        {"label": "World", "sentence": "They met."},
        *({"label": None, "sentence": "a"}, {"label": float("nan"), "sentence": "a"}),
        *({"sentence": "a"}, {"label": "World", "sentence": None}, {"label": "World"}),
    ]
    task = AGNews(benchmark_file(tmp_path, "agnews", rows))
    assert [example.meta["row"] for example in task.examples("train")] == [0]
    assert task.report("train").skipped == {"no label": 3, "empty text": 2}


def test_labels_are_read_in_any_case(tmp_path):
    rows = [{"label": " science or technology", "sentence": "no title"}]
    (example,) = AGNews(benchmark_file(tmp_path, "agnews", rows)).examples("train")
    assert example.reference == "Science or Technology"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task_type", "folder", "counts"),
    [
        (AGNews, "agnews", {"train": 4000, "test": 7600}),
        (AmazonReviews, "amazon", {"train": 5000, "test": 7600}),
        (DBpedia, "dbpedia", {"test": 7600}),
    ],
)
def test_published_rows(real_data, task_type, folder, counts):
    labels = json.loads((real_data / "cl_benchmark" / folder / "labels.json").read_text())
    assert list(task_type.labels) == labels
    task = task_type(real_data)
    for split, count in counts.items():
        examples = task.examples(split)
        assert len(examples) == count
        assert {example.reference for example in examples} == set(labels)
    example = examples[0]
    scores = tuple(float(option == example.reference) for option in example.options)
    assert task.score(example, Prediction(option_log_likelihoods=scores))["acc"] == 1


@pytest.mark.real_data
def test_a_missing_split_is_named(real_data):
    with pytest.raises(
        UserError, match=r"train split .*found only cl_benchmark/dbpedia/test\.json"
    ):
        DBpedia(real_data).examples("train")
