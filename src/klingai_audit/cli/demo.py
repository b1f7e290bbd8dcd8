"""`demo`: a small team makes videos, then the log is verified, attacked and asked. No questions, no network."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.config import open_reader, open_subjects
from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.cli.demo_scenes import Person
    from klingai_audit.log import AuditLog

DEFAULT_FOLDER: Final = Path("klingai-demo")


def demo(
    *,
    dir: Annotated[
        Path, Parameter(help="Folder for everything the demo makes. Default: klingai-demo")
    ] = DEFAULT_FOLDER,
    keep: Annotated[bool, Parameter(help="Leave one attacked copy in <dir>/attacked, to look at.")] = False,
    session: SessionArgument,
) -> int:
    """Watch it work: a small team makes videos, then the log is checked and attacked.

    Everything runs on this machine, against a local simulator of Kling; no account is needed. Running it again on
    the same folder goes on with the same log.
    """
    from klingai_audit.cli import trusting
    from klingai_audit.durable import OPS
    from klingai_audit.views.generations import count_generations

    stage = _session_in(dir, session)
    OPS.make_folder(dir / "videos")
    show = _Narration(session)
    show.title("People at work, every call recorded before it is made")
    tasks = _perform(stage, dir / "videos", show)
    show.title("The log, verified")
    verdict = trusting.check_log(stage).to_json()
    show.draw(lambda: trusting.draw_verdict(session, verdict))
    show.title("The log, attacked: every way to cheat that we know, each on a copy")
    drilled = trusting.drill_log(stage)
    show.draw(lambda: trusting.draw_drill(session, drilled))
    attacked = _keep_attacked(stage, dir / "attacked") if keep else None
    show.draw(lambda: _ending(session, stage, tasks, attacked))
    if session.as_json:
        reader = open_reader(stage.places)
        size = reader.size
        session.emit(
            {
                "entries": size,
                "generations": count_generations(reader.entries(0, size)),
                "verdict": verdict,
                "drill": drilled.to_json(),
                "places": stage.places.as_json(),
            }
        )
    return trusting.EXIT_BROKEN if drilled.missed or not verdict["integrity_ok"] else 0


def next_commands(log: Path, tasks: list[str], mask: str, attacked: Path | None) -> list[tuple[str, str]]:
    """Return (what it does, command line) that work as pasted in the present folder; `mask` names one person."""
    program, where = program_name(), f"--log {shlex.quote(str(log))}"
    key = shlex.quote(str(log.with_name(log.name + ".keys") / "log.pub"))
    commands = [
        ("what was refused", f"{program} query --outcome blocked {where}"),
        ("one person's month, by mask (the real id works too)", f"{program} activity {shlex.quote(mask)} {where}"),
        ("raw entries", f"{program} tail -n 3 --json {where}"),
        ("check it again, trusting only the public key", f"{program} verify --key {key} {where}"),
    ]
    if tasks:
        commands.insert(1, ("the life of one video", f"{program} show {tasks[0]} {where}"))
    if attacked is not None:
        spoiled = f"{program} verify --key {key} --log {shlex.quote(str(attacked))}"
        commands.append(("the copy with one flipped bit (exits 4)", spoiled))
    return commands


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


def _session_in(folder: Path, session: Session) -> Session:
    """Return a session whose places all lie in the demo's folder, whatever the environment says."""
    if any((session.log, session.keys, session.state, session.subjects)):
        raise UsageError("The demo keeps everything in one folder.", do="Name it with --dir.")
    log = str(folder / "audit")
    return Session(log, f"{log}.keys", f"{log}.state", f"{log}.keys/subjects.sqlite", session.as_json)


def _perform(session: Session, videos: Path, show: _Narration) -> list[str]:
    """Open the log, let the team work, close it; returns the ids of tasks that ended well."""
    from klingai_audit.cli import demo_scenes

    with open_log(session, create=True) as audit, demo_scenes.open_simulator() as server:
        show.log = audit
        stage = demo_scenes.Stage(audit, server.simulator, server.base_url, videos, show)
        show.line(f"The provider is a simulator at {server.base_url}; the log is {session.places.log}.")
        demo_scenes.play(stage)
        show.log = None
    return stage.tasks


def _keep_attacked(session: Session, folder: Path) -> Path:
    """Return an attacked copy of the log in `folder`; one that is there already stays."""
    from klingai_audit.upkeep.attacks import ATTACKS
    from klingai_audit.upkeep.copy import LogCopy

    log = folder / "audit"
    if not log.exists():
        ATTACKS[0].act(LogCopy(Path(session.places.log), folder))
    return log


def _ending(session: Session, stage: Session, tasks: list[str], attacked: Path | None) -> None:
    """Show what one person did, and what to type next."""
    from klingai_audit.cli.demo_scenes import MAKER
    from klingai_audit.cli.showing import draw_activity
    from klingai_audit.views.activity import activity

    reader = open_reader(stage.places)
    lines = reader.entries(0, reader.size)
    person = activity(lines, MAKER.id, subjects=open_subjects(stage.places))
    session.say(("\nOne person", "bold cyan"))
    draw_activity(session, person)
    session.say(("\nNext", "bold cyan"))
    for words, command in next_commands(Path(stage.places.log), tasks, person.actor, attacked):
        session.say((f"  # {words}", "dim"))
        session.say(f"  {command}")


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

    def draw(self, drawing: Callable[[], None]) -> None:
        if not self._silent:
            drawing()

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
            which = f"entries {self._seen}–{size - 1}" if size > self._seen + 1 else f"entry {self._seen}"
            self._session.say((f"    {which}: {' → '.join(kinds)}", "dim"))
        self._seen = size
