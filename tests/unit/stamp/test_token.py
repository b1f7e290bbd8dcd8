"""Time stamps as bytes: every kind that authorities make is read, nothing else is, and no garbage gets past."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from pathlib import Path

import pytest

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.trust.authority import read_roots
from klingai_audit.trust.der import BIT_STRING, INTEGER, OCTETS, OID, SEQUENCE, Value, read_one, write
from klingai_audit.trust.token import MAX_TOKEN_BYTES, Token, parse_status, parse_token
from klingai_audit.upkeep.forged_stamp import forged_stamp
from tests.support.tsa import HEAD, need_openssl, openssl

MOMENT = dt.datetime(2026, 11, 22, 1, 2, 3, tzinfo=dt.UTC)
SHA256_OID = bytes.fromhex("0609608648016503040201")
SHA1_OID = bytes.fromhex("06052b0e03021a")

CONFIG = (
    HEAD
    + """\
certs = {folder}/int.pem
signer_digest = sha512
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1, millisecs:500, microsecs:100
clock_precision_digits = 3
ordering = yes
tsa_name = yes
ess_cert_id_chain = yes
ess_cert_id_alg = sha1
"""
)


@pytest.fixture(scope="module")
def elaborate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that uses all that the format offers: RSA, a chain, SHA-1 names, fractions, a name, an order."""
    need_openssl()
    folder = tmp_path_factory.mktemp("elaborate")
    config = folder / "c.cnf"
    config.write_text(CONFIG.format(folder=folder, usage="critical,timeStamping"))
    (folder / "serial").write_text("01\n")
    key = ("-newkey", "rsa:2048", "-nodes", "-config", config)
    root, root_key = folder / "root.pem", folder / "root.key"
    openssl("req", "-x509", *key, "-keyout", root_key, "-out", root, "-subj", "/CN=Root", "-extensions", "ca")
    for name, issuer, usage, subject in (
        ("int", "root", "ca", "/CN=Intermediate"),
        ("tsa", "int", "stamping", "/C=XX/O=Example, Inc/CN=Stamps"),
    ):
        request = folder / f"{name}.csr"
        openssl("req", *key, "-keyout", folder / f"{name}.key", "-out", request, "-subj", subject)
        signer = ("-CA", folder / f"{issuer}.pem", "-CAkey", folder / f"{issuer}.key", "-set_serial", "5")
        extensions = ("-extfile", config, "-extensions", usage)
        openssl("x509", "-req", "-in", request, *signer, "-out", folder / f"{name}.pem", *extensions)
    return folder


def made_by(folder: Path, data: bytes, digest: str = "sha256") -> bytes:
    (folder / "data").write_bytes(data)
    openssl("ts", "-query", "-data", folder / "data", f"-{digest}", "-cert", "-out", folder / "query")
    config = folder / "c.cnf"
    openssl("ts", "-config", config, "-reply", "-queryfile", folder / "query", "-out", folder / "reply")
    return (folder / "reply").read_bytes()


def test_all_that_the_format_offers(elaborate: Path) -> None:
    """Fractions, accuracy, order, name and a chain are read, and the chain leads to the root."""
    pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")
    token = parse_token(made_by(elaborate, b"data"))
    assert ("CN=Stamps,O=Example\\, Inc,C=XX", True) == (token.name, token.binds_signer)
    assert dt.timedelta(seconds=1, milliseconds=500, microseconds=100) == token.accuracy
    assert 27 == len(token.stated)
    digest = hashlib.sha256(b"data").digest()
    read_roots(elaborate / "root.pem").verify(token, digest)
    with pytest.raises(InvalidSignature):
        read_roots(elaborate / "int.pem").verify(token, digest)


def test_only_sha_256_is_stamped(elaborate: Path) -> None:
    """A stamp over another digest is none of ours."""
    with pytest.raises(Malformed, match="SHA-256"):
        parse_token(made_by(elaborate, b"data", "sha512"))


