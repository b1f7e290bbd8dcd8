"""`verify` and `drill`: whether the log is what was signed, and whether we would notice if it were not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.options import Record
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument
from klingai_audit.cli.waiting import tell_waiting
from klingai_audit.durable import OPS

if TYPE_CHECKING:
    from klingai_audit.config import Places
    from klingai_audit.ledger.mirror import Mirrored
    from klingai_audit.privacy.policy import Policy
    from klingai_audit.tlog.policy import WitnessPolicy
    from klingai_audit.trust.reading import Progress
    from klingai_audit.trust.verdict import Verdict
    from klingai_audit.upkeep.drill import DrillResult

EXIT_BROKEN: Final = 4


def verify(
    file: Annotated[Path | None, Parameter(name="FILE", help="One day file; without it, the whole log.")] = None,
    /,
    *,
    key: Annotated[str | None, Parameter(help="The log's public key: a vkey, or a file that holds one.")] = None,
    epoch_key: Annotated[
        str | None, Parameter(help="Public key of epoch 0, likewise. Default: the keys folder's, if it is there.")
    ] = None,
    mldsa_key: Annotated[
        str | None, Parameter(help="The log's ML-DSA-44 key, likewise. Default: remembered, or the keys folder's.")
    ] = None,
    quick: Annotated[
        bool, Parameter(help="Begin where this machine's last whole verification ended; the verdict says so.")
    ] = False,
    proofs_only: Annotated[bool, Parameter(help="Links, tree and signatures; entries are not decoded.")] = False,
    trust_first_key: Annotated[bool, Parameter(help="Believe the log's own claim of its key.")] = False,
    witnesses: Annotated[
        Path | None, Parameter(help="Policy file: whose cosignatures count. Default: <keys>/witness.policy.")
    ] = None,
    require_witness: Annotated[bool, Parameter(help="Broken unless enough witnesses cosigned.")] = False,
    tsa_roots: Annotated[
        Path | None,
        Parameter(help="Root certificates (PEM) behind time stamps. Default: the policy's timestamp.roots."),
    ] = None,
    record: Record = False,
    session: SessionArgument,
) -> int:
    """Check the log against its signed tree: changed, missing, added or reordered entries, by name and place.

    Exit code 0 if nothing is broken, else 4. Reads only; needs the public key alone.
    """
    if file is not None:
        return _verify_file(session, file)
    with progress_bar(session, "reading", "bytes") as progress:
        verdict = check_log(
            session,
            key=key,
            epoch_key=epoch_key,
            mldsa_key=mldsa_key,
            quick=quick,
            proofs_only=proofs_only,
            first_use=trust_first_key,
            witnesses=witnesses,
            require_witness=require_witness,
            tsa_roots=tsa_roots,
            progress=progress,
        )
    if record:
        verdict = verdict.with_recorded(_record(session, verdict))
    told = verdict.to_json()
    if verdict.integrity_ok and (erased := _erased(session)):
        told["erased"] = erased
    if session.as_json:
        session.emit(told)
    else:
        draw_verdict(session, told)
    tell_waiting(session)
    return verdict.exit_code


def check_log(
    session: Session,
    *,
    key: str | None = None,
    epoch_key: str | None = None,
    mldsa_key: str | None = None,
    quick: bool = False,
    proofs_only: bool = False,
    first_use: bool = False,
    witnesses: Path | None = None,
    require_witness: bool = False,
    tsa_roots: Path | None = None,
    compare: bool = True,
    progress: Progress | None = None,
) -> Verdict:
    """Verify the session's log with what is known here: the trusted key, other places' keys, the remembered head.

    Raises: NoTrustedKey, LogNotFound, UsageError (a given key is none).
    """
    from klingai_audit.config import known_mldsa_key, open_store, trusted_key
    from klingai_audit.errors import LogNotFound
    from klingai_audit.ledger.scratch import scratch_beside
    from klingai_audit.trust.authority import policy_roots, read_roots
    from klingai_audit.trust.custody import with_custody
    from klingai_audit.trust.remember import recall, remember
    from klingai_audit.trust.verify import verify as check

    places = session.places
    policy = _policy(session)
    head, forgotten = _remembered_head(places)
    others = _other_keys(places)
    vkey: str | None
    try:
        trusted = trusted_key(places, _given_key("--key", key), first_use=first_use)
        vkey, source = trusted.vkey, str(trusted.source)
    except LogNotFound:
        if head is None:
            raise
        vkey, source = next(iter(others), (None, ""))
    memory, known = memory_folder(places), known_mldsa_key(places)
    verdict = check(
        open_store(places),
        key=vkey,
        key_source=source,
        also=[(other, where) for other, where in others if where != source],
        epoch_key=_given_key("--epoch-key", epoch_key) or _first_epoch_key(places),
        mldsa_key=_given_key("--mldsa-key", mldsa_key) or (known.vkey if known is not None else None),
        mldsa_source=str(known.source) if known is not None and mldsa_key is None else "--mldsa-key",
        remembered=head,
        forgotten=forgotten,
        policy=policy,
        tsa_roots=policy_roots(policy, places.keys) if tsa_roots is None else read_roots(tsa_roots),
        witnesses=_witnesses(places, witnesses),
        require_witness=require_witness,
        quick_from=recall(memory) if quick and memory is not None else None,
        proofs_only=proofs_only,
        compare=compare,
        progress=progress,
        scratch=scratch_beside(places.state),
        copied=lambda copy: _tell_copy(session, copy),
    )
    if memory is not None and compare and not proofs_only:
        remember(memory, verdict.memory)
    return with_custody(verdict, places.keys)


def _tell_copy(session: Session, copy: Mirrored) -> None:
    """Tell people that a log on a server was copied here."""
    if not session.as_json:
        what = "the log" if not copy.begin else f"what is new since entry {copy.begin}"
        session.remark(f"{copy.size:,} bytes, {what}, were copied to {copy.folder.parent} for this check.")


def _remembered_head(places: Places) -> tuple[bytes | None, str]:
    """Return the head that the state folder remembers, and why it cannot be read if it cannot."""
    from klingai_audit.errors import StorageError
    from klingai_audit.ledger.state import StateFolder

    try:
        return StateFolder(places.state).read_head(), ""
    except StorageError as exc:
        return None, exc.message
    except OSError as exc:
        return None, f"the state folder {places.state} cannot be read: {exc.strerror}"


def memory_folder(places: Places) -> Path | None:
    """Return where this verifier remembers what it verified: the state folder, else a private temporary one.

    None if neither can be had; a temporary folder that belongs to somebody else is not believed.
    """
    if os.path.isdir(places.state) and os.access(places.state, os.W_OK | os.X_OK):  # noqa: PTH112  # it never raises
        return places.state
    where = os.path.realpath(places.log) if places.remote is None else places.log
    name = hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    base = Path(os.environ.get("TMPDIR") or "/tmp") / f"klingai-audit-{os.getuid()}"  # noqa: S108  owner and mode are checked
    try:
        OPS.make_folder(base, 0o700)
        info = base.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077
    return base / name if private else None


def _policy(session: Session) -> Policy | None:
    """Return the log's policy if there is one here; a verifier with public keys only has none.

    One that cannot be used is told, and the log judged as without.
    """
    from klingai_audit.errors import KlingAuditError
    from klingai_audit.privacy.policy import Policy

    path = session.places.keys / "policy.toml"
    try:
        return Policy.load(path) if path.exists() else None
    except (KlingAuditError, OSError) as exc:
        session.remark(f"The log is judged without its policy: {exc}", policy="not usable")
        return None


def _witnesses(places: Places, given: Path | None) -> WitnessPolicy | None:
    """Return the policy that cosignatures are judged by: the given file's, else that of a keys folder we can read."""
    from klingai_audit.durable import read_optional
    from klingai_audit.errors import UsageError
    from klingai_audit.tlog.policy import MAX_POLICY_BYTES, WitnessPolicy
    from klingai_audit.upkeep.witnessing import read_policy

    if given is None:
        try:
            return read_policy(places.keys)
        except OSError:
            return None
    try:
        data = read_optional(given, limit=MAX_POLICY_BYTES)
    except OSError as exc:
        raise UsageError(f"{given} cannot be read: {exc.strerror}.") from exc
    if data is None:
        raise UsageError(f"There is no witness policy at {given}.", do="docs/how-to/witness.md shows one.")
    return WitnessPolicy.parse(data)


