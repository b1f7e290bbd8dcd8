"""`demo`: a small team makes videos, then the log is verified, attacked and asked. No questions, no network."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.session import Session, SessionArgument

if TYPE_CHECKING:
    from klingai_audit.cli.demo_scenes import Person
    from klingai_audit.log import AuditLog

DEFAULT_FOLDER: Final = Path("klingai-demo")


def demo(
    *,
    dir: Annotated[
        Path, Parameter(help="Folder for everything the demo makes. Default: klingai-demo")
    ] = DEFAULT_FOLDER,
    session: SessionArgument,
) -> int:
    """Watch it work: a small team makes videos, then the log is checked and attacked.

    Everything runs on this machine, against a local simulator of Kling; no account is needed. Running it again on
    the same folder goes on with the same log.
    """
    from klingai_audit.cli import trusting
    from klingai_audit.cli.showing import draw_activity
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.durable import OPS
    from klingai_audit.views.activity import activity
    from klingai_audit.views.generations import count_generations

    videos = dir / "videos"
    OPS.make_folder(videos)
    places = Session(log=str(dir / "audit"), as_json=session.as_json)
    show = _Narration(session)
    show.title("People at work, every call recorded before it is made")
    tasks = _perform(places, videos, show)

    show.title("The log, verified")
    verdict = trusting.check_log(places).to_json()
    if not session.as_json:
        trusting.draw_verdict(session, verdict)

    show.title("The log, attacked: every way to cheat that we know, each on a copy")
    drilled = trusting.drill_log(places)
    if not session.as_json:
        trusting.draw_drill(session, drilled)

    code = trusting.EXIT_BROKEN if drilled.missed or not verdict["integrity_ok"] else 0
    reader = open_reader(places.places)
    size = reader.size
    generations = count_generations(reader.entries(0, size))
    if session.as_json:
        session.emit(
            {
                "entries": size,
                "generations": generations,
                "verdict": verdict,
                "drill": drilled.to_json(),
                "places": places.places.as_json(),
            }
        )
        return code

    show.title("One person")
    from klingai_audit.cli.demo_scenes import MAKER

    draw_activity(session, activity(reader.entries(0, size), MAKER.id, subjects=open_subjects(places.places)))
    show.title("Next")
    for words, command in next_commands(dir / "audit", tasks):
        session.say((f"  # {words}", "dim"))
        session.say(f"  {command}")
    return code


def next_commands(log: Path, tasks: list[str]) -> list[tuple[str, str]]:
    """Return (what it does, command line) that work as pasted in the present folder."""
    program, where = program_name(), f"--log {shlex.quote(str(log))}"
    commands = [
        ("what was refused", f"{program} query --outcome blocked {where}"),
        ("the life of one video", f"{program} show {tasks[0]} {where}" if tasks else ""),
        ("one person's month", f"{program} activity user@example.com --days 30 {where}"),
        ("raw entries", f"{program} tail -n 3 --json {where}"),
        ("check it again, trusting only the public key", f"{program} verify --key {_beside(log)} {where}"),
    ]
    return [(words, command) for words, command in commands if command]


def program_name() -> str:
    """Return how this program is called from the present folder."""
    called = Path(sys.argv[0])
    if called.name == "klingai-audit":
        found = shutil.which("klingai-audit")
        if found is not None and Path(found).resolve() == called.resolve():
            return "klingai-audit"
        return shlex.quote(_short(called))
    return f"{shlex.quote(_short(Path(sys.executable)))} -m klingai_audit.cli"


def _short(path: Path) -> str:
    relative = os.path.relpath(path.absolute())
    return str(path.absolute()) if relative.startswith("..") else relative


def _beside(log: Path) -> str:
    return shlex.quote(str(log.with_name(log.name + ".keys") / "log.pub"))


def _perform(places: Session, videos: Path, show: _Narration) -> list[str]:
    """Open the log, let the team work, close it; returns the ids of tasks that ended well."""
    from klingai_audit.cli import demo_scenes
    from klingai_audit.log import AuditLog

    with AuditLog.open(places.log, create=True) as audit, demo_scenes.open_simulator() as server:
        show.log = audit
        stage = demo_scenes.Stage(audit, server.simulator, server.base_url, videos, show)
        show.line(f"The provider is a simulator at {server.base_url}; the log is {places.log}.")
        demo_scenes.play(stage)
        show.log = None
    return stage.tasks


class _Narration:
    """Tells people what happens, with masks instead of people; says nothing under --json."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._silent = session.as_json
        self._seen = 0
        self.log: AuditLog | None = None

    def title(self, words: str) -> None:
        if not self._silent:
            self._session.say("")
            self._session.say((words, "bold cyan"))

    def line(self, words: str) -> None:
        if not self._silent:
            self._session.say((words, "dim"))

    def scene(self, person: Person, words: str) -> None:
        if self._silent:
            return
        from klingai_audit.privacy.subjects import mask_id

        self._news()
        self._session.say((mask_id(person.id), "bold"), f" ({person.team}) {words}")

    def result(self, outcome: str, words: str) -> None:
        if self._silent:
            return
        from klingai_audit.cli.render import OUTCOME_STYLES

        self._session.say("  ", (outcome, OUTCOME_STYLES[outcome]), f": {words}")
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
            self._session.say((f"    entries {self._seen}–{size - 1}: {' → '.join(kinds)}", "dim"))
        self._seen = size
