"""Debian's rsyslog as the receiver, over TLS: killed and started again in the middle, it ends up with everything."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from klingai_audit.exports import Course, CursorFile, ExportResult, export
from klingai_audit.kling.simulator.tls import ServerCertificate
from tests.support.exported import HOSTILE
from tests.support.faulty import QuickOps
from tests.support.ledgers import Ledger, event
from tests.support.receivers import free_port, wait_until

PROGRAM = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
DRIVER = next(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so"), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only on Linux is there an rsyslog"),
    pytest.mark.skipif(PROGRAM is None or DRIVER is None, reason="rsyslog and rsyslog-gnutls are not installed"),
]

SETTINGS = """
global(workDirectory="{folder}" maxMessageSize="64k" net.enableDNS="off"
       defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{chain}" defaultNetstreamDriverKeyFile="{chain}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{folder}/received" template="raw" asyncWriting="off")
"""


class Rsyslog:
    """One rsyslogd with its own settings, which listens on loopback and appends to one file."""

    def __init__(self, folder: Path, certificate: ServerCertificate) -> None:
        self.port = free_port()
        self.received = folder / "received"
        self._folder = folder
        self._settings = folder / "rsyslog.conf"
        self._settings.write_text(
            SETTINGS.format(folder=folder, ca=certificate.ca_file, chain=certificate._chain, port=self.port)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it listens."""
        assert PROGRAM is not None
        pid_file = self._folder / "pid"
        pid_file.unlink(missing_ok=True)
        with (self._folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                [PROGRAM, "-n", "-f", str(self._settings), "-i", str(pid_file)], stdout=errors, stderr=errors
            )
        wait_until(self._listens)

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def lines(self) -> list[bytes]:
        """The messages it has written."""
        return self.received.read_bytes().splitlines() if self.received.exists() else []

    def seqs(self) -> set[int]:
        """The entries among them."""
        found = (re.search(rb' seq="([0-9]+)"', line) for line in self.lines())
        return {int(match[1]) for match in found if match is not None}

    def _listens(self) -> bool:
        import socket

        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "errors").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@pytest.fixture
def certificate() -> Iterator[ServerCertificate]:
    found = ServerCertificate()
    yield found
    found.close()


def test_rsyslog_takes_every_kind_of_value(tmp_path: Path, certificate: ServerCertificate) -> None:
    """One export: each entry is one line at the other end, byte for byte as it was encoded, hostile values included."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        for value in HOSTILE:
            ledger.appender.append(event(metadata={"value": value, "long": "y" * 20_000}))
            ledger.appender.append(event(metadata={"value": value}))
    written = tmp_path / "written"
    export(ledger.reader, "syslog", file=written)
    with Rsyslog(tmp_path, certificate) as rsyslog:
        done = export(ledger.reader, "syslog", to=f"tls://localhost:{rsyslog.port}", ca=certificate.ca_file)
        wait_until(lambda: len(rsyslog.lines()) >= done.entries)
        assert written.read_bytes().splitlines() == rsyslog.lines()


def test_rsyslog_killed_twice_ends_up_with_everything(tmp_path: Path, certificate: ServerCertificate) -> None:
    """While entries are being written: every event arrives at least once, none is lost, equal ids are copies."""
    stop = threading.Event()
    with Ledger(tmp_path, ops=QuickOps()) as ledger, contextlib.ExitStack() as stack:
        rsyslog = stack.enter_context(Rsyslog(tmp_path, certificate))
        cursor = stack.enter_context(CursorFile.open(tmp_path / "audit.state", "siem"))
        outcome: list[object] = []
        troubles: list[str] = []

        def follow() -> None:
            course = Course(follow=True, stop=stop.is_set, trouble=lambda error, pause: troubles.append(error.message))
            try:
                to = f"tls://localhost:{rsyslog.port}"
                options = {"cursor": cursor, "course": course, "ca": certificate.ca_file, "resend": 20.0}
                outcome.append(export(ledger.reader, "syslog", to=to, **options))  # type: ignore[arg-type]
            except Exception as exc:  # noqa: BLE001  (looked at below)
                outcome.append(exc)

        ledger.appender.flush(publish=True)
        exporter = threading.Thread(target=follow)
        exporter.start()
        try:
            for number in range(9_000):
                ledger.appender.append(event(metadata={"n": number}))
                if number % 100 == 99:
                    time.sleep(0.05)
                if number in (3_000, 6_000):
                    rsyslog.kill()
                if number in (4_000, 7_000):
                    rsyslog.start()
            ledger.appender.flush(publish=True)
            size = ledger.reader.size
            wait_until(lambda: rsyslog.seqs() >= set(range(size)))
        finally:
            stop.set()
            exporter.join(60)
        (done,) = outcome
        assert isinstance(done, ExportResult), done
        lines = rsyslog.lines()
        assert set(range(size)) == rsyslog.seqs()
    ids = [re.findall(rb'"event_id":"([0-9a-f-]{36})"', line) for line in lines]
    assert {1} == {len(found) for found in ids}
    assert size == len({found[0] for found in ids}) < len(ids)
    assert len(troubles) >= 2
    assert done.again > 0
