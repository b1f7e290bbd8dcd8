"""The demo's script of old: a file that calls Kling with an HTTP library and knows nothing of a log.

It runs as it is, and the log sees nothing; then with one line added, and the log has it all. The library is requests
where that is installed, else httpx2, which always is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import Final

from klingai_audit.cli.demo_stage import EDITOR, ScriptRun, Stage
from klingai_audit.durable import OPS
from klingai_audit.errors import StorageError
from klingai_audit.kling.simulator import DEFAULT_API_KEY

ADDED_LINE: Final = 'from klingai_audit import AuditLog; AuditLog.open("audit").instrument()'
"""What the script needs; it runs in the folder where the log is."""

AS_IT_IS: Final = "order.py"
WITH_ONE_LINE: Final = "order_audited.py"

SECONDS: Final = 60.0
"""How long a run may take."""

_SESSIONS: Final = {"requests": "Session", "httpx2": "Client"}
_PROMPT: Final = "A paper boat on a canal, late summer light"
_SCRIPT: Final = '''\
"""Orders a video and waits until it is there."""

import os
import time

import {library}

kling = {library}.{session}()
kling.headers["Authorization"] = f"Bearer {{os.environ['KLINGAI_API_KEY']}}"
address = f"{{os.environ['KLINGAI_BASE_URL']}}/v1/videos/text2video"

video = kling.post(address, json={{"prompt": "{prompt}"}}).json()["data"]
while video["task_status"] not in ("succeed", "failed"):
    time.sleep(0.1)
    video = kling.get(f"{{address}}/{{video['task_id']}}").json()["data"]

print(video["task_id"])
'''


def script_of_old(stage: Stage) -> None:
    """Run the script as it is, then with the line added, and count what the log has of each."""
    narrator = stage.narrator
    stage.script_library = library = _library()
    text = script_text(library)
    OPS.replace(stage.folder / AS_IT_IS, text.encode())
    OPS.replace(stage.folder / WITH_ONE_LINE, with_added_line(text, library).encode())
    narrator.scene(EDITOR, f"runs a script from before there was a log: {stage.folder / AS_IT_IS}, over {library}")
    if library != "requests":
        narrator.aside("(requests is not installed here; with it the line is the same)")
    unseen = _run(stage, AS_IT_IS)
    narrator.result(
        "unseen",
        f"the provider has task {unseen.task_id} and its charge, the log has {_counted(unseen.entries)} of it",
    )
    narrator.aside(f"{stage.folder / WITH_ONE_LINE} is the same with this line after the import:")
    narrator.aside(f"+ {ADDED_LINE}")
    seen = _run(stage, WITH_ONE_LINE)
    stage.script_runs += [unseen, seen]
    stage.tasks.append(seen.task_id)
    narrator.result(
        "success",
        f"task {seen.task_id} has {_counted(seen.entries)}, its prompt is announced; who acts is unknown until the "
        "script says it with `acting`",
    )


def script_text(library: str) -> str:
    """Return the script for `requests` or `httpx2`, as it was before there was a log."""
    return _SCRIPT.format(library=library, session=_SESSIONS[library], prompt=_PROMPT)


def with_added_line(text: str, library: str) -> str:
    """Return the script with the one line after the import of its library."""
    imported = f"import {library}\n"
    return text.replace(imported, f"{imported}{ADDED_LINE}\n", 1)


def _library() -> str:
    try:
        import_module("requests")
    except ImportError:
        return "httpx2"
    return "requests"


def _run(stage: Stage, name: str) -> ScriptRun:
    """Run a script of the folder in a process of its own. Raises: StorageError: it failed."""
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter, our own file
            [sys.executable, name],
            cwd=stage.folder,
            env=_environment(stage.base_url),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise StorageError(f"{stage.folder / name} did not end in {SECONDS:g} s.") from exc
    if done.returncode:
        last = next(reversed(done.stderr.splitlines()), "")
        raise StorageError(f"{stage.folder / name} failed: {last}", do="Run the demo in an empty folder: --dir NEW.")
    task_id = done.stdout.strip()
    return ScriptRun(task_id, _entries_of(stage, task_id))


def _environment(base_url: str) -> dict[str, str]:
    """Return this process's environment with the simulator for Kling, no log named, and nothing between them."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KLINGAI_") and not name.lower().endswith("_proxy")
    }
    ours = {"KLINGAI_BASE_URL": base_url, "KLINGAI_API_KEY": DEFAULT_API_KEY, "NETRC": os.devnull}
    return {**kept, **ours}


def _entries_of(stage: Stage, task_id: str) -> int:
    """Count the entries of the story that names a task."""
    from klingai_audit.views.entry import EntryView

    stage.audit.flush("published")
    entries = [EntryView(line) for line in stage.audit.entries()]
    stories = {entry.correlation_id for entry in entries if entry.resource_id == task_id}
    return sum(entry.correlation_id in stories for entry in entries)


def _counted(number: int) -> str:
    return "no entry" if number == 0 else "1 entry" if number == 1 else f"{number} entries"
