"""A process that dies before one operation on a file: `python -m tests.support.mortal STORY FOLDER NUMBER`.

STORY is `seal` or `unseal`, the log is FOLDER/audit. What was acknowledged is printed, one index to a line.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from klingai_audit import AuditLog, acting
from klingai_audit.upkeep.unseal import unseal
from tests.support.faulty import Call, FaultyOps

PROMPT = "Wombat-7731 dances in a quarry of glass"
NEGATIVE = "no Zeppelin-4402 anywhere"


class Mortal(FaultyOps):
    """Operations of a process that dies before operation `number`, counted from `arm` on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number
        self._armed = False
        self.fails = self._dies

    def arm(self) -> None:
        """From here on operations count."""
        self._armed = True

    def _dies(self, _call: Call) -> bool:
        if self._armed:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
        return False


def order(audit: AuditLog, actor: str) -> int:
    """Log a prompt and a negative prompt; returns the entry's index once it is durable."""
    with acting(actor):
        seq = audit.log("prompt_submitted", metadata={"prompt": PROMPT, "negative_prompt": NEGATIVE}).wait().seq
    assert seq is not None
    return seq


def main(story: str, folder: Path, number: int) -> None:
    """Play a story until it is over, or until death."""
    ops = Mortal(number)
    with AuditLog.open(folder / "audit", ops=ops) as audit:
        if story == "unseal":
            last = max(entry.seq for entry in audit.query(event_type="prompt_submitted"))
            ops.arm()
            with acting("officer@example.com"):
                print(unseal(audit, last, "prompt", reason="a look").recorded, flush=True)
        else:
            order(audit, "user@example.com")
            ops.arm()
            for actor in ("user@example.com", "other@example.com"):
                print(order(audit, actor), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
