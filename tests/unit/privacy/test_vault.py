"""The vault and the unseal key: what is sealed opens for those who hold both keys, in its place, or not at all."""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from klingai_audit.durable import OPS
from klingai_audit.errors import (
    AuditUnavailable,
    InvalidPolicy,
    LogNotFound,
    Malformed,
    StorageError,
    UnsafePermissions,
    UsageError,
    VerificationError,
)
from klingai_audit.privacy import hpke
from klingai_audit.privacy.commitment import Sealing, commit
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import Subject
from klingai_audit.privacy.unseal_key import UnsealKey, create_unseal_keys, read_unseal_key, read_unseal_public
from klingai_audit.privacy.vault import Vault, VaultUsage
from tests.support.faulty import FaultyOps, QuickOps

ORIGIN = "log.example/vault"
EVENT = "0199aaaa-0000-7000-8000-000000000001"
OTHER_EVENT = "0199aaaa-0000-7000-8000-000000000002"
PROMPT = "/metadata/prompt"
LAKE = "A serene mountain lake at sunrise"
KEY = UnsealKey(bytes(range(1, 33)))
ANNE = Subject("p_" + "A" * 22, b"a" * 32)
BERT = Subject("p_" + "B" * 21 + "A", b"b" * 32)


def sealing(subject: Subject, text: str = LAKE, *, event: str = EVENT, pointer: str = PROMPT) -> Sealing:
    """What the door hands over for one content."""
    return Sealing(pointer, commit(subject.key, event, pointer, text)["commitment"], text.encode())


def vault_in(folder: Path, ops: QuickOps | None = None) -> Vault:
    return Vault(folder / "audit.vault", ORIGIN, KEY.public, ops=ops or QuickOps())


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A vault with one prompt of Anne's."""
    made = vault_in(tmp_path)
    made.seal(ANNE, EVENT, [sealing(ANNE)])
    return made


def stored(subject: Subject = ANNE, text: str = LAKE, event: str = EVENT, pointer: str = PROMPT) -> dict[str, object]:
    return commit(subject.key, event, pointer, text)


def files(vault: Vault) -> list[Path]:
    return sorted(path for path in vault.path.rglob("*") if path.is_file())


# --- sealing to a public key ------------------------------------------------------------------------


def test_another_implementation_of_hpke_opens_what_we_seal_and_the_other_way_round() -> None:
    """RFC 9180, base mode, X25519 with HKDF-SHA-256 and AES-256-GCM."""
    other = pytest.importorskip("cryptography.hazmat.primitives.hpke", reason="cryptography before 47 has no HPKE")
    suite = other.Suite(other.KEM.X25519, other.KDF.HKDF_SHA256, other.AEAD.AES_256_GCM)
    private = X25519PrivateKey.from_private_bytes(KEY.raw)
    ours = hpke.seal_base(KEY.public.raw, b"info", b"a content key")
    assert (len(ours), suite.decrypt(ours, private, info=b"info")) == (13 + hpke.OVERHEAD, b"a content key")
    theirs = suite.encrypt(b"a content key", private.public_key(), info=b"info")
    assert hpke.open_base(KEY.raw, b"info", theirs) == b"a content key"


def test_sealed_to_one_key_it_opens_under_no_other() -> None:
    """Nor with other information, cut short, or changed in any byte."""
    sealed = hpke.seal_base(KEY.public.raw, b"info", b"text")
    assert hpke.open_base(KEY.raw, b"info", sealed) == b"text"
    assert hpke.open_base(UnsealKey.generate().raw, b"info", sealed) is None
    assert hpke.open_base(KEY.raw, b"Info", sealed) is None
    for length in range(len(sealed)):
        assert hpke.open_base(KEY.raw, b"info", sealed[:length]) is None
    for at in range(len(sealed)):
        if at != 31:  # the highest bit of an X25519 key counts for nothing in the exchange, but for the context
            changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            assert hpke.open_base(KEY.raw, b"info", changed) is None, at
    assert hpke.open_base(KEY.raw, b"info", sealed[:31] + bytes([sealed[31] ^ 0x80]) + sealed[32:]) is None
    assert hpke.open_base(KEY.raw, b"info", bytes(32) + sealed[32:]) is None


