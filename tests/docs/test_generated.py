"""The generated parts of the documentation are current, and what they leave to people is complete."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit import errors
from klingai_audit.cli.app import COMMANDS, KEY_COMMANDS
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.trust.verdict import FINDING_KINDS
from tests.docs.pages import documentation, read_page
from tools import docs_api, docs_events, docs_pages, docs_policy, docs_reference
from tools.docs_cli import help_screen

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = list(docs_reference.pages())
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))}
FAILS = (ROOT / "docs" / "when-it-fails.md").read_text(encoding="utf-8")
"""The page of symptoms."""


def name(path: Path) -> str:
    """Return a page's path as the reader knows it."""
    return path.relative_to(ROOT).as_posix()


# --- generated parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page_is_current(path: Path) -> None:
    """The page says what the code says; if not: python -m tools.docs_reference."""
    assert docs_reference.current(path) == path.read_text(encoding="utf-8")


def test_copies_are_current() -> None:
    """What the package carries of the documentation is the documentation."""
    stale = [
        page for page, copy in docs_reference.COPIES.items() if (ROOT / page).read_bytes() != (ROOT / copy).read_bytes()
    ]
    assert [] == stale


def test_every_part_stands_on_one_page() -> None:
    """Nothing that can be generated is left out, and nothing stands twice."""
    placed = [part for path in PAGES for part in docs_pages.sections_of(path.read_text(encoding="utf-8"))]
    assert sorted(docs_reference.PARTS) == sorted(placed)


def test_stale_page_is_noticed(tmp_path: Path) -> None:
    """A changed byte between the marks is put right, one outside is not touched."""
    path = tmp_path / "page.md"
    text = "before\n\n<!-- generated: event-aliases -->\n\nold\n\n<!-- end of event-aliases -->\n\nafter\n"
    path.write_text(text)
    made = docs_reference.current(path)
    assert "old" not in made
    assert made.startswith("before\n\n<!-- generated")
    assert made.endswith("-->\n\nafter\n")
    path.write_text(made)
    assert made == docs_reference.current(path)


@pytest.mark.parametrize(
    "text", ["<!-- generated: no-such-part -->\n<!-- end of no-such-part -->\n", "<!-- generated: x -->\n"]
)
def test_part_that_nothing_makes_is_refused(text: str) -> None:
    """A misspelt name and an open end are errors."""
    with pytest.raises(ValueError):
        docs_pages.fill(text, {"x": "y"})


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), *(("keys", name) for name in KEY_COMMANDS)])
def test_every_option_is_on_the_page(command: tuple[str, ...]) -> None:
    """The section of a command names each option that its help names."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"### klingai-audit {' '.join(command)}\n")[2].partition("\n### ")[0]
    everywhere = page.partition("## Global options")[2].partition("\n## ")[0]
    options = set(re.findall(r"--[a-z][a-z-]+", help_screen(*command))) - {"--help", "--version"}
    assert options == options & set(re.findall(r"--[a-z][a-z-]+", section + everywhere))


def written(event_type: str) -> bool:
    """Whether some module that is no reader writes a type, by its name or as one of a family."""
    readers = {"trust", "views", "exports", "report", "index", "detect", "standalone"}
    code = "\n".join(
        text
        for path, text in SOURCES.items()
        if path.name not in {"types.py", "demo_scenes.py", "ocsf_rules.py"} and path.parent.name not in readers
    )
    family = re.fullmatch(
        r"(?:video|image|audio)(_generation_|_)(started|completed|failed|downloaded|deleted)", event_type
    )
    made = family is not None and f"}}{family[1]}{{" in code and f"'{family[2]}'" in code
    named = f'"{event_type}"' in code or f"EventType.{event_type.upper()}" in code
    return named or made or (family is not None and f'}}{family[1]}{family[2]}"' in code)


def test_types_that_nothing_writes_are_named_truly() -> None:
    """What events.md calls unwritten is not written: when something begins to write it, the page must change."""
    unwritten = (*docs_events.LATER, *docs_events.CALLERS)
    assert [] == [name for name in unwritten if written(name)]
    assert set(unwritten) <= set(EVENT_TYPES)


def test_types_that_something_writes_are_named_truly() -> None:
    """Of every other type some module writes at least one entry."""
    assert [] == [
        name for name in EVENT_TYPES if name not in docs_events.LATER + docs_events.CALLERS and not written(name)
    ]


def test_hidden_names_exist() -> None:
    """What the page of the library leaves out is there to be left out."""
    shown = {place.partition(":")[2]: place.partition(":")[0] for part in docs_api.PUBLIC.values() for place in part}
    for owner, members in docs_api.HIDDEN.items():
        found = getattr(__import__(shown[owner], fromlist=[owner]), owner)
        known = {*dir(found), *getattr(found, "__annotations__", {})}
        assert [] == [member for member in members if member not in known]
    assert set() == docs_api.CALLED - set(shown)


def imported() -> Iterator[tuple[str, str]]:
    """Yield module and name of everything of this package that the examples of the documentation import."""
    for path in documentation(ROOT):
        for block in read_page(path).blocks:
            for node in ast.walk(ast.parse(block.code)) if block.language == "python" else ():
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("klingai_audit"):
                    yield from ((node.module or "", alias.name) for alias in node.names)


def test_names_of_the_examples_are_on_the_page_of_the_library() -> None:
    """What an example imports has a section; exceptions are in the tree, event types on their page, constants none."""
    places = {place for part in docs_api.PUBLIC.values() for place in part}
    shown = {place.partition(":")[2] for place in places} | {error.__name__ for error in exceptions()}
    assert {"EventType"} == {name for _, name in imported() if not name.isupper()} - shown


@pytest.mark.parametrize("module", ["klingai_audit.capture.web", "klingai_audit.capture.instrument"])
def test_modules_for_services_are_shown(module: str) -> None:
    """The middleware for web services and what `instrument` returns are documented, methods and parameters included."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for place in (place for part in docs_api.PUBLIC.values() for place in part if place.startswith(f"{module}:")):
        assert f"### {place.partition(':')[2]}\n" in page
    for name in ("ActingASGI", "ActingWSGI", "signed_in", "Instrumentation", "Instrumentation.undo"):
        assert re.search(rf"^###+ {name}$", page, re.MULTILINE)
    for parameter in ("trusted_proxies", "correlation_headers"):
        assert parameter in page


