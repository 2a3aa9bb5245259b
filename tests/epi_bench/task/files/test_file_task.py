"""Tasks made of task files: which rows make examples, which are left out, which are refused."""

import json

import pytest

from epi_bench.errors import UserError
from epi_bench.task.files.file_task import load_task_file
from epi_bench.task.files.validation import validate_task_file

pytestmark = pytest.mark.usefixtures("forgotten_tasks")

ASKED = 'prompt = "{{ q }}"\nanswer = "{{ a }}"'
GOOD = [{"q": f"question {n}", "a": f"answer {n}"} for n in range(8)]
SCORED = 'mode = "teacher_forced"'


@pytest.fixture
def task_file(tmp_path):
    """Writes a task file and its rows, and returns its path."""

    def write(rows, example=ASKED, scoring=SCORED, source="", name="rows.jsonl", columns=""):
        text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text, encoding="utf-8")
        path = tmp_path / "task.toml"
        path.write_text(
            f'name = "described"\n[source]\ntrain = "{name}"\ntest_every = 2\n{source}\n'
            f"[example]\n{example}\n[scoring]\n{scoring}\n[columns]\n{columns}\n"
        )
        return path

    return write


def read(path):
    """Answers by prompt, and the reasons why rows were left out."""
    task = load_task_file(path)()
    examples = [e for split in ("train", "test") for e in task.examples(split)]
    skipped = {**task.report("train").skipped, **task.report("test").skipped}
    return {e.messages[-2]["content"]: e.messages[-1]["content"] for e in examples}, skipped


def problem(path):
    """The one line that a run is refused with; the validation says the same."""
    with pytest.raises(UserError) as caught:
        read(path)
    told = str(caught.value)
    assert "\n" not in told
    assert told in validate_task_file(path).problems
    return told.replace(f"{path.parent}/", "")


class TestMissing:
    ROWS = (*GOOD, {"q": "x", "a": None}, {"q": "y"}, {"q": "z", "a": float("nan")}, {"a": "none"})

    @pytest.mark.parametrize(
        "answer", ["{{ a }}", "{{ a | trim }}", "{{ row.a }}", "{{ row['a'] }}"]
    )
    def test_the_row_is_left_out_and_counted_by_its_reason(self, task_file, answer):
        path = task_file(self.ROWS, f'prompt = "Q: {{{{ q }}}}"\nanswer = "{answer}"')
        answers, skipped = read(path)
        assert answers == {f"Q: {row['q']}": row["a"] for row in GOOD}
        name = "row.a" if "row" in answer else "a"
        assert skipped == {f"no value for {name!r}": 3, "no value for 'q'": 1}
        warnings = validate_task_file(path).warnings
        assert any(f"rows left out: no value for {name!r}" in warning for warning in warnings)

    def test_or_it_is_an_error(self, task_file):
        path = task_file(self.ROWS, source='on_missing = "error"')
        assert problem(path) == (
            "rows.jsonl line 9 makes no example: no value for 'a' "
            "(on_missing is 'error' in task.toml line 5)"
        )

    def test_an_empty_text_makes_no_example_either(self, task_file):
        rows = "q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in GOOD) + "x,\n,y\nz,None\n"
        answers, skipped = read(task_file(rows, name="rows.csv"))
        assert answers == {row["q"]: row["a"] for row in GOOD} | {"z": "None"}
        assert skipped == {"empty answer": 1, "empty prompt": 1}

    def test_a_label_is_not_no_because_nobody_knows(self, task_file):
        rows = [{"q": f"q{n}", "good": (True, False, None)[n % 3]} for n in range(9)]
        path = task_file(rows, "prompt = \"{{ q }}\"\nanswer = \"{{ 'yes' if good else 'no' }}\"")
        answers, skipped = read(path)
        assert answers == {f"q{n}": ("yes", "no")[n % 3] for n in range(9) if n % 3 < 2}
        assert skipped == {"no value for 'good'": 3}

    def test_a_column_may_be_optional(self, task_file):
        rows = [{**row, "note": None if n % 2 else "n"} for n, row in enumerate(GOOD)]
        example = 'prompt = "{{ q }}{% if note %} ({{ note }}){% endif %}"\nanswer = "{{ a }}"'
        answers, skipped = read(task_file([*rows, {"q": "x", "a": "y"}], example))
        assert skipped == {}
        assert {"question 0 (n)", "question 1", "x"} < set(answers)

    def test_conversations_with_a_missing_message_are_left_out(self, task_file):
        def chat(*contents):
            roles = ("user", "assistant")
            return [{"role": roles[n % 2], "content": c} for n, c in enumerate(contents)]

        rows = [{"chat": chat(f"u{n}", f"a{n}")} for n in range(6)]
        rows += [{"chat": chat("x", None)}, {"chat": None}, {"id": 1}, {"chat": []}]
        rows += [{"chat": [{"from": "human", "value": None}, {"from": "gpt", "value": "x"}]}]
        rows += [{"chat": [*chat("x"), None]}]
        answers, skipped = read(task_file(rows, 'messages = "chat"'))
        assert len(answers) == 6
        assert skipped == {
            "no value for 'content' of a message": 2,
            "no value for 'chat'": 2,
            "roles do not alternate from user to assistant": 1,
            "empty message": 1,
        }


