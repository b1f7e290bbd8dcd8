"""`demo`: a small team works with Kling, then the log is verified, attacked and asked. No questions, no network."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.config import open_reader, open_subjects
from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.cli.demo_narration import Narration
    from klingai_audit.cli.demo_people import Opened
    from klingai_audit.cli.demo_stage import Stage
    from klingai_audit.cli.demo_trust import Handed, Seen
    from klingai_audit.reconcile import Result

DEFAULT_FOLDER: Final = Path("klingai-demo")
WITNESS: Final = "witness"
"""The witness's folder in the demo's: it would be another host's."""


def demo(
    *,
    dir: Annotated[
        Path, Parameter(help="Folder for everything the demo makes. Default: klingai-demo")
    ] = DEFAULT_FOLDER,
    keep: Annotated[bool, Parameter(help="Leave one attacked copy in <dir>/attacked, to look at.")] = False,
    session: SessionArgument,
) -> int:
    """Watch it work: a small team works with Kling, then the log is witnessed, checked, attacked and handed out.

    Everything runs on this machine, against a local simulator of Kling; no account is needed. Running it again on
    the same folder goes on with the same log.
    """
    from klingai_audit.cli import demo_money, demo_people, demo_report, demo_trust, drilling, trusting
    from klingai_audit.cli.demo_narration import Narration
    from klingai_audit.views.generations import count_generations

    # What asks after the script's own task, which nobody is bound to, is of nobody; the entry says so, the screen
    # need not.
    warnings.filterwarnings("ignore", message='An event was recorded with actor "unknown"')
    own = _session_in(dir, session)
    show = Narration(session)
    show.title("People at work, every call recorded before it is made")
    stage, worked, compared, opened, seen = _perform(own, dir, show)
    show.title("The log, verified")
    verdict = trusting.check_log(own).to_json()
    show.draw(lambda: trusting.draw_verdict(session, verdict))
    show.title("The log, attacked: every way to cheat that we know, each on a copy")
    drilled = trusting.drill_log(own)
    show.draw(lambda: drilling.draw_drill(session, drilled))
    attacked = _keep_attacked(own, dir / "attacked") if keep else None
    show.title("Evidence for somebody who trusts neither us nor this program")
    handed = demo_trust.hand_out(own, stage.tasks[0], dir)
    show.draw(lambda: demo_trust.draw(session, handed))
    show.draw(lambda: _one_person(session, own))
    found = demo_money.spent(own)
    show.draw(lambda: demo_money.draw(session, found, compared))
    reported = demo_report.write(own, dir / "report.html")
    show.draw(lambda: demo_report.draw(session, reported))
    show.draw(lambda: _next(session, own, stage, handed, opened, attacked))
    if session.as_json:
        reader = open_reader(own.places)
        size = reader.size
        session.emit(
            {
                "entries": size,
                "generations": count_generations(reader.entries(0, worked)),
                "verdict": verdict,
                "drill": drilled.to_json(),
                "places": own.places.as_json(),
                "callbacks": {name: stage.callbacks[name] for name in ("verified", "claim")},
                "script": _script_told(stage),
                **demo_money.told(found, compared),
                "trust": demo_trust.told(seen, handed),
                "privacy": demo_people.told(opened),
                "report": None if reported is None else str(reported),
            }
        )
    return trusting.EXIT_BROKEN if drilled.missed or not verdict["integrity_ok"] else 0