def test_policy_tables_are_those_of_the_file() -> None:
    """The page knows every table that the default file has."""
    assert re.findall(r"^\[(\w+)\]", docs_policy.default_file(), re.MULTILINE) == list(docs_policy.TABLES)


# --- when it fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FINDING_KINDS)
def test_finding_has_its_place(kind: str) -> None:
    """Each finding is named in the section that its page anchor leads to."""
    page = FINDING_KINDS[kind].page
    assert page in read_page(ROOT / "docs" / "when-it-fails.md").anchors
    assert f"`{kind}`" in section(page)


def section(anchor: str) -> str:
    """Return the section of the page that has an anchor."""
    for part in re.split(r"^## ", FAILS, flags=re.MULTILINE)[1:]:
        heading = part.partition("\n")[0].lower().replace(" ", "-")
        if re.sub(r"[^\w-]", "", heading) == anchor:
            return part
    return ""


def exceptions() -> Iterator[type[errors.KlingAuditError]]:
    """Yield every exception class of the package."""
    import klingai_audit.kling.errors
    import klingai_audit.ledger.store

    for module in (errors, klingai_audit.kling.errors, klingai_audit.ledger.store):
        for item in vars(module).values():
            if (
                inspect.isclass(item)
                and issubclass(item, errors.KlingAuditError)
                and item.__module__ == module.__name__
            ):
                yield item


@pytest.mark.parametrize("error", sorted({error.__name__ for error in exceptions()}))
def test_every_exception_is_covered(error: str) -> None:
    """The page of symptoms tells of each exception class."""
    assert f"`{error}`" in FAILS


def templates() -> set[str]:
    """Return the texts of the source, what is formatted into them as `…`."""
    found = set()
    for text in SOURCES.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def quoted() -> list[str]:
    """Return the messages that the page quotes: lines of text blocks that begin as the command line does."""
    blocks = (block.code for block in read_page(ROOT / "docs" / "when-it-fails.md").blocks if block.language == "text")
    lines = (line for code in blocks for line in code.split("\n"))
    return [line.removeprefix("klingai-audit: ") for line in lines if line.startswith("klingai-audit: ")]


def test_quoted_messages_are_those_of_the_code() -> None:
    """A reader who searches for a message finds it: each quotation is a text of the source."""
    known = templates()
    assert [] == [message for message in quoted() if message not in known]
    assert len(quoted()) > 20
