"""The commands and their options, as `--help` shows them, as Markdown."""

from __future__ import annotations

import importlib
import inspect
import io
import re
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console

from klingai_audit.cli.app import COMMANDS, KEY_COMMANDS, build_app
from tools.docs_pages import escape, one_line, table

__all__ = ["commands", "global_options", "help_screen"]

_ITEM = re.compile(r"  (?P<name>(?:-|[A-Z]).*?): (?P<text>.*)")
_GLOBAL = "Global options"
_NOT_OURS = ("--help, -h", "--version")


def help_screen(*command: str) -> str:
    """Return what `klingai-audit COMMAND --help` says, as plain text without boxes, one line an option."""
    app = build_app()
    app.help_formatter = "plain"
    out = io.StringIO()
    app.help_print(
        " ".join(command).split(" ") if command else [],
        console=Console(file=out, width=10_000, no_color=True, highlight=False),
    )
    return out.getvalue()


def commands() -> str:
    """Return one section for each command."""
    places = {(name,): place for name, (place, _) in COMMANDS.items()}
    places |= {("keys", name): place for name, (place, _) in KEY_COMMANDS.items()}
    return "\n\n".join(_section(command, place) for command, place in places.items())


def global_options() -> str:
    """Return the options that every command takes."""
    return table(("option", "meaning"), (cells for title, cells in _items(help_screen()) if title.startswith(_GLOBAL)))


def _section(command: tuple[str, ...], place: str) -> str:
    name = " ".join(command)
    screen = help_screen(*command)
    usage = screen.strip().partition("\n")[0].removeprefix("Usage: ")
    parts = [f"### klingai-audit {name}", f"    {usage}", _words(place)]
    items = [(title, cells) for title, cells in _items(screen) if not title.startswith(_GLOBAL)]
    for title, group in groupby(items, key=lambda item: item[0]):
        head = "argument" if title == "Arguments" else "option"
        parts.append(table((head, "meaning"), (cells for _, cells in group)))
    return "\n\n".join(parts)


def _items(screen: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (title of the group, (option, meaning)) for each item of a help screen."""
    title = ""
    for line in screen.split("\n"):
        if found := _ITEM.fullmatch(line):
            if found["name"] not in _NOT_OURS and title != "Commands":
                yield title, (f"`{found['name']}`", escape(found["text"].strip()))
        elif line.endswith(":"):
            title = line[:-1]


def _words(place: str) -> str:
    """Return the docstring of a command's function, without what it says of single parameters."""
    module, _, function = place.partition(":")
    words = inspect.getdoc(getattr(importlib.import_module(f"klingai_audit.cli.{module}"), function)) or ""
    return "\n\n".join(one_line(part) for part in words.partition("\nParameters\n")[0].split("\n\n"))
