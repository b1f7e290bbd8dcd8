"""What the demo prints while people are at work: scenes, results, and the entries that each of them left."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

from klingai_audit.cli.session import Session

if TYPE_CHECKING:
    from klingai_audit.cli.demo_stage import Person
    from klingai_audit.log import AuditLog


class Narration:
    """Tells people what happens, with masks instead of people, in lines that fit; says nothing under --json."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._silent = session.as_json
        self._seen = 0
        self.log: AuditLog | None = None

    def title(self, words: str) -> None:
        """Begin a part of the demo."""
        if not self._silent:
            self._session.say("")
            self._session.say((words, "bold cyan"))

    def draw(self, drawing: Callable[[], None]) -> None:
        """Let somebody else print."""
        if not self._silent:
            drawing()

    def line(self, words: str) -> None:
        """Say something by the way."""
        self._print(0, (words, "dim"))

    def scene(self, person: Person, words: str) -> None:
        """Say who begins what."""
        if self._silent:
            return
        from klingai_audit.privacy.subjects import mask_id

        self._news()
        self._print(0, (mask_id(person.id), "bold"), f" ({person.team}) {words}")

    def aside(self, words: str) -> None:
        """Say something that belongs to the scene."""
        self._print(4, (words, "dim"))

    def result(self, outcome: str, words: str) -> None:
        """Say how it ended, and which entries it left."""
        if self._silent:
            return
        from klingai_audit.cli.render import OUTCOME_STYLES

        self._print(2, (outcome, OUTCOME_STYLES.get(outcome, "magenta")), f": {words}")
        self._news(show=True)

    def _news(self, *, show: bool = False) -> None:
        """Name the entries that were written since the last look."""
        if self.log is None:
            return
        from klingai_audit.views.entry import EntryView

        self.log.flush("published")
        size = self.log.reader.size
        if show and size > self._seen:
            kinds = [EntryView(line).event_type for line in self.log.reader.entries(self._seen, size)]
            which = f"entries {self._seen}–{size - 1}" if size > self._seen + 1 else f"entry {self._seen}"
            self._print(4, (f"{which}: {' → '.join(told_once(kinds))}", "dim"))
        self._seen = size

    def _print(self, indent: int, *parts: str | tuple[str, str]) -> None:
        if not self._silent:
            self._session.tell(*parts, indent=indent, hanging=2)


def told_once(kinds: list[str]) -> list[str]:
    """Return event types in order, equal neighbours as one with their number: `video_downloaded ×2`."""
    runs = ((kind, len(list(same))) for kind, same in groupby(kinds))
    return [kind if count == 1 else f"{kind} ×{count}" for kind, count in runs]