def _given_key(option: str, value: str | None) -> str | None:
    """Return the vkey that an option gives, itself or in a file. Raises: UsageError."""
    from klingai_audit.errors import LogNotFound, Malformed, UsageError
    from klingai_audit.ledger.keys import read_public_key
    from klingai_audit.tlog.keys import VerifierKey

    if value is None:
        return None
    try:
        key = read_public_key(Path(value)) if Path(value).is_file() else VerifierKey.parse(value)
    except (Malformed, LogNotFound, OSError) as exc:
        raise UsageError(
            f"{option} is neither a public key nor a file that holds one.",
            do="Give what `klingai-audit keys show` prints: <name>+<8 hex digits>+<base64>.",
        ) from exc
    return key.format()


def _first_epoch_key(places: Places) -> str | None:
    """Return epoch 0's vkey as the keys folder holds it, or None."""
    from klingai_audit.errors import KlingAuditError
    from klingai_audit.ledger.keys import read_public_key

    with contextlib.suppress(KlingAuditError, OSError):
        return read_public_key(places.keys / "epoch-0.pub").format()
    return None


def _other_keys(places: Places) -> list[tuple[str, str]]:
    """Return (vkey, source) of every place here that knows the log's key; they must all agree."""
    from klingai_audit.config import open_reader
    from klingai_audit.errors import KlingAuditError
    from klingai_audit.ledger.keys import read_public_key
    from klingai_audit.ledger.state import OriginMemory

    found = []
    with contextlib.suppress(KlingAuditError, OSError):
        remembered = OriginMemory().recall(open_reader(places).origin)
        if remembered is not None:
            found.append((remembered, "remembered"))
    with contextlib.suppress(KlingAuditError, OSError):
        found.append((read_public_key(places.keys / "log.pub").format(), "keys folder"))
    return found


