"""Tasks of lm-evaluation-harness as tasks of a run: what is asked, what the score is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from epi_bench.errors import UserError
from epi_bench.spec.defaults import complete_spec
from epi_bench.task import harness_task
from epi_bench.task.harness_task import use_task_folder
from epi_bench.task.task import TASKS, create_task


def test_the_documents_are_examples(harness_folder):
    task = create_task("lm_eval:epi_words")
    examples = task.examples("test")
    assert len(examples) == 12
    assert examples[0].prompt[0]["content"] == "choose: red green"
    assert (examples[0].reference, examples[0].options) == ("green", ("blue", "green", "red"))
    assert task.name == "lm_eval:epi_words"
    written = create_task("lm_eval:epi_writes").examples("test")[3]
    assert (written.prompt[0]["content"], written.reference) == ("second: green red", "red")


def test_which_metric_is_the_score(harness_folder):
    def score(name, **options):
        return create_task(f"lm_eval:{name}", options=options).card.metric

    assert score("epi_words") == "acc_norm"
    assert score("epi_words", metric="acc") == "acc"
    assert score("epi_writes") == "exact_match,first"
    assert score("epi_writes", metric="exact_match,word") == "exact_match,word"
    with pytest.raises(UserError, match=r"unknown metric .*'acc_nrm': did you mean 'acc_norm'"):
        score("epi_words", metric="acc_nrm")
    with pytest.raises(UserError, match=r"unknown filter .*'words': did you mean 'word'"):
        score("epi_writes", metric="exact_match,words")
    with pytest.raises(UserError, match=r"no metric that is a mean .*\(word_perplexity\)"):
        score("epi_perplexity")


def test_what_cannot_be_scored_is_told(harness_folder, monkeypatch):
    # to look through all tasks of the harness takes ten seconds
    monkeypatch.setattr(
        harness_task, "_whole_manager", lambda: harness_task._manager((harness_folder,))
    )
    for name, message in (
        ("epi_word", "unknown task of lm-evaluation-harness 'epi_word': did you mean 'epi_words'"),
        ("epi_group", "is a group of lm-evaluation-harness's tasks"),
        ("epi_unsafe", "runs code that the model wrote"),
    ):
        with pytest.raises(UserError, match=message):
            create_task(f"lm_eval:{name}")
    with pytest.raises(UserError, match="num_fewshot=-1 must be at least 0"):
        create_task("lm_eval:epi_words", options={"num_fewshot": -1})
    with pytest.raises(UserError, match=r"is scored only: name it with data\.eval_tasks"):
        create_task("lm_eval:epi_words").examples("train")
    with pytest.raises(UserError, match=r"task folder .*nowhere does not exist"):
        use_task_folder(harness_folder / "nowhere")


def test_a_task_that_comes_with_the_harness_is_found_without_looking_through_all(harness_folder):
    for name in ("arc_challenge", "gsm8k", "hellaswag", "mmlu", "piqa"):
        folder = harness_task._folder_of(name)
        assert folder is not None
        assert name in harness_task._manager((folder,)).all_tasks
    assert harness_task._folder_of("no_such_task") is None


def test_everything_that_the_scores_depend_on_counts(harness_folder, tmp_path):
    def settings(name="epi_words", **options):
        return json.dumps(create_task(f"lm_eval:{name}", options=options).scoring_settings)

    different = [
        settings(),
        settings(num_fewshot=2),
        settings(num_fewshot=1),
        settings(chat_template=True),
        settings(metric="acc"),
        settings("epi_writes"),
    ]
    assert len(set(different)) == len(different)
    assert settings() == settings()
    assert str(harness_folder) not in "".join(different)


def test_it_is_never_trained():
    with pytest.raises(UserError, match=r"'lm_eval:x' is another library's.*data\.eval_tasks"):
        complete_spec({"data": {"tasks": ["lm_eval:x"]}})


def test_without_the_harness_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(harness_task, "find_spec", lambda name: None)
    monkeypatch.setattr(TASKS, "_of_libraries", {})
    with pytest.raises(UserError, match=r"pip install 'epi-bench\[lm-eval\]'"):
        TASKS.get("lm_eval:hellaswag")
    assert TASKS.knows("lm_eval:hellaswag")
    assert not TASKS.knows("lm_evil:hellaswag")


def test_it_is_imported_where_it_is_used():
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-evaluation-harness is not installed")
    code = (
        "import sys, epi_bench\nfrom epi_bench.task.task import TASKS\n"
        "TASKS.get('lm_eval:hellaswag')\nassert 'lm_eval' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
