"""What every command gets: the global options, and the ways to print.

For people: one console on stdout, one for remarks on stderr, never interpreting markup in what comes from a log.
For programs (`--json`): JSON on stdout, nothing else there.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from klingai_audit.config import Places
    from klingai_audit.log import AuditLog


PIPE_WIDTH: Final = 200
"""Columns of output that does not go to a terminal (unless COLUMNS says otherwise)."""


@dataclass(frozen=True)
class Session:
    """The global options of one command line, and its output."""

    log: str | None = None
    keys: str | None = None
    state: str | None = None
    subjects: str | None = None
    as_json: bool = False
    vault: str | None = None

    @functools.cached_property
    def places(self) -> Places:
        """Where log, keys, subjects, state and vault are: options, then environment, then defaults."""
        from klingai_audit.config import Places

        return Places.resolve(self.log, keys=self.keys, state=self.state, subjects=self.subjects, vault=self.vault)

    @functools.cached_property
    def console(self) -> Console:
        """Standard output for people."""
        return _console(sys.stdout)

    @functools.cached_property
    def remarks(self) -> Console:
        """Standard error for people."""
        return _console(sys.stderr)

    def say(self, *parts: str | Text | tuple[str, str]) -> None:
        """Print one line for people; parts are plain text, styled text or (text, style). Never wrapped."""
        from rich.text import Text

        self.console.print(Text.assemble(*parts), soft_wrap=True)

    def tell(self, *parts: str | Text | tuple[str, str], indent: int = 0, hanging: int = 0) -> None:
        """Print a passage for people, broken between words to the width of the screen; parts as in `say`.

        It begins `indent` columns in, its further lines `hanging` columns more.
        """
        from rich.text import Text

        width = max(20, self.console.width - indent - hanging)
        for number, line in enumerate(Text.assemble(*parts).wrap(self.console, width)):
            line.rstrip()
            self.say(" " * (indent + hanging * (number > 0)), line)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or another drawing for people."""
        self.console.print(renderable)

    def remark(self, text: str, **members: Any) -> None:
        """Print a remark on stderr: `text` for people, `members` as one JSON object for programs."""
        if self.as_json:
            write_json(sys.stderr, members)
            return
        from rich.text import Text

        self.remarks.print(Text(text, style="dim"), soft_wrap=True)

    def flush(self) -> None:
        """Hand what was printed to whoever reads it."""
        sys.stdout.flush()

    def emit(self, members: dict[str, Any]) -> None:
        """Print one JSON object on stdout."""
        write_json(sys.stdout, members)

    def emit_line(self, line: bytes) -> None:
        """Print stored bytes unchanged as one line on stdout."""
        sys.stdout.buffer.write(line + b"\n")


def open_log(
    session: Session, *, create: bool = False, origin: str | None = None, post_quantum: bool = False
) -> AuditLog:
    """Open the session's log for writing. Raises: as `AuditLog.open`."""
    from klingai_audit.log import AuditLog

    places = session.places
    return AuditLog.open(
        places.address,
        keys=places.keys,
        state=places.state,
        subjects=places.subjects,
        vault=places.vault,
        create=create,
        origin=origin,
        post_quantum=post_quantum,
    )


SessionArgument = Annotated[Session, Parameter(parse=False)]
"""The annotation by which a command asks for its session."""


def escaped(text: str) -> str:
    """Return `text` with what UTF-8 cannot carry, such as bytes of a file name in another encoding, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    if isinstance(value, str | os.PathLike):
        return escaped(os.fspath(value))
    return value


def write_json(stream: TextIO, members: dict[str, Any]) -> None:
    """Write one JSON object and LF to a text stream; never raises for a character the stream cannot encode."""
    import msgspec

    try:
        data = msgspec.json.encode(members) + b"\n"
    except UnicodeEncodeError:
        data = msgspec.json.encode(_escaped(members)) + b"\n"
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode())
    else:
        stream.flush()
        buffer.write(data)
        buffer.flush()


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class Piped(Console):
        """A console that leaves a closed pipe to `cli.run`, like all other output."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Piped(file=stream, highlight=False, markup=False, emoji=False, width=width)
