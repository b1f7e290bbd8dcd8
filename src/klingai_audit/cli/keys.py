"""`keys show|rotate`: the log's public keys, and the end of an epoch. Nothing private is ever read to be printed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.session import SessionArgument, open_log

if TYPE_CHECKING:
    from klingai_audit.tlog.keys import VerifierKey

_EPOCH_FILE: Final = re.compile(r"epoch-(0|[1-9][0-9]*)\.pub", re.ASCII)


@dataclass(frozen=True)
class PublicKey:
    """One public key: its role, vkey, key id (8 hex digits) and SHA-256 of the vkey's key bytes (64 hex digits)."""

    role: str
    vkey: str
    key_id: str
    sha256: str

    @classmethod
    def of(cls, role: str, key: VerifierKey) -> PublicKey:
        """Describe a key."""
        return cls(role, key.format(), key.key_id.hex(), hashlib.sha256(key.key_bytes).hexdigest())


@dataclass(frozen=True)
class LogKeys:
    """The public keys of one log."""

    origin: str
    number: int
    log: PublicKey
    epoch: PublicKey
    mldsa: PublicKey | None = None

    @property
    def all(self) -> list[PublicKey]:
        """The keys in order."""
        return [self.log, self.epoch, *([] if self.mldsa is None else [self.mldsa])]

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        return {"origin": self.origin, "epoch": self.number, "keys": [vars(key) for key in self.all]}


def show(*, session: SessionArgument) -> None:
    """Print the log's name and public keys."""
    keys = describe_keys(session.places.keys)
    if session.as_json:
        session.emit(keys.to_json())
        return
    session.say("Log ", (keys.origin, "bold"), f", epoch {keys.number}")
    for key in keys.all:
        session.say(f"\n{key.role} key {key.key_id}")
        session.say(f"  {key.vkey}")
        session.say((f"  SHA-256 {key.sha256}", "dim"))


def rotate(
    *,
    approval: Approvals = None,
    actor: Annotated[
        str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")
    ] = None,
    session: SessionArgument,
) -> None:
    """End the current epoch now: today's keys can no longer sign what was signed before."""
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.approval_file import rotate_target
    from klingai_audit.upkeep.approvals import require_approval

    with open_log(session) as audit, acting(actor or reader_id(), actor_type="admin"):
        require_approval(audit, "rotate", rotate_target(describe_keys(session.places.keys).number), approval)
        audit.rotate_keys()
    keys = describe_keys(session.places.keys)
    if session.as_json:
        session.emit(keys.to_json())
        return
    session.say("Epoch ", (str(keys.number), "bold"), " has begun; the private keys before it are destroyed.")
    session.say(f"  {keys.epoch.vkey}")


def describe_keys(folder: Path) -> LogKeys:
    """Read the public keys in a keys folder. Raises: LogNotFound, Malformed."""
    from klingai_audit.ledger.keys import read_public_key

    log = read_public_key(folder / "log.pub")
    numbers = [int(match[1]) for path in folder.glob("epoch-*.pub") if (match := _EPOCH_FILE.fullmatch(path.name))]
    number = max(numbers, default=0)
    epoch = read_public_key(folder / f"epoch-{number}.pub")
    second = folder / "mldsa.pub"
    mldsa = PublicKey.of("ML-DSA-44", read_public_key(second)) if second.exists() else None
    return LogKeys(log.name, number, PublicKey.of("log", log), PublicKey.of("epoch", epoch), mldsa)
