"""Bundles of evidence as our own code makes and checks them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from klingai_audit.bundle import MAX_ENTRIES, build_bundle, check_bundle, empty_page, gather, is_bundle
from klingai_audit.bundle.archive import read_bundle
from klingai_audit.bundle.evidence import read_evidence
from klingai_audit.config import Places, open_reader
from klingai_audit.errors import InvalidProof, Malformed, UsageError, VerificationError
from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.proofs import check_entry_proof
from tests.support.bundles import BAD, STRANGER, WITNESS, Made, changed, entry, foreign, make, with_member
from tests.support.forged import FORGED, LOG, SEEN_AT, Forgery


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("other"))


@pytest.fixture
def key(made: Made) -> VerifierKey:
    return VerifierKey.parse(made.vkey)


def policy(*signers: SignerKey) -> WitnessPolicy:
    lines = [f"witness w{n} {signer.verifier.format()}" for n, signer in enumerate(signers)]
    names = " ".join(f"w{n}" for n in range(len(signers)))
    return WitnessPolicy.parse("\n".join((*lines, f"group g all {names}", "quorum g", "")).encode())


def test_a_bundle_holds(made: Made, key: VerifierKey) -> None:
    """The entries come out byte for byte, under both handovers."""
    stored = [line for day in sorted(made.folder.glob("audit/*.jsonl")) for line in day.read_bytes().splitlines()]
    found = check_bundle(made.data, key)
    assert {seq: stored[seq] for seq in made.evidence.chosen} == found.entries
    assert (5, 3, ()) == (len(found.entries), found.epochs, found.witnessed)


def test_equal_evidence_makes_equal_bytes(made: Made) -> None:
    """Members are in order, stored, and of one time."""
    reader = open_reader(Places.resolve(made.folder / "audit"))
    assert made.data == build_bundle(gather(reader, reversed(made.evidence.chosen)))
    infos = zipfile.ZipFile(io.BytesIO(made.data)).infolist()
    names = [info.filename for info in infos]
    assert (sorted(names), {(1980, 1, 1, 0, 0, 0)}, {zipfile.ZIP_STORED}) == (
        names, {info.date_time for info in infos}, {info.compress_type for info in infos},
    )  # fmt: skip


def test_a_bundle_holds_what_the_readme_names(made: Made) -> None:
    """Every name in the list of README.txt is there; time stamps only where the log has any."""
    members = read_bundle(made.data)
    listed = re.findall(r"^([\w./*]+\.\w+|checkpoint) {2,}", members["README.txt"].decode(), re.MULTILINE)
    heads = {name.split("*")[0] for name in listed}
    assert [] == [head for head in heads if not any(name.startswith(head) for name in members)]
    assert len(heads) > 8


def test_each_proof_is_a_proof_by_itself(made: Made, key: VerifierKey) -> None:
    """Whoever knows C2SP tlog-proof needs no bundle."""
    members = read_bundle(made.data)
    proofs = [content for name, content in members.items() if name.startswith("proofs/")]
    proven = {found.index: found.entry for found in (check_entry_proof(proof, [key]) for proof in proofs)}
    assert made.evidence.lines == proven


@pytest.mark.parametrize("name", ["entry changed", "entries swapped"])
def test_the_single_file_refuses_what_was_swapped(made: Made, name: str) -> None:
    """The proofs of such a bundle by the second verifier: those of the entries in question fail, the others hold."""
    false, true = [], []
    for member, content in read_bundle(changed(made, BAD[name])).items():
        if member.startswith("proofs/"):
            try:
                alone.check_proof(content, made.vkey)
                true.append(member)
            except alone.Malformed:
                false.append(member)
    notes = {"entry changed": 1, "entries swapped": 2}
    assert (notes[name], len(made.evidence.entries) - notes[name]) == (len(false), len(true))


def test_witnesses_of_the_reader_count(made: Made, key: VerifierKey) -> None:
    """Those that the reader names, and all that are asked for; others are worth nothing."""
    nobody = SignerKey("witness.example/none", b"\x29" * 32, WITNESS.algorithm)
    sizes = [
        [(size, names) for size, _, names in check_bundle(made.data, key, policy(*signers)).witnessed]
        for signers in ((WITNESS,), (WITNESS, STRANGER), (WITNESS, nobody))
    ]
    size = entry(json.loads(made.evidence.encode()), "checkpoint_witnessed")["seq"]
    assert [[(size, (WITNESS.name,))], [(size, (WITNESS.name, STRANGER.name))], []] == sizes


@pytest.mark.parametrize("name", BAD)
def test_what_was_changed_is_found(made: Made, key: VerifierKey, name: str) -> None:
    """Evidence that is whole in its form and false in one place."""
    with pytest.raises(VerificationError):
        check_bundle(changed(made, BAD[name]), key)


def test_a_log_made_by_hand_holds() -> None:
    """What the forgeries depart from is good, its witness included."""
    found = check_bundle(build_bundle(Forgery().evidence()), LOG.verifier, policy(WITNESS))
    assert (2, ((4, SEEN_AT, (WITNESS.name,)),)) == (found.epochs, found.witnessed)


@pytest.mark.parametrize("name", FORGED)
def test_what_was_forged_is_found(name: str) -> None:
    """All hashes are right, and what was signed is a lie."""
    forgery, _ = FORGED[name]
    with pytest.raises(VerificationError):
        check_bundle(build_bundle(forgery().evidence()), LOG.verifier, policy(WITNESS))


def test_a_file_that_was_slipped_in_is_found(made: Made, key: VerifierKey) -> None:
    """A bundle holds no more than what was proven, and its own reading matter."""
    with pytest.raises(Malformed):
        check_bundle(with_member(made.data, "entries-2.jsonl", b"{}\n"), key)


def test_evidence_of_another_log_is_found(made: Made, other: Made, key: VerifierKey) -> None:
    """One entry of another log with its proof, the whole bundle of another log, and a key of another name."""
    for data in (foreign(made, other), other.data):
        with pytest.raises(VerificationError):
            check_bundle(data, key)
    with pytest.raises(VerificationError):
        check_bundle(made.data, SignerKey(key.name, b"\x01" * 32).verifier)


@pytest.mark.parametrize("part", ["entries.jsonl", "history.jsonl", "checkpoint", "verify.html"])
def test_files_that_say_something_else_are_found(made: Made, other: Made, key: VerifierKey, part: str) -> None:
    """What other software reads is what was proven."""
    with pytest.raises(Malformed):
        check_bundle(with_member(made.data, part, read_bundle(other.data)[part]), key)


@pytest.mark.parametrize("cut", [1, 30, 5000, 100_000])
def test_a_file_cut_short_is_found(made: Made, key: VerifierKey, cut: int) -> None:
    """Wherever it was cut."""
    with pytest.raises(Malformed):
        check_bundle(made.data[:-cut], key)
    assert is_bundle(made.data[:4])


def test_a_damaged_byte_is_found(made: Made, key: VerifierKey) -> None:
    """The zip file's own checksum tells it of the evidence."""
    at = made.data.index(b'{"format":"klingai-audit/bundle/v1"') + 100
    with pytest.raises(Malformed):
        check_bundle(made.data[:at] + bytes([made.data[at] ^ 1]) + made.data[at + 1 :], key)


