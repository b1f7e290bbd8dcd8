"""The witness: the status-code walk of the specification, races, evidence."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import COSIGNATURE, ED25519, ML_DSA_44, SignerKey, VerifierKey
from klingai_audit.tlog.merkle import CompactRange, build_consistency, leaf_hash
from klingai_audit.tlog.note import SignatureLine, sign_note
from klingai_audit.tlog.strict import format_base64
from klingai_audit.tlog.submission import SIZE_TYPE, AddCheckpoint
from klingai_audit.witness.book import Book
from klingai_audit.witness.server import Answer, Witness
from tests.unit.tlog.vectors import ENTRIES, load

LOG = SignerKey("example.com/audit/log1", b"\x01" * 32)
OTHER = SignerKey("example.com/other", b"\x02" * 32)
WITNESS = SignerKey("witness.example.com/w1", b"\x03" * 32, COSIGNATURE)
TIME = 1_767_225_600
MOST = 8


def tree(size: int) -> CompactRange:
    found = CompactRange()
    for entry in ENTRIES[:size]:
        found.append(leaf_hash(entry))
    return found


def node(level: int, index: int) -> bytes:
    found = CompactRange()
    for entry in ENTRIES[index << level : (index + 1) << level]:
        found.append(leaf_hash(entry))
    return found.root()


def note(size: int, root: bytes | None = None, signer: SignerKey = LOG) -> bytes:
    return sign_note(f"{signer.name}\n{size}\n{format_base64(tree(size).root() if root is None else root)}\n", signer)


def body(old: int, size: int, *, proof: tuple[int, int] | None = None, data: bytes | None = None) -> bytes:
    begin, end = proof or (old, size)
    hashes = build_consistency(begin, end, node) if 0 < begin < end else ()
    return AddCheckpoint.of(old, tuple(hashes), note(size) if data is None else data).format()


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(WITNESS, [LOG.verifier], Book(tmp_path / "witness.sqlite"), lambda: TIME)


def flipped(data: bytes) -> bytes:
    *head, line, _ = data.split(b"\n")
    return b"\n".join((*head, line[:-6] + (b"A" if line[-6:-5] != b"A" else b"B") + line[-5:], b""))


def test_the_walk_of_the_specification(witness: Witness) -> None:
    """Twelve requests, each answered as an independent witness answered them."""
    wrong_root = bytes(32)
    steps = [
        (body(0, 2, data=note(2, signer=OTHER)), 404),
        (body(0, 2, data=flipped(note(2))), 403),
        (body(0, 2, proof=(1, 2)), 422),
        (body(0, 2), 200),
        (body(0, 5), (409, b"2\n")),
        (body(2, 5), 200),
        (body(5, 8, proof=(4, 8)), 422),
        (body(8, 5), 400),
        (body(5, 5), 200),
        (body(5, 5, data=note(5, wrong_root)), 422),
        (body(5, 8), 200),
        (body(5, 8), (409, b"8\n")),
    ]
    for number, (request, expected) in enumerate(steps, 1):
        answer = witness.add_checkpoint(request)
        status, text = expected if isinstance(expected, tuple) else (expected, answer.body)
        assert (status, text) == (answer.status, answer.body), number
        assert (answer.type == SIZE_TYPE) == (status == 409), number


def test_what_is_cosigned_is_what_is_held(witness: Witness) -> None:
    """The line verifies with the witness's key; the held note carries the log's line and ours."""
    answer = witness.add_checkpoint(body(0, 5))
    line = SignatureLine.parse(answer.body.decode())
    text = note(5).decode().partition("\n\n")[0] + "\n"
    assert TIME == verify_cosignature(text, line, WITNESS.verifier)
    held = witness.book.held(LOG.name)
    assert held is not None
    _, _, signed = open_checkpoint(held.note, LOG.name, [LOG.verifier, WITNESS.verifier])
    assert (LOG.verifier, WITNESS.verifier) == signed


@pytest.mark.parametrize(
    "request_body",
    [b"", b"old 0", b"old 0\n\n", b"old x\n\n" + note(1), b"old 00\n\n" + note(1), b"new 0\n\n" + note(1),
     b"old 0\nAAAA\n\n" + note(1), b"old 0\n\n" + note(1)[:-1], b"old 0\n" + b"A" * 44 + b"\n" * 2 + note(1) + b"x",
     b"old 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\n" + note(1), b"x" * 2_000_000],
)  # fmt: skip
def test_what_is_no_request_is_400(witness: Witness, request_body: bytes) -> None:
    """Nothing is stored."""
    assert 400 == witness.add_checkpoint(request_body).status
    assert witness.book.held(LOG.name) is None


def test_the_empty_tree_has_one_root(witness: Witness) -> None:
    """Size 0 is cosigned with that root only; then the log may grow."""
    assert 422 == witness.add_checkpoint(b"old 0\n\n" + note(0, bytes(32))).status
    assert 400 == witness.add_checkpoint(b"old 0\n\n" + note(0, bytes(32), OTHER)).status
    assert 200 == witness.add_checkpoint(body(0, 0)).status
    assert 200 == witness.add_checkpoint(body(0, 3)).status


def test_a_refused_fork_is_kept_as_evidence(witness: Witness) -> None:
    """Both signed checkpoints, once however often it is tried; also after a restart."""
    assert 200 == witness.add_checkpoint(body(0, 5)).status
    fork = body(5, 5, data=note(5, bytes(32)))
    assert [Answer(422, b"another root at the same size\n", forked=True)] * 2 == [
        witness.add_checkpoint(fork) for _ in range(2)
    ]
    (exhibit,) = Book(witness.book.path).exhibits()
    assert (LOG.name, fork) == (exhibit.origin, exhibit.request)
    for data in (exhibit.held, AddCheckpoint.parse(exhibit.request).data):
        open_checkpoint(data, LOG.name, [LOG.verifier])


def test_the_clock_of_a_witness_never_goes_back(tmp_path: Path) -> None:
    """A later tree is never cosigned with an earlier time."""
    times = iter([TIME, TIME - 100])
    witness = Witness(WITNESS, [LOG.verifier], Book(tmp_path / "w.sqlite"), lambda: next(times))
    for request in (body(0, 2), body(2, 3)):
        witness.add_checkpoint(request)
    held = witness.book.held(LOG.name)
    assert held is not None
    assert TIME == held.time


def test_a_witness_may_sign_with_ml_dsa(tmp_path: Path) -> None:
    """Type 0x06 beside 0x04."""
    signer = SignerKey("witness.example.com/w2", bytes(range(0x40, 0x60)), ML_DSA_44)
    witness = Witness(signer, [LOG.verifier], Book(tmp_path / "w.sqlite"), lambda: TIME)
    line = SignatureLine.parse(witness.add_checkpoint(body(0, 8)).body.decode())
    assert TIME == verify_cosignature(note(8).decode().partition("\n\n")[0] + "\n", line, signer.verifier)


def test_one_of_many_wins(witness: Witness) -> None:
    """Requests from the same old size: one is cosigned, the others learn the new size."""
    witness.add_checkpoint(body(0, 2))
    barrier = threading.Barrier(6)

    def send(size: int) -> int:
        barrier.wait()
        return witness.add_checkpoint(body(2, size)).status

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(send, range(3, 9)))
    assert [200, 409, 409, 409, 409, 409] == statuses


def test_a_slow_request_cannot_roll_back(tmp_path: Path) -> None:
    """The vectors of another implementation: 1 to 5 finishes, then 1 to 3 must learn that 5 is held."""
    known = load("litewitness.json")
    key = VerifierKey(known["origin"], ED25519, bytes.fromhex(known["public_key"]))
    witness = Witness(WITNESS, [key], Book(tmp_path / "w.sqlite"), lambda: TIME)

    def signed(size: int) -> bytes:
        (head,) = [head for head in known["heads"] if head["size"] == size]
        text = f"{known['origin']}\n{size}\n{head['root']}\n"
        return f"{text}\n\u2014 {known['origin']} {head['signature']}\n".encode()

    def request(old: int, size: int) -> bytes:
        hashes = [p["proof"] for p in known["consistency"] if (p["old"], p["new"]) == (old, size)]
        proof = tuple(base64.b64decode(text) for text in (hashes[0] if hashes else ()))
        return AddCheckpoint.of(old, proof, signed(size)).format()

    assert [200, 200, 409] == [
        witness.add_checkpoint(one).status for one in (request(0, 1), request(1, 5), request(1, 3))
    ]
    held = witness.book.held(known["origin"])
    assert held is not None
    assert 5 == held.size


def test_a_witness_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    """It would answer 404 for ever."""
    with pytest.raises(UsageError):
        Witness(WITNESS, [], Book(tmp_path / "w.sqlite"))