class TestOptions:
    LISTED = f'{ASKED}\noptions = "o"'

    def test_a_row_with_an_empty_or_missing_option_is_left_out(self, task_file):
        rows = [{"q": f"q{n}", "a": "a", "o": ["a", "b"]} for n in range(6)]
        rows += [{"q": "x", "a": "a", "o": o} for o in (["a", ""], ["a", None], None, ["a", "a"])]
        rows += [{"q": "x", "a": "a", "o": []}]
        answers, skipped = read(task_file(rows, self.LISTED, 'mode = "choice"'))
        assert len(answers) == 6
        assert skipped == {
            "empty option": 1, "no value for an option in 'o'": 1, "no value for 'o'": 1,
            "fewer than two different options": 2,
        }  # fmt: skip

    def test_what_is_no_list_of_options_is_refused(self, task_file):
        rows = [{"q": "q", "a": "a", "o": ["a", "b"]}, {"q": "x", "a": "a", "o": "ab"}]
        path = task_file(rows, self.LISTED, 'mode = "choice"')
        assert "line 2 has no list of options in column 'o' but 'ab'" in problem(path)
        rows[1]["o"] = ["a", ["b"]]
        path = task_file(rows, self.LISTED, 'mode = "choice"')
        assert "line 2 has an option that is no text but ['b']" in problem(path)

    @pytest.mark.parametrize("given", [1, 1.0, "1", "01", "1.0"])
    def test_a_position_counts_as_its_number(self, task_file, given):
        example = f'{ASKED}\noptions = ["no", "yes"]\nanswer_form = "index"'
        rows = [{"q": f"q{n}", "a": 0} for n in range(6)] + [{"q": "x", "a": given}]
        assert read(task_file(rows, example, 'mode = "choice"'))[0]["x"] == "yes"

    @pytest.mark.parametrize("given", [2, 1.5, "0000002", -1, "one", True, "1e0"])
    def test_what_is_no_position_is_refused(self, task_file, given):
        example = f'{ASKED}\noptions = ["no", "yes"]\nanswer_form = "index"'
        rows = [{"q": f"q{n}", "a": 0} for n in range(6)] + [{"q": "x", "a": given}]
        assert "line 7 has the answer" in problem(task_file(rows, example, 'mode = "choice"'))


class TestColumns:
    def test_a_list_that_is_a_text_in_some_rows_is_refused(self, task_file):
        rows = [{**row, "tags": ["a", "b"]} for row in GOOD]
        rows[5]["tags"] = "abc"
        example = 'prompt = "{{ q }}: {{ tags | join(\', \') }}"\nanswer = "{{ a }}"'
        assert problem(task_file(rows, example)) == (
            "rows.jsonl line 6 has a single value in column 'tags' ('abc'), where rows.jsonl line "
            "1 has a list"
        )

    def test_unless_no_template_looks_at_it(self, task_file):
        rows = [{**row, "tags": "abc" if n else ["a"]} for n, row in enumerate(GOOD)]
        assert len(read(task_file(rows))[0]) == 8
        assert "has a single value in column 'tags'" in problem(
            task_file(rows, 'prompt = "{{ row.q }}"\nanswer = "{{ a }}"')
        )

    def test_a_wrong_name_is_told_once_with_its_line(self, task_file):
        path = task_file(GOOD, 'prompt = "{{ x }}"\nanswer = "{{ a }}"', columns='x = "qq"')
        told = (
            "task.toml line 12: there is no column 'qq' (did you mean 'q'?); the columns are q, a"
        )
        assert problem(path) == told
        assert len(validate_task_file(path).problems) == 1

    def test_a_column_that_only_later_rows_have_exists(self, task_file):
        path = task_file([{"q": "first"}, *GOOD], columns='x = "a"')
        assert read(path)[1] == {"no value for 'a'": 1}

    def test_control_characters_in_names_are_shown_as_escapes(self, task_file):
        names = ["\x1b[31mq", *(f"c{n}" for n in range(60))]
        told = problem(task_file([dict.fromkeys(names, "x")]))
        assert "the columns are '\\x1b[31mq', c0, c1" in told
        assert told.endswith("c48, 11 more")

    def test_rows_under_a_key_are_seen_for_what_they_are(self, task_file):
        told = problem(task_file(json.dumps({"data": GOOD}), name="rows.json"))
        assert "the columns are data (are the rows the list in 'data'?" in told

    @pytest.mark.parametrize("name", ["row", "options"])
    def test_names_that_templates_need_are_taken(self, task_file, name):
        with pytest.raises(UserError, match=f"'{name}' means something else in templates"):
            load_task_file(task_file(GOOD, columns=f'{name} = "q"'))


