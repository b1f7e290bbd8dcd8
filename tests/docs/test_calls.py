"""The page's table of calls is whole and true: each row of the catalogue × each ending, performed, leaves what it says.

What is expected is read from the page. What happens is an exchange built here, run through a real recorder; nothing
is asked of the generator.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.capture.attempt import Mark
from klingai_audit.capture.facts import Exchange, Media, Operation, RequestFacts, Sight
from klingai_audit.capture.recorder import Recorder
from klingai_audit.kling import endpoints
from klingai_audit.kling.catalogue import ROWS, Match, Row
from klingai_audit.kling.errors import CODES
from klingai_audit.kling.meaning import PROVIDER
from tests.unit.capture.doubles import MemorySink

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "https://api-singapore.klingai.com"
TASK = "831045678901234567"
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
FILES = {"video": "mp4", "image": "png", "audio": "mp3"}
PRODUCTS = (*FILES, "voice", "element")
GENERIC = {
    "Fetching a result": (endpoints.DOWNLOAD, "GET", "https://cdn.klingai.com/{file}"),
    "Deleting a fetched file": (endpoints.DELETE_FILE, "DELETE", "file:///tmp/{file}"),
    "A callback with a good signature": (endpoints.CALLBACK, "POST", ""),
    "A callback without a good signature": (endpoints.CLAIM, "POST", ""),
    "Any other call that may change something": (endpoints.UNKNOWN_WRITE, "POST", f"{HOST}/v1/new/things"),
    "Any other deletion": (endpoints.UNKNOWN_DELETE, "DELETE", f"{HOST}/v1/new/things/{TASK}"),
    "Any other read": (endpoints.UNKNOWN_READ, "GET", f"{HOST}/v1/new/things"),
}
UNSENT = {"Deleting a fetched file", "A callback with a good signature", "A callback without a good signature"}
"""Sections of what is no request to Kling, so that neither codes nor broken answers can end it."""

NET = {
    "nothing; the request was not sent": {"error": "ConnectError", "sent": False},
    "nothing; the request was sent": {"error": "ReadTimeout"},
}
BROKEN = {
    "an answer that breaks off": {"status": 200, "error": "ReadError"},
    "an answer that is not Kling's (a proxy's page, HTTP 502)": {"status": 502, "body": b"<h1>Bad Gateway</h1>"},
    "HTTP 401 or 403 without a code": {"status": 403, "body": b""},
    "HTTP 429 without a code": {"status": 429, "body": b""},
    "another HTTP 4xx without a code": {"status": 404, "body": b""},
}
FIRST_SEEN = {
    "a task that was accepted": "submitted",
    "a task that has succeeded at once": "succeeded",
    "a task that has failed at once": "failed",
    "a running task that this process does not know": "processing",
}
SEEN = {
    "a task in another state than last seen": "processing",
    "a task that succeeded": "succeeded",
    "a task that failed": "failed",
    "a task that is still running": "processing",
}


@dataclass(frozen=True)
class Section:
    """One section of the page: its calls by product, its text before the table, and column → ending → cell."""

    title: str
    calls: dict[str, list[str]]
    before: str
    cells: dict[str, dict[str, str]]

    def cell(self, product: str | None, words: str) -> str:
        """Return what the page says of an ending for a product (`account` and None have the column that there is)."""
        if len(self.cells) == 1:
            (column,) = self.cells.values()
            return column[words]
        names = ("–", "product not known") if product is None else (product,)
        (found,) = [
            column for head, column in self.cells.items() if set(names) & set(head.partition(" (`")[0].split(", "))
        ]
        return found[words]


def sections() -> list[Section]:
    """Read the generated part of the page."""
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    text = page.partition("<!-- generated: event-acts -->")[2].partition("<!-- end of event-acts -->")[0]
    return [_section(part) for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]]


def _section(text: str) -> Section:
    title, _, rest = text.partition("\n")
    head, _, tail = rest.partition("Before: ")
    before, _, table = tail.partition("\n")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.split("\n") if "|" in line]
    names, lines = rows[0], rows[2:]
    cells = {
        name: {words: line[place] for line in lines for words in line[0].split("<br>")}
        for place, name in enumerate(names)
        if place
    }
    listed = [line.strip("|").split(" | ") for line in head.split("\n") if line.startswith("|")][2:]
    calls = {product.strip(): re.findall(r"`([^`]+)`", paths) for product, paths in listed}
    return Section(title, calls, before.strip(), cells)


SECTIONS = {section.title: section for section in sections()}


def known(section: Section) -> dict[str, dict[str, Any]]:
    """Return every ending that a section has to have, apart from those with a task, by its words on the page."""
    if section.title in UNSENT:
        return {}
    if section.title == "Fetching a result":
        return dict(NET)
    codes = {words: {"code": number} for words, number in _codes(section).items()}
    return {**NET, **BROKEN, **codes}


def _codes(section: Section) -> dict[str, int]:
    """Return the words of each line of codes with the last number that it names."""
    words = [word for column in section.cells.values() for word in column if word.startswith("code ")]
    return {word: _numbers(word)[-1] for word in words}


def _numbers(words: str) -> list[int]:
    """Return the codes that `code 1000–1004, 1103 (…)` names."""
    runs = [part.split("–") for part in words.removeprefix("code ").partition(" (")[0].split(", ")]
    return [number for run in runs for number in range(int(run[0]), int(run[-1]) + 1)]


def envelope(data: object = None, code: int = 0) -> bytes:
    """Return an envelope of Kling's."""
    return json.dumps({"code": code, "message": "m", "request_id": "r-1", "data": data}).encode()


