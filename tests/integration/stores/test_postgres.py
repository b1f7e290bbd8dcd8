"""The PostgreSQL store beyond the contract: a server that dies, strangers in the tables, large logs, old schemas."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, UnsupportedStorage
from klingai_audit.ledger.batches import CommitUnknown
from klingai_audit.stores.postgres_schema import grants_sql, migrations, newest, upgrade_sql
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker, commit
from klingai_audit.testing.proxy import Cut, FaultProxy
from klingai_audit.testing.store_contract.common import keep_days, purging
from klingai_audit.testing.store_contract.signed import commit_somehow
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow

SCHEMA = "klingai_audit"


@pytest.fixture
def store(postgres_url: str) -> Iterator[Any]:
    """An empty log."""
    from klingai_audit.stores.postgres import PostgresStore

    made = PostgresStore(postgres_url)
    made.create()
    yield made
    made.close()


@pytest.fixture
def superuser(postgres: PostgresServer, postgres_url: str) -> Iterator[Any]:
    """A connection of somebody who may do everything."""
    with postgres.connect(postgres_url) as connection:
        yield connection


# --- a server that dies --------------------------------------------------------------------------------


def test_a_restart_under_load_loses_and_doubles_nothing() -> None:
    """Two writers go on over two SIGKILLs of the server: what was acknowledged is there once, in order."""
    from klingai_audit.stores.postgres import PostgresStore

    with PostgresServer.running() as server:
        url = server.database()
        store = PostgresStore(url)
        store.create()
        done: list[Any] = []
        over = threading.Event()
        failed: list[BaseException] = []

        def write() -> None:
            mine = PostgresStore(url)
            while not over.is_set():
                try:
                    done.append(commit_somehow(mine, 2))
                except CommitUnknown as error:
                    failed.append(error)
                except AuditUnavailable:
                    time.sleep(0.05)
                except Exception as error:  # noqa: BLE001  it is compared below
                    failed.append(error)
                    over.set()
            mine.close()

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        for _ in range(2):
            enough = len(done) + 100
            until = time.monotonic() + 60
            while len(done) < enough and time.monotonic() < until:
                time.sleep(0.01)
            server.kill()
            server.restart()
        enough = len(done) + 20
        until = time.monotonic() + 60
        while len(done) < enough and time.monotonic() < until:
            time.sleep(0.01)
        over.set()
        for writer in writers:
            writer.join()
        assert [] == failed
        maker = BatchMaker()
        maker.replay(done)
        assert maker.lines == list(store.read_entries(0))
        assert maker.note == store.read_checkpoint()
        store.close()


def test_a_backend_that_is_ended_between_lock_and_commit(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """Nothing was written, and the answer says that; the next attempt succeeds on the same store."""
    maker.put(store, 1)
    batch = maker.batch(2)
    with pytest.raises(HeadConflict), store.transaction() as txn:
        txn.head()
        superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database()"
        )
        txn.append(batch)
    with store.transaction() as txn:
        commit(txn, batch)
    maker.accept(batch)
    assert maker.lines == list(store.read_entries(0))


def test_a_writer_that_was_stopped_too_long_gets_nothing_in(store: Any, maker: BatchMaker) -> None:
    """Its lock is given to others meanwhile; what it had begun is refused."""
    maker.put(store, 1)
    batch = maker.batch(1)
    with pytest.raises(HeadConflict), store.transaction() as txn:
        txn._connection.execute("SET idle_in_transaction_session_timeout = '200ms'")
        time.sleep(0.6)
        other = commit_somehow(store)
        txn.append(batch)
    maker.accept(other)
    assert maker.lines == list(store.read_entries(0))


def test_a_server_that_is_gone_for_good_leaves_it_open(monkeypatch: pytest.MonkeyPatch, maker: BatchMaker) -> None:
    """Whether the batch is there cannot be said, and is not."""
    from klingai_audit.stores import postgres_commit
    from klingai_audit.stores.postgres import PostgresStore

    monkeypatch.setattr(postgres_commit, "UNKNOWN_S", 0.5)
    with PostgresServer.running() as server:
        store = PostgresStore(server.database())
        store.create()
        maker.put(store, 1)
        with pytest.raises(CommitUnknown), store.transaction() as txn:
            txn.head()
            server.kill()
            txn.append(maker.batch(1))
        store.close()


def test_a_standby_takes_no_writes(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """A database that is read-only is told apart from one that is broken."""
    maker.put(store, 1)
    name = superuser.info.dbname
    superuser.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    store.close()
    with pytest.raises(AuditUnavailable) as caught, store.transaction():
        pass
    assert "standby" in caught.value.message
    assert maker.lines == list(store.read_entries(0))


def test_a_server_that_does_not_sync_commits_is_refused(store: Any, superuser: Any) -> None:
    """`synchronous_commit = off` would acknowledge what a crash takes back."""
    superuser.execute(f'ALTER DATABASE "{superuser.info.dbname}" SET synchronous_commit = off')
    store.close()
    with pytest.raises(UnsupportedStorage), store.transaction():
        pass


def test_passwords_are_in_no_words(postgres: PostgresServer, postgres_url: str) -> None:
    """Whatever goes wrong with a connection, its password is not told, nor is it in a traceback."""
    import traceback

    from klingai_audit.stores.postgres import PostgresStore

    wrong = "s3cret-and-wrong"
    for url in (
        postgres_url.replace(postgres.password, wrong),
        f"postgresql://nobody:{wrong}@127.0.0.1:1/none",
        f"postgresql://127.0.0.1:{postgres.port}/none?user=postgres&password={wrong}",
        f"postgresql://nobody:{wrong}@host.invalid/none?connect_timeout=2",
    ):
        store = PostgresStore(url)
        with pytest.raises(AuditUnavailable) as caught:
            store.exists()
        told = "".join(traceback.format_exception(caught.value)) + repr(store) + store.url + repr(caught.value)
        assert wrong not in told
        assert caught.value.do


# --- strangers in the tables ---------------------------------------------------------------------------


def test_rows_beyond_the_head_are_shown_and_stop_writers(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """Somebody inserted past the store: readers do not see it, `inspect` does, no writer builds on it."""
    maker.put(store, 3)
    superuser.execute(f"INSERT INTO {SCHEMA}.entries (seq, leaf, line) VALUES (3, sha256('x'), 'foreign')")
    assert maker.lines == list(store.read_entries(0))
    assert 3 * 32 == len(store.read_hashes(0, 0, 9))
    (stray,) = [file for file in store.inspect() if file.kind == "stray"]
    assert ("entries.beyond", 8) == (stray.name, stray.size)
    with store.view(stray.name) as view:
        assert b"foreign\n" == bytes(view)
    with pytest.raises(LogDamaged), store.transaction() as txn:
        commit(txn, maker.batch(1))


def test_tables_of_others_are_strays(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """What lies in the schema and belongs to no log is named."""
    maker.put(store, 1)
    superuser.execute(f'CREATE TABLE {SCHEMA}."entries_copy\n" (a int)')
    superuser.execute(f"CREATE VIEW {SCHEMA}.mine AS SELECT 1")
    assert ["table.entries_copy?", "table.mine"] == [file.name for file in store.inspect() if file.kind == "stray"]


def test_a_missing_row_ends_what_is_read(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """Whoever owns the table can take the guards away and delete: reading stops there and goes on behind."""
    maker.put(store, 9)
    superuser.execute(f"ALTER TABLE {SCHEMA}.entries DISABLE TRIGGER guard")
    superuser.execute(f"DELETE FROM {SCHEMA}.entries WHERE seq = 4")
    assert maker.lines[:4] == list(store.read_entries(0))
    assert [] == list(store.read_entries(4))
    assert maker.lines[5:] == list(store.read_entries(5))
    assert maker.leaves(maker.lines[:4]) == store.read_hashes(0, 0, 9)
    assert store.locate(4) is None
    superuser.execute(f"DELETE FROM {SCHEMA}.entries WHERE seq = 8")
    with pytest.raises(LogDamaged) as caught, store.transaction() as txn:
        txn.head()
    assert "tail_cut" == caught.value.kind_of_damage


# --- large logs ----------------------------------------------------------------------------------------


def test_a_log_goes_over_partitions(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """A batch that crosses the last partition gets the next one in its own commit."""
    maker.put(store, 2)
    superuser.execute("SET session_replication_role = replica")  # the guards would refuse what a million entries do
    superuser.execute(f"UPDATE {SCHEMA}.head SET room = 2, size = 2")
    superuser.execute(f"DROP TABLE {SCHEMA}.entries_0000001")
    superuser.execute(f"UPDATE {SCHEMA}.head SET room = 1000000, size = 999999, note = 'n'")
    superuser.execute(f"INSERT INTO {SCHEMA}.entries (seq, leaf, line) VALUES (999998, sha256('x'), 'last')")
    superuser.execute("RESET session_replication_role")
    other = BatchMaker()
    first = other.batch(3)
    moved = first.__class__(
        first.id, 999_999, first.entries, first.leaves, (), first.day, first.note, True, (), ()
    )  # as if it followed a million others
    with store.transaction() as txn:
        head = txn.head()
        assert (b"n", b"last") == (head.note, head.last)
        txn.append(moved)
    assert [b"last", *first.entries] == list(store.read_entries(999_998))
    room = superuser.execute(f"SELECT room FROM {SCHEMA}.head").fetchone()
    assert (3_000_000,) == room, "the partition that was needed, and another one ahead"


def test_what_is_purged_is_in_no_sample(store: Any, superuser: Any, maker: BatchMaker, tmp_path: Path) -> None:
    """The planner's statistics show nothing of lines, of partitions that are made later neither."""
    maker.put(store, 50)
    maker.put(store, 1, NEXT_DAY)
    superuser.execute(f"SELECT {SCHEMA}.make_room(3000000)")
    superuser.execute(f"ANALYZE {SCHEMA}.entries")
    keep_days(store, tmp_path, purging(*range(10, 40)))
    assert maker.lines[10] not in store.read_entries(0)
    samples = "SELECT attname, histogram_bounds::text, most_common_vals::text FROM pg_stats WHERE schemaname = %s"
    sampled = superuser.execute(samples, (SCHEMA,)).fetchall()
    assert "leaf" in {name for name, *_ in sampled}
    assert not any(line.hex() in str(values) for line in maker.lines for values in sampled)
    parts = superuser.execute(
        "SELECT count(*), count(*) FILTER (WHERE attstattarget = 0) FROM pg_attribute"
        f" WHERE attname = 'line' AND attrelid IN (SELECT inhrelid FROM pg_inherits"
        f" WHERE inhparent = '{SCHEMA}.entries'::regclass)"
    ).fetchone()
    assert (3, 3) == parts


