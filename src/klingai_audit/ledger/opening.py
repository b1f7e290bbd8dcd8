"""What a log is checked against, and what it says of itself, when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.state import OriginMemory

__all__ = ["check_remembered_key", "first_metadata", "tell_all"]


def check_remembered_key(keys: KeyFolder) -> None:
    """Compare the keys folder with this machine's memory of the origin. Raises: LogDamaged if they disagree."""
    vkey = keys.log_signer.verifier.format()
    remembered = OriginMemory().recall(keys.origin)
    if remembered not in (None, vkey):
        raise LogDamaged(
            f"This machine remembers another key for {keys.origin} than the keys folder holds.",
            kind_of_damage="foreign_key",
            do="Somebody replaced the log or its keys. Preserve both and run: klingai-audit verify",
        )


def first_metadata(keys: KeyFolder, policy_digest: str) -> dict[str, Any]:
    """Return the metadata of `log_created`, members in the order of docs/format.md, section 7."""
    mldsa = keys.mldsa_vkey
    return {
        "format": 1,
        "origin": keys.origin,
        "log_key": keys.log_signer.verifier.format(),
        "epoch": 0,
        "epoch_key": keys.current.signer.verifier.format(),
        **({} if mldsa is None else {"mldsa_key": mldsa}),
        "policy": policy_digest,
    }


def tell_all(observers: list[Callable[[Sequence[bytes]], None]]) -> Callable[[Sequence[bytes]], None]:
    """Return an observer that shows durable lines to all of a list, which may grow later."""

    def tell(lines: Sequence[bytes]) -> None:
        for observe in observers:
            observe(lines)

    return tell