def next_commands(
    log: Path, stories: dict[str, str], mask: str, handed: Handed, opened: Opened, attacked: Path | None
) -> list[tuple[str, str]]:
    """Return (what it does, command line) that work as pasted in the present folder.

    `stories` are words and the task that they are about; `mask` names one person; `handed` is what left the log,
    `opened` what was unsealed.
    """
    from klingai_audit.cli import demo_people, demo_trust
    from klingai_audit.upkeep.witnessing import POLICY_FILE

    program, where = program_name(), f"--log {shlex.quote(str(log))}"
    keys = log.with_name(log.name + ".keys")
    key = shlex.quote(str(keys / "log.pub"))
    policy = keys / POLICY_FILE if (keys / POLICY_FILE).exists() else None
    commands = [
        ("what was refused", f"{program} query --outcome blocked {where}"),
        ("one person's month, by mask (the real id works too)", f"{program} activity {shlex.quote(mask)} {where}"),
        ("what each model cost", f"{program} costs --by team,model {where}"),
        demo_people.next_command(program, where, opened),
        ("raw entries", f"{program} tail -n 3 --json {where}"),
        ("check it again, trusting only the public key", f"{program} verify --key {key} {where}"),
    ]
    commands[1:1] = [(words, f"{program} show {task} {where}") for words, task in stories.items()]
    commands += demo_trust.next_commands(program, handed, key, policy, log.parent / WITNESS)
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
    if any((session.log, session.keys, session.state, session.subjects, session.vault)):
        raise UsageError("The demo keeps everything in one folder.", do="Name it with --dir.")
    log = str(folder / "audit")
    return Session(log, f"{log}.keys", f"{log}.state", f"{log}.keys/subjects.sqlite", session.as_json, f"{log}.vault")


def _perform(session: Session, folder: Path, show: Narration) -> tuple[Stage, int, Result, Opened, Seen | None]:
    """Open the log, let the team work, compare with the provider, open and erase, have it witnessed, close it.

    Returns what the scenes left, the size of the log after them, the comparison, what was opened and erased, and what
    the witness cosigned.
    """
    from klingai_audit.cli import demo_money, demo_people, demo_scenes, demo_trust
    from klingai_audit.cli.demo_stage import Stage, open_simulator
    from klingai_audit.durable import OPS

    for name in ("videos", "images"):
        OPS.make_folder(folder / name)
    demo_people.keep_prompts_sealed(session)
    with (
        open_log(session, create=True) as audit,
        open_simulator() as server,
        demo_trust.WitnessProcess(folder / WITNESS, audit.vkey) as witness,
    ):
        show.log = audit
        stage = Stage(audit, server.simulator, server.base_url, folder, show)
        show.line(f"The provider is a simulator at {server.base_url}; the log is {session.places.log}.")
        began = dt.datetime.now(dt.UTC)
        demo_scenes.play(stage)
        audit.flush("published")
        worked = audit.reader.size
        compared = demo_money.compare(stage, began)
        show.title("A complaint and a farewell")
        opened = demo_people.open_and_erase(stage)
        show.log = None
        show.title("A witness: another process, with a key and a memory of its own")
        seen = demo_trust.be_witnessed(audit, witness, show)
    return stage, worked, compared, opened, seen


def _script_told(stage: Stage) -> dict[str, Any]:
    """Return what the log has of the script, without and with its added line."""
    runs = zip(("as_it_is", "with_one_line"), stage.script_runs, strict=True)
    return {
        "library": stage.script_library,
        **{name: {"task_id": run.task_id, "entries": run.entries} for name, run in runs},
    }


def _keep_attacked(session: Session, folder: Path) -> Path:
    """Return an attacked copy of the log in `folder`; one that is there already stays."""
    from klingai_audit.upkeep.attacks import ATTACKS
    from klingai_audit.upkeep.copy import LogCopy

    log = folder / "audit"
    if not log.exists():
        ATTACKS[0].act(LogCopy(Path(session.places.log), folder))
    return log


def _one_person(session: Session, own: Session) -> None:
    """Show what one person did."""
    from klingai_audit.cli.demo_stage import MAKER
    from klingai_audit.cli.showing import draw_activity
    from klingai_audit.views.activity import activity

    reader = open_reader(own.places)
    session.say(("\nOne person", "bold cyan"))
    draw_activity(session, activity(reader.entries(0, reader.size), MAKER.id, subjects=open_subjects(own.places)))


def _next(session: Session, own: Session, stage: Stage, handed: Handed, opened: Opened, attacked: Path | None) -> None:
    """Show what to type next."""
    from klingai_audit.cli.demo_stage import MAKER
    from klingai_audit.privacy.subjects import mask_id

    session.say(("\nNext", "bold cyan"))
    stories = {
        "the life of one video": stage.tasks[0],
        "the video that the script ordered": stage.script_runs[-1].task_id,
    }
    for words, command in next_commands(Path(own.places.log), stories, mask_id(MAKER.id), handed, opened, attacked):
        session.say((f"  # {words}", "dim"))
        session.say(f"  {command}")