def test_a_day_larger_than_memory_wants_is_viewed(store: Any, maker: BatchMaker) -> None:
    """It is mapped from a file that has no name."""
    batch = maker.batch(160, metadata={"x": "y" * 60_000})
    with store.transaction() as txn:
        commit(txn, batch)
    maker.accept(batch)
    maker.put(store, 1, NEXT_DAY)
    expected = b"".join(line + b"\n" for line in maker.lines[:160])
    with store.view(f"audit-{DAY}.jsonl") as view:
        assert len(expected) == len(view)
        assert expected == bytes(view)
    with pytest.raises(OSError), store.view("audit-2001-01-01.jsonl"):
        pass


def test_readers_leave_no_transaction_open(store: Any, superuser: Any, maker: BatchMaker) -> None:
    """One that reads for hours keeps no old row of the head alive."""
    maker.put(store, 600)
    entries = store.read_entries(0)
    assert maker.lines[0] == next(entries)
    states = superuser.execute(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchall()
    assert states
    assert all(state == ("idle",) for state in states)
    assert maker.lines[1:] == list(entries)


# --- publication ---------------------------------------------------------------------------------------


def test_a_publication_does_not_go_back(store: Any, maker: BatchMaker) -> None:
    """A checkpoint of fewer entries, published late, does not replace the newer one."""
    first = maker.put(store, 1)
    second = maker.put(store, 2)
    with store.publication() as publication:
        publication.put_checkpoint(first.note)
    assert second.note == store.read_checkpoint()


def test_publications_exclude_each_other_and_no_commit(store: Any, maker: BatchMaker) -> None:
    """Who waits for one gets it when the other is over; entries are appended meanwhile."""
    order: list[str] = []

    def publish() -> None:
        with store.publication():
            order.append("second")

    with store.publication():
        other = threading.Thread(target=publish)
        other.start()
        maker.put(store, 1)
        time.sleep(0.2)
        order.append("first")
    other.join()
    assert ["first", "second"] == order


# --- schemas -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(newest("log")))
def test_each_version_is_brought_up_to_date(postgres_url: str, superuser: Any, version: int) -> None:
    """`create` runs what is missing, once, and the log is as it was made new."""
    from klingai_audit.stores.postgres import PostgresStore

    superuser.execute(f"CREATE SCHEMA {SCHEMA}")
    superuser.execute(upgrade_sql(SCHEMA, ("log",), up_to=version), prepare=False)
    superuser.execute(grants_sql(SCHEMA), prepare=False)
    store, maker = PostgresStore(postgres_url), BatchMaker()
    with pytest.raises((UnsupportedStorage, AuditUnavailable)) as caught, store.transaction():
        pass
    assert "init" in caught.value.do
    store.create()
    store.create()
    maker.put(store, 3)
    assert maker.lines == list(store.read_entries(0))
    steps = superuser.execute(f"SELECT version, name FROM {SCHEMA}.versions WHERE part = 'log' ORDER BY 1").fetchall()
    assert [(step.number, step.name) for step in migrations("log")] == steps
    store.close()


def test_a_schema_that_is_made_and_not_answered(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loses the connection is not told that nothing was changed; `create` again completes it."""
    from klingai_audit.stores import postgres as module

    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        faults = list[Cut]()

        def last(schema: str) -> str:
            proxy.arm(*faults)  # from here on answers have the same length each time
            return grants_sql(schema)

        monkeypatch.setattr(module, "grants_sql", last)
        for _ in range(2):
            url = postgres.database()
            store = module.PostgresStore(postgres.url(url.rpartition("/")[2], port=proxy.port))
            if not faults:
                store.create()
                faults.append(Cut("down", proxy.traffic.down - 1))
            else:
                with pytest.raises(AuditUnavailable) as caught:
                    store.create()
            store.close()
        assert tuple(faults) == proxy.fired
        proxy.disarm()
        with postgres.connect(url) as connection:
            assert [("log",)] == connection.execute(f"SELECT DISTINCT part FROM {SCHEMA}.versions").fetchall()
        assert "Nothing was changed" not in str(caught.value)
        assert "try again" in caught.value.do
        store.create()
        store.close()


def test_a_newer_schema_is_left_alone(store: Any, superuser: Any, postgres_url: str) -> None:
    """A program that is too old neither writes nor changes anything."""
    from klingai_audit.stores.postgres import PostgresStore

    superuser.execute(f"INSERT INTO {SCHEMA}.versions (part, version, name) VALUES ('log', 99, 'later')")
    other = PostgresStore(postgres_url)
    with pytest.raises(UnsupportedStorage):
        other.create()
    with pytest.raises(UnsupportedStorage), other.transaction():
        pass
    other.close()


def test_many_make_one_log(postgres_url: str) -> None:
    """Processes that open a new log at the same moment make it once."""
    from klingai_audit.stores.postgres import PostgresStore

    failed: list[BaseException] = []

    def make() -> None:
        mine = PostgresStore(postgres_url)
        try:
            mine.create()
            commit_somehow(mine)
        except Exception as error:  # noqa: BLE001  it is compared below
            failed.append(error)
        finally:
            mine.close()

    makers = [threading.Thread(target=make) for _ in range(6)]
    for one in makers:
        one.start()
    for one in makers:
        one.join()
    assert [] == failed
    store = PostgresStore(postgres_url)
    assert 6 == len(list(store.read_entries(0)))
    store.close()


def test_logs_of_two_schemas_do_not_touch(postgres_url: str, maker: BatchMaker) -> None:
    """One database holds several logs."""
    from klingai_audit.stores.postgres import PostgresStore

    one, two = PostgresStore(f"{postgres_url}?schema=one"), PostgresStore(f"{postgres_url}?schema=two")
    one.create()
    two.create()
    maker.put(one, 2)
    assert not two.exists()
    assert [] == list(two.read_entries(0))
    assert [] == [file for file in one.inspect() if file.kind == "stray"]
    one.close()
    two.close()


# --- forks ---------------------------------------------------------------------------------------------


def test_a_child_leaves_its_parents_connections_alone(store: Any, maker: BatchMaker) -> None:
    """It lets go of the sockets without a word: the parent's transaction goes on, and ends when the parent does."""
    maker.put(store, 1)
    batch = maker.batch(1)
    with store.transaction() as txn:
        txn.head()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.after_fork()
                code = 0 if maker.lines == list(store.read_entries(0)) else 2
                store.close()
            finally:
                os._exit(code)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        txn.append(batch)
    maker.accept(batch)
    assert maker.lines == list(store.read_entries(0))


@pytest.fixture
def maker() -> BatchMaker:
    """What is written."""
    return BatchMaker()