def test_a_time_stamp_goes_along_and_may_not_move(tmp_path: Path) -> None:
    """It is over the kept checkpoint in the bundle; over another one it is refused."""
    stamped = make(tmp_path, stamped=True)
    key = VerifierKey.parse(stamped.vkey)
    found = check_bundle(stamped.data, key)
    size = stamped.evidence.stamps[0].size
    assert ((size,), True) == (found.stamped, any("time stamps" in words for words in found.not_checked))
    assert f"checkpoints/{size:020}.tsr" in read_bundle(stamped.data)

    def move(evidence: dict[str, object]) -> None:
        token = bytearray(base64.b64decode(stamped.evidence.stamps[0].token))
        at = token.index(hashlib.sha256(stamped.evidence.stamps[0].checkpoint.encode()).digest())
        token[at] ^= 1
        evidence["stamps"][0]["token"] = base64.b64encode(token).decode()  # type: ignore[index]

    with pytest.raises(InvalidProof):
        check_bundle(changed(stamped, move), key)


def test_a_page_with_evidence_differs_in_its_data_alone(made: Made) -> None:
    """Take the data block out and it is, byte for byte, the page that is released."""
    page = read_bundle(made.data)["verify.html"]
    mark = b'<script type="application/json" id="evidence">'
    begin = page.index(mark) + len(mark)
    end = page.index(b"</script>", begin)
    assert empty_page() == page[:begin] + page[end:]
    assert json.loads(made.evidence.encode()) == json.loads(page[begin:end])
    assert b"<" not in page[begin:end]


def test_the_page_allows_nothing_but_itself() -> None:
    """Its policy forbids everything but its own script and style, by their hashes; it has no address in it."""
    page = empty_page().decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (
            re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0],
            page.split("<style>")[1].split("</style>")[0],
        )
    ]
    wanted = f"default-src 'none'; script-src '{hashes[0]}'; style-src '{hashes[1]}'; img-src data:"
    assert f"{wanted}; base-uri 'none'; form-action 'none'" == policy[1]
    assert [] == re.findall(r"https?:|innerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp", page)


def test_what_cannot_be_bundled_is_said(made: Made) -> None:
    """None, too many, and one beyond the checkpoint."""
    reader = open_reader(Places.resolve(made.folder / "audit"))
    for chosen in ((), (-1,), (reader.size,), range(MAX_ENTRIES + 1)):
        with pytest.raises(UsageError):
            gather(reader, chosen)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format":"x"}', b"\xff", b"[" * 100_000])
def test_what_is_no_evidence_is_refused(text: bytes) -> None:
    """Any JSON, or none."""
    with pytest.raises(Malformed):
        read_evidence(text)