# --- the unseal key ---------------------------------------------------------------------------------


def test_the_unseal_key_is_made_once(tmp_path: Path) -> None:
    """Private for its owner, public for all; a second one is refused, and the first is read back."""
    public = create_unseal_keys(tmp_path)
    key = read_unseal_key(tmp_path / "unseal.key")
    assert public == key.public == read_unseal_public(tmp_path)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("unseal.key", "unseal.pub")]
    assert modes == [0o600, 0o644]
    with pytest.raises(UsageError, match="has an unseal key already"):
        create_unseal_keys(tmp_path)
    assert key.format().rpartition(":")[2] not in repr(key)
    assert re.fullmatch(r"klingai-audit-unseal-public:[A-Za-z0-9_-]{43}\n", (tmp_path / "unseal.pub").read_text())


def test_an_unseal_key_that_was_made_by_half_is_completed(tmp_path: Path) -> None:
    """Whichever operation fails: done again, both halves belong together."""
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        ops = FaultyOps(number)
        try:
            create_unseal_keys(folder, ops=ops)
            break
        except StorageError:
            pass
        with_public = (folder / "unseal.pub").exists()  # its last sync failed: everything is there
        public = read_unseal_public(folder) if with_public else create_unseal_keys(folder)
        assert read_unseal_key(folder / "unseal.key").public == public
    assert number > 8


def test_the_private_half_may_lie_elsewhere(tmp_path: Path) -> None:
    """A file of its own, and nothing private in the keys folder."""
    keys, safe = tmp_path / "keys", tmp_path / "safe.key"
    keys.mkdir()
    public = create_unseal_keys(keys, safe)
    assert (["unseal.pub"], public) == ([path.name for path in keys.iterdir()], read_unseal_key(safe).public)


def test_what_is_no_unseal_key_is_refused(tmp_path: Path) -> None:
    """A missing file, one that others can read, the other half, a long or changed line."""
    create_unseal_keys(tmp_path)
    private, public = tmp_path / "unseal.key", tmp_path / "unseal.pub"
    line = private.read_bytes()
    with pytest.raises(LogNotFound, match="There is no key at"):
        read_unseal_key(tmp_path / "none")
    with pytest.raises(Malformed):
        read_unseal_key(public)
    for bad in (b"", line[:-1], line[:-3] + b"\n", line + b"\n", line.upper(), b"\xff" * 72, line * 200):
        private.write_bytes(bad)
        with pytest.raises((Malformed, StorageError)) as caught:
            read_unseal_key(private)
        assert line.decode().strip().rpartition(":")[2] not in str(caught.value)
    private.write_bytes(line)
    private.chmod(0o604)
    with pytest.raises(UnsafePermissions, match="chmod 600"):
        read_unseal_key(private)


# --- sealing and opening ----------------------------------------------------------------------------


def test_what_is_sealed_opens_as_it_was(vault: Vault) -> None:
    """From the entry's commitment one finds the file; the text is in no file and in no repr."""
    assert vault.open(ANNE, EVENT, PROMPT, stored(), KEY).decode() == LAKE
    (file,) = files(vault)
    assert (file.name, file.parent.name) == (f"{stored()['commitment']}.sealed", ANNE.pseudonym)
    assert (vault.file(ANNE.pseudonym, str(stored()["commitment"])), 0o640) == (file, stat.S_IMODE(file.stat().st_mode))
    assert (vault.has(ANNE.pseudonym, str(stored()["commitment"])), vault.has(ANNE.pseudonym, "x" * 43)) == (
        True,
        False,
    )
    data = file.read_bytes()
    assert (True, False) == (data.startswith(b"klingai-audit/vault/v1\n"), LAKE.encode() in data)
    assert len(data) == 175 + len(LAKE)
    assert LAKE not in repr(vault) + repr(sealing(ANNE))
    assert vault.usage() == VaultUsage(1, len(data), 1)


