"""What witnesses signed, for commands that hand something out or check it: options, the policy, the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.files import read_file
from klingai_audit.cli.session import Session
from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.publish.cosigned import CosignedHead
    from klingai_audit.tlog.policy import WitnessPolicy

Cosigned = Annotated[
    bool, Parameter(help="Only up to the newest checkpoint that enough witnesses cosigned, with their lines on it.")
]
Witnesses = Annotated[
    Path | None, Parameter(help="Policy file for --cosigned: who is enough. Default: <keys>/witness.policy.")
]


def read_demands(path: Path) -> WitnessPolicy:
    """Return the policy in a file. Raises: UsageError, also for one that asks for nobody; Malformed."""
    from klingai_audit.tlog.policy import MAX_POLICY_BYTES, WitnessPolicy

    policy = WitnessPolicy.parse(read_file(path, MAX_POLICY_BYTES, "policy"))
    if policy.quorum is None:
        raise UsageError("The witness policy asks for nobody.", do="docs/how-to/witness.md shows a policy.")
    return policy


def cosigned_head(session: Session, reader: LogReader, witnesses: Path | None) -> CosignedHead:
    """Return what finds the newest cosigned checkpoint. Raises: UsageError, NoTrustedKey, Malformed."""
    from klingai_audit.cli.proving import trusted_log_key
    from klingai_audit.publish.cosigned import CosignedHead
    from klingai_audit.trust.quorum import POLICY_FILE

    path = session.places.keys / POLICY_FILE if witnesses is None else witnesses
    return CosignedHead(reader, trusted_log_key(session, reader.origin, None), read_demands(path))
