"""A process that appends to a log on a server: `python -m tests.support.appending NAME HOURS PAUSE`.

It goes on until its input ends. The places come from the environment. Its clock is HOURS off; each of its four threads
waits PAUSE seconds between its events. It prints what happens, a line each: `opened`; `NUMBER EVENT_ID SEQ` for one
that was acknowledged to thread NUMBER; `refused EVENT_ID` where `AuditUnavailable` was the answer, `unknown EVENT_ID`
where it was `CommitUnknown`; `closed`.
"""

from __future__ import annotations

import sys
import threading
import time

from klingai_audit import AuditLog, acting
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.batches import CommitUnknown
from klingai_audit.ledger.clock import SystemClock

THREADS = 4


class OddClock(SystemClock):
    """The machine's clock, wrong by some hours."""

    def __init__(self, hours: float) -> None:
        self._off = int(hours * 3_600) * 10**9

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, and as many hours more."""
        return super().now_ns() + self._off


def main(name: str, hours: float, pause: float) -> None:
    """Append until the end of standard input, then close the log."""
    speaking = threading.Lock()

    def tell(line: str) -> None:
        with speaking:
            print(line, flush=True)

    stop = threading.Event()
    with AuditLog.open(create=False, clock=OddClock(hours)) as audit:
        tell("opened")

        def write(number: int) -> None:
            count = 0
            while not stop.wait(pause):
                count += 1
                receipt = None
                try:
                    with acting(f"{name}@example.com"):
                        receipt = audit.log("x_appended", metadata={"writer": name, "thread": number, "n": count})
                    receipt.wait()
                    tell(f"{number} {receipt.event_id} {receipt.seq}")
                except AuditUnavailable as error:
                    answer = "unknown" if isinstance(error, CommitUnknown) else "refused"
                    tell(f"{answer} {receipt.event_id if receipt is not None else '-'}")
                    time.sleep(0.1)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()
    tell("closed")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
