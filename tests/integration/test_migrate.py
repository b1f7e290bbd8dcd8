"""Moving a log into another store: everything goes with it, the old place refuses writers, and it may be stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.config import Places, open_reader, open_store, open_subjects
from klingai_audit.errors import AuditUnavailable, KlingAuditError, LogDamaged, LogMigrated, UsageError
from klingai_audit.event.context import acting
from klingai_audit.ledger.line import event_type_of
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.migrate import migrate
from klingai_audit.upkeep.unseal import make_unseal_key, unseal
from tests.support.faulty import FaultyOps

ADMIN = "admin@example.com"
USER = "user@example.com"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path


def at(place: Path | str, **more: Any) -> Places:
    return Places.resolve(place, environ={}, **more)


def opened(places: Places, **more: Any) -> AuditLog:
    return AuditLog.open(
        places.address, keys=places.keys, state=places.state, subjects=places.subjects, vault=places.vault, **more
    )


def fill(places: Places, count: int = 30) -> str:
    """Write a small log with two epochs; return its public key."""
    with opened(places) as audit:
        for number in range(count):
            audit.log("x_note", USER, metadata={"number": number})
        audit.rotate_keys()
        audit.log("x_note", USER)
        return audit.vkey


def kinds(places: Places, vkey: str) -> list[str]:
    return [finding.kind for finding in verify(open_store(places), key=vkey).findings]


def types(places: Places) -> list[str]:
    return [event_type_of(line) for line in open_store(places).read_entries(0)]


def check_moved(source: Places, target: Places, vkey: str, proofs: list[bytes]) -> None:
    """See that the log went on: equal roots, old proofs, both places verify; only the new one takes entries."""
    there, here = open_reader(source), open_reader(target)
    size = there.size
    key = VerifierKey.parse(vkey)
    checkpoint = open_checkpoint(open_store(target).read_kept(size) or b"", key.name, [key])[0]
    assert there.checkpoint() == checkpoint
    assert list(there.lines(0, size)) == list(here.lines(0, size))
    for seq, proof in enumerate(proofs):
        assert proof == here.prove(seq, next(note for note in _notes(proof))).format()
    assert ["migrated"] == kinds(source, vkey)
    assert [] == kinds(target, vkey)
    assert ["log_migrated", "log_migrated"] == types(target)[size - 1 : size + 1]
    with pytest.raises(LogMigrated, match="goes on at"):
        opened(source)
    with opened(target) as audit:
        assert audit.vkey == vkey
        pseudonym = audit.log("x_after", USER).wait("published")
        assert audit.rotate_keys() > 0
    assert pseudonym.seq is not None
    lines = list(here.lines())
    assert [json.loads(lines[3])["actor_id"]] == [json.loads(lines[pseudonym.seq])["actor_id"]]
    assert ("out", "in") == tuple(json.loads(line)["metadata"]["phase"] for line in lines[size - 1 : size + 1])
    assert [] == kinds(target, vkey)


def _notes(proof: bytes) -> list[bytes]:
    return [proof[proof.index(b"\n\n") + 2 :]]


def proofs_of(places: Places) -> list[bytes]:
    reader = open_reader(places)
    return [reader.prove(seq).format() for seq in range(5)]


def test_into_another_folder(tmp_path: Path) -> None:
    """Keys, people and sealed content go too; what is public stays for readers of the old place."""
    source, target = at(tmp_path / "audit"), at(tmp_path / "elsewhere" / "audit")
    vkey = fill(source)
    make_unseal_key(source.keys)
    (source.keys / "policy.toml").write_text("[vault]\nseal = ['prompt']\n")
    with opened(source) as audit:
        seq = audit.log("prompt_submitted", USER, metadata={"prompt": "a lake"}).wait("published").seq or 0
    proofs = proofs_of(source)
    done = migrate(source, target, actor=ADMIN)
    assert (vkey.partition("+")[0], source.log, target.log) == (done.origin, done.source, done.target)
    assert open_reader(source).checkpoint().root == done.root
    assert {"log.pub", "epoch-0.pub", "epoch-1.pub", "unseal.pub", "policy.toml"} == {
        path.name for path in source.keys.iterdir()
    }
    assert [] == [path for path in source.vault.rglob("*") if path.is_file()]
    assert open_subjects(source) is None
    check_moved(source, target, vkey, proofs)
    with opened(target) as audit:
        assert "a lake" == unseal(audit, seq, "prompt", reason="a look", actor=ADMIN).text


def test_keys_that_stay(tmp_path: Path) -> None:
    """With places named for both, nothing but the log moves; done again, nothing happens."""
    shared: dict[str, Any] = {"keys": tmp_path / "k", "subjects": tmp_path / "p.sqlite", "vault": tmp_path / "v"}
    source, target = at(tmp_path / "a", **shared, state=tmp_path / "s"), at(tmp_path / "b", **shared)
    vkey = fill(source)
    proofs, before = proofs_of(source), {path.name for path in (tmp_path / "k").iterdir()}
    done = migrate(source, target, actor=ADMIN)
    assert before == {path.name for path in (tmp_path / "k").iterdir()}
    check_moved(source, target, vkey, proofs)
    size = open_reader(target).size
    assert done == migrate(source, target, actor=ADMIN)
    assert size == open_reader(target).size


def test_it_says_who_moved_it_and_where(tmp_path: Path) -> None:
    """The act is in the log, by a person's pseudonym; a folder elsewhere is told by a fingerprint, not by its path."""
    source, target = at(tmp_path / "audit"), at(tmp_path / "else" / "moved")
    fill(source, 3)
    migrate(source, target, actor=ADMIN)
    act, _closed, out, back = [json.loads(line) for line in list(open_reader(target).lines())[-4:]]
    assert ("settings_changed", "migrate", "admin") == (act["event_type"], act["action"], act["actor_type"])
    assert act["actor_id"].startswith("p_")
    assert {"phase": "out", "to": "else/moved"} == out["metadata"]
    assert {"phase", "from", "size"} == back["metadata"].keys()
    assert back["metadata"]["from"].startswith("elsewhere:")
    assert (back["seq"], "in") == (back["metadata"]["size"], back["metadata"]["phase"])


