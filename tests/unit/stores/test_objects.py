"""The object store over obstore's own memory: the contract, every crash between two requests, what goes and stays."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="obstore comes with klingai-audit[objects]")

from klingai_audit.errors import (
    AuditUnavailable,
    HeadConflict,
    LogDamaged,
    MissingExtra,
    UnsupportedStorage,
    UsageError,
)
from klingai_audit.ledger.batches import CommitUnknown, SignedBatch
from klingai_audit.ledger.purged import line_hash
from klingai_audit.stores import objects, objects_client, objects_commit, objects_driver, objects_publish
from klingai_audit.stores.objects import ObjectStore
from klingai_audit.stores.objects_client import Refused, Unsure
from klingai_audit.stores.objects_driver import driver
from klingai_audit.stores.objects_format import CHECKPOINT, HEAD, parse_head, staging_path
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker, commit
from klingai_audit.testing.store_contract import BatchStoreContract, OpenStore
from klingai_audit.testing.store_contract.common import purged, purging
from klingai_audit.testing.store_contract.signed import commit_somehow
from tests.support.buckets import (
    Died,
    How,
    Requests,
    check_published,
    check_tidy,
    contents,
    dying,
    memory_bucket,
    open_memory,
    tree_files,
)

HOW: list[How] = ["before", "after"]


@pytest.fixture
def bucket() -> Any:
    """A bucket in memory."""
    return memory_bucket()


@pytest.fixture
def store(bucket: Any) -> ObjectStore:
    """A log in it."""
    return open_memory(bucket)


def publish(store: ObjectStore, note: bytes) -> None:
    with store.publication() as publication:
        publication.put_checkpoint(note)


def put(store: ObjectStore, batch: SignedBatch) -> None:
    with store.transaction() as txn:
        commit(txn, batch)


def refused() -> Exception:
    return driver().exceptions.GenericError("Error: status code: 503 Slow Down")  # type: ignore[no-any-return]


class TestContract(BatchStoreContract):
    @pytest.fixture
    def open_store(self, bucket: Any) -> OpenStore:
        return lambda: open_memory(bucket)

    test_a_forked_child_writes_too = None  # type: ignore[assignment]  # a child has a memory of its own


class TestCrashes:
    """The process dies before or after each of its requests; another one goes on."""

    @pytest.mark.parametrize("how", HOW)
    @pytest.mark.parametrize(
        ("before", "count"),
        [(3, 2), pytest.param(200, 313, marks=pytest.mark.slow), pytest.param(256, 256, marks=pytest.mark.slow)],
    )
    def test_in_a_commit_and_its_publication(self, bucket: Any, before: int, count: int, how: How) -> None:
        """Nothing acknowledged is lost, a stranger can always read what is published, and the next one tidies up."""
        requests, maker = Requests(), BatchMaker()
        steady = open_memory(bucket)
        maker.put(steady, before, DAY, keep=True)
        at, over = 0, False
        while not over:
            batch, acknowledged = maker.batch(count, NEXT_DAY, keep=True), False
            mortal = open_memory(bucket, requests)
            with dying(requests, at, how):
                put(mortal, batch)
                acknowledged = True
                publish(mortal, batch.note)
                over = True
            heir = open_memory(bucket)
            lines = list(heir.read_entries(0))
            assert lines == maker.lines + batch.entries or (not acknowledged and lines == maker.lines)
            if lines != maker.lines:
                maker.accept(batch)
                assert batch.note == heir.read_kept(batch.end)
            check_published(contents(bucket), lines)
            maker.put(heir, 1, NEXT_DAY)
            assert maker.size == check_published(contents(bucket), maker.lines)
            assert maker.lines == list(heir.read_entries(0)) == list(steady.read_entries(0))
            assert BatchMaker.leaves(maker.lines) == heir.read_hashes(0, 0, maker.size)
            assert [f"audit-{DAY}.jsonl", f"audit-{NEXT_DAY}.jsonl"] == [
                file.name for file in heir.inspect() if file.kind == "entries"
            ]
            at += 1
        assert at > 8
        objects_publish.sweep(heir)
        assert [] == [file.name for file in heir.inspect() if file.kind == "stray"]

    @pytest.mark.parametrize("how", HOW)
    def test_while_entries_are_purged(self, bucket: Any, tmp_path: Path, how: How) -> None:
        """Every line is whole or purged at any moment, and the next run purges them all."""
        requests, maker = Requests(), BatchMaker()
        first = open_memory(bucket)
        for count in (250, 5, 2, 40):
            maker.put(first, count)
        maker.put(first, 1, NEXT_DAY)
        expected, at, over = maker.lines, 0, False
        while not over:
            seqs = (at, 254, 255, 256, 270)
            mortal = open_memory(bucket, requests)
            with mortal.keeper(tmp_path) as keeper:
                prepared = keeper.prepare(mortal.old_days()[0], purging(*seqs))
                with dying(requests, at, how):
                    keeper.put(prepared)
                    over = True
            lines = list(open_memory(bucket).read_entries(0))
            assert all(one in pair for one, *pair in zip(lines, expected, purged(expected, *seqs), strict=True))
            heir = open_memory(bucket)
            with heir.keeper(tmp_path) as keeper:
                keeper.put(keeper.prepare(heir.old_days()[0], purging(*seqs)))
            expected = purged(expected, *seqs)
            assert expected == list(heir.read_entries(0))
            maker.put(open_memory(bucket), 1, NEXT_DAY)  # the head names new staging objects, which move on later
            expected = [*expected, maker.lines[-1]]
            at += 1
        assert at > 5
        gone = [line for line, now in zip(maker.lines, expected, strict=True) if line != now]
        left = b"".join(data for path, data in contents(bucket).items() if path.startswith("tile/entries/"))
        assert gone
        assert not [line for line in gone if line in left]

    @pytest.mark.parametrize("how", HOW)
    def test_at_the_very_first_commit(self, how: How) -> None:
        """The log is there whole or not at all."""
        for at in range(30):
            bucket, requests, maker = memory_bucket(), Requests(), BatchMaker()
            batch = maker.batch(2)
            with dying(requests, at, how):
                put(open_memory(bucket, requests), batch)
                publish(open_memory(bucket, requests), batch.note)
            heir = open_memory(bucket)
            assert list(heir.read_entries(0)) in ([], batch.entries)
            if heir.exists():
                maker.accept(batch)
            maker.put(heir, 1)
            assert maker.size == check_published(contents(bucket), maker.lines)


class TestWrongAnswers:
    """Requests that fail, done or not, without the process dying."""

    @pytest.mark.parametrize("how", HOW)
    def test_every_request_of_a_commit(self, bucket: Any, monkeypatch: pytest.MonkeyPatch, how: How) -> None:
        """A put that landed and was answered by an error counts; the batch is there once."""
        monkeypatch.setattr(objects_client, "_FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(objects_commit, "_PAUSE_S", 0.001)
        requests, maker = Requests(), BatchMaker()
        requests.error = refused
        maker.put(open_memory(bucket), 3)
        for at in range(12):
            store, batch = open_memory(bucket, requests), maker.batch(2)
            requests.made.clear()
            requests.at, requests.how = at, how
            put(store, batch)
            publish(store, batch.note)
            requests.at = None
            maker.accept(batch)
            assert maker.lines == list(open_memory(bucket).read_entries(0))
            assert maker.size == check_published(contents(bucket), maker.lines)

    def test_a_landed_put_that_comes_back_as_refused(self, bucket: Any) -> None:
        """As from a client or a gateway that repeats it: our staging object is in the head, so it is ours."""
        requests, maker = Requests(), BatchMaker()
        requests.error = driver().exceptions.PreconditionError
        maker.put(open_memory(bucket), 3)
        store, batch = open_memory(bucket, requests), maker.batch(2)
        requests.at, requests.how = _number_of(bucket, maker, ("put", HEAD)), "after"
        put(store, batch)
        maker.accept(batch)
        assert maker.lines == list(open_memory(bucket).read_entries(0))

    def test_a_checkpoint_that_is_always_refused(
        self, bucket: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that will not have it is not asked for ever."""
        maker = BatchMaker()
        maker.put(store, 3)
        batch = maker.batch()
        put(store, batch)
        monkeypatch.setattr(objects_publish, "PATIENCE_S", 0.2)
        swap = store.bucket.swap

        def refuse(path: str, data: bytes, tag: Any) -> Any:
            if path == CHECKPOINT:
                raise Refused
            return swap(path, data, tag)

        monkeypatch.setattr(store.bucket, "swap", refuse)
        with pytest.raises(AuditUnavailable, match="writing checkpoint"):
            publish(store, batch.note)

    def test_who_asks_late_finds_out(self, bucket: Any) -> None:
        """Others committed and moved the batch to tiles meanwhile: its leaf hashes tell."""
        requests, maker, others = Requests(), BatchMaker(), open_memory(bucket)
        maker.put(others, 3)
        store, batch = open_memory(bucket, requests), maker.batch(2)

        def meanwhile() -> BaseException:
            maker.accept(batch)
            for _ in range(3):
                maker.put(others, 300)
            return refused()

        requests.error = meanwhile
        requests.at, requests.how = _number_of(bucket, maker, ("put", HEAD)), "after"
        put(store, batch)
        assert maker.lines == list(store.read_entries(0))

    def test_who_lost_finds_out(self, bucket: Any) -> None:
        """Another batch took the place, whatever the answer was; the staging object goes."""
        requests, maker, others = Requests(), BatchMaker(), open_memory(bucket)
        maker.put(others, 3)
        store, batch = open_memory(bucket, requests), maker.batch(2)

        def meanwhile() -> BaseException:
            maker.put(others, 2)
            return refused()

        requests.error = meanwhile
        requests.at, requests.how = _number_of(bucket, maker, ("put", HEAD)), "before"
        before = set(contents(bucket))
        with pytest.raises(HeadConflict):
            put(store, batch)
        fresh = {path for path in set(contents(bucket)) - before if path.startswith("staging/")}
        assert fresh == {staging_path(parse_head(contents(bucket)[HEAD], "").tail[-1].name)}

    def test_a_server_that_is_gone(self, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the swap nobody can be asked: unknown. Before it: unavailable, and nothing is there."""
        monkeypatch.setattr(objects_client, "PATIENCE_S", 0.05)
        monkeypatch.setattr(objects_commit, "UNKNOWN_S", 0.2)
        monkeypatch.setattr(objects_commit, "PATIENCE_S", 0.05)
        requests, maker = Requests(), BatchMaker()
        maker.put(open_memory(bucket), 3)
        swap = _number_of(bucket, maker, ("put", HEAD))
        for begin, kind in ((swap - 1, AuditUnavailable), (swap, CommitUnknown)):
            store, batch = open_memory(bucket, requests), maker.batch(2)
            gone = _Gone(requests, begin)
            with pytest.raises(kind) as caught:
                put(store, batch)
            assert (kind is CommitUnknown) == isinstance(caught.value, CommitUnknown)
            gone.back()
            assert maker.lines == list(open_memory(bucket).read_entries(0))

    def test_no_rights_are_told_at_once(self, bucket: Any) -> None:
        """A denial is no outage: nothing is repeated, and the message says what to look at."""
        requests, maker = Requests(), BatchMaker()
        maker.put(open_memory(bucket), 3)
        requests.error = lambda: driver().exceptions.PermissionDeniedError("Error: status code: 403 Forbidden")
        store = open_memory(bucket, requests)
        requests.at = _number_of(bucket, maker, ("put", HEAD))
        with pytest.raises(AuditUnavailable, match=r"403.*credentials") as caught:
            put(store, maker.batch())
        assert not isinstance(caught.value, CommitUnknown)
        assert len(requests.made) < 12

    def test_a_server_that_ignores_conditions(self, bucket: Any) -> None:
        """It would let two writers win: no log is begun there."""
        requests = Requests()
        requests.careless = True
        with pytest.raises(UnsupportedStorage, match="only to create"):
            open_memory(bucket, requests).create()
        assert {} == contents(bucket)

    @pytest.mark.parametrize("how", HOW)
    def test_an_answer_that_is_lost_while_conditions_are_tried_out(self, bucket: Any, how: How) -> None:
        """It says nothing of the server: it is tried out again, whichever request it was."""
        requests = Requests()
        open_memory(bucket, requests).create()
        for at in range(len(requests.made)):
            requests = Requests()
            requests.at, requests.how, requests.error = at, how, refused
            open_memory(bucket, requests).create()
            assert {} == contents(bucket), at

    def test_a_server_that_takes_no_put_on_a_condition(self, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """However often it is tried."""
        store, calls = open_memory(bucket, Requests()), []

        def swap(path: str, data: bytes, tag: Any) -> None:
            calls.append(path)
            raise Unsure("the server answered 501")

        monkeypatch.setattr(store.bucket, "swap", swap)
        with pytest.raises(UnsupportedStorage, match="on condition of a version"):
            store.create()
        assert 1 < len(set(calls)) == len(calls)
        assert {} == contents(bucket)


class _Gone:
    """From a request on every one fails."""

    def __init__(self, requests: Requests, begin: int) -> None:
        self._requests = requests
        self._do = requests._do
        requests.made.clear()

        def do(what: str, path: str, act: Callable[[], Any]) -> Any:
            if len(requests.made) >= begin:
                requests.made.append((what, path))
                raise refused()
            return self._do(what, path, act)

        requests._do = do  # type: ignore[method-assign]

    def back(self) -> None:
        self._requests._do = self._do  # type: ignore[method-assign]


def _number_of(bucket: Any, maker: BatchMaker, request: tuple[str, str]) -> int:
    """Return which request of a commit this is; tried on a batch that is lost."""
    requests = Requests()
    requests.error = Died
    for at in range(20):
        with contextlib.suppress(Died):
            requests.made.clear()
            requests.at = at
            put(open_memory(bucket, requests), maker.batch())
        if requests.made[-1] == request:
            return at
    raise AssertionError("there is none")


class TestTiles:
    def test_the_bucket_holds_the_tree(self, bucket: Any, store: ObjectStore) -> None:
        """Growing by odd steps leaves the known objects, each once; superseded partial tiles go."""
        maker = BatchMaker()
        for count in (1, 200, 55, 1, 300, 255, 256, 7):
            maker.put(store, count)
            check_tidy(contents(bucket), maker.lines)
            assert maker.size == check_published(contents(bucket), maker.lines)
        found = contents(bucket)
        assert set(tree_files(maker.lines)) < set(found)
        assert [] == [path for path in found if path.startswith("tile/0/000.p/")]

    def test_who_knew_an_older_head_reads_on(self, bucket: Any) -> None:
        """Partial tiles and staging objects that it named are gone: full tiles have taken their place."""
        writer, reader, maker = open_memory(bucket), open_memory(bucket), BatchMaker()
        maker.put(writer, 200)
        with reader.transaction() as txn:
            txn.head()
        for count in (90, 300, 3):
            maker.put(writer, count)
        assert maker.lines[:200] == list(reader.read_entries(0, 200))
        assert BatchMaker.leaves(maker.lines[:200]) == reader.read_hashes(0, 0, 200)

    def test_another_tile_is_damage(self, bucket: Any, store: ObjectStore) -> None:
        """What lies where a tile is to be, and is not it, is never replaced."""
        maker = BatchMaker()
        maker.put(store, 250)
        driver().functions.put(bucket, "tile/0/000", bytes(8192))
        batch = maker.batch(10)
        put(store, batch)
        with pytest.raises(LogDamaged, match=r"tile/0/000 .* is not what the signed entries make of it"):
            publish(store, batch.note)
        assert maker.note == store.read_checkpoint()

    def test_an_older_checkpoint_never_comes_back(self, store: ObjectStore) -> None:
        """A slow publisher changes nothing."""
        maker = BatchMaker()
        first = maker.put(store, 3)
        maker.put(store, 3)
        publish(store, first.note)
        assert maker.note == store.read_checkpoint()

    @pytest.mark.slow
    def test_without_publishing_the_tail_stays_short(
        self, bucket: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody signs for a long time: batches go into tiles all the same, and nothing is published."""
        monkeypatch.setattr(objects, "MAX_TAIL", 5)
        maker = BatchMaker()
        for _ in range(40):
            batch = maker.batch(17, keep=True)
            put(store, batch)
            maker.accept(batch)
            assert len(parse_head(contents(bucket)[HEAD], "").tail) <= 5
        assert "checkpoint" not in contents(bucket)
        for reader in (store, open_memory(bucket)):
            assert maker.lines == list(reader.read_entries(0))
            assert BatchMaker.leaves(maker.lines) == reader.read_hashes(0, 0, maker.size)
            assert [number * 17 for number in range(1, 41)] == [
                size for size in range(maker.size + 1) if reader.read_kept(size) is not None
            ]

    def test_what_lost_writers_left_is_swept(
        self, bucket: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once the head is so much younger that nobody can commit it; what the head names stays."""
        maker = BatchMaker()
        maker.put(store, 3)
        left = staging_path("0" * 64)
        driver().functions.put(bucket, left, b"of a writer that died")
        put(store, batch := maker.batch(2))
        objects_publish.sweep(store)
        assert left in contents(bucket)
        monkeypatch.setattr(objects_publish, "ORPHAN_S", -10)
        objects_publish.sweep(store)
        assert left not in contents(bucket)
        assert maker.lines + batch.entries == list(open_memory(bucket).read_entries(0))

    @pytest.mark.slow
    def test_eight_writers(self, bucket: Any) -> None:
        """Threads with stores of their own contend, publishing meanwhile: all of it is there once, and readable."""
        done: list[list[SignedBatch]] = [[] for _ in range(8)]

        def write(number: int) -> None:
            store = open_memory(bucket)
            for count in (1, 40, 3, 130, 1):
                batch = commit_somehow(store, count)
                done[number].append(batch)
                publish(store, batch.note)
            store.close()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        maker = BatchMaker()
        maker.replay(batch for batches in done for batch in batches)
        assert 8 * 175 == maker.size == check_published(contents(bucket), maker.lines)
        assert maker.lines == list(open_memory(bucket).read_entries(0))


class TestPurge:
    def test_a_bundle_made_of_an_older_one(self, bucket: Any, store: ObjectStore, tmp_path: Path) -> None:
        """Purged lines of a partial bundle stay purged in the full one, whoever makes it."""
        maker, other = BatchMaker(), open_memory(bucket)
        maker.put(store, 100)
        maker.put(other, 20, NEXT_DAY)
        with store.keeper(tmp_path) as keeper:
            keeper.put(keeper.prepare(store.old_days()[0], purging(7, 99)))
        maker.put(other, 200, NEXT_DAY)
        expected = purged(maker.lines, 7, 99)
        assert expected == list(open_memory(bucket).read_entries(0))
        left = b"".join(contents(bucket).values())
        assert maker.lines[7] not in left
        assert maker.lines[99] not in left
        assert BatchMaker.leaves(maker.lines) == b"".join(map(line_hash, store.read_entries(0)))

    def test_a_slow_writer_finds_its_bundle_purged(self, bucket: Any, tmp_path: Path) -> None:
        """It makes the same bundle of what it knows, and leaves the purged one alone."""
        maker, slow = BatchMaker(), open_memory(bucket)
        batch = maker.batch(300)
        put(slow, batch)
        maker.accept(batch)
        head = slow.look()
        assert head is not None
        publish(open_memory(bucket), batch.note)
        quick = open_memory(bucket)
        maker.put(quick, 1, NEXT_DAY)
        with quick.keeper(tmp_path) as keeper:
            keeper.put(keeper.prepare(quick.old_days()[0], purging(5)))
        slow.finisher.finish(head, 300)
        assert purged(maker.lines, 5) == list(open_memory(bucket).read_entries(0))

    def test_a_day_that_lacks_entries(self, bucket: Any, store: ObjectStore, tmp_path: Path) -> None:
        """Nothing is purged in a log from which a bundle is gone."""
        maker = BatchMaker()
        maker.put(store, 300)
        maker.put(store, 1, NEXT_DAY)
        driver().functions.delete(bucket, ["tile/entries/000"])
        with store.keeper(tmp_path) as keeper, pytest.raises(LogDamaged):
            keeper.prepare(store.old_days()[0], purging(5))


class TestListing:
    def test_what_does_not_belong(self, bucket: Any, store: ObjectStore) -> None:
        """Foreign names, tiles of no tree of this size, days that contradict others."""
        maker = BatchMaker()
        maker.put(store, 300, keep=True)
        maker.put(store, 3, NEXT_DAY)
        strays = [
            "notes.txt",
            "tile/0/007",
            "tile/0/001.p/48",
            "tile/1/000.p/2",
            "tile/entries/002.p/1",
            "tile/9/000",
            "tile/0/1",
            "staging/abc",
            "checkpoints/300",
            "days/2026-11-23/00000000000000000500",
            "days/2026-11-20/00000000000000000301",
            "days/2026-13-23/00000000000000000001",
            "audit-2026-11-21.jsonl.gz",
        ]
        for name in strays:
            driver().functions.put(bucket, name, b"x")
        found = {file.name: file.kind for file in store.inspect()}
        assert sorted(strays) == sorted(name for name, kind in found.items() if kind == "stray")
        assert {"checkpoint", "tree/0", "tree/1", "checkpoints/00000000000000000300"} < set(found)
        with store.view("notes.txt") as view:
            assert b"x" == bytes(view)
        assert maker.lines == list(open_memory(bucket).read_entries(0))

    def test_files_over_many_bundles(self, bucket: Any, store: ObjectStore) -> None:
        """Sizes are added up from listed bundles and are those of the files; also beyond what is published."""
        maker = BatchMaker()
        for count, day in ((100, DAY), (500, DAY), (413, NEXT_DAY), (256, NEXT_DAY)):
            maker.put(store, count, day)
        put(store, batch := maker.batch(30, NEXT_DAY))
        maker.accept(batch)
        for reader in (store, open_memory(bucket)):
            for file in reader.inspect():
                with reader.view(file.name) as view:
                    assert file.size == len(view), file.name

    def test_the_first_day_is_found_without_its_object(self, bucket: Any, store: ObjectStore) -> None:
        """Somebody deleted it: what the first entry says is its day."""
        maker = BatchMaker()
        maker.put(store, 3)
        maker.put(store, 3, NEXT_DAY)
        driver().functions.delete(bucket, [f"days/{DAY}/{0:020}"])
        assert (f"audit-{DAY}.jsonl", 2) == open_memory(bucket).locate(1)

    def test_nothing_named_so(self, store: ObjectStore) -> None:
        """A file that is not there is an OSError, as in a folder."""
        for name in ("audit-2026-11-21.jsonl", "tree/3", "checkpoints/00000000000000000001", "x"):
            with pytest.raises(FileNotFoundError), store.view(name):
                pass


class TestDamage:
    @pytest.mark.parametrize("path", ["head", "staging"])
    @pytest.mark.parametrize("at", [0, 30, 60, -1])
    def test_changed_bytes_are_found(self, bucket: Any, store: ObjectStore, path: str, at: int) -> None:
        """In the head where it is ours to check; in a staging object anywhere."""
        maker = BatchMaker()
        put(store, maker.batch(2))
        name = path if path == HEAD else staging_path(parse_head(contents(bucket)[HEAD], "").tail[0].name)
        data = bytearray(contents(bucket)[name])
        data[at] ^= 1
        driver().functions.put(bucket, name, bytes(data))
        reader = open_memory(bucket)
        with pytest.raises((LogDamaged, ValueError)):
            list(reader.read_entries(0))

    def test_a_head_that_is_gone(self, bucket: Any, store: ObjectStore) -> None:
        """No new log is begun where a checkpoint lies."""
        maker = BatchMaker()
        maker.put(store, 3)
        driver().functions.delete(bucket, [HEAD])
        with pytest.raises(LogDamaged, match="`head` is gone"), open_memory(bucket).transaction() as txn:
            txn.head()

    def test_a_bundle_that_is_gone(self, bucket: Any, store: ObjectStore) -> None:
        """Reading stops with its name, and gives what lies before."""
        maker = BatchMaker()
        maker.put(store, 600)
        maker.put(store, 3)
        driver().functions.delete(bucket, ["tile/entries/001"])
        lines, reader = [], open_memory(bucket)
        with pytest.raises(LogDamaged, match=r"tile/entries/001 .* is gone"):
            lines.extend(iter(reader.read_entries(0)))
        assert maker.lines[:256] == lines
        assert maker.lines[512:] == list(reader.read_entries(512))


class TestTurns:
    @pytest.mark.slow
    def test_who_always_loses_is_heard(self, bucket: Any) -> None:
        """A writer that commits without a pause leaves room when another one says that it is waiting."""
        quick, slow, over = open_memory(bucket), open_memory(bucket), threading.Event()
        maker = BatchMaker()
        maker.put(quick, 1)

        def hurry() -> None:
            while not over.is_set():
                commit_somehow(quick)

        def await_commits(count: int) -> None:
            until = time.monotonic() + 60
            before = quick.entries_committed
            while quick.entries_committed < before + count:
                assert time.monotonic() < until
                time.sleep(0.001)

        thread = threading.Thread(target=hurry)
        thread.start()
        try:
            await_commits(3)
            for _ in range(3):
                commit_somehow(slow)
            await_commits(2)
        finally:
            over.set()
            thread.join()
        assert quick.turns._free_at > 0.0

    def test_who_is_alone_never_waits(self, store: ObjectStore) -> None:
        """No room is left to nobody."""
        maker = BatchMaker()
        for _ in range(10):
            maker.put(store, 1)
        assert 0.0 == store.turns._free_at


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://key:secret@bucket/x", "file:///x", "s3://bucket/x?a=b", "s3://bucket/a//b"]
)
def test_what_names_no_bucket(url: str) -> None:
    """Credentials in an address are refused and not repeated."""
    with pytest.raises(UsageError) as caught:
        ObjectStore(url)
    assert "secret" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said, when the first request is to be made."""
    monkeypatch.setattr(objects_driver._Loaded, "driver", None)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"klingai-audit\[objects\]"):
        ObjectStore("s3://bucket/log").exists()


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("http://127.0.0.1:8333", True),
        ("http://localhost:8333", True),
        ("http://[::1]:8333", True),
        ("https://127.0.0.1", False),
        ("http://10.0.0.1:9000", False),
        ("http://localhost.example.com", False),
        ("", False),
    ],
)
def test_plain_http_is_for_this_machine(endpoint: str, local: bool) -> None:
    """Elsewhere the user has to allow it."""
    assert local == objects_driver.is_local(endpoint)


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("AWS_ENDPOINT_URL_S3", "localhost:8333"),
        ("AWS_ENDPOINT_URL", "s3.internal"),
        ("AWS_ENDPOINT", "https://"),
        ("AWS_ENDPOINT_URL", "http://h:99999"),
        ("AWS_ENDPOINT_URL", "http://h:0"),
        ("AWS_ENDPOINT_URL", "http://[::1"),
        ("AWS_ENDPOINT_URL", "http://h x"),
        ("AWS_ENDPOINT_URL", "ftp://h"),
    ],
)
def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch, name: str, endpoint: str) -> None:
    """It is said which variable is wrong, and not what is in it; the driver would end in a panic."""
    monkeypatch.setenv(name, endpoint)
    with pytest.raises(UsageError, match=f"^{name} in the environment") as caught:
        ObjectStore("s3://bucket/log").exists()
    assert endpoint not in caught.value.message


def test_of_several_endpoints_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was looked at: the driver takes any, and plain http is allowed for that of this machine."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, endpoint in (("AWS_ENDPOINT_URL", "http://127.0.0.1:8333"), ("AWS_ENDPOINT", "http://s3.internal")):
        monkeypatch.setenv(name, endpoint)
    store = objects_driver.open_bucket(driver(), "s3://bucket/log")
    assert "http://127.0.0.1:8333" == store.config["endpoint"]


def test_requests_are_counted(store: ObjectStore) -> None:
    """How many puts a thousand entries took."""
    maker = BatchMaker()
    assert 0.0 == store.puts_per_1000
    maker.put(store, 500)
    assert 2 * store.requests["put"] == store.puts_per_1000
    assert 9 <= store.requests["put"] <= 12
