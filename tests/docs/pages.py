"""Reads documentation pages: their code blocks, what they ask of the runner, their links and headings.

A page may say, in HTML comments of their own line:
    docs: simulator            a local Kling simulator runs while its blocks do
    docs: postgres             so does a PostgreSQL server, which PGHOST and so on name; `psql` is there
    docs: bucket               so does an S3 server, with a bucket that AUDIT_BUCKET names
    docs: not run: <reason>    none of its blocks is run
Blocks fenced as `python` and `console` are run; `text`, `json` and other data are shown only.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN = ("python", "console")
SHOWN = (
    "text",
    "json",
    "jsonl",
    "toml",
    "yaml",
    "ini",
    "http",
    "diff",
    "sql",
    "go",
    "mermaid",
    "markdown",
    "c",
    "gitignore",
)
"""Other fence words are refused: `sh` would be a command nobody runs, a misspelt `pyhton` too."""

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<ticks>`{3,}|~{3,})[ \t]*(?P<info>.*)")
_WISH = re.compile(r"\s*<!--\s*docs:\s*(.*?)\s*-->\s*")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*")
_LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s]*)?)>?(?:\s+\"[^\"]*\")?\s*\)"
)
_REFERENCE = re.compile(r"[ ]{0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s+\"[^\"]*\")?\s*")
_HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]*)\"")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `line` is the 1-based line of its first line of code."""

    language: str
    code: str
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """One shell command of a console block and the exit code that the page promises (0 unless `# exits N`)."""

    script: str
    exit_code: int
    line: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page, read."""

    path: Path
    blocks: tuple[Block, ...]
    wishes: tuple[str, ...]
    links: tuple[tuple[int, str], ...]
    anchors: frozenset[str]

    @property
    def wants_simulator(self) -> bool:
        return "simulator" in self.wishes

    @property
    def wants_postgres(self) -> bool:
        return "postgres" in self.wishes

    @property
    def wants_bucket(self) -> bool:
        return "bucket" in self.wishes

    @property
    def reason_not_run(self) -> str | None:
        return next(
            (wish.removeprefix("not run:").strip() for wish in self.wishes if wish.startswith("not run:")), None
        )


def documentation(root: Path) -> list[Path]:
    """Return every page of the repository: those at its root and below docs/."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def read_page(path: Path) -> Page:
    """Read one page; raises ValueError for an unclosed fence or a wish that is not understood."""
    blocks: list[Block] = []
    wishes: list[str] = []
    prose: list[tuple[int, str]] = []
    fence: re.Match[str] | None = None
    code: list[str] = []
    begin = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        found = _FENCE.fullmatch(line)
        if fence is None:
            if found:
                fence, code, begin = found, [], number + 1
            elif wish := _WISH.fullmatch(line):
                wishes.append(_wish(path, number, wish.group(1)))
            else:
                prose.append((number, line))
        elif found and not found["info"] and found["ticks"].startswith(fence["ticks"]):
            language = fence["info"].split(" ")[0]
            blocks.append(Block(language, textwrap.dedent("\n".join(code)) + "\n", begin))
            fence = None
        else:
            code.append(line)
    if fence is not None:
        message = f"{path}:{begin - 1}: this fence is never closed"
        raise ValueError(message)
    return Page(path, tuple(blocks), tuple(wishes), tuple(_links(prose)), frozenset(_anchors(prose)))


def _wish(path: Path, number: int, wish: str) -> str:
    if wish in ("simulator", "postgres", "bucket") or re.fullmatch(r"not run: ?\S.*", wish):
        return wish
    message = f"{path}:{number}: not understood: docs: {wish}"
    raise ValueError(message)


def _links(prose: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in prose:
        text = re.sub(r"`[^`]*`", "``", line)
        if reference := _REFERENCE.fullmatch(text):
            yield number, reference.group(1)
        for pattern in (_LINK, _HTML_LINK):
            yield from ((number, match.group(1)) for match in pattern.finditer(text))


def _anchors(prose: list[tuple[int, str]]) -> Iterator[str]:
    """Yield heading anchors as code hosts derive them, numbered where they repeat."""
    seen: dict[str, int] = {}
    for _, line in prose:
        yield from re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line)
        if not (heading := _HEADING.fullmatch(line)):
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(2)).lower()
        slug = re.sub(r"[^\w\- ]", "", words.replace("`", "")).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        yield f"{slug}-{count}" if count else slug


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block: `$ ` starts one, `> ` continues it, other lines are output."""
    lines: list[str] = []
    begin = block.line
    for number, line in enumerate([*block.code.split("\n"), ""], block.line):
        continued = bool(lines) and (line.startswith("> ") or lines[-1].endswith("\\"))
        if continued:
            lines.append(line.removeprefix("> "))
            continue
        if lines:
            yield _command(lines, begin)
            lines = []
        if line.startswith("$ "):
            lines, begin = [line[2:]], number


def _command(lines: list[str], begin: int) -> Command:
    script = "\n".join(lines)
    exits = re.search(r"\s#\s*exits ([0-9]+)\s*$", script)
    return Command(script, int(exits.group(1)) if exits else 0, begin)