def test_open_writers_are_refused_afterwards(tmp_path: Path) -> None:
    """A program that has the log open goes on until the last entry; then its acts are refused, with the new place."""
    source, target = at(tmp_path / "audit"), at(tmp_path / "moved")
    fill(source, 3)
    audit = opened(source)
    with acting(USER):
        audit.log("x_before").wait()
        migrate(source, target, actor=ADMIN)
        with pytest.raises(AuditUnavailable, match="goes on at moved"):
            audit.log("x_after").wait()
    with pytest.raises(AuditUnavailable):
        audit.close()
    assert ("x_before" in types(target), "x_after" in types(target)) == (True, False)


def test_what_is_not_moved(tmp_path: Path) -> None:
    """Damage, another log in the way, another target than the first time, one place: all refused, nothing changed."""
    source, target, other = (at(tmp_path / name) for name in ("audit", "moved", "other"))
    vkey = fill(source)
    fill(other, 2)
    here = at(f"{tmp_path}/./audit")
    shared = at(tmp_path / "moved", state=source.state)
    for wrong in (other, source, here, shared, at("memory:")):
        with pytest.raises(UsageError):
            migrate(source, wrong, actor=ADMIN)
    assert "log_migrated" not in types(source) + types(other)
    day = next(Path(source.log).glob("audit-*.jsonl"))
    good = day.read_bytes()
    day.write_bytes(good.replace(b'"number":3}', b'"number":4}', 1))
    with pytest.raises(LogDamaged, match="does not verify"):
        migrate(source, target, actor=ADMIN)
    assert not Path(target.log).exists()
    day.write_bytes(day.read_bytes().replace(b'"number":4}', b'"number":3}', 1))
    migrate(source, target, actor=ADMIN)
    with pytest.raises(LogMigrated, match="Move it from there"):
        migrate(source, at(tmp_path / "third"), actor=ADMIN)
    assert ["migrated"] == kinds(source, vkey)


def test_a_log_that_moved_twice(tmp_path: Path) -> None:
    """From one place to a second to a third: each tells where it came from and went."""
    places = [at(tmp_path / name) for name in ("one", "two", "three")]
    vkey = fill(places[0], 3)
    migrate(places[0], places[1], actor=ADMIN)
    with opened(places[1]) as audit:
        audit.log("x_between", USER)
    migrate(places[1], places[2], actor=ADMIN)
    assert [["migrated"], ["migrated"], []] == [kinds(one, vkey) for one in places]
    assert [1, 3, 4] == [types(one).count("log_migrated") for one in places]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """What cannot be copied is said, nothing is taken up, and it goes on when there is room."""
    source, target = at(tmp_path / "audit"), at(tmp_path / "moved")
    vkey = fill(source, 3)
    proofs = proofs_of(source)
    ops = FaultyOps(how="lost")
    ops.fails = lambda call: call.about.startswith("lookup.key")
    with pytest.raises(KlingAuditError, match="cannot be copied"):
        migrate(source, target, actor=ADMIN, ops=ops)
    with pytest.raises(LogMigrated):
        opened(source)
    with pytest.raises(KlingAuditError):
        opened(target)
    migrate(source, target, actor=ADMIN)
    check_moved(source, target, vkey, proofs)


KILLED = """
import os, sys
from klingai_audit.config import Places
from klingai_audit.testing.faulty import FaultyOps
from klingai_audit.upkeep.migrate import migrate

class Mortal(FaultyOps):
    def _do(self, name, about, act, undo=None):
        if len(self.calls) == int(sys.argv[3]):
            os._exit(9)
        return super()._do(name, about, act, undo)

ops = Mortal()
migrate(*(Places.resolve(place, environ={}) for place in sys.argv[1:3]), actor="admin@example.com", ops=ops)
print(len(ops.calls))
"""