def drill(
    *,
    key: Annotated[str | None, Parameter(help="The log's public key: a vkey, or a file that holds one.")] = None,
    session: SessionArgument,
) -> int:
    """Attack a copy of the log in every way that we know and see what is caught. The log itself is only read.

    What nobody could detect with what is known here is tried, too: then the verdict must say that it is not ruled
    out. Exit code 0 if every other attack is caught, else 4.
    """
    result = drill_log(session, key)
    if session.as_json:
        session.emit(result.to_json(full=True))
    else:
        from klingai_audit.cli.drilling import draw_drill

        draw_drill(session, result)
    return EXIT_BROKEN if result.missed else 0


def drill_log(session: Session, key: str | None = None) -> DrillResult:
    """Attack a copy of the session's log. Raises: LogNotFound, NoTrustedKey, LogDamaged if it is not whole."""
    from klingai_audit.bundle.attacks import BUNDLE_ATTACKS
    from klingai_audit.upkeep.drill import drill as attack

    with progress_bar(session, "attacking", "attacks") as progress:
        return attack(session.places, key=_given_key("--key", key), others=BUNDLE_ATTACKS, progress=progress)


def draw_verdict(session: Session, verdict: dict[str, Any]) -> None:
    """Print a verdict (in its JSON form) for people: one line, findings, threats."""
    from klingai_audit.cli.verdict import (
        custody_lines,
        erased_lines,
        finding_lines,
        headline,
        purged_lines,
        threat_table,
    )

    session.tell(headline(verdict))
    for line in (*finding_lines(verdict), *purged_lines(verdict), *erased_lines(verdict)):
        session.say("  ", line)
    session.say("")
    session.show(threat_table(verdict))
    for line in custody_lines(verdict):
        session.tell(line)


def _verify_file(session: Session, file: Path) -> int:
    """Check one day file by itself."""
    from klingai_audit.trust.file import verify_file

    with progress_bar(session, "reading", "bytes") as progress:
        verdict = verify_file(file, progress=progress)
    if session.as_json:
        session.emit(verdict.to_json())
    else:
        draw_verdict(session, verdict.to_json())
    return verdict.exit_code


def _erased(session: Session) -> list[dict[str, Any]]:
    """Return who was erased, by the entries of a log that holds: pseudonym, entry, time and basis."""
    from klingai_audit.config import open_reader
    from klingai_audit.errors import KlingAuditError
    from klingai_audit.views.erasures import ErasureMemory

    try:
        found = ErasureMemory(open_reader(session.places), session.places.state).look(remember=False)
    except (KlingAuditError, OSError):
        return []
    return [{"pseudonym": one.pseudonym, **one.to_json()} for one in found]


def _record(session: Session, verdict: Verdict) -> bool:
    """Append what this check found; a log that cannot be written any more stays unrecorded."""
    from klingai_audit.cli.recording import append
    from klingai_audit.errors import KlingAuditError

    event_type = "log_verified" if verdict.integrity_ok else "verification_failed"
    metadata = {
        "command": "verify",
        "tree_size": verdict.size,
        "findings": [finding.kind for finding in verdict.findings],
    }
    try:
        append(session, event_type, metadata, outcome="success" if verdict.integrity_ok else "failure")
    except KlingAuditError:
        return False
    return True
