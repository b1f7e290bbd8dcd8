"""From findings and evidence to the graded verdict: for each threat its state, what rules it out, what to do.

The texts name what was actually checked in this run, never more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.trust.countersigned import Countersigned
from klingai_audit.trust.dating import DATED_WITHIN, back_dating, since_stamped
from klingai_audit.trust.stamps import Stamped, moment_of
from klingai_audit.trust.verdict import FINDING_KINDS, THREATS, Finding, State, Threat, ThreatName
from klingai_audit.trust.witnessed import Witnessed

__all__ = ["Grounds", "assess", "assess_file"]

_PAGE: Final = "docs/when-it-fails.md"
_PRESERVE: Final = "Stop nothing and change nothing: copy the log folder as it is, then see " + _PAGE + "#{page}."
_WITNESS: Final = "Give signed checkpoints to someone else: a copy at another place, a witness, a time stamp."
_ASK_WITNESSES: Final = "Have the newest checkpoint cosigned: klingai-audit witness submit"
_MISS_WITNESSES: Final = (
    "No checkpoint in the log is cosigned by enough of the witnesses that you trust. If there were some before, their "
    "lines were taken away: ask the witnesses for theirs (docs/how-to/witness.md), and verify with --require-witness. "
    "If there never were: klingai-audit witness submit"
)
_FIRST_USE: Final = "first use"
_KEYS_FOLDER: Final = "keys folder"
_BY_TREE: Final[tuple[ThreatName, ...]] = ("edit", "insert", "delete", "reorder", "head_cut", "tail_cut")

_NOBODY: Final = Witnessed()
_NO_STAMPS: Final = Stamped()
_NO_LINES: Final = Countersigned()


@dataclass(frozen=True, slots=True)
class Grounds:
    """What this run established.

    `size` is the signed size (0 without a usable checkpoint), `reached` tells that the entries have its root.
    `key_source` says where the trusted key came from, empty if only the log names it. `remembered` is the size of
    the remembered checkpoint that the log agrees with; `forgotten` says why none could be read. `unsigned` counts
    lines beyond the signed size that policy tolerates. `epochs` counts epochs, `closed` is the size that the last
    handover closed. `first_epoch_pinned` tells that epoch 0's key was given.
    `witnessed` is what known witnesses cosigned, `stamped` what time stamps prove, `countersigned` what ML-DSA-44
    lines do; `dated_within` is how far an entry may lie from its time stamp. `derived` tells that writers derive
    the keys of coming epochs from the present one.
    """

    size: int = 0
    reached: bool = False
    key_id: str = ""
    key_source: str = ""
    remembered: int | None = None
    forgotten: str = ""
    unsigned: int = 0
    epochs: int = 1
    closed: int = 0
    first_epoch_pinned: bool = False
    quick_from: int | None = None
    witnessed: Witnessed = _NOBODY
    stamped: Stamped = _NO_STAMPS
    countersigned: Countersigned = _NO_LINES
    dated_within: dt.timedelta = DATED_WITHIN
    derived: bool = False

    @property
    def pinned(self) -> bool:
        """Tell whether anything but the log itself names the key."""
        return self.key_source not in ("", _FIRST_USE)


def assess(findings: Sequence[Finding], grounds: Grounds) -> tuple[Threat, ...]:
    """Return all threats in order, each with its state."""
    shown = _shown(findings)
    open_states = dict(_open(findings, grounds))
    return tuple(_detected(name, shown[name]) if name in shown else open_states[name] for name in THREATS)


def assess_file(findings: Sequence[Finding], lines: int) -> tuple[Threat, ...]:
    """Return the threats for one day file by itself, where no checkpoint is at hand."""
    shown = _shown(findings)
    found = []
    for name in THREATS:
        if name in shown:
            found.append(_detected(name, shown[name]))
        elif name in ("edit", "insert", "delete", "reorder"):
            by = f"the links between the {lines} entries of this file agree; whoever edits can compute links anew"
            found.append(Threat(name, "not_ruled_out", by, "Verify the whole log: klingai-audit verify --log FOLDER"))
        else:
            found.append(Threat(name, "not_checked", "", "Verify the whole log: klingai-audit verify --log FOLDER"))
    return tuple(found)


def _shown(findings: Sequence[Finding]) -> dict[ThreatName, list[Finding]]:
    shown: dict[ThreatName, list[Finding]] = {}
    for finding in findings:
        for threat in FINDING_KINDS[finding.kind].threats:
            shown.setdefault(threat, []).append(finding)
    return shown


def _detected(name: ThreatName, findings: list[Finding]) -> Threat:
    first = findings[0]
    where = f" ({first.file}{f', line {first.line}' if first.line else ''})" if first.file else ""
    more = f"; {len(findings) - 1} more" if len(findings) > 1 else ""
    page = FINDING_KINDS[first.kind].page
    return Threat(name, "detected", f"{first.kind}: {first.message}{where}{more}", _PRESERVE.format(page=page))


def _open(findings: Sequence[Finding], grounds: Grounds) -> Iterator[tuple[ThreatName, Threat]]:
    """Yield every threat as if no finding showed it."""
    for name in _BY_TREE:
        yield name, _by_tree(name, findings, grounds)
    yield "rollback", _rollback(grounds)
    yield "fork", _fork(grounds)
    yield "back_dating", back_dating(grounds.stamped, grounds.witnessed, grounds.size, grounds.dated_within)
    yield "foreign_key", _foreign_key(grounds)
    yield "key_holder", _key_holder(grounds)
    yield "key_theft", _key_theft(grounds)
    yield "quantum", _quantum(grounds)


def _threat(name: ThreatName, by: str, do: str = "", state: State = "not_ruled_out") -> Threat:
    return Threat(name, state, by, do)


def _by_tree(name: ThreatName, findings: Sequence[Finding], grounds: Grounds) -> Threat:
    blurred = any(finding.kind in ("history_rewritten", "file_unreadable") for finding in findings)
    if not grounds.size:
        return _threat(name, "no usable signed checkpoint covers the entries", "Restore the checkpoint from a copy.")
    if blurred:
        return _threat(name, "not all entries can be read or told from forged ones", _PRESERVE_ONLY)
    signed = f"the tree root of {grounds.size} entries, signed by key {grounds.key_id}"
    if grounds.quick_from is not None:
        by = f"{signed}; entries below {grounds.quick_from} were verified before and not read again"
        return _threat(name, by, "Verify without --quick.", "not_checked")
    if not grounds.reached:
        return _threat(name, f"{signed}, is not that of these entries", _PRESERVE_ONLY)
    if not grounds.pinned:
        signed += ", which only the log itself names"
    if grounds.unsigned and name != "head_cut":
        by = f"{signed}; nothing proves who wrote the {grounds.unsigned} line(s) after them, and that none is gone"
        return _threat(name, by, _PUBLISH)
    return _threat(name, signed, state="ruled_out")


_PUBLISH: Final = "Open the log for writing once: what bears a valid seal is signed then. Verify again."
_PRESERVE_ONLY: Final = _PRESERVE.format(page="checksum-mismatch")


def _rollback(grounds: Grounds) -> Threat:
    if grounds.remembered is None:
        do = "Verify where the log is written (its state folder remembers the last signed size), or " + _lower(_WITNESS)
        by = f"no earlier checkpoint is remembered here{f': {grounds.forgotten}' if grounds.forgotten else ''}"
        return _threat("rollback", by, do)
    by = f"the remembered checkpoint of size {grounds.remembered}, which this log extends"
    return _threat("rollback", by, state="ruled_out")


def _fork(grounds: Grounds) -> Threat:
    witnessed = grounds.witnessed
    if witnessed.size:
        return _by_witnesses("fork", grounds, "saw one history")
    if grounds.remembered is None:
        return _threat("fork", "others may have been shown another history", _others(grounds))
    by = f"one history from size {grounds.remembered} on, for this machine; others may have been shown another"
    return _threat("fork", by, _others(grounds))


def _key_holder(grounds: Grounds) -> Threat:
    if grounds.witnessed.size:
        return _by_witnesses("key_holder", grounds, "cosigned this history", ", which no key of the log can undo")
    by = "whoever holds all keys can sign another history" + since_stamped(grounds.stamped)
    return _threat("key_holder", by, _others(grounds))


def _others(grounds: Grounds) -> str:
    """Say who could tell two histories apart: if witnesses are trusted here, they."""
    return _MISS_WITNESSES if grounds.witnessed.quorum not in ("", "none") else _WITNESS


def _by_witnesses(name: ThreatName, grounds: Grounds, did: str, so: str = "") -> Threat:
    """Witnesses rule a threat out for what they cosigned; of entries after that they know nothing."""
    found = grounds.witnessed
    moment = f"{moment_of(found.time):%Y-%m-%d %H:%M:%S} UTC"
    by = f"{', '.join(found.names)} {did} up to size {found.size} by {moment}{so} (asked for: {found.quorum})"
    if found.quiet_tail:
        return _threat(name, by, state="ruled_out")
    after = grounds.size - found.size
    return _threat(name, f"{by}; nobody else has seen the {after} entries after it", _ASK_WITNESSES)


def _foreign_key(grounds: Grounds) -> Threat:
    if grounds.pinned and not grounds.size:
        by = f"nothing in the log is signed by the key {grounds.key_id} from {grounds.key_source}"
        return _threat("foreign_key", by, "Restore the checkpoint from a copy.")
    if grounds.pinned:
        by = f"key {grounds.key_id} from {grounds.key_source}"
        if grounds.key_source == _KEYS_FOLDER:
            by += "; a keys folder that came from the same hand as the log proves nothing"
        return _threat("foreign_key", by, state="ruled_out")
    do = "Give the log's public key, kept since `init` at another place: verify --key VKEY"
    return _threat("foreign_key", "the key was taken from the log itself: whoever rewrote it all chose it", do)


def _key_theft(grounds: Grounds) -> Threat:
    if grounds.witnessed.size:
        return _by_witnesses("key_theft", grounds, "cosigned this history", ", which no stolen key can undo")
    if grounds.epochs == 1:
        by = "no epoch has ended yet: whoever stole the keys can sign all entries anew" + since_stamped(grounds.stamped)
        return _threat("key_theft", by + _tomorrow(grounds), _others(grounds))
    by = (
        f"entries below {grounds.closed} were closed by {grounds.epochs - 1} handover(s), whose keys were destroyed; "
        f"what the current epoch signed can be signed anew by a thief of its keys{since_stamped(grounds.stamped)}"
        f"{_tomorrow(grounds)}"
    )
    if not grounds.first_epoch_pinned:
        by += ", and a thief of the log key can replace the first epoch's key too"
        return _threat("key_theft", by, f"Keep epoch 0's public key beside the log's. {_others(grounds)}")
    return _threat("key_theft", by, _others(grounds))


def _tomorrow(grounds: Grounds) -> str:
    """Say what handovers do not protect where several hosts write."""
    if not grounds.derived:
        return ""
    return (
        "; writers on several hosts derive the keys of coming epochs from the present one, so a thief of today's keys "
        "can sign as any later epoch, too"
    )


def _quantum(grounds: Grounds) -> Threat:
    found = grounds.countersigned
    if not found.named:
        by = "the signatures are Ed25519, which a large quantum computer could forge"
        do = "Keep copies of checkpoints elsewhere. A new log: klingai-audit init --post-quantum"
        return _threat("quantum", by, do)
    if found.unchecked:
        by = f"checkpoints have ML-DSA-44 lines, which this installation cannot check: {found.unchecked}"
        return _threat("quantum", by, "Install the newest release of cryptography.", "not_checked")
    if not found.size:
        by = "the log has an ML-DSA-44 key, but nothing is signed by it yet"
        return _threat("quantum", by, _COUNTERSIGN)
    by = f"entries below {found.size} are under an ML-DSA-44 signature"
    if not found.source:
        by += ", but only the log itself names that key: a forger of Ed25519 would have chosen it"
        return _threat("quantum", by, "Give the key, kept since `init` at another place: verify --mldsa-key VKEY")
    by += f" by the key from {found.source}"
    if found.source == _KEYS_FOLDER:
        by += "; a keys folder that came from the same hand as the log proves nothing"
    if found.size == grounds.size:
        return _threat("quantum", by, state="ruled_out")
    by += f"; the {grounds.size - found.size} entries after them are under Ed25519 alone"
    return _threat("quantum", by, _COUNTERSIGN)


_COUNTERSIGN: Final = "Close the log, or run: klingai-audit keys rotate"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
