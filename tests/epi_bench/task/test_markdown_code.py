"""Code in a Markdown text, by where it stands."""

from epi_bench.task.markdown_code import FencedBlock, fenced_blocks, unfenced_code, without_blocks

TEXT = """Use `len`:

```python
def f(x):
    return len(x)
```

~~~
f([])
~~~

or

    indented()
"""


def test_blocks_between_fences_are_found_with_what_the_fence_says():
    first, second = fenced_blocks(TEXT)
    assert first == FencedBlock("python", "def f(x):\n    return len(x)\n")
    assert second == FencedBlock("", "f([])\n")
    assert [first.marked, second.marked] == [True, False]


def test_the_usual_spellings_mark_a_block_as_python():
    marked = [FencedBlock(info, "").marked for info in ("py", "Python3", "{.python}", "ipython")]
    assert marked == [True] * 4
    assert not any(FencedBlock(info, "").marked for info in ("", "c", "javascript", "text py"))


def test_without_its_blocks_a_text_keeps_its_lines():
    rest = without_blocks(TEXT).split("\n")
    assert rest == ["Use `len`:", *[""] * 10, "or", "", "    indented()", ""]


def test_other_code_is_indented_or_within_a_line():
    assert unfenced_code(TEXT) == ["len", "indented()\n"]
