"""The ML-DSA-44 line of checkpoints: where it must stand, whether it holds, and what it proves against quantum forgers.

Format: docs/format.md, section 7. Such a line fixes origin, size and root, so up to its size nothing can be changed
by whoever forges Ed25519 signatures and does not have this key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import InvalidSignature, MissingExtra
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.anchors import KEPT_INTERVAL, Anchor
from klingai_audit.trust.evidence import Roots
from klingai_audit.trust.verdict import Finding

__all__ = ["Countersigned", "check_countersigned", "is_demanded"]

_LINE: Final = 7


@dataclass(frozen=True, slots=True)
class Countersigned:
    """What the lines establish.

    `named` tells that the log has such a key; `size` is the largest at which a line by it verified and the entries
    have the root that it signs, 0 if none. `source` says where the key is known from, empty if only from the log.
    `unchecked` says why lines could not be checked, empty if they could.
    """

    findings: tuple[Finding, ...] = ()
    named: bool = False
    size: int = 0
    source: str = ""
    unchecked: str = ""


def is_demanded(size: int, closing: AbstractSet[int]) -> bool:
    """Tell whether a checkpoint of this size has the line in a log that names the key.

    `closing` are the sizes whose last entry is a handover, a closing or a migration.
    """
    return size % KEPT_INTERVAL == 0 or size in closing


def check_countersigned(
    anchors: Sequence[Anchor], root: Roots, key: VerifierKey | None, closing: AbstractSet[int], source: str
) -> Countersigned:
    """Check the third line of each checkpoint with the `key` that the log names, None if it names none."""
    if key is None:
        return Countersigned(tuple(_unexpected(anchors)))
    findings: list[Finding] = []
    size, unchecked = 0, ""
    for anchor in anchors:
        line = anchor.countersignature
        if line is None:
            if is_demanded(anchor.size, closing):
                message = f"{anchor.file} (size {anchor.size}) lacks the ML-DSA-44 line that a checkpoint there has."
                findings.append(Finding("mldsa_missing", message, file=anchor.file, line=_LINE))
            continue
        try:
            verify_cosignature(anchor.note.text, line, key)
        except InvalidSignature as exc:
            message = f"The third line of {anchor.file} is not by the log's ML-DSA-44 key: {exc.message}"
            findings.append(Finding("mldsa_invalid", message, file=anchor.file, line=_LINE))
        except MissingExtra as exc:
            unchecked = exc.message
        else:
            if root(anchor.size) == anchor.root:
                size = max(size, anchor.size)
    return Countersigned(tuple(findings), named=True, size=size, source=source, unchecked=unchecked)


def _unexpected(anchors: Sequence[Anchor]) -> Iterator[Finding]:
    for anchor in anchors:
        if anchor.countersignature is not None:
            message = f"{anchor.file} has a third signature line, but the log names no ML-DSA-44 key."
            yield Finding("mldsa_invalid", message, file=anchor.file, line=_LINE)
