"""RFC 3161 time stamps as bytes: what a reply states, read strictly; nothing here proves who made it.

Source: RFC 3161 section 2.4, RFC 5652 section 5, RFC 5816.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klingai_audit.errors import Malformed
from klingai_audit.trust.der import BOOLEAN, INTEGER, OCTETS, OID, SEQUENCE, SET, TIME, Fields, Value, read_one, write

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["MAX_TOKEN_BYTES", "SHA256", "Token", "parse_status", "parse_token"]

MAX_TOKEN_BYTES: Final = 65_536
"""Largest reply of a time stamp authority that is read, in bytes."""

SHA256: Final = "2.16.840.1.101.3.4.2.1"

_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"
_SIGNING_CERTIFICATE: Final = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2: Final = "1.2.840.113549.1.9.16.2.47"
_CONTEXT_0: Final = 0xA0
_CONTEXT_1: Final = 0xA1
_TIME: Final = re.compile(r"([0-9]{14})(?:\.([0-9]{1,9}))?Z", re.ASCII)
_DIGESTS: Final = {SHA256: "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
_MAX_NAME: Final = 200
_GRANTED: Final = (0, 1)
_GRANTED_INFO: Final = b"\x30\x03\x02\x01\x00"
_SIGNED_DATA_OID: Final = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"


@dataclass(frozen=True, slots=True)
class Token:
    """What one time stamp states: `digest` (SHA-256 of what was stamped) existed at `gen_time`, within `accuracy`.

    `signer` is the certificate of the authority that the stamp carries, `name` its subject as text, `binds_signer`
    whether the stamp names that certificate by its hash (ESSCertID). `reply` is a reply with this token in the one
    encoding that strict readers take: the set of certificates, which no signature covers, in order.
    """

    digest: bytes
    gen_time: dt.datetime
    accuracy: dt.timedelta
    nonce: int | None
    serial: int
    signer: Certificate
    name: str
    binds_signer: bool
    reply: bytes

    @property
    def stated(self) -> str:
        """`gen_time` in the form of a log's times, 27 characters."""
        return self.gen_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def parse_status(reply: bytes) -> tuple[int, Value | None]:
    """Return the status of a TimeStampResp and its token if it has one. Raises: Malformed."""
    if len(reply) > MAX_TOKEN_BYTES:
        raise Malformed(f"A time stamp of more than {MAX_TOKEN_BYTES} bytes is not read.")
    fields = read_one(reply).fields()
    status = fields.take(SEQUENCE).fields().take(INTEGER).integer()
    token = fields.optional(SEQUENCE)
    fields.end()
    return status, token


def parse_token(reply: bytes) -> Token:
    """Read a reply that grants a time stamp over a SHA-256 digest. Raises: Malformed."""
    status, content = parse_status(reply)
    if status not in _GRANTED or content is None:
        raise Malformed(f"The time stamp was refused (status {status}).")
    signed = _signed_data(content)
    version, algorithms, encapsulated_info = signed.take(INTEGER), signed.take(SET), signed.take(SEQUENCE)
    encapsulated = encapsulated_info.fields()
    if encapsulated.take(OID).oid() != _TST_INFO:
        raise Malformed("The signed content is no time stamp.")
    info = _only(encapsulated.take(_CONTEXT_0).fields(_CONTEXT_0), OCTETS)
    encapsulated.end()
    certificates = signed.optional(_CONTEXT_0)
    signed.optional(_CONTEXT_1)
    signers = signed.take(SET)
    signed.end()
    signer, hashes = _signer(_only(signers.fields(SET), SEQUENCE), certificates)
    carried = sorted(value.whole for value in certificates.fields(_CONTEXT_0)) if certificates is not None else []
    parts = (version, algorithms, encapsulated_info)
    inner = write(SEQUENCE, *(part.whole for part in parts), write(_CONTEXT_0, *carried), signers.whole)
    strict = write(SEQUENCE, _GRANTED_INFO, write(SEQUENCE, _SIGNED_DATA_OID, write(_CONTEXT_0, inner)))
    return _token(read_one(info.content).fields(), signer, hashes, strict)


def _only(fields: Fields, tag: int) -> Value:
    value = fields.take(tag)
    fields.end()
    return value


def _signed_data(content: Value) -> Fields:
    fields = content.fields()
    if fields.take(OID).oid() != _SIGNED_DATA:
        raise Malformed("The token is no CMS SignedData.")
    inner = _only(fields.take(_CONTEXT_0).fields(_CONTEXT_0), SEQUENCE)
    fields.end()
    return inner.fields()


