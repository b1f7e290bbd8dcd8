"""A time stamp that anybody can make: in its form, over the right file, by an authority that nobody knows.

Source: RFC 3161 section 2.4.2, RFC 5652 section 5, RFC 5816.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final

from klingai_audit.trust.der import INTEGER, OCTETS, OID, SEQUENCE, SET, TIME, write

__all__ = ["forged_stamp"]

_CONTEXT_0: Final = 0xA0
_SIGNED_DATA: Final = write(OID, bytes.fromhex("2a864886f70d010702"))
_TST_INFO: Final = write(OID, bytes.fromhex("2a864886f70d0109100104"))
_CONTENT_TYPE: Final = write(OID, bytes.fromhex("2a864886f70d010903"))
_MESSAGE_DIGEST: Final = write(OID, bytes.fromhex("2a864886f70d010904"))
_SIGNING_CERTIFICATE: Final = write(OID, bytes.fromhex("2a864886f70d010910022f"))
_POLICY: Final = write(OID, bytes.fromhex("2a030401"))
_SHA256: Final = write(SEQUENCE, write(OID, bytes.fromhex("608648016503040201")))
_ECDSA_SHA256: Final = write(SEQUENCE, write(OID, bytes.fromhex("2a8648ce3d040302")))
_ONE: Final = write(INTEGER, b"\x01")


def forged_stamp(data: bytes, moment: dt.datetime, name: str = "Another Authority") -> bytes:
    """Return a TimeStampResp over the SHA-256 of `data`, dated `moment`, by a key and a certificate made up for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = dt.timedelta(days=1)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, moment - day, moment + day)
    certificate = builder.add_extension(usage, critical=True).sign(key, SHA256()).public_bytes(Encoding.DER)
    imprint = write(SEQUENCE, _SHA256, write(OCTETS, hashlib.sha256(data).digest()))
    stated = write(TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
    info = write(SEQUENCE, _ONE, _POLICY, imprint, _ONE, stated)
    named = write(SEQUENCE, write(SEQUENCE, write(SEQUENCE, write(OCTETS, hashlib.sha256(certificate).digest()))))
    attributes = (
        write(SEQUENCE, _CONTENT_TYPE, write(SET, _TST_INFO)),
        write(SEQUENCE, _MESSAGE_DIGEST, write(SET, write(OCTETS, hashlib.sha256(info).digest()))),
        write(SEQUENCE, _SIGNING_CERTIFICATE, write(SET, named)),
    )
    signature = key.sign(write(SET, *attributes), ec.ECDSA(SHA256()))
    signer = write(
        SEQUENCE,
        _ONE,
        write(SEQUENCE, subject.public_bytes(), _ONE),
        _SHA256,
        write(_CONTEXT_0, *attributes),
        _ECDSA_SHA256,
        write(OCTETS, signature),
    )
    signed = write(
        SEQUENCE,
        write(INTEGER, b"\x03"),
        write(SET, _SHA256),
        write(SEQUENCE, _TST_INFO, write(_CONTEXT_0, write(OCTETS, info))),
        write(_CONTEXT_0, certificate),
        write(SET, signer),
    )
    status = write(SEQUENCE, write(INTEGER, b"\0"))
    return write(SEQUENCE, status, write(SEQUENCE, _SIGNED_DATA, write(_CONTEXT_0, signed)))
