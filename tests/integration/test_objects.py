"""A log in a bucket of a real S3 server: processes, forks, a killed server, Object Lock, versions."""

from __future__ import annotations

import datetime as dt
import http
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="obstore comes with klingai-audit[objects]")

from klingai_audit.errors import AuditUnavailable, HeadConflict
from klingai_audit.log import AuditLog
from klingai_audit.stores.objects import ObjectStore
from klingai_audit.testing.batches import NEXT_DAY, BatchMaker, commit
from klingai_audit.testing.store_contract.common import purged, purging
from klingai_audit.testing.store_contract.forked import in_child
from klingai_audit.testing.store_contract.signed import commit_somehow
from tests.support.buckets import check_published
from tests.support.objects import ObjectServer, use

pytestmark = pytest.mark.slow

WRITER = """
import json, sys
from klingai_audit.stores.objects import ObjectStore
from klingai_audit.testing.store_contract.signed import commit_somehow
store = ObjectStore(sys.argv[1])
for count in (1, 70, 2, 150, 1, 33) * 2:
    batch = commit_somehow(store, count)
    with store.publication() as publication:
        publication.put_checkpoint(batch.note)
    print(json.dumps([batch.begin, [line.decode() for line in batch.entries]]), flush=True)
"""


def objects_of(server: ObjectServer, url: str) -> dict[str, bytes]:
    """Return everything below a prefix, past the product."""
    store = ObjectStore(url)
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return {one.path: server.request("GET", f"/{bucket}/{prefix}/{one.path}").body for one in store.bucket.listed()}


def test_processes_contend(objects: ObjectServer, bucket_url: str) -> None:
    """Everything that was acknowledged is there once, in order, and a stranger can read all of it."""
    ObjectStore(bucket_url).create()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, bucket_url], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [json.loads(line) for writer in writers for line in writer.communicate(timeout=300)[0].splitlines()]
    assert [0] * 4 == [writer.returncode for writer in writers]
    lines = [line.encode() for _begin, batch in sorted(told) for line in batch]
    assert 4 * 2 * 257 == len(lines)
    assert lines == list(ObjectStore(bucket_url).read_entries(0))
    assert len(lines) == check_published(objects_of(objects, bucket_url), lines)


def test_forked_workers(bucket_url: str, tmp_path: Path) -> None:
    """As under a server that forks after loading: children and their children log, and so does the parent meanwhile."""
    with AuditLog.open(bucket_url, keys=tmp_path / "keys", state=tmp_path / "state") as log:
        log.log("x_note", "user@example.com").wait("published")
        over = threading.Event()

        def busy() -> None:
            while not over.is_set():
                log.log("x_parent", "user@example.com").wait()

        thread = threading.Thread(target=busy)
        thread.start()

        def work() -> None:
            for number in range(5):
                log.log("x_child", "user@example.com", metadata={"number": number}).wait()
            assert 0 == in_child(lambda: log.log("x_grandchild", "user@example.com").wait("published") and None)

        assert [0] * 4 == [in_child(work) for _ in range(4)]
        over.set()
        thread.join()
        log.log("x_note", "user@example.com").wait("published")
        lines = list(log.reader.entries())
    assert [20, 4] == [sum(kind in line for line in lines) for kind in (b'"x_child"', b'"x_grandchild"')]
    assert any(b'"x_parent"' in line for line in lines)


def test_a_fork_where_nothing_can_be_loaded(bucket_url: str) -> None:
    """A clear error at once, where the inherited client would hang; the parent goes on."""
    store, maker = ObjectStore(bucket_url), BatchMaker()
    maker.put(store, 2)

    def act() -> None:
        def refuse(*_arguments: object) -> int:
            raise OSError(38, "not implemented")

        os.memfd_create = refuse  # type: ignore[assignment]
        with pytest.raises(AuditUnavailable, match=r"forked process here.*after the fork"):
            list(store.read_entries(0))

    assert 0 == in_child(act)
    maker.put(store, 1)
    assert maker.lines == list(store.read_entries(0))


