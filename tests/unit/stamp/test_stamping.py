"""Stamping a log with a real authority, OpenSSL's: what is asked, kept, named and verified; hostile authorities."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.errors import (
    InvalidPolicy,
    InvalidSignature,
    KlingAuditError,
    LogDamaged,
    Malformed,
    MissingExtra,
    StorageError,
    UsageError,
)
from klingai_audit.ledger.clock import SYSTEM_CLOCK
from klingai_audit.ledger.line import event_type_of
from klingai_audit.privacy.policy import Policy, parse_span
from klingai_audit.stamp.client import TimeAuthority, build_request
from klingai_audit.stamp.run import Stamping
from klingai_audit.trust.authority import Roots, read_roots
from klingai_audit.trust.der import read_one, write
from klingai_audit.trust.stamps import read_stamp
from klingai_audit.trust.token import MAX_TOKEN_BYTES, parse_token
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.stamping import stamp_now
from tests.support.tsa import Answer, Tsa, honest, send, serving, trickle

pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")

TEXT = b"example.com/audit/log1\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n"
VECTOR = (
    "30390201013031300d060960864801650304020105000420"
    "a7aebee6b4ddff7104d519c93ea142277e7accc0364bd16f220888ef1162f65d0101ff"
)
"""The request over TEXT as OpenSSL makes it, without a nonce."""


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("other"), name="Other Time Stamps")


@pytest.fixture(scope="module")
def url(tsa: Tsa) -> Iterator[str]:
    with serving(honest(tsa)) as served:
        yield served


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog.open(tmp_path / "audit") as opened:
        log(opened)
        yield opened


def log(audit: AuditLog) -> None:
    audit.log("x_something", "service", actor_type="service").wait("published")


def stamp(audit: AuditLog, url: str, tsa: Tsa, **options: object) -> Stamping:
    return stamp_now(audit, TimeAuthority(url, read_roots(tsa.root)), **options)  # type: ignore[arg-type]


def check(audit: AuditLog, roots: Tsa | None = None, **options: object) -> Verdict:
    """Verify the log as it lies there, with nothing but its public key."""
    given = None if roots is None else read_roots(roots.root)
    return verify(audit.reader.store, key=audit.vkey, tsa_roots=given, patience=0, processes=1, **options)  # type: ignore[arg-type]


def kinds(verdict: Verdict) -> list[str]:
    return [finding.kind for finding in verdict.findings]


def files(audit: AuditLog) -> list[Path]:
    return sorted((Path(audit.places.log) / "checkpoints").glob("*.tsr"))


class TestStamping:
    def test_what_is_kept_is_what_openssl_accepts(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """The token lies beside the checkpoint that it is of; OpenSSL takes both as they are, no changed one."""
        done = stamp(audit, url, tsa)
        assert "stamped" == done.why
        (token,) = files(audit)
        kept = token.with_suffix("")
        assert int(kept.name) == done.size == done.stamps[0].size
        assert tsa.accepts(token, kept)
        changed = kept.parent.parent.parent / "changed"
        changed.write_bytes(kept.read_bytes() + b"\n")
        assert not tsa.accepts(token, changed)

    def test_the_entry_names_both_digests(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """So that neither file can be taken away or exchanged without a trace."""
        (made,) = stamp(audit, url, tsa).stamps
        line = audit.reader.entry(made.seq)
        assert "checkpoint_timestamped" == event_type_of(line)
        assert made == read_stamp(made.seq, line)
        (token,) = files(audit)
        assert hashlib.sha256(token.read_bytes()).hexdigest() == made.token
        assert hashlib.sha256(token.with_suffix("").read_bytes()).hexdigest() == made.checkpoint
        assert ("CN=Example Time Stamps", 27) == (made.tsa, len(made.gen_time))

    def test_it_does_not_feed_on_its_own_entries(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """After a stamp there is nothing new until somebody else writes something; opening and closing is nothing."""
        first = stamp(audit, url, tsa)
        second = stamp(audit, url, tsa)
        assert ("nothing new", ()) == (second.why, second.stamps)
        places = audit.places
        audit.close()
        with AuditLog.open(places.log) as again:
            assert "nothing new" == stamp(again, url, tsa).why
            log(again)
            assert first.size < stamp(again, url, tsa).stamps[0].size
            assert 2 == len(files(again))

    def test_not_before_the_interval_is_over(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """With an interval, news wait for it."""
        stamp(audit, url, tsa)
        log(audit)
        assert "not due" == stamp(audit, url, tsa, interval=dt.timedelta(hours=1)).why
        assert "stamped" == stamp(audit, url, tsa, interval=dt.timedelta(0)).why

    def test_a_stamp_that_contradicts_the_clock_is_not_kept(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """What verification would have to call a contradiction is refused before anything is written."""

        class Late:
            def now_ns(self) -> int:
                return SYSTEM_CLOCK.now_ns() + 3600 * 10**9

        with pytest.raises(StorageError, match="clock"):
            stamp(audit, url, tsa, clock=Late())
        assert [] == files(audit)

    def test_an_unknown_authority_is_refused(self, audit: AuditLog, url: str, other: Tsa) -> None:
        """With roots given, nothing is kept that they do not stand behind."""
        with pytest.raises(InvalidSignature, match="No trusted root"):
            stamp(audit, url, other)
        assert [] == files(audit)

    def test_the_log_is_whole_afterwards(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """Back-dating is ruled out, and the verdict says by whom, from when, and how closely."""
        stamp(audit, url, tsa)
        verdict = check(audit, tsa)
        assert [] == kinds(verdict)
        threat = verdict.threat("back_dating")
        assert "ruled_out" == threat.state
        assert "by CN=Example Time Stamps on 20" in threat.by
        assert re.search(r"no entry is dated back by more than [1-9] min\b", threat.by)
        assert "cannot have been rewritten since they were stamped" in verdict.threat("key_holder").by
        assert "cannot have been rewritten since they were stamped" in verdict.threat("key_theft").by


class TestRequest:
    def test_vector(self) -> None:
        """The request of the specification, byte for byte."""
        assert (bytes.fromhex(VECTOR), None) == build_request(TEXT, nonce=False)

    def test_each_request_has_its_own_nonce(self) -> None:
        """An old answer cannot be given again."""
        (first, one), (second, two) = build_request(b"data"), build_request(b"data")
        assert first != second
        assert one != two

    def test_the_answer_is_over_the_file_as_stored(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """Text and signatures: the digest in the request is that of the kept file."""
        stamp(audit, url, tsa)
        kept = files(audit)[0].with_suffix("").read_bytes()
        assert hashlib.sha256(kept).digest() in tsa.requests[-1]

    @pytest.mark.parametrize("url", ["ftp://tsa.example", "tsa.example", "https://user:secret@tsa.example/", "http://"])
    def test_no_address(self, url: str) -> None:
        """Only HTTP, and no credentials in the address."""
        with pytest.raises(UsageError) as caught:
            TimeAuthority(url)
        assert "secret" not in str(caught.value)


def _refuse(tsa: Tsa) -> Answer:
    """A refusal, as OpenSSL makes it for a request that is none."""
    return lambda handler, _request: send(handler, tsa.reply(b"no request"))


def _moved(tsa: Tsa) -> Answer:
    return lambda handler, _request: send(handler, tsa.reply(build_request(b"something else")[0]))


def _replayed(tsa: Tsa) -> Answer:
    """A stamp over the right digest for another request."""

    def answer(handler: BaseHTTPRequestHandler, request: bytes) -> None:
        fields = read_one(request).fields()
        fields.take()
        imprint = fields.take().whole
        send(handler, tsa.reply(write(0x30, b"\x02\x01\x01", imprint, b"\x01\x01\xff")))

    return answer


def _fixed(body: bytes, status: int = 200, kind: str = "application/timestamp-reply") -> Callable[[Tsa], Answer]:
    return lambda _tsa: lambda handler, _request: send(handler, body, status, kind)


def _redirect(_tsa: Tsa) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, _request: bytes) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://127.0.0.1:9/other")
        handler.end_headers()

    return answer


HOSTILE: dict[str, tuple[Callable[[Tsa], Answer], type[KlingAuditError], str]] = {
    "refusal": (_refuse, StorageError, "refuses"),
    "wrong-imprint": (_moved, InvalidSignature, "something else"),
    "wrong-nonce": (_replayed, InvalidSignature, "another request"),
    "garbage": (_fixed(b"\x30\x82garbage"), Malformed, "no time stamp"),
    "empty": (_fixed(b""), Malformed, "no time stamp"),
    "trailing-bytes": (_fixed(bytes.fromhex("3005300302010200")), Malformed, "no time stamp"),
    "oversize": (_fixed(b"0" * (MAX_TOKEN_BYTES + 1)), StorageError, "more than"),
    "http-500": (_fixed(b"broken", 500), StorageError, "answers 500"),
    "web-page": (_fixed(b"<html>", 200, "text/html"), StorageError, "not with a time stamp"),
    "redirect": (_redirect, StorageError, "answers 307"),
    "trickling": (lambda _tsa: trickle, StorageError, "no whole answer|cannot be reached"),
}


class TestHostileAuthority:
    @pytest.mark.parametrize("how", HOSTILE)
    def test_nothing_is_kept(self, how: str, audit: AuditLog, tsa: Tsa) -> None:
        """Whatever it answers, the log is as it was, and the reason is said in our words."""
        make, error, words = HOSTILE[how]
        before = audit.reader.size
        timeout = 0.5 if how == "trickling" else 60  # the others answer, however slow the machine is
        started = time.monotonic()
        with serving(make(tsa)) as url, pytest.raises(error, match=words) as caught:
            stamp_now(audit, TimeAuthority(url, read_roots(tsa.root), timeout=timeout))
        assert time.monotonic() - started < 30
        assert "garbage" not in str(caught.value)
        assert ([], before) == (files(audit), audit.reader.size)

    def test_nobody_there(self, audit: AuditLog) -> None:
        """A refused connection is a storage error, exit 3."""
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            stamp_now(audit, TimeAuthority("http://127.0.0.1:9/tsr", timeout=1))
        assert 3 == caught.value.exit_code

    def test_a_hanging_one(self, audit: AuditLog) -> None:
        """An answer that never begins ends with the time-out."""
        with serving(lambda _handler, _request: time.sleep(2)) as url, pytest.raises(StorageError, match="cannot be"):
            stamp_now(audit, TimeAuthority(url, timeout=0.3))

    @pytest.mark.parametrize("usage", ["timeStamping", "critical,timeStamping,codeSigning"])
    def test_a_certificate_for_other_things_too(self, usage: str, tmp_path: Path) -> None:
        """The certificate must be critically for time stamps and nothing else.

        OpenSSL refuses to stamp with such a one, so the stamp is made with the right one and judged with the wrong.
        """
        right = Tsa(tmp_path / "right")
        token = parse_token(right.stamp(b"data"))
        wrong = Tsa(tmp_path / "wrong", usage=usage)
        from cryptography.x509 import load_pem_x509_certificate

        pem = (wrong.folder / "tsa.pem").read_bytes()
        changed = type(token)(
            *(load_pem_x509_certificate(pem) if name == "signer" else getattr(token, name) for name in token.__slots__)
        )
        with pytest.raises(InvalidSignature, match="not for time stamps alone"):
            read_roots(right.root).verify(changed, token.digest)


class TestVerification:
    def test_without_roots_it_says_not_checked(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """Digests are compared; who issued the stamp is not looked at, and that is said plainly."""
        stamp(audit, url, tsa)
        verdict = check(audit)
        threat = verdict.threat("back_dating")
        assert ([], "not_checked") == (kinds(verdict), threat.state)
        assert "was not checked: no root certificates" in threat.by
        assert "--tsa-roots" in threat.do
        assert "stamped" not in verdict.threat("key_holder").by

    def test_without_the_extra_it_says_not_checked(
        self, audit: AuditLog, url: str, tsa: Tsa, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The missing library is never success; what needs no library is still checked."""
        stamp(audit, url, tsa)
        roots = tsa
        monkeypatch.setitem(sys.modules, "rfc3161_client", None)
        verdict = check(audit, roots)
        threat = verdict.threat("back_dating")
        assert ([], "not_checked") == (kinds(verdict), threat.state)
        assert "rfc3161-client" in threat.by
        assert "klingai-audit[trust]" in threat.do
        log(audit)
        with pytest.raises(MissingExtra) as caught:
            stamp(audit, url, tsa)
        assert "pip install 'klingai-audit[trust]'" == caught.value.do
        files(audit)[0].unlink()
        assert ["stamp_missing"] == kinds(check(audit, roots))

    def test_after_the_certificate_has_expired(self, tmp_path: Path) -> None:
        """Certificates are judged at the time of the stamp: years later it is as good."""
        brief = Tsa(tmp_path / "brief", days=1)
        with AuditLog.open(tmp_path / "audit") as audit, serving(honest(brief)) as url:
            log(audit)
            stamp(audit, url, brief)
            log_closed = audit
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=3650)
        verdict = check(log_closed, brief, now=later)
        assert [] == [finding.kind for finding in verdict.broken]
        assert "ruled_out" == verdict.threat("back_dating").state

    def test_another_root(self, audit: AuditLog, url: str, tsa: Tsa, other: Tsa) -> None:
        """A stamp that the given roots do not stand behind is a finding."""
        stamp(audit, url, tsa)
        verdict = check(audit, other)
        assert ["stamp_untrusted"] == kinds(verdict)
        assert "detected" == verdict.threat("back_dating").state

    def test_a_removed_token(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """The entry names it, so it is missed."""
        stamp(audit, url, tsa)
        files(audit)[0].unlink()
        assert ["stamp_missing"] == kinds(check(audit, tsa))

    def test_a_token_moved_to_another_checkpoint(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """The older stamp beside the newer checkpoint is called what it is."""
        stamp(audit, url, tsa)
        log(audit)
        stamp(audit, url, tsa)
        older, newer = files(audit)
        newer.write_bytes(older.read_bytes())
        assert ["stamp_moved"] == kinds(check(audit, tsa))

    def test_a_token_by_another_authority(self, audit: AuditLog, url: str, tsa: Tsa, other: Tsa) -> None:
        """A stamp of the right file that is not the one named shows without any roots."""
        stamp(audit, url, tsa)
        (token,) = files(audit)
        token.write_bytes(other.stamp(token.with_suffix("").read_bytes()))
        assert ["stamp_changed"] == kinds(check(audit))

    def test_every_changed_byte(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """No byte of a token can be changed unnoticed, with or without roots."""
        stamp(audit, url, tsa)
        (token,) = files(audit)
        whole = token.read_bytes()
        for at in range(0, len(whole), 97):
            token.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            found = set(kinds(check(audit)))
            assert found, at
            assert found <= {"stamp_malformed", "stamp_changed", "stamp_moved"}, at

    def test_a_token_that_nobody_names(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """A stamp beside no kept checkpoint, or below one that is named, does not belong there."""
        stamp(audit, url, tsa)
        (token,) = files(audit)
        stray = token.with_name("00000000000000000001.tsr")
        stray.write_bytes(token.read_bytes())
        assert ["stamp_unexpected"] == kinds(check(audit, tsa))
        stray.rename(token.with_name("1.tsr"))
        assert ["file_unexpected"] == kinds(check(audit, tsa))

    def test_quick_verification_still_looks_at_old_stamps(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """What entries said of stamps is remembered; the tokens themselves are looked at each time."""
        stamp(audit, url, tsa)
        memory = check(audit, tsa).memory
        log(audit)
        verdict = check(audit, tsa, quick_from=memory)
        assert ([], "ruled_out") == (kinds(verdict), verdict.threat("back_dating").state)
        assert verdict.quick_from is not None
        files(audit)[0].unlink()
        assert ["stamp_missing"] == kinds(check(audit, tsa, quick_from=memory))

    def test_stamps_far_apart_rule_nothing_out(self, audit: AuditLog, url: str, tsa: Tsa) -> None:
        """What was written long ago and is not stamped yet may have been dated back."""
        stamp(audit, url, tsa)
        log(audit)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=9)
        threat = check(audit, tsa, now=later).threat("back_dating")
        assert "not_ruled_out" == threat.state
        assert "may be dated back by up to 10 days" in threat.by
        assert threat.do.startswith("Stamp the log now")


class TestPolicy:
    def test_the_policy_names_authority_and_roots(self, tmp_path: Path, url: str, tsa: Tsa) -> None:
        """What stands in policy.toml needs no options, and `verify` uses the same roots."""
        from klingai_audit.upkeep.stamping import time_authority

        with AuditLog.open(tmp_path / "audit") as audit:
            log(audit)
        policy = tmp_path / "audit.keys" / "policy.toml"
        (tmp_path / "audit.keys" / "roots.pem").write_bytes(tsa.root.read_bytes())
        text = policy.read_text().replace('tsa = ""', f'tsa = "{url}"').replace('roots = ""', 'roots = "roots.pem"')
        policy.write_text(text)
        with AuditLog.open(tmp_path / "audit") as audit:
            stamp_now(audit, time_authority(audit.policy, audit.places.keys))
            verdict = audit.verify()
        assert "ruled_out" == verdict.threat("back_dating").state

    @pytest.mark.parametrize("text", ["", "0h", "1", "h", "1y", "-1h", "1.5h"])
    def test_no_interval(self, text: str) -> None:
        """A span of time is a whole number and a unit."""
        with pytest.raises(UsageError):
            parse_span(text, "--interval")
        with pytest.raises(InvalidPolicy):
            Policy.parse(f'[timestamp]\ninterval = "{text}"\n'.encode())

    def test_intervals(self) -> None:
        """Seconds to weeks."""
        assert [30, 1800, 43200, 86400, 1209600] == [
            parse_span(text, "x").total_seconds() for text in ("30s", "30m", "12h", "1d", "2w")
        ]

    def test_no_roots_in_the_file(self, tmp_path: Path) -> None:
        """A file that holds no certificates is named."""
        path = tmp_path / "roots.pem"
        path.write_text("nothing")
        with pytest.raises(UsageError, match="no certificates"):
            read_roots(path)
        with pytest.raises(UsageError, match="cannot be read"):
            read_roots(tmp_path / "none.pem")
        assert () == Roots(()).certificates


def test_a_damaged_stamp_is_not_adopted(audit: AuditLog, url: str, tsa: Tsa) -> None:
    """What lies beside the newest checkpoint and is no stamp of it stops the next run."""
    stamp(audit, url, tsa)
    log(audit)
    size = audit.reader.size
    with audit.reader.store.publication() as publication:
        publication.put_kept(size, audit.reader.checkpoint_note())
        publication.put_token(size, files(audit)[0].read_bytes())
    with pytest.raises(LogDamaged):
        stamp(audit, url, tsa)
    assert "stamp_moved" in kinds(check(audit, tsa))


def test_somebody_else_was_faster(audit: AuditLog, tsa: Tsa) -> None:
    """Two processes stamp the same checkpoint: the first stamp stays, the second is thrown away."""
    store, size, note = audit.reader.store, audit.reader.size, audit.reader.checkpoint_note()
    theirs = tsa.stamp(note)

    def answer(handler: BaseHTTPRequestHandler, request: bytes) -> None:
        with store.publication() as publication:
            publication.put_kept(size, note)
            publication.put_token(size, theirs)
        send(handler, tsa.reply(request))

    with serving(answer) as url:
        done = stamp(audit, url, tsa)
    assert ("somebody else was faster", ()) == (done.why, done.stamps)
    assert theirs == files(audit)[0].read_bytes()


def test_a_log_in_memory(url: str, tsa: Tsa) -> None:
    """What needs no folder is stamped, too."""
    with AuditLog.open("memory:") as audit:
        log(audit)
        (made,) = stamp(audit, url, tsa).stamps
        assert audit.reader.store.read_token(made.size) is not None
        assert ([], "ruled_out") == (kinds(check(audit, tsa)), check(audit, tsa).threat("back_dating").state)


def test_a_handover_and_a_round_number_are_stamped_as_they_are(audit: AuditLog, url: str, tsa: Tsa) -> None:
    """A checkpoint that is kept anyway is stamped as it lies there."""
    audit.rotate_keys()
    kept = audit.reader.store.read_kept(audit.reader.size)
    assert kept is not None
    (made,) = stamp(audit, url, tsa).stamps
    assert hashlib.sha256(kept).hexdigest() == made.checkpoint
    log(audit)
    assert [] == kinds(check(audit, tsa))


def test_a_stamp_of_a_stranger_is_not_adopted(audit: AuditLog, url: str, tsa: Tsa, other: Tsa) -> None:
    """Who may write into the folder cannot have the log name what it must then call untrusted for ever."""
    size, note = audit.reader.size, audit.reader.checkpoint_note()
    with audit.reader.store.publication() as publication:
        publication.put_kept(size, note)
        publication.put_token(size, other.stamp(note))
    with pytest.raises(LogDamaged, match="stopped") as caught:
        stamp(audit, url, tsa)
    assert "stamp_untrusted" == caught.value.kind_of_damage
    assert size == audit.reader.size


def test_a_checkpoint_of_a_stranger_is_not_stamped(audit: AuditLog, url: str, tsa: Tsa) -> None:
    """Nor does it ask for a stamp on whatever lies in the folder of kept checkpoints."""
    size, note = audit.reader.size, audit.reader.checkpoint_note()
    with audit.reader.store.publication() as publication:
        publication.put_kept(size, note.replace(b"\n\n", b"\nmore\n\n", 1))
    asked = len(tsa.requests)
    with pytest.raises(LogDamaged):
        stamp(audit, url, tsa)
    assert asked == len(tsa.requests)