class TestComparisons:
    STARS = "q,stars\n" + "".join(f"q{n},{n % 5 + 1}\n" for n in range(20))

    def example(self, condition):
        return f"prompt = \"{{{{ q }}}}\"\nanswer = \"{{{{ 'top' if {condition} else 'low' }}}}\""

    def test_a_text_compared_with_a_number_is_refused(self, task_file):
        path = task_file(self.STARS, self.example("stars == 5"), name="stars.csv")
        assert "stars.csv line 2 does not fit the template of answer" in problem(path)

    @pytest.mark.parametrize("condition", ["stars == '5'", "stars | int == 5", "stars|float > 4"])
    def test_what_is_compared_by_type_is_right(self, task_file, condition):
        path = task_file(self.STARS, self.example(condition), name="stars.csv")
        answers, _ = read(path)
        assert answers == {f"q{n}": "top" if n % 5 == 4 else "low" for n in range(20)}
        assert validate_task_file(path).warnings == []

    def test_one_answer_for_all_rows_is_worth_a_warning(self, task_file):
        path = task_file(self.STARS, self.example("stars == '5.0'"), name="stars.csv")
        assert validate_task_file(path).warnings == ["every example has the same answer: 'low'"]

    def test_or_for_all_rows_of_a_split(self, task_file, tmp_path):
        (tmp_path / "test.csv").write_text("q,stars\n" + "".join(f"t{n},5\n" for n in range(5)))
        source = 'test = "test.csv"'
        path = task_file(self.STARS, self.example("stars == '5'"), SCORED, source, "stars.csv")
        (warning,) = validate_task_file(path).warnings
        assert warning == "every test example has the same answer: 'top'"


class TestBrokenText:
    def test_half_a_surrogate_pair_is_refused_by_both_commands(self, task_file):
        path = task_file([*GOOD, {"q": "x \ud800", "a": "y"}])
        assert "rows.jsonl line 9: no Unicode text: \\ud800 is half of a pair" in problem(path)

    @pytest.mark.parametrize("text", ["x = 1" + "0" * 5000, "x = " + "[" * 20_000, "x", "x = '\0'"])
    def test_a_task_file_that_is_no_toml_is_one_line(self, tmp_path, text):
        path = tmp_path / "task.toml"
        path.write_text(text)
        with pytest.raises(UserError, match=r"is not a TOML file: [^\n]*$"):
            load_task_file(path)

    def test_a_byte_order_mark_before_the_toml_is_no_defect(self, task_file):
        path = task_file(GOOD)
        path.write_text("\ufeff" + path.read_text())
        assert len(read(path)[0]) == 8


def test_a_run_warns_of_one_answer_and_counts_rows_left_out(task_file, toy_model):
    from epi_bench.runs.preparation import prepare_run
    from epi_bench.spec.defaults import complete_spec
    from epi_bench.task.files.file_task import register_task_file

    rows = [{"q": f"q{n}", "a": "x" if n else None} for n in range(9)]
    register_task_file(task_file(rows))
    spec = complete_spec(
        {
            "model": {"name": str(toy_model)},
            "strategy": {"name": "full_sft"},
            "data": {"tasks": ["described"]},
            "training": {"steps": 1},
        }
    )
    warnings = prepare_run(spec).warnings
    assert "task 'described': every example has the same answer: 'x'" in warnings
    assert any("train rows left out: no value for 'a'" in warning for warning in warnings)