def answer(row: Row, status: str) -> dict[str, Any]:
    """Return the end of an exchange that shows a task."""
    if row.generation == "legacy" or row in (endpoints.CALLBACK, endpoints.CLAIM):
        task = {"task_id": TASK, "task_status": "succeed" if status == "succeeded" else status}
    else:
        task = {"id": TASK, "status": status}
    if row in (endpoints.CALLBACK, endpoints.CLAIM):
        return {"body": json.dumps(task).encode()}
    data = {"tasks": [task], "page": {"result": [task], "count": 1}}.get(row.reply, task)
    return {"status": 200, "body": envelope(data)}


def ending(row: Row, words: str) -> dict[str, Any]:
    """Return the exchange that some words of the page speak of."""
    media = {"sha256": "0" * 64, "bytes": 9}
    others = {
        "the file, whole": {"status": 200, "media": Media(**media)},
        "a part of the file": {"status": 200, "media": Media(**media, complete=False), "error": "ReadError"},
        "a refusal (HTTP 403, 404 …)": {"status": 404},
        "the file is gone": {},
        "the file is still there": {"error": "PermissionError"},
        "something that names no task": {"body": b"[]"},
        "any answer of Kling that is no error": {"status": 200, "body": envelope({"thing": 1})},
        "an answer of Kling that is no error and names no task": {
            "status": 200, "body": envelope([] if row.reply == "tasks" else {}),
        },
        "the result, or any other answer of Kling that is no error": {
            "status": 200, "body": envelope({"final_unit_deduction": "0.05", "session_id": "s"}),
        },
    }  # fmt: skip
    status = FIRST_SEEN.get(words) or SEEN.get(words)
    return answer(row, status) if status else {**NET, **BROKEN, **others}[words]


def perform(row: Row, how: dict[str, Any], *, product: str | None, seen: bool, request: RequestFacts) -> MemorySink:
    """Run one exchange through a recorder, as transports do."""
    sink = MemorySink()
    recorder = Recorder(sink, PROVIDER)
    if seen:
        note = {"product": product} if product in PRODUCTS else {}
        sight = Sight(thing=TASK, correlation_id="c", state="submitted", opens=True, note=note)
        recorder.memory.observe(sight, None, NOON, poll=False, all_reads=False)
    operation = None
    if row in (endpoints.DELETE_FILE, endpoints.CALLBACK, endpoints.CLAIM):
        operation = Operation(name=row.action, kind=row.kind, row=Match(row, row.action))
    attempt = recorder.begin(request, operation, Mark(extra={"sha256": "0" * 64}) if operation else None)
    assert attempt is not None
    assert attempt.operation.row.row is row
    attempt.finished(Exchange(request=attempt.request, **how))
    recorder.close()
    return sink


def request_of(row: Row, method: str, url: str, body: bytes = b"{}") -> RequestFacts:
    """Return a request of a row."""
    url = url.replace("{model}", "kling-9").replace("{id}", TASK)
    url += f"?task_ids={TASK}" if row is endpoints.TASKS_BY_ID else ""
    headers = {"authorization": "Bearer key-of-alice"} if url.startswith(HOST) else {}
    return RequestFacts(method=method, url=url, body=body, headers=headers)


