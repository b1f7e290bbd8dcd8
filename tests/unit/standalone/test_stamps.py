"""Who issued time stamps: the single file asks `openssl ts`, and says what the package says with its library."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.authority import read_roots
from klingai_audit.trust.stamps import stamp_metadata
from klingai_audit.trust.token import parse_token
from klingai_audit.trust.verify import verify
from tests.support.both import Answer, differences
from tests.support.logsmith import Smith, write_files
from tests.support.retained import Keeper
from tests.support.tsa import Tsa

pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("other"), name="Other Time Stamps")


def log(folder: Path, tsa: Tsa, *, hours: float = 0, spoil: bool = False, purge: bool = False, **stated: str) -> Smith:
    """Write a log whose clock is so many hours behind the authority's when it is stamped.

    `purge` takes out the last two entries that the token covers.
    """
    smith = Smith(start=dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(hours=hours)).create().work(20)
    size, note = len(smith.entries), smith.checkpoint()
    token = tsa.stamp(note)
    if spoil:
        token = token[:-1] + bytes([token[-1] ^ 1])
    smith.kept[size] = note
    told = stamp_metadata(size, note, token, parse_token(token)) | stated
    smith.batch(smith.event("checkpoint_timestamped", told, actor_id="klingai-audit", actor_type="system"))
    made = Keeper(smith)
    if purge:
        made.purge((size - 2, size - 1))
    smith.closed()
    write_files(folder / "audit", made.files() | {f"checkpoints/{size:020}.tsr": token})
    return smith


def ask(folder: Path, smith: Smith, roots: Path) -> tuple[list[str], Answer]:
    """In what the two differ, and what the single file says."""
    now = max(smith.now, dt.datetime.now(dt.UTC)) + dt.timedelta(minutes=1)
    store = DirectoryStore(folder / "audit", folder / "mark")
    theirs = verify(store, key=smith.log_key.vkey, now=now, tsa_roots=read_roots(roots), patience=0.0, processes=1)
    ours = alone.verify_log(str(folder / "audit"), smith.log_key.vkey, now=now, tsa_roots=str(roots))
    package = Answer(frozenset(f.kind for f in theirs.findings), {t.threat: t.state for t in theirs.threats})
    single = Answer(frozenset(f.kind for f in ours.findings), {name: told[0] for name, told in ours.threats.items()})
    return differences(package, single), single


def test_a_stamp_that_leads_to_a_given_root(tmp_path: Path, tsa: Tsa) -> None:
    """Then no entry can be dated back by much."""
    differing, single = ask(tmp_path, log(tmp_path, tsa), tsa.root)
    assert ([], "ruled_out") == (differing, single.states["back_dating"])


def test_a_stamp_that_leads_to_another_root(tmp_path: Path, tsa: Tsa, other: Tsa) -> None:
    """A finding, whichever of the two it is."""
    differing, single = ask(tmp_path / "a", log(tmp_path / "a", tsa), other.root)
    assert ([], frozenset({"stamp_untrusted"})) == (differing, single.kinds)
    differing, single = ask(tmp_path / "b", log(tmp_path / "b", other), tsa.root)
    assert ([], frozenset({"stamp_untrusted"})) == (differing, single.kinds)


def test_a_signature_that_does_not_hold(tmp_path: Path, tsa: Tsa) -> None:
    """The entry names the token as it lies there; its last byte is of the signature."""
    differing, single = ask(tmp_path, log(tmp_path, tsa, spoil=True), tsa.root)
    assert ([], frozenset({"stamp_untrusted"})) == (differing, single.kinds)


def test_an_entry_that_states_another_time(tmp_path: Path, tsa: Tsa) -> None:
    """Than the token does."""
    differing, single = ask(tmp_path, log(tmp_path, tsa, gen_time="2026-01-01T00:00:00.000000Z"), tsa.root)
    assert ([], frozenset({"stamp_changed"})) == (differing, single.kinds)


@pytest.mark.parametrize(("hours", "kind"), [(1, "back_dated"), (-1, "dated_ahead")])
def test_dates_that_a_stamp_contradicts(tmp_path: Path, tsa: Tsa, hours: float, kind: str) -> None:
    """An hour before the token that an entry names, an hour after one that covers it."""
    differing, single = ask(tmp_path, log(tmp_path, tsa, hours=hours), tsa.root)
    assert ([], {kind}, "detected") == (differing, single.kinds - {"kept_unexpected"}, single.states["back_dating"])


def test_a_date_before_what_is_purged(tmp_path: Path, tsa: Tsa) -> None:
    """Where the last entry that a token covers is purged, the one before it tells."""
    differing, single = ask(tmp_path, log(tmp_path, tsa, hours=-1, purge=True), tsa.root)
    assert ([], {"dated_ahead"}) == (differing, single.kinds - {"kept_unexpected"})


def test_without_openssl_nothing_is_ruled_out(tmp_path: Path, tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    """`not_checked`, as without roots."""
    smith = log(tmp_path, tsa)
    monkeypatch.setenv("PATH", str(tmp_path))
    for roots in (None, str(tsa.root)):
        verdict = alone.verify_log(str(tmp_path / "audit"), smith.log_key.vkey, tsa_roots=roots)
        assert "not_checked" == verdict.threats["back_dating"][0]


def test_what_openssl_reads_is_what_the_package_reads(tsa: Tsa) -> None:
    """The time and how exact it is; nothing of what is no token."""
    reply = tsa.stamp(b"data")
    token = parse_token(reply)
    assert (token.gen_time, token.accuracy) == alone.stamp_time("openssl", reply)
    assert alone.stamp_time("openssl", b"rubbish") is None
