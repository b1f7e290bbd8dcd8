"""`keys signer|signer-keygen|use-signer|try-signer`: the log key on another host, in a KMS, an HSM or a card."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.session import SessionArgument, escaped
from klingai_audit.errors import LogNotFound, UsageError

if TYPE_CHECKING:
    from klingai_audit.config import Places
    from klingai_audit.ledger.external import SignerSettings
    from klingai_audit.ledger.keys import KeyFolder
    from klingai_audit.tlog.keys import VerifierKey

KeyFile = Annotated[Path, Parameter(help="The file with the log's private key.")]
Timeout = Annotated[float, Parameter(help="How long one signature may take, in seconds.")]


def signer(
    *,
    key: KeyFile,
    memory: Annotated[
        Path | None, Parameter(help="Where it remembers what it signed. Default: beside the key, name ending .signed")
    ] = None,
    newest: Annotated[bool, Parameter(help="Print the largest checkpoint that was signed, and sign nothing.")] = False,
    session: SessionArgument,
) -> None:
    """Sign the checkpoint on standard input, unless it takes back what was signed before: the reference signer."""
    from klingai_audit.upkeep.signer import MAX_REQUEST_BYTES, LogSigner, memory_beside

    own = LogSigner(key, memory or memory_beside(key))
    if newest:
        found = own.newest()
        if session.as_json:
            session.emit({"checkpoint": None if found is None else found.text()})
        else:
            session.say("Nothing was signed yet." if found is None else found.text().removesuffix("\n"))
        return
    line = own.sign(sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)[: MAX_REQUEST_BYTES + 1])
    sys.stdout.buffer.write(line.encode())
    session.flush()


def signer_keygen(
    origin: Annotated[str, Parameter(help="Name of the log, for ever, such as log.example.com/videos.")],
    /,
    *,
    key: KeyFile,
    session: SessionArgument,
) -> None:
    """Make the log key of a new log, on the host that is to sign; prints the public key for `init --signer-key`."""
    from klingai_audit.upkeep.signer import make_key

    verifier = make_key(key, escaped(origin))
    if session.as_json:
        session.emit({"origin": verifier.name, "vkey": verifier.format(), "file": escaped(str(key))})
        return
    session.say(("Public key, for init --signer-key on the log's host:", "dim"))
    session.say(verifier.format())


def use_signer(
    command: Annotated[str, Parameter(help="The program and its arguments, quoted as for a shell.")],
    /,
    *,
    timeout: Timeout = 10.0,
    session: SessionArgument,
) -> None:
    """From now on let a command sign with this log's key; the private key in the keys folder is destroyed.

    The command is tried first, on the published checkpoint: it has to hold the same key. Close writers before.
    """
    from klingai_audit.ledger.custody import custody_of
    from klingai_audit.ledger.external import SignerSettings
    from klingai_audit.ledger.keys import KeyFolder

    folder = KeyFolder(session.places.keys)
    if not folder.exists():
        raise LogNotFound(f"There are no keys at {folder.path}.", do="For a new log: klingai-audit init --signer …")
    settings = SignerSettings.from_words(command, timeout)
    seconds = try_out(session.places, folder, settings)
    folder.move_out(settings)
    if session.as_json:
        session.emit(
            {"command": list(settings.command), "seconds": seconds, "custody": custody_of(folder.path).as_json()}
        )
        return
    session.say(f"The signer signed the newest checkpoint in {seconds:.2f} s; it signs from now on.")
    session.say("The log key is no longer in ", (str(folder.path), "bold"), ". Writers that are open still have it:")
    session.say("close them and open them again.")


def try_signer(*, session: SessionArgument) -> None:
    """Have the log's signer sign the published checkpoint again, and say how long it took. Nothing is written."""
    from klingai_audit.ledger.keys import KeyFolder

    folder = KeyFolder(session.places.keys)
    if not folder.external:
        raise UsageError(
            f"The log key lies in {folder.path}: no command signs with it.", do="docs/how-to/log-key-elsewhere.md"
        )
    seconds = try_out(session.places, folder, None)
    if session.as_json:
        session.emit({"seconds": seconds})
    else:
        session.say(f"The signer signed the newest checkpoint in {seconds:.2f} s, and its signature verifies.")


def try_out(places: Places, folder: KeyFolder, settings: SignerSettings | None) -> float:
    """Have the newest checkpoint signed once more; return how many seconds it took.

    What the command says on standard error goes to ours. Raises: SignerUnavailable; as reading the log.
    """
    from klingai_audit.config import open_reader
    from klingai_audit.tlog.note import parse_note

    text = parse_note(open_reader(places).checkpoint_note()).text
    begun = time.monotonic()
    folder.external_signer(settings).sign(text.encode(), loud=True)
    return round(time.monotonic() - begun, 3)


def plan(places: Places, folder: KeyFolder, command: str, key: VerifierKey, timeout: float) -> None:
    """Begin a new log whose log key a command holds; the command has to sign the empty tree first.

    Raises: UsageError: there is a log already, or the command is none; SignerUnavailable.
    """
    from klingai_audit.config import must_create, open_store, state_folder
    from klingai_audit.ledger.external import ExternalSigner, SignerSettings
    from klingai_audit.tlog.checkpoint import Checkpoint
    from klingai_audit.tlog.merkle import EMPTY_ROOT

    if not must_create(places, folder, state_folder(places), exists=open_store(places).exists, create=True):
        raise UsageError(
            f"There is a log at {places.log} already.", do="To move its key: klingai-audit keys use-signer COMMAND"
        )
    settings = SignerSettings.from_words(command, timeout)
    ExternalSigner(key, settings).sign(Checkpoint(key.name, 0, EMPTY_ROOT).text().encode(), loud=True)
    with folder.locked():
        folder.plan_external(key, settings)


def signer_vkey(
    origin: Annotated[str, Parameter(help="Name of the log, for ever.")],
    file: Annotated[Path, Parameter(name="FILE", help="The public key as the KMS or card gives it: PEM or DER.")],
    /,
    *,
    session: SessionArgument,
) -> None:
    """Print an Ed25519 public key as a vkey, for `init --signer-key`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

    from klingai_audit.cli.files import read_file
    from klingai_audit.tlog.keys import ED25519, VerifierKey

    data = read_file(file, 65_536, "public key")
    try:
        key = (load_pem_public_key if data.startswith(b"-----") else load_der_public_key)(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{escaped(str(file))} holds no public key in PEM or DER.") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{escaped(str(file))} holds another key than Ed25519, which is what a log key is.")
    verifier = VerifierKey(escaped(origin), ED25519, key.public_bytes_raw())
    if session.as_json:
        session.emit({"origin": verifier.name, "vkey": verifier.format()})
    else:
        session.say(verifier.format())