def cases() -> list[Any]:
    """Return each section with each of its rows and each product that the page tells apart there."""
    found = []
    by_name = {f"{row.method} {row.path}": row for row in ROWS}
    for section in SECTIONS.values():
        if section.title in GENERIC:
            row, method, url = GENERIC[section.title]
            if row.reply == "file":
                products: tuple[str | None, ...] = tuple(FILES)
            else:
                products = (*PRODUCTS, None) if row in (endpoints.CALLBACK, endpoints.CLAIM) else (None,)
            found += [(section, row, method, url.replace("{file}", f"a.{FILES.get(p or '')}"), p) for p in products]
        for listed, names in section.calls.items():
            for name in names:
                row = by_name[name]
                open_ended = listed == "–" and row.kind == "read"
                products = (*PRODUCTS, None) if open_ended else (None if listed == "–" else listed,)
                found += [(section, row, row.method, HOST + row.path, product) for product in products]
    return [
        pytest.param(*case, id=f"{case[0].title}: {case[1].method} {case[1].path} {case[4] or ''}".strip())
        for case in found
    ]


def test_every_row_stands_on_the_page_once() -> None:
    """The calls of all sections are the rows of the catalogue, each with its product."""
    listed = sorted(
        (name, product) for part in SECTIONS.values() for product, names in part.calls.items() for name in names
    )
    assert listed == sorted((f"{row.method} {row.path}", row.product or "–") for row in ROWS)
    assert set(GENERIC) == {title for title, section in SECTIONS.items() if not section.calls}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_ending_stands_in_every_section(title: str) -> None:
    """No section leaves out a way to end that it can have, and each code of Kling is in one line."""
    section = SECTIONS[title]
    words = {word for column in section.cells.values() for word in column}
    assert set(known(section)) <= words
    numbers = sorted(number for word in words if word.startswith("code ") for number in _numbers(word))
    assert numbers == ([] if title in UNSENT or title == "Fetching a result" else sorted(CODES))


@pytest.mark.parametrize("section,row,method,url,product", cases())
def test_what_happens_is_what_the_page_says(
    section: Section, row: Row, method: str, url: str, product: str | None
) -> None:
    """The intent, and after each ending the entries, in their order."""
    request = request_of(row, method, url)
    for words in [word for column in section.cells.values() for word in column]:
        ways = [ending(row, words)] if not words.startswith("code ") else [
            {"status": CODES[number].http_status, "body": envelope(code=number)} for number in _numbers(words)
        ]  # fmt: skip
        said = re.findall(r"`([^`]+)` (\w+)", section.cell(product, words).replace("…", product or "…"))
        for how in ways:
            sink = perform(row, how, product=product, seen=words not in FIRST_SEEN, request=request)
            intents = [draft for draft in sink.drafts if draft.metadata.get("phase") == "intent"]
            told = [
                (str(draft.event_type), draft.outcome)
                for draft in sink.drafts
                if draft not in intents and str(draft.event_type) != "api_key_used"
            ]
            assert told == said, words
            assert announced(section, intents, product), words


def announced(section: Section, intents: list[Any], product: str | None) -> bool:
    """Whether what stands before a call, without a prompt in it, is what the page says."""
    named = re.findall(r"`([^`]+)` (success|unknown)", section.before.replace("…", product or "…"))
    if section.before == "no entry.":
        return intents == []
    (draft,) = intents
    due = f"due in {draft.metadata['deadline_s']:,} s."
    return (str(draft.event_type), draft.outcome) == named[-1] and section.before.endswith(due)


@pytest.mark.parametrize("title", [title for title, part in SECTIONS.items() if "prompt_submitted" in part.before])
def test_a_prompt_is_announced_as_one(title: str) -> None:
    """A request with a prompt or a text to speak is `prompt_submitted` in some row of each section that says so."""
    body = json.dumps({"prompt": "a lake", "text": "a lake"}).encode()
    seen = set()
    for case in cases():
        section, row, method, url, product = case.values
        if section.title == title:
            sink = perform(row, {"error": "x"}, product=product, seen=False, request=request_of(row, method, url, body))
            draft = sink.drafts[0]
            words = {"prompt", "text"} & set(draft.metadata)
            assert (str(draft.event_type) == "prompt_submitted") is bool(words), row.path
            seen.add(str(draft.event_type))
    assert "prompt_submitted" in seen


def test_the_same_answer_again_is_no_entry() -> None:
    """What the page says of reads: the same answer to the same question in a row is one entry."""
    sink = MemorySink()
    recorder = Recorder(sink, PROVIDER)
    for _ in range(3):
        request = RequestFacts(method="GET", url=f"{HOST}/v1/general/presets-voices")
        attempt = recorder.begin(request)
        assert attempt is not None
        attempt.finished(Exchange(request=attempt.request, status=200, body=envelope([{"voice_id": "1"}])))
    assert sink.story == [("resource_read", "success")]