def _token(info: Fields, signer: Value, hashes: list[tuple[str, bytes]], reply: bytes) -> Token:
    if info.take(INTEGER).integer() != 1:
        raise Malformed("The time stamp is of an unknown version.")
    info.take(OID)
    imprint = info.take(SEQUENCE).fields()
    algorithm = imprint.take(SEQUENCE).fields().take(OID).oid()
    digest = imprint.take(OCTETS).content
    imprint.end()
    if algorithm != SHA256 or len(digest) != 32:
        raise Malformed("The time stamp is not over a SHA-256 digest.")
    serial = info.take(INTEGER).integer()
    gen_time = _time(info.take(TIME).content)
    accuracy = info.optional(SEQUENCE)
    info.optional(BOOLEAN)
    nonce = info.optional(INTEGER)
    info.optional(_CONTEXT_0)
    info.optional(_CONTEXT_1)
    info.end()
    certificate = _certificate(signer.whole)
    binds = bool(hashes) and all(hashlib.new(name, signer.whole).digest() == value for name, value in hashes)
    return Token(
        digest,
        gen_time,
        _accuracy(accuracy),
        None if nonce is None else nonce.integer(),
        serial,
        certificate,
        _name(certificate),
        binds,
        reply,
    )


def _time(content: bytes) -> dt.datetime:
    match = _TIME.fullmatch(content.decode("ascii", "replace"))
    try:
        if match is None:
            raise ValueError
        moment = dt.datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError as exc:
        raise Malformed("The time stamp states no time.") from exc
    return moment.replace(microsecond=int((match[2] or "").ljust(6, "0")[:6]))


def _accuracy(value: Value | None) -> dt.timedelta:
    if value is None:
        return dt.timedelta()
    units = {INTEGER: "seconds", 0x80: "milliseconds", 0x81: "microseconds"}
    try:
        given = {units[field.tag]: field.integer() for field in value.fields()}
        return dt.timedelta(**given)
    except (KeyError, OverflowError) as exc:
        raise Malformed("The time stamp states no accuracy in its form.") from exc


def _signer(info: Value, certificates: Value | None) -> tuple[Value, list[tuple[str, bytes]]]:
    """Return the certificate that the SignerInfo names, and the certificate hashes in its signed attributes."""
    fields = info.fields()
    fields.take(INTEGER)
    named = fields.take(SEQUENCE).fields()
    issuer, serial = named.take(SEQUENCE).whole, named.take(INTEGER).whole
    if fields.take(SEQUENCE).fields().take(OID).oid() not in _DIGESTS:
        raise Malformed("The time stamp is signed over a digest that is not of the SHA-2 family.")
    attributes = fields.take(_CONTEXT_0).fields(_CONTEXT_0)
    hashes: list[tuple[str, bytes]] = []
    for attribute in attributes:
        parts = attribute.fields()
        kind, values = parts.take(OID).oid(), parts.take(SET).fields(SET)
        if kind in (_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2):
            hashes.append(_certificate_hash(_only(values, SEQUENCE), second=kind == _SIGNING_CERTIFICATE_V2))
    for certificate in () if certificates is None else certificates.fields(_CONTEXT_0):
        if certificate.tag == SEQUENCE and _names(certificate) == (issuer, serial):
            return certificate, hashes
    raise Malformed("The time stamp does not carry the certificate of whoever signed it.")


def _certificate_hash(value: Value, *, second: bool) -> tuple[str, bytes]:
    """Read the first ESSCertID (SHA-1) or, with `second`, ESSCertIDv2: (name of the hash, value)."""
    first = value.fields().take(SEQUENCE).fields().take(SEQUENCE).fields()
    algorithm = first.optional(SEQUENCE) if second else None
    name = "sha256" if second else "sha1"
    if algorithm is not None:
        name = _DIGESTS.get(algorithm.fields().take(OID).oid(), "")
    if not name:
        raise Malformed("The time stamp names its certificate by an unknown hash.")
    return name, first.take(OCTETS).content


def _names(certificate: Value) -> tuple[bytes, bytes]:
    """Return issuer and serial number of a certificate as they are encoded."""
    body = certificate.fields().take(SEQUENCE).fields()
    body.optional(_CONTEXT_0)
    serial = body.take(INTEGER).whole
    body.take(SEQUENCE)
    return body.take(SEQUENCE).whole, serial


def _certificate(data: bytes) -> Certificate:
    from cryptography.x509 import load_der_x509_certificate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_der_x509_certificate(data)
    except Exception as exc:  # errors of many kinds, for bytes of anybody
        raise Malformed("The certificate in the time stamp cannot be read.") from exc


def _name(certificate: Certificate) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = certificate.subject.rfc4514_string()
    except Exception as exc:  # errors of many kinds, for bytes of anybody
        raise Malformed("The certificate in the time stamp names nobody.") from exc
    return "".join(char if char.isprintable() else "?" for char in text)[:_MAX_NAME] or "(no name)"
