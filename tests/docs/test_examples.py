"""Every example in the documentation runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import RUN, SHOWN, Page, commands, documentation, read_page
from tests.docs.runner import PageFailed, run_page

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = documentation(ROOT)
WITH_EXAMPLES = [path for path in PAGES if any(block.language in RUN for block in read_page(path).blocks)]

MAX_PROGRAMS = 2
"""A page of the fast suite starts no more programs than this; each takes a third of a second."""


LONG = ("docs/how-to/write-a-store.md",)
"""Pages that run whole suites of tests."""


def name(path: Path) -> str:
    """Return a page's path as the reader knows it."""
    return path.relative_to(ROOT).as_posix()


def by_length(path: Path) -> object:
    """Return a page, marked slow if it starts many programs or long ones; `make docs` and CI run all of them."""
    blocks = [block for block in read_page(path).blocks if block.language == "console"]
    many = name(path) in LONG or sum(len(list(commands(block))) for block in blocks) > MAX_PROGRAMS
    return pytest.param(path, marks=pytest.mark.slow) if many else path


@pytest.mark.parametrize("path", [by_length(path) for path in WITH_EXAMPLES], ids=name)
def test_examples_of_page_run(path: Path, tmp_path: Path) -> None:
    """The page's blocks succeed in order, in an empty folder, with the exit codes it promises."""
    page = read_page(path)
    if page.reason_not_run is None:
        assert run_page(page, ROOT, tmp_path) > 0
    else:
        assert not page.wants_simulator


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_fences_of_page_are_known(path: Path) -> None:
    """Each block is run or is plainly data: no language that would quietly not be run."""
    unknown = [(block.line, block.language) for block in read_page(path).blocks if block.language not in RUN + SHOWN]
    assert [] == unknown


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name)
def test_console_blocks_of_page_hold_commands(path: Path) -> None:
    """A console block without a `$ ` line would be shown as run and never be."""
    blocks = [block for block in read_page(path).blocks if block.language == "console"]
    assert [] == [block.line for block in blocks if not list(commands(block))]


# --- the runner itself ---------------------------------------------------------------------------------


def page(tmp_path: Path, text: str) -> Page:
    """Read a made-up page."""
    path = tmp_path / "page.md"
    path.write_text(text)
    return read_page(path)


def run(tmp_path: Path, text: str) -> int:
    """Run a made-up page."""
    folder = tmp_path / "run"
    folder.mkdir()
    return run_page(page(tmp_path, text), ROOT, folder)


def test_blocks_share_folder_names_and_variables(tmp_path: Path) -> None:
    """What one block leaves, files, variables and folder included, the next finds."""
    text = """
```python
from pathlib import Path
answer = 42
```
```console
$ echo text > note
$ export COLOUR=red
$ mkdir sub && cd sub
```
```python
assert Path("note").read_text() == "text\\n" and answer == 42
```
```console
$ test "$COLOUR" = red && test "$(basename "$PWD")" = sub
```
"""
    assert run(tmp_path, text) == 4


def test_top_level_await_runs(tmp_path: Path) -> None:
    """Asynchronous examples need no wrapper."""
    text = "```python\nimport asyncio\nassert await asyncio.sleep(0, 7) == 7\n```\n"
    assert run(tmp_path, text) == 1


@pytest.mark.parametrize(
    "block,line",
    [
        ("```python\nx = 1\nraise SystemExit(3)\n```", 3),
        ("```python\nx = (\n```", 2),
        ("```console\n$ true\n$ false\n```", 3),
        ("```console\n$ true  # exits 4\n```", 2),
        ("```console\n$ exit 3  # exits 4\n```", 2),
        ("```console\n$ make no-such-target\n```", 2),
        ("- in a list:\n\n  ```console\n  $ false\n  ```", 4),
    ],
)
def test_failing_example_fails_with_its_line(tmp_path: Path, block: str, line: int) -> None:
    """A block that fails, or does not fail as promised, is named by page and line."""
    with pytest.raises(PageFailed) as caught:
        run(tmp_path, block + "\n")
    assert f"page.md:{line}" in str(caught.value) or f'page.md", line {line}' in str(caught.value)


def test_promised_exit_codes_and_long_commands(tmp_path: Path) -> None:
    """`# exits N` is honoured, continued lines are one command, other lines are output."""
    text = """```console
$ exit 4  # exits 4
$ test a \\
    = a
some output
$ cat <<END | grep -q one
> one
> END
```
"""
    assert [command.exit_code for command in commands(page(tmp_path, text).blocks[0])] == [4, 0, 0]
    assert run(tmp_path, text) == 1


def test_commands_that_set_up_are_left_to_ci(tmp_path: Path) -> None:
    """`git clone` and `make demo` are not run inside a test, but `make` must name a target."""
    assert run(tmp_path, "```console\n$ git clone nowhere\n$ make -j2 demo PYTHON=python3\n```\n") == 1


@pytest.mark.parametrize("text", ["```python\nx = 1\n", "<!-- docs: simulater -->\n", "<!-- docs: not run: -->\n"])
def test_page_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    """An open fence, an unknown wish and an opt-out without a reason are errors."""
    with pytest.raises(ValueError):
        page(tmp_path, text)


def test_wishes_are_read(tmp_path: Path) -> None:
    """Both wishes are found, also with a reason of several words."""
    read = page(tmp_path, "<!-- docs: simulator -->\n<!-- docs: not run: needs a bucket -->\n")
    assert (read.wants_simulator, read.reason_not_run) == (True, "needs a bucket")


def test_simulator_is_there_for_pages_that_ask(tmp_path: Path) -> None:
    """A page that asks for it finds a simulator at KLINGAI_BASE_URL and its key."""
    text = """<!-- docs: simulator -->
```python
import os, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["KLINGAI_BASE_URL"] + "/v1/videos/text2video")
except urllib.error.HTTPError as error:
    assert error.code == 401, error.code
assert os.environ["KLINGAI_API_KEY"] == "sim-api-key"
```
"""
    assert run(tmp_path, text) == 1
