"""Makes `tests/golden/v1`: run once for each format version, never again for a version that was released.

    python -m tests.golden.make FOLDER

Needs the installed package and a simulator on loopback; the result is committed, keys and state are thrown away.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from klingai_audit import AuditLog, acting
from klingai_audit.kling import KlingAI, KlingError
from klingai_audit.kling.simulator import RealClock, Simulator, SimulatorServer


def main() -> None:
    """Two epochs, refusals, a failed task, a download, own events, two writers in turn."""
    target = Path(sys.argv[1])
    base = Path(tempfile.mkdtemp())
    with SimulatorServer(Simulator(RealClock(speed=200))) as server:
        with AuditLog.open(base / "audit", origin="log.example.com/golden") as audit:
            with (
                acting("user@example.com", ip="192.168.1.100", user_agent="app/1", team="studio-a"),
                KlingAI(api_key="sim-api-key", audit=audit, base_url=server.base_url, trust_env=False) as kling,
            ):
                task = kling.text_to_video("A serene mountain lake", model="kling-3.0-turbo", duration=3)
                task.wait(poll_interval=0.05).download(base / "a.mp4")
                for prompt in ("something forbidden", "a doomed idea"):
                    try:
                        kling.text_to_video(prompt, model="kling-2.6").wait(poll_interval=0.05)
                    except KlingError:
                        continue
            audit.rotate_keys()
            raised = {"old": 100, "new": 250}
            audit.log("budget_modified", "boss@example.com", "budget", "raise", resource_id="team-a", metadata=raised)
        with AuditLog.open(base / "audit") as audit:
            audit.log(
                "x_note", "user@example.com", text="zażółć gęślą jaźń \u2028 \U0001f600", number=1.5, nothing=None
            )
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(base / "audit", target / "audit")
    shutil.copyfile(base / "audit.keys" / "log.pub", target / "log.pub")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