def test_sealing_the_same_again_leaves_one_file(vault: Vault) -> None:
    """The end of a task may be seen by several pollers: with every seal another key, under one name."""
    before = files(vault)[0].read_bytes()
    vault.seal(ANNE, EVENT, [sealing(ANNE)])
    assert (1, False) == (len(files(vault)), before == files(vault)[0].read_bytes())
    assert vault.open(ANNE, EVENT, PROMPT, stored(), KEY).decode() == LAKE


def test_any_byte_changed_and_it_does_not_open(vault: Vault) -> None:
    """Nor cut, nor with more behind it; the error names the file and no content."""
    (file,) = files(vault)
    data = file.read_bytes()
    variants = [data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :] for at in range(len(data))]
    for changed in [*variants, data[:-1], data + b"\0", data[:100], b""]:
        file.write_bytes(changed)
        with pytest.raises((VerificationError, UsageError)) as caught:
            vault.open(ANNE, EVENT, PROMPT, stored(), KEY)
        assert LAKE not in str(caught.value)
    file.write_bytes(data)
    assert vault.open(ANNE, EVENT, PROMPT, stored(), KEY).decode() == LAKE


def test_without_either_key_it_stays_shut(vault: Vault) -> None:
    """The unseal key alone is not enough, nor the subject's alone."""
    with pytest.raises(VerificationError, match="does not open under its subject's key"):
        vault.open(Subject(ANNE.pseudonym, BERT.key), EVENT, PROMPT, stored(), KEY)
    with pytest.raises(UsageError, match=f"sealed to unseal key {KEY.public.id.hex()}"):
        vault.open(ANNE, EVENT, PROMPT, stored(), UnsealKey.generate())


def test_a_file_put_in_the_place_of_another_does_not_open(tmp_path: Path) -> None:
    """Swapped between entries, members, persons or logs, whatever the names say."""
    vault = vault_in(tmp_path)
    places = [(EVENT, PROMPT), (OTHER_EVENT, PROMPT), (EVENT, "/metadata/negative_prompt")]
    for event, pointer in places:
        vault.seal(ANNE, event, [sealing(ANNE, event=event, pointer=pointer)])
    vault.seal(BERT, EVENT, [sealing(BERT)])
    named = [vault.file(ANNE.pseudonym, str(stored(ANNE, LAKE, *place)["commitment"])) for place in places]
    for file in (*named[1:], vault.file(BERT.pseudonym, str(stored(BERT)["commitment"]))):
        kept = named[0].read_bytes()
        named[0].write_bytes(file.read_bytes())
        with pytest.raises(VerificationError, match="belongs to another entry or person"):
            vault.open(ANNE, EVENT, PROMPT, stored(), KEY)
        named[0].write_bytes(kept)
    with pytest.raises(VerificationError, match="belongs to another entry or person"):
        Vault(vault.path, "log.example/other").open(ANNE, EVENT, PROMPT, stored(), KEY)


def test_what_opens_is_what_was_committed(tmp_path: Path) -> None:
    """A writer that seals something else than it commits to is found out."""
    vault = vault_in(tmp_path)
    honest = sealing(ANNE)
    vault.seal(ANNE, EVENT, [Sealing(honest.pointer, honest.commitment, b"something else")])
    with pytest.raises(VerificationError, match="other content than the entry commits to"):
        vault.open(ANNE, EVENT, PROMPT, stored(), KEY)


