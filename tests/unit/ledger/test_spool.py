"""Records of the spool: their form, what is refused, and that none is acknowledged that may be gone."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import os
import random
from pathlib import Path

import pytest

from klingai_audit.errors import Malformed
from klingai_audit.event.record import MAX_EVENT_BYTES
from klingai_audit.ledger.spool import MAX_RECORD_BYTES, Record, SpoolFile, count_records, look_at, spool_key
from tests.support.faulty import FaultyOps, How, QuickOps
from tests.support.ledgers import ORIGIN, event

LOOKUP = bytes(range(32))
KEY = spool_key(LOOKUP, ORIGIN)
NAME = "01a2023004e87101bbd341748b187531"


def made(folder: Path, count: int = 3, ops: FaultyOps | None = None) -> SpoolFile:
    """Return a file with so many records."""
    file = SpoolFile.create(folder, NAME, KEY, ORIGIN, ops or QuickOps())
    for number in range(count):
        file.append([Record(event(metadata={"n": number}), 40 + number, "paid_create", number == 2)])
    return file


def again(folder: Path, key: bytes = KEY, origin: str = ORIGIN) -> SpoolFile:
    """Return the file as the next process finds it."""
    file = SpoolFile.take_over(folder / f"{NAME}.jsonl", key, origin, QuickOps())
    assert file is not None
    return file


def test_the_form_of_a_record(tmp_path: Path) -> None:
    """A record is what docs/format.md says, made here once more from its words: HKDF, HMAC, base64url."""
    one = event(event_id="0199a000-0000-7000-8000-000000000001")
    file = SpoolFile.create(tmp_path / "spool", NAME, KEY, ORIGIN, QuickOps())
    file.append([Record(one, 41, "paid_create")])
    line = (tmp_path / "spool" / f"{NAME}.jsonl").read_bytes().removesuffix(b"\n")
    info = b"klingai-audit/spool/v1\0" + ORIGIN.encode()
    prk = hmac.digest(bytes(32), LOOKUP, "sha256")
    key = hmac.digest(prk, info + b"\1", "sha256")
    before, _, mac = line.rpartition(b',"mac":"')
    expected = base64.urlsafe_b64encode(hmac.digest(key, info + b"\0" + before, hashlib.sha256))[:43]
    assert expected + b'"}' == mac
    members = json.loads(line)
    assert [NAME, 0, 41, "paid_create", False] == [
        members[name] for name in ("spool", "index", "since", "class", "once")
    ]
    assert one.body == line[: line.index(b',"spool"')] + b"}"


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    """Records are read in order with all they were given, and their events encoded again to the same bytes."""
    file = made(tmp_path)
    contents = file.contents()
    assert [(0, 40, False), (1, 41, False), (2, 42, True)] == [
        (entry.number, entry.since, entry.once) for entry in contents.entries
    ]
    assert ([], 0, "2026-11-21T12:00:00.000000Z") == (contents.refused, contents.missing, contents.begun)
    ids = [entry.event_id for entry in contents.entries]
    assert ids == [file.event(entry).event_id for entry in contents.entries]
    file.close()
    assert ids == [entry.event_id for entry in again(tmp_path).contents().entries]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    """Whichever byte of a record changes, the record is refused, or is the very same (a line end)."""
    file = made(tmp_path, 1)
    path = file.path
    file.close()
    good = path.read_bytes()
    rng = random.Random(7)
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        taken = again(tmp_path)
        found = taken.contents()
        assert not found.entries or place == len(good) - 1, place
        assert bytes(changed) == taken.read(found.refused) or found.entries
        taken.close()


@pytest.mark.parametrize("key, origin", [(spool_key(LOOKUP, "log.example.com/b"), ORIGIN), (KEY, "log.example.com/b")])
def test_another_log_has_another_key(tmp_path: Path, key: bytes, origin: str) -> None:
    """A record of one log is none of another, whatever is copied where."""
    made(tmp_path).close()
    contents = again(tmp_path, key, origin).contents()
    assert ([], 3, 0) == (contents.entries, len(contents.refused), contents.missing)


def test_garbage_of_any_kind(tmp_path: Path) -> None:
    """Between records and behind them anything may stand: it is told apart, byte for byte, and so are long lines."""
    file = made(tmp_path)
    path = file.path
    file.close()
    records = path.read_bytes().splitlines(keepends=True)
    garbage = [b"\n", b"{}\n", os.urandom(5_000).replace(b"\n", b"") + b"\n", b"x" * (3 * MAX_RECORD_BYTES) + b"\n"]
    torn = b'{"schema":1,'
    path.write_bytes(b"".join(a + b for a, b in zip(garbage, [*records, b""], strict=True)) + torn)
    taken = again(tmp_path)
    contents = taken.contents()
    assert [0, 1, 2] == [entry.number for entry in contents.entries]
    assert b"".join(garbage) + torn == taken.read(contents.refused)


def test_the_longest_event_fits(tmp_path: Path) -> None:
    """An event of the greatest length is a record like others."""
    long = event(metadata={"text": "x" * (MAX_EVENT_BYTES - len(event(metadata={"text": ""}).body))})
    assert MAX_EVENT_BYTES == len(long)
    file = SpoolFile.create(tmp_path, NAME, KEY, ORIGIN, QuickOps())
    file.append([Record(long, 10**17, "paid_create", True)] * 2)
    contents = file.contents()
    assert ([0, 1], []) == ([entry.number for entry in contents.entries], contents.refused)
    assert long.body == file.event(contents.entries[1]).body


def test_many_records_are_read_in_pieces(tmp_path: Path) -> None:
    """Records that lie across the pieces in which a file is read are whole."""
    file = SpoolFile.create(tmp_path, NAME, KEY, ORIGIN, QuickOps())
    rng = random.Random(1)
    events = [event(metadata={"text": "x" * rng.randrange(30_000)}) for _ in range(60)]
    file.append([Record(one, 0, "read") for one in events])
    assert [one.event_id for one in events] == [entry.event_id for entry in file.contents().entries]
    assert 60 == count_records(file.path)
    assert 60 == look_at(tmp_path).records


def test_a_record_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """What was genuine at first sight and is not at the second is not handed on."""
    file = made(tmp_path, 1)
    (entry,) = file.contents().entries
    data = file.path.read_bytes()
    file.path.write_bytes(data.replace(b'"n":0', b'"n":9'))
    with pytest.raises(Malformed):
        file.event(entry)


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    """What somebody holds is taken over by nobody; what was removed, or is another file by now, neither."""
    file = made(tmp_path)
    assert SpoolFile.take_over(file.path, KEY, ORIGIN, QuickOps()) is None
    file.close()
    taken = again(tmp_path)
    with pytest.raises(FileExistsError):
        SpoolFile.create(tmp_path, NAME, KEY, ORIGIN, QuickOps())
    taken.remove()
    assert SpoolFile.take_over(file.path, KEY, ORIGIN, QuickOps()) is None
    assert 0 == count_records(file.path)


@pytest.mark.parametrize("how", ["lost", "done"])
@pytest.mark.parametrize("name", ["write", "sync"])
def test_a_record_that_was_refused_is_cut_off(tmp_path: Path, name: str, how: How) -> None:
    """A write or a sync fails: the record does not count and is cut off again, those before it stay."""
    ops = FaultyOps(how=how, code=errno.ENOSPC)
    file = made(tmp_path, 2, ops)
    ops.fails = lambda call: call.name == name and not ops.failed
    with pytest.raises(OSError, match="space"):
        file.append([Record(event(), 0, "read")])
    file.close()
    contents = again(tmp_path).contents()
    assert ([0, 1], []) == ([entry.number for entry in contents.entries], contents.refused)


def test_a_write_that_falls_short_goes_on(tmp_path: Path) -> None:
    """What the system did not take at once is written behind it."""
    ops = FaultyOps(how="short")
    file = made(tmp_path, 2, ops)
    ops.fails = lambda call: call.name == "write" and not ops.failed
    file.append([Record(event(), 0, "read")])
    assert ([0, 1, 2], 1) == ([entry.number for entry in file.contents().entries], len(ops.failed))
