"""The drill attacks time stamps where a log has some; a made-up stamp is in its form and nobody stands behind it."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.config import Places
from klingai_audit.errors import InvalidSignature
from klingai_audit.stamp.client import TimeAuthority
from klingai_audit.trust.authority import Roots, read_roots
from klingai_audit.trust.stamps import stamp_metadata
from klingai_audit.trust.token import parse_token
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.drill import drill
from klingai_audit.upkeep.forged_stamp import forged_stamp
from klingai_audit.upkeep.stamping import stamp_now
from tests.support.tsa import Tsa, honest, serving

pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")

STAMPS = ("remove_stamp", "move_stamp", "change_stamp", "other_authority", "rewrite_stamped", "add_stamp")


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa"))


@pytest.mark.slow
def test_every_attack_on_time_stamps_is_caught(tmp_path: Path, tsa: Tsa) -> None:
    """A log with two stamps: nothing is missed, and those on stamps are all tried."""
    with AuditLog.open(tmp_path / "audit") as audit, serving(honest(tsa)) as url:
        for _ in range(2):
            for _ in range(3):
                audit.log("x_something", "service", actor_type="service").wait("published")
            stamp_now(audit, TimeAuthority(url, read_roots(tsa.root)))
    result = drill(Places.resolve(tmp_path / "audit"))
    assert () == result.missed
    tried = {attack.attack: attack.caught for attack in result.tried}
    assert dict.fromkeys(STAMPS, True) == {name: tried.get(name) for name in STAMPS}


def test_a_made_up_stamp_is_well_formed_and_worthless() -> None:
    """Its own certificate as root would make it good: it is refused for its authority, not for its form."""
    from cryptography.hazmat.primitives.serialization import Encoding

    data, moment = b"data", dt.datetime.now(dt.UTC)
    token = parse_token(forged_stamp(data, moment))
    digest = hashlib.sha256(data).digest()
    own = Roots.parse(token.signer.public_bytes(Encoding.PEM), "made up")
    own.verify(token, digest)
    other = parse_token(forged_stamp(data, moment))
    with pytest.raises(InvalidSignature, match="No trusted root"):
        own.verify(other, digest)
    with pytest.raises(InvalidSignature, match="something else"):
        own.verify(token, bytes(32))


@pytest.mark.parametrize("hours, kind", [(24, "back_dated"), (-24, "dated_ahead")])
def test_dates_that_a_stamp_contradicts(tmp_path: Path, hours: int, kind: str) -> None:
    """A log whose clock was a day off when it was stamped: its dates are false, and which way is said."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from klingai_audit.event.own import own_event
    from klingai_audit.ledger.clock import SYSTEM_CLOCK

    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_something", "service", actor_type="service").wait("published")
        size, kept = audit.reader.size, audit.reader.checkpoint_note()
        reply = forged_stamp(kept, dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours))
        token = parse_token(reply)
        with audit.reader.store.publication() as publication:
            publication.put_kept(size, kept)
            publication.put_token(size, reply)
        metadata = stamp_metadata(size, kept, reply, token)
        audit.append(own_event("checkpoint_timestamped", metadata, SYSTEM_CLOCK.now_ns())).wait("published")
        roots = Roots.parse(token.signer.public_bytes(Encoding.PEM), "made up")
        now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=48)
        verdict = verify(audit.reader.store, key=audit.vkey, tsa_roots=roots, now=now, patience=0, processes=1)
    assert [kind] == [finding.kind for finding in verdict.broken]
    assert "detected" == verdict.threat("back_dating").state


def test_a_stamp_from_the_future(tmp_path: Path) -> None:
    """A stamp dated after the moment of verification is not believed."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from klingai_audit.event.own import own_event
    from klingai_audit.ledger.clock import SYSTEM_CLOCK

    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_something", "service", actor_type="service").wait("published")
        size, kept = audit.reader.size, audit.reader.checkpoint_note()
        reply = forged_stamp(kept, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        token = parse_token(reply)
        with audit.reader.store.publication() as publication:
            publication.put_kept(size, kept)
            publication.put_token(size, reply)
        metadata = stamp_metadata(size, kept, reply, token)
        audit.append(own_event("checkpoint_timestamped", metadata, SYSTEM_CLOCK.now_ns())).wait("published")
        roots = Roots.parse(token.signer.public_bytes(Encoding.PEM), "made up")
        verdict = verify(audit.reader.store, key=audit.vkey, tsa_roots=roots, patience=0, processes=1)
    assert ["stamp_untrusted"] == [finding.kind for finding in verdict.broken]


@pytest.mark.slow
def test_a_stamp_early_in_a_long_log(tmp_path: Path, tsa: Tsa) -> None:
    """One stamp, much after it, and a rotation: nothing is missed, what cannot be tried says why, a stamp may move."""
    with AuditLog.open(tmp_path / "audit") as audit, serving(honest(tsa)) as url:
        audit.log("x_something", "service", actor_type="service").wait("published")
        stamp_now(audit, TimeAuthority(url, read_roots(tsa.root)))
        for _ in range(20):
            audit.log("x_something", "service", actor_type="service").wait()
    first = drill(Places.resolve(tmp_path / "audit"))
    assert () == first.missed
    assert {"rewrite_stamped", "other_authority"} <= {attack.attack for attack in first.tried}
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.rotate_keys()
    second = drill(Places.resolve(tmp_path / "audit"))
    assert () == second.missed
    skipped = {attack.attack: attack.skipped for attack in second.attacks if attack.skipped}
    assert "earlier epoch" in (skipped["rewrite_stamped"] or "")
    assert "move_stamp" in {attack.attack for attack in second.tried}