def run_killed(source: str, target: str, at_call: int) -> subprocess.CompletedProcess[str]:
    """Migrate in a process that ends at a file operation, as by SIGKILL."""
    command = [sys.executable, "-c", KILLED, source, target, str(at_call)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))


@pytest.mark.slow
def test_killed_at_any_step(tmp_path: Path) -> None:
    """Killed at a file operation, one after another over the whole way: the same command completes it every time."""
    whole = at(tmp_path / "whole" / "audit")
    fill(whole, 3)
    calls = int(run_killed(whole.log, str(tmp_path / "whole" / "moved"), 10**9).stdout)
    for number, at_call in enumerate(range(3, calls, max(1, calls // 25))):
        source, target = at(tmp_path / str(number) / "audit"), at(tmp_path / str(number) / "moved")
        vkey = fill(source, 3)
        proofs = proofs_of(source)
        assert 9 == run_killed(source.log, target.log, at_call).returncode
        migrate(source, target, actor=ADMIN)
        check_moved(source, target, vkey, proofs)


def cli(*arguments: str) -> tuple[int, str]:
    """Run a command line; return its exit code and what it printed on either stream."""
    command = [sys.executable, "-m", "klingai_audit.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_into_postgres_and_on(tmp_path: Path, postgres: Any) -> None:
    """From a folder into a database, on into another schema, and back into a folder; no password is ever shown."""
    url = postgres.database()
    source = at(tmp_path / "audit")
    vkey = fill(source, 200)
    proofs = proofs_of(source)
    code, said = cli("migrate", source.log, url, "--actor", ADMIN)
    assert (0, False) == (code, postgres.password in said), said
    here = at(url)
    check_moved(source, here, vkey, proofs)
    code, said = cli("log", "x_cli", "--actor", USER, "--log", source.log)
    assert 3 == code
    assert here.remote is not None
    assert f"goes on at {here.remote.place}" in said
    further, back = at(f"{url}?schema=second"), at(tmp_path / "back")
    assert 0 == cli("migrate", url, f"{url}?schema=second")[0]
    check_moved(here, further, vkey, proofs)
    assert 0 == cli("migrate", f"{url}?schema=second", back.log)[0]
    check_moved(further, back, vkey, proofs)


@pytest.mark.slow
def test_people_into_postgres(tmp_path: Path, postgres_url: str) -> None:
    """With --to-subjects the people go into the database, under the same pseudonyms, and nobody is left in the file."""
    source = at(tmp_path / "audit")
    vkey = fill(source, 3)
    proofs = proofs_of(source)
    code, said = cli("migrate", source.log, postgres_url, "--to-subjects", postgres_url, "--json")
    assert 0 == code, said
    assert [] == list(source.keys.glob("subjects*"))
    target = at(postgres_url, subjects=postgres_url)
    check_moved(source, target, vkey, proofs)
    people = open_subjects(target)
    assert people is not None
    assert [USER] == [people.reveal(json.loads(list(open_reader(target).lines())[3])["actor_id"])]


MANY = """
import os, sys
from klingai_audit.config import Places
from klingai_audit.stores.postgres_commit import PostgresTransaction
from klingai_audit.testing.faulty import FaultyOps
from klingai_audit.upkeep.migrate import migrate

left = [int(sys.argv[3])]
def mortal(act):
    def run(*arguments, **more):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        found = act(*arguments, **more)
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return found
    return run

PostgresTransaction.append = mortal(PostgresTransaction.append)
FaultyOps.rename = mortal(FaultyOps.rename)
migrate(*(Places.resolve(place, environ={}) for place in sys.argv[1:3]), actor="admin@example.com", ops=FaultyOps())
print(int(sys.argv[3]) - left[0])
"""


@pytest.mark.slow
def test_killed_on_the_way_to_postgres(tmp_path: Path, postgres: Any) -> None:
    """Killed before or after a commit, or a file's rename: the same command completes it every time."""

    def run(source: Places, url: str, when: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MANY, source.log, url, str(when)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))

    whole = at(tmp_path / "whole")
    fill(whole, 40)
    steps = int(run(whole, postgres.database(), 10**9).stdout)
    for when in range(1, steps + 1, max(1, steps // 16)):
        source, url = at(tmp_path / str(when)), postgres.database()
        vkey = fill(source, 40)
        proofs = proofs_of(source)
        assert 9 == run(source, url, when).returncode
        migrate(source, at(url), actor=ADMIN)
        check_moved(source, at(url), vkey, proofs)


@pytest.mark.slow
def test_into_a_bucket_and_back(tmp_path: Path, bucket_url: str, postgres_url: str) -> None:
    """From a folder into a bucket, from there into a database, and back into the bucket beside."""
    source = at(tmp_path / "audit")
    vkey = fill(source, 300)
    proofs = proofs_of(source)
    places = [source, at(bucket_url), at(postgres_url), at(f"{bucket_url}-beside")]
    for one, other in pairwise(places):
        migrate(one, other, actor=ADMIN)
        check_moved(one, other, vkey, proofs)