def test_what_is_not_there_is_said_to_be_missing(vault: Vault) -> None:
    """Nothing sealed, no commitment, names that lead elsewhere, a link in the place of a file."""
    with pytest.raises(LogNotFound, match="Nothing is sealed"):
        vault.open(BERT, EVENT, PROMPT, stored(BERT), KEY)
    with pytest.raises(UsageError, match="no commitment"):
        vault.open(ANNE, EVENT, PROMPT, {"commitment": "../x", "bytes": 3}, KEY)
    for pseudonym, commitment in (("../../etc", "x" * 43), (ANNE.pseudonym, "../" + "x" * 40)):
        with pytest.raises(UsageError):
            vault.file(pseudonym, commitment)
    (file,) = files(vault)
    file.rename(vault.path / "moved")
    file.symlink_to(vault.path / "moved")
    with pytest.raises(StorageError, match="cannot be read"):
        vault.open(ANNE, EVENT, PROMPT, stored(), KEY)


def test_without_a_public_key_nothing_is_sealed(tmp_path: Path) -> None:
    """It says how to make one; the folder is not even created."""
    with pytest.raises(AuditUnavailable, match="unseal-init"):
        Vault(tmp_path / "audit.vault", ORIGIN).seal(ANNE, EVENT, [sealing(ANNE)])
    assert list(tmp_path.iterdir()) == []


# --- when operations fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lost", "done", "short"])
def test_whatever_fails_while_sealing_nothing_is_acknowledged_by_half(tmp_path: Path, how: str) -> None:
    """An error means refused, none means that it opens; the next one is sealed as if nothing had been."""
    refused = 0
    for number in range(100):
        ops = FaultyOps(number, how)  # type: ignore[arg-type]
        vault = vault_in(tmp_path / str(number), ops)
        both = [sealing(ANNE), sealing(ANNE, "blur", pointer="/metadata/negative_prompt")]
        try:
            vault.seal(ANNE, EVENT, both)
        except AuditUnavailable:
            refused += 1
        else:
            assert vault.open(ANNE, EVENT, PROMPT, stored(), KEY).decode() == LAKE
        done, ops.fail_at = len(ops.calls), None
        vault.seal(ANNE, OTHER_EVENT, [sealing(ANNE, event=OTHER_EVENT)])
        assert vault.open(ANNE, OTHER_EVENT, PROMPT, stored(event=OTHER_EVENT), KEY).decode() == LAKE
        if done <= number:
            break
    assert (how == "short" or refused > 10, True) == (True, number > 15)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    """What to do stands in the error, and nothing half-written is left."""
    ops = FaultyOps(code=errno.ENOSPC)
    vault = vault_in(tmp_path, ops)
    vault.seal(BERT, EVENT, [sealing(BERT)])
    ops.fails = lambda call: call.name == "write"
    with pytest.raises(AuditUnavailable, match=r"No space left on device\..*free space"):
        vault.seal(BERT, OTHER_EVENT, [sealing(BERT, event=OTHER_EVENT)])
    assert len(files(vault)) == 1


# --- erasing ----------------------------------------------------------------------------------------


def test_erasing_one_leaves_the_others(vault: Vault) -> None:
    """Everything of a person goes, and a second time there is nothing left to go."""
    for number in range(5):
        vault.seal(ANNE, OTHER_EVENT, [sealing(ANNE, event=OTHER_EVENT, pointer=f"/metadata/text{number}")])
    vault.seal(BERT, EVENT, [sealing(BERT)])
    assert {ANNE.pseudonym, BERT.pseudonym} == set(vault.subjects())
    assert (6, 0) == (vault.erase(ANNE.pseudonym), vault.erase(ANNE.pseudonym))
    assert [BERT.pseudonym] == list(vault.subjects())
    assert vault.open(BERT, EVENT, PROMPT, stored(BERT), KEY).decode() == LAKE
    with pytest.raises(UsageError, match="named by a pseudonym"):
        vault.erase("..")


def test_erasing_where_there_is_nothing_creates_nothing(tmp_path: Path) -> None:
    """No vault at all is fine."""
    vault = vault_in(tmp_path)
    assert (0, 0, []) == (
        vault.erase(ANNE.pseudonym),
        vault.discard(ANNE.pseudonym, ["x" * 43]),
        list(vault.subjects()),
    )
    assert (VaultUsage(0, 0, 0), []) == (vault.usage(), list(tmp_path.iterdir()))


