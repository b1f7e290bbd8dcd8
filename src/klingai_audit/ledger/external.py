"""The log key outside this process: a command that signs, run anew for each note (docs/signer.md).

The command gets the exact text to sign on standard input and answers with the signature. Nothing of its answer is
used before it verifies under the log's public key, so that a signer can delay this log and not falsify it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

from klingai_audit.durable import NO_FORK
from klingai_audit.errors import InvalidSignature, Malformed, SignerUnavailable, UsageError
from klingai_audit.tlog.keys import ED25519, SIGNATURE_BYTES, VerifierKey
from klingai_audit.tlog.note import SignatureLine
from klingai_audit.tlog.strict import parse_base64

__all__ = ["MAX_ANSWER_BYTES", "SIGNER_FILE", "SIGNING_INTERVAL_S", "TIMEOUT_S", "ExternalSigner", "SignerSettings"]

SIGNER_FILE: Final = "log.signer"
"""Name of the settings in the keys folder; it stands there instead of `log.key`."""

TIMEOUT_S: Final = 10.0
"""How long one signature may take unless the settings say otherwise, in seconds."""

SIGNING_INTERVAL_S: Final = 1.0
"""Shortest time between two checkpoints of one writer whose log key is elsewhere, in seconds."""

MAX_ANSWER_BYTES: Final = 4_096
"""A longer answer is refused before it is read to its end."""

_MAX_TIMEOUT_S: Final = 300.0
_DO: Final = "See what it says: klingai-audit keys try-signer"


class SignerSettings:
    """`command`: the program and its arguments, run without a shell; `timeout_s`: how long it may take, in seconds.

    Raises on creation: UsageError.
    """

    __slots__ = ("command", "timeout_s")

    def __init__(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        if not command or not all(word and "\0" not in word for word in command[:1]) or "\0" in "".join(command):
            raise UsageError("A signer is a program and its arguments; none is named.")
        if not 0 < timeout_s <= _MAX_TIMEOUT_S:
            raise UsageError(f"A signer's time-out is above 0 and at most {_MAX_TIMEOUT_S:.0f} seconds.")
        if not "".join(command).isascii() and any(0xD800 <= ord(char) < 0xE000 for char in "".join(command)):
            raise UsageError("A signer's command is UTF-8; this is not.")
        self.command = tuple(command)
        self.timeout_s = float(timeout_s)

    @classmethod
    def from_words(cls, words: str, timeout_s: float = TIMEOUT_S) -> SignerSettings:
        """Read a command as a shell would split it. Raises: UsageError."""
        try:
            return cls(shlex.split(words), timeout_s)
        except ValueError as exc:
            raise UsageError(f"The signer's command cannot be split into words: {exc}.") from exc

    @classmethod
    def parse(cls, data: bytes, where: Path) -> SignerSettings:
        """Read the settings file. Raises: Malformed."""
        try:
            found: dict[str, Any] = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise Malformed(f"{where} is not TOML.") from exc
        command, timeout = found.get("command"), found.get("timeout_s", TIMEOUT_S)
        if found.keys() - {"command", "timeout_s"} or not isinstance(command, list):
            raise Malformed(f"{where} holds `command`, a list of texts, and at most `timeout_s` beside it.")
        if not all(isinstance(word, str) for word in command) or type(timeout) not in (int, float):
            raise Malformed(f"{where}: `command` is a list of texts and `timeout_s` a number.")
        try:
            return cls(command, timeout)
        except UsageError as exc:
            raise Malformed(f"{where}: {exc.message}") from exc

    def format(self) -> bytes:
        """Return the settings file."""
        words = ", ".join(_toml(word) for word in self.command)
        return (
            "# The log key is not here. This command signs with it: docs/signer.md\n"
            f"command = [{words}]\n"
            f"timeout_s = {self.timeout_s:g}\n"
        ).encode()


class ExternalSigner:
    """Signs under the name of `verifier` by running the command; keeps nothing between two signatures."""

    __slots__ = ("settings", "verifier")

    def __init__(self, verifier: VerifierKey, settings: SignerSettings) -> None:
        """Raises: UsageError for a key that signs no notes."""
        if verifier.algorithm != ED25519:
            raise UsageError("The log key is of type 0x01 (Ed25519).")
        self.verifier = verifier
        self.settings = settings

    @property
    def name(self) -> str:
        """The log's origin."""
        return self.verifier.name

    @property
    def algorithm(self) -> int:
        """Always Ed25519 over the text itself."""
        return ED25519

    def __repr__(self) -> str:
        return f"<ExternalSigner {self.verifier.name}+{self.verifier.key_id.hex()}>"

    def sign(self, message: bytes, *, loud: bool = False) -> bytes:
        """Return the 64-byte signature over `message`, checked. Raises: SignerUnavailable; trying again is safe.

        With `loud` the command's standard error is ours, else it goes nowhere.
        """
        signature = self._read(self._run(message, loud=loud))
        try:
            self.verifier.verify(message, signature)
        except InvalidSignature as exc:
            raise self._failed(
                "answered with a signature that does not verify under the log's public key: it holds another key, "
                "or it signed something else"
            ) from exc
        return signature

    def _read(self, answer: bytes) -> bytes:
        try:
            text = answer.decode("utf-8")
            if text.startswith("\u2014"):
                line = SignatureLine.parse(text if text.endswith("\n") else text + "\n")
                if (line.name, line.key_id) != (self.verifier.name, self.verifier.key_id):
                    raise self._failed("answered with the signature line of another key")
                signature = line.blob
            else:
                signature = parse_base64(text.removesuffix("\n").removesuffix("\r"), "The answer")
        except (UnicodeDecodeError, Malformed) as exc:
            raise self._failed("answered with something that is no signature") from exc
        if len(signature) != SIGNATURE_BYTES[ED25519]:
            raise self._failed("answered with something that is no Ed25519 signature of 64 bytes")
        return signature

    def _run(self, message: bytes, *, loud: bool) -> bytes:
        deadline = time.monotonic() + self.settings.timeout_s
        process = self._start(message, loud=loud)
        try:
            answer = self._collect(process, deadline)
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as exc:
            _kill(process)
            raise self._failed(f"gave no answer within {self.settings.timeout_s:g} s") from exc
        except BaseException:
            _kill(process)
            raise
        finally:
            _output(process).close()
        if code:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise self._failed(f"{how} instead of signing")
        return answer

    def _start(self, message: bytes, *, loud: bool) -> subprocess.Popen[bytes]:
        # No fork meanwhile: a child that inherited the pipe would keep the signer waiting for the end of its input.
        with NO_FORK:
            try:
                process = subprocess.Popen(  # noqa: S603  the command is the operator's own setting
                    self.settings.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None if loud else subprocess.DEVNULL,
                    start_new_session=True,
                    bufsize=0,
                )
            except (OSError, ValueError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
                raise self._failed(f"cannot be started: {reason}") from exc
            # A note's text is far smaller than a pipe, so writing it never waits; a signer may end without reading.
            with contextlib.suppress(OSError), cast("IO[bytes]", process.stdin) as stream:
                stream.write(message)
        return process

    def _collect(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        answer, stream = b"", _output(process)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while len(answer) <= MAX_ANSWER_BYTES:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise subprocess.TimeoutExpired(process.args, self.settings.timeout_s)
                piece = os.read(stream.fileno(), MAX_ANSWER_BYTES + 1)
                if not piece:
                    return answer
                answer += piece
        raise self._failed(f"answered with more than {MAX_ANSWER_BYTES} bytes")

    def _failed(self, what: str) -> SignerUnavailable:
        return SignerUnavailable(f"The signer of the log key ({self.settings.command[0]}) {what}.", do=_DO)


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdout)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a signer and its children, which are one process group; nobody waited for it yet, so its id is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _toml(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