def test_a_child_that_ends_like_any_other(bucket_url: str) -> None:
    """Freeing what it inherited at its end would take the parent's connections away."""
    store, maker = ObjectStore(bucket_url), BatchMaker()
    maker.put(store, 2)
    script = (
        "import os, sys\n"
        "from klingai_audit.stores.objects import ObjectStore\n"
        "store = ObjectStore(sys.argv[1])\n"
        "before = list(store.read_entries(0))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert list(store.read_entries(0)) == before\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "for _ in range(50):\n"
        "    assert list(store.read_entries(0)) == before\n"
    )
    assert 0 == subprocess.run([sys.executable, "-c", script, bucket_url], timeout=60, check=False).returncode


def test_a_server_that_is_killed_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are refused meanwhile; what was acknowledged is there, and the same store object goes on."""
    with ObjectServer.running() as server:
        use(server, monkeypatch)
        store, maker = ObjectStore(server.prefix()), BatchMaker()
        store.create()
        for _ in range(2):
            for count in (3, 300):
                maker.put(store, count)
            server.kill()
            with pytest.raises(AuditUnavailable), store.transaction() as txn:
                commit(txn, maker.batch())
            server.restart()
            assert maker.lines == list(store.read_entries(0))
        maker.put(store, 1)
        assert maker.lines == list(ObjectStore(store.url).read_entries(0))


class TestObjectLock:
    @pytest.fixture
    def locked(self, objects: ObjectServer, bucket_url: str) -> str:
        """A prefix in a bucket with Object Lock, and so with versions."""
        return f"s3://{objects.bucket(lock=True)}/team/log"

    def lock(self, server: ObjectServer, url: str, path: str, until: dt.datetime) -> None:
        """Put one object under lock."""
        date = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = f"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{date}</RetainUntilDate></Retention>"
        answer = server.request(
            "PUT", f"/{url.removeprefix('s3://')}/{path}", query={"retention": ""}, body=body.encode()
        )
        assert http.HTTPStatus.OK == answer.status, answer.body

    def test_a_log_in_a_bucket_with_versions(self, objects: ObjectServer, locked: str) -> None:
        """Heads and checkpoints are swapped, the rest is created, as everywhere."""
        store, maker = ObjectStore(locked), BatchMaker()
        store.create()
        for count in (3, 300, 2):
            maker.put(store, count)
        late = maker.batch()
        maker.accept(commit_somehow(store))
        with pytest.raises(HeadConflict), store.transaction() as txn:
            commit(txn, late)
        assert maker.lines == list(ObjectStore(locked).read_entries(0))
        assert [] == [file.name for file in store.inspect() if file.kind == "stray"]

    def test_what_is_locked_is_not_purged(
        self, objects: ObjectServer, locked: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Until its date, which can be asked for; nothing is changed before. Versions that stay are told."""
        store, maker = ObjectStore(locked), BatchMaker()
        maker.put(store, 300)
        maker.put(store, 1, NEXT_DAY)
        until = (dt.datetime.now(dt.UTC) + dt.timedelta(days=3)).replace(microsecond=0)
        assert store.locked_until(0, 300) is None
        self.lock(objects, locked, "tile/entries/000", until)
        assert until == store.locked_until(0, 300)
        with store.keeper(tmp_path) as keeper:
            day = store.old_days()[0]
            with pytest.raises(AuditUnavailable, match=until.isoformat(timespec="seconds").replace("+", r"\+")):
                keeper.prepare(day, purging(5, 270))
            assert maker.lines == list(store.read_entries(0))
            with caplog.at_level("WARNING", logger="klingai_audit"):
                keeper.put(keeper.prepare(day, purging(270)))
        assert ["versions_left"] == [record.event for record in caplog.records]  # type: ignore[attr-defined]
        assert purged(maker.lines, 270) == list(store.read_entries(0))