def test_a_writer_that_knew_the_folder_makes_it_anew(vault: Vault) -> None:
    """Another process erased the person; who comes back has a new key and a folder again."""
    vault_in(vault.path.parent).erase(ANNE.pseudonym)
    vault.seal(ANNE, EVENT, [sealing(ANNE)])
    assert vault.open(ANNE, EVENT, PROMPT, stored(), KEY).decode() == LAKE


def test_an_erasure_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    """Whichever operation fails, done again nothing of the person is left, half-written files included."""
    failed = 0
    for number in range(100):
        vault = vault_in(tmp_path / str(number))
        for event in (EVENT, OTHER_EVENT):
            vault.seal(ANNE, event, [sealing(ANNE, event=event)])
        left = files(vault)[0].with_suffix(".sealed.0123.tmp")
        left.write_bytes(b"half")
        ops = FaultyOps(number)
        try:
            vault_in(tmp_path / str(number), ops).erase(ANNE.pseudonym)
        except StorageError:
            failed += 1
        vault.erase(ANNE.pseudonym)
        assert ([], []) == (files(vault), list(vault.subjects()))
        if len(ops.calls) <= number:
            break
    assert failed >= 5


def test_single_contents_can_be_discarded(vault: Vault) -> None:
    """As of entries that are purged; what is not there is not counted."""
    vault.seal(ANNE, OTHER_EVENT, [sealing(ANNE, event=OTHER_EVENT)])
    first, second = str(stored()["commitment"]), str(stored(event=OTHER_EVENT)["commitment"])
    assert (1, True) == (vault.discard(ANNE.pseudonym, [first, "x" * 43]), vault.has(ANNE.pseudonym, second))
    assert vault.usage().contents == 1


def test_a_vault_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """Sealing is refused with its path."""
    (tmp_path / "audit.vault").write_bytes(b"")
    with pytest.raises(AuditUnavailable, match=r"audit\.vault cannot be written"):
        vault_in(tmp_path).seal(ANNE, EVENT, [sealing(ANNE)])


def test_a_vault_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """As an error of storage, not as an empty vault."""
    vault = vault_in(tmp_path)
    vault.path.symlink_to(vault.path)
    for ask in (vault.usage, lambda: list(vault.subjects()), lambda: vault.erase(ANNE.pseudonym)):
        with pytest.raises(StorageError, match="The vault at"):
            ask()


def test_real_operations_work_as_well(tmp_path: Path) -> None:
    """With every sync done."""
    vault = Vault(tmp_path / "deep" / "audit.vault", ORIGIN, KEY.public, ops=OPS)
    vault.seal(ANNE, EVENT, [sealing(ANNE)])
    assert (1, 0) == (vault.erase(ANNE.pseudonym), vault.usage().contents)


# --- policy -----------------------------------------------------------------------------------------


def test_by_default_nothing_is_sealed() -> None:
    """Commitments only."""
    rules = Policy.default().vault
    assert (False, (), 262_144, False) == (rules.seals, rules.seal, rules.max_bytes, rules.addresses)


@pytest.mark.parametrize(
    "line",
    ["seal = ['model']", "seal = ['*']", "seal = ['Prompt']", "seal = ['*_id']", "max_bytes = 0",
     "max_bytes = 16000001", "max_bytes = '1'", "seals = []"],
)  # fmt: skip
def test_a_policy_that_cannot_hold_is_refused(line: str) -> None:
    """Only what privacy.commit withholds is sealed, up to a limit."""
    with pytest.raises(InvalidPolicy, match="vault"):
        Policy.parse(f"[vault]\n{line}\n".encode())


def test_names_that_the_log_withholds_can_be_sealed() -> None:
    """Exact names, ends, and names that an end covers."""
    for name in ("prompt", "*_prompt", "negative_prompt", "*_url", "*_long_url", "*prompt", "task_status_msg"):
        assert Policy.parse(f"[vault]\nseal = ['{name}']\n".encode()).vault.seals, name