def token() -> Token:
    return parse_token(forged_stamp(b"data", MOMENT, "A\u0000\u202eB"))


def test_what_is_stated() -> None:
    """Time, digest and who; what cannot be printed is not shown."""
    made = token()
    assert (MOMENT, hashlib.sha256(b"data").digest(), "2026-11-22T01:02:03.000000Z") == (
        made.gen_time,
        made.digest,
        made.stated,
    )
    assert made.name.isprintable()


def test_the_signers_digest_must_be_strong() -> None:
    """A signature over SHA-1 is not read."""
    reply = forged_stamp(b"data", MOMENT)
    at = reply.rindex(SHA256_OID)
    fields = read_one(reply[at : at + len(SHA256_OID)])
    assert "2.16.840.1.101.3.4.2.1" == fields.oid()
    with pytest.raises(Malformed):
        parse_token(reply[:at] + SHA256_OID[:-1] + b"\x04" + reply[at + len(SHA256_OID) :])
    assert "1.3.14.3.2.26" == read_one(SHA1_OID).oid()


def test_no_garbage_gets_past() -> None:
    """Whatever bytes come, only `Malformed` is raised, or a token is read."""
    rng = random.Random("tokens")
    reply = forged_stamp(b"data", MOMENT)
    for _ in range(3000):
        data = bytearray(reply)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
        try:
            parse_token(bytes(data))
        except Malformed:
            continue
    for size in range(0, len(reply), 7):
        with pytest.raises(Malformed):
            parse_token(reply[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",
        b"\x30\x81\x01\x00",
        b"\x30\x82\x00\x01\x00",
        b"\x1f\x01\x00",
        b"\x30\x02\x05",
        b"\x02\x01\x00\x00",
        b"\x30\x85\x00\x00\x00\x00\x01\x00",
    ],
)
def test_one_value_has_one_encoding(data: bytes) -> None:
    """Indefinite, padded and cut lengths, long tags, and bytes behind the value are refused."""
    with pytest.raises(Malformed):
        read_one(data)


def test_der_values() -> None:
    """Integers, object identifiers and lengths are written and read as X.690 says."""
    for number in (0, 1, 127, 128, 255, 256, -1, -128, -129, 2**64):
        size = ((number if number >= 0 else ~number).bit_length() + 8) // 8
        assert number == read_one(write(INTEGER, number.to_bytes(size, "big", signed=True))).integer()
    for data in (b"", b"\x00\x01", b"\xff\xff"):
        with pytest.raises(Malformed):
            read_one(write(INTEGER, data)).integer()
    for size in (0, 1, 127, 128, 255, 256, 70_000):
        assert Value(OCTETS, bytes(size), write(OCTETS, bytes(size))) == read_one(write(OCTETS, bytes(size)))
    assert "1.2.840.113549.1.9.16.1.4" == read_one(write(OID, bytes.fromhex("2a864886f70d0109100104"))).oid()
    for data in (b"", b"\x2a\x86"):
        with pytest.raises(Malformed):
            read_one(write(OID, data)).oid()
    fields = read_one(write(SEQUENCE, write(INTEGER, b"\x01"))).fields()
    with pytest.raises(Malformed):
        fields.take(BIT_STRING)
    assert fields.optional(OCTETS) is None
    with pytest.raises(Malformed):
        fields.end()


def test_status_and_size() -> None:
    """A refusal has a status and no token; what is too long is not even looked at."""
    assert (2, None) == parse_status(write(SEQUENCE, write(SEQUENCE, write(INTEGER, b"\x02"))))
    with pytest.raises(Malformed, match="refused"):
        parse_token(write(SEQUENCE, write(SEQUENCE, write(INTEGER, b"\x02"))))
    with pytest.raises(Malformed, match="65536"):
        parse_status(bytes(MAX_TOKEN_BYTES + 1))
