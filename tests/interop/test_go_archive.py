"""Go's own trees and notes read an archive under lock, as they read a bucket that is written to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="archives need boto3")

from klingai_audit.log import AuditLog
from klingai_audit.publish.archive import archive
from klingai_audit.publish.locker import open_locker
from klingai_audit.tlog.keys import VerifierKey
from tests.interop.conftest import Published
from tests.interop.test_go import ask, build, told
from tests.interop.test_go_bucket import readable
from tests.support.objects import ObjectServer, use

pytestmark = pytest.mark.slow


def test_go_reads_the_archive(objects: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brought up to two sizes: every entry is under the signed tree, and the second continues the first."""
    use(objects, monkeypatch)
    program, url, olds = build("reader", tmp_path), f"s3://{objects.bucket(lock=True)}/a", list[Path]()
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    with readable(objects, url) as address, AuditLog.open(tmp_path / "audit") as log:
        for count in (250, 400):
            for number in range(count):
                log.log("x_note", "user@example.com", metadata={"number": number})
            log.flush("published")
            size = archive(log.reader, open_locker(url), until, VerifierKey.parse(log.vkey)).size
            found = told(ask(program, Published(tmp_path, (log.vkey,), tuple(olds)), address))
            assert (size, size, len(olds)) == (found["size"], found["proven"], found["older"])
            olds.append(tmp_path / f"old-{size}")
            olds[-1].write_bytes(log.reader.checkpoint_note())
