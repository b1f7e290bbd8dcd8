"""Who issued a time stamp: its signature, its certificate and the chain to a root that the caller trusts.

The signature and the chain are judged at the time that the stamp states, so a stamp stays good after its certificate
has expired. Source: RFC 3161 section 2.3, RFC 5816; needs the extra `trust`.
"""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.errors import InvalidSignature, MissingExtra, UsageError
from klingai_audit.trust.token import Token

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from klingai_audit.privacy.policy import Policy

__all__ = ["MAX_ROOTS_BYTES", "Roots", "policy_roots", "read_roots", "require_extra"]

MAX_ROOTS_BYTES: Final = 1 << 20
_ONE_SECOND: Final = dt.timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Roots:
    """Root certificates of time stamp authorities that the caller trusts."""

    certificates: tuple[Certificate, ...]

    @classmethod
    def parse(cls, data: bytes, name: str) -> Roots:
        """Read certificates in PEM; `name` is what errors call the file. Raises: UsageError."""
        from cryptography.x509 import load_pem_x509_certificates

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cls(tuple(load_pem_x509_certificates(data)))
        except ValueError as exc:
            raise UsageError(
                f"{name} holds no certificates in PEM form.",
                do="Give the root certificates that the time stamp authority publishes.",
            ) from exc

    def verify(self, token: Token, digest: bytes) -> None:
        """Check that one of these roots stands behind `token` and that it stamps `digest` (32 bytes).

        Raises: InvalidSignature, MissingExtra.
        """
        library = require_extra()
        if token.digest != digest:
            raise InvalidSignature("The time stamp is over something else.")
        _check_purpose(token)
        if not token.binds_signer:
            raise InvalidSignature("The time stamp does not bind the certificate that it was signed with.")
        verifier = library.VerifierBuilder(roots=list(self.certificates)).build()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reply = library.decode_timestamp_response(token.reply)
                verifier.verify(reply, digest)
                stated = reply.tst_info.gen_time
        except Exception as exc:  # errors of many kinds, for bytes of anybody
            raise InvalidSignature(f"No trusted root stands behind the time stamp of {token.name}.") from exc
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # the library is not written in Python
                raise
            raise InvalidSignature("The time stamp cannot be read as one.") from None
        if abs(stated.astimezone(dt.UTC) - token.gen_time) >= _ONE_SECOND:
            raise InvalidSignature("The time stamp states its time in two ways.")


def _check_purpose(token: Token) -> None:
    """A certificate of an authority is for time stamps and nothing else, and says so critically."""
    from cryptography.x509 import ExtendedKeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            usage = token.signer.extensions.get_extension_for_class(ExtendedKeyUsage)
    except Exception as exc:  # errors of many kinds, for bytes of anybody
        raise InvalidSignature(f"The certificate of {token.name} is not for time stamps.") from exc
    if not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise InvalidSignature(f"The certificate of {token.name} is not for time stamps alone.")


def read_roots(path: Path) -> Roots:
    """Read a PEM file of root certificates. Raises: UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ROOTS_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"The roots {path} cannot be read: {exc.strerror}.") from exc
    if len(data) > MAX_ROOTS_BYTES:
        raise UsageError(f"The roots {path} have more than {MAX_ROOTS_BYTES:,} bytes.")
    return Roots.parse(data, str(path))


def policy_roots(policy: Policy | None, keys: Path) -> Roots | None:
    """Return the roots that the policy in the folder `keys` names, None if it names none. Raises: UsageError."""
    return read_roots(keys / policy.timestamp.roots) if policy is not None and policy.timestamp.roots else None


def require_extra() -> Any:
    """Return the module of the library that checks time stamps. Raises: MissingExtra."""
    try:
        import rfc3161_client
    except ImportError as exc:
        raise MissingExtra(
            "Time stamps need the library rfc3161-client.", do="pip install 'klingai-audit[trust]'"
        ) from exc
    return rfc3161_client
