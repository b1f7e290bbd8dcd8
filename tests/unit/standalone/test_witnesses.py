"""Cosignatures and time stamps: what the single file says of them is what the package says, or `not_checked`."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from klingai_audit.errors import Malformed
from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.stamps import stamp_metadata
from klingai_audit.trust.token import parse_token
from klingai_audit.upkeep.forged_stamp import forged_stamp
from tests.support.both import ask_both, differences
from tests.support.logsmith import Smith, write_files
from tests.support.several import damaged

THREATS = ("fork", "key_holder", "key_theft")


class Cosigner:
    """A witness that signs whatever it is given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        public = b"\x04" + self.private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
        self.vkey = f"{name}+{self.key_id.hex()}+{base64.b64encode(public).decode()}"

    def line(self, text: str, moment: int = 1_795_000_000) -> str:
        signature = self.private.sign(f"cosignature/v1\ntime {moment}\n{text}".encode())
        blob = self.key_id + moment.to_bytes(8, "big") + signature
        return f"\u2014 {self.name} {base64.b64encode(blob).decode()}\n"


ONE, TWO, STRANGER = Cosigner("one.example"), Cosigner("two.example"), Cosigner("stranger.example")
POLICY = f"witness one {ONE.vkey}\nwitness two {TWO.vkey}\ngroup both all one two\nquorum both\n".encode()
ANY = POLICY.replace(b" all ", b" any ")

Change = Callable[[str], str]


def witnessed(smith: Smith, *cosigners: Cosigner, change: Change = str, **metadata: object) -> Smith:
    """Append the entry that tells of the newest checkpoint's cosignatures."""
    note = smith.checkpoint().decode()
    text = note.split("\n\n")[0] + "\n"
    note = change(note + "".join(cosigner.line(text) for cosigner in cosigners))
    told = {"size": len(smith.entries), "note": note} | metadata
    smith.batch(smith.event("checkpoint_witnessed", told, actor_id="klingai-audit", actor_type="system"))
    return smith


def ask(folder: Path, smith: Smith, policy: bytes | None = POLICY) -> tuple[list[str], alone.Verdict]:
    """In what the two differ, and the single file's verdict."""
    place = write_files(folder / "audit", smith.files())
    found = differences(*ask_both(place, smith.log_key.vkey, smith.now, witnesses=policy))
    return found, alone.verify_log(str(place), smith.log_key.vkey, now=smith.now, witnesses=policy)


def states(verdict: alone.Verdict) -> set[str]:
    return {verdict.threats[threat][0] for threat in THREATS}


def test_enough_witnesses_rule_out_what_a_key_holder_can_do(tmp_path):
    """Both cosigned, nothing but the log's own bookkeeping follows."""
    smith = witnessed(Smith().create().work(20).closed(), ONE, TWO)
    differing, verdict = ask(tmp_path, smith)
    assert ([], {"ruled_out"}, 0) == (differing, states(verdict), verdict.exit_code)


@pytest.mark.parametrize(
    ("cosigners", "policy", "state"),
    [
        ((ONE,), POLICY, "not_ruled_out"),
        ((ONE,), ANY, "ruled_out"),
        ((ONE, STRANGER), POLICY, "not_ruled_out"),
        ((STRANGER, TWO, ONE), POLICY, "ruled_out"),
        ((), ANY, "not_ruled_out"),
        ((ONE, TWO), None, "not_ruled_out"),
        ((ONE, TWO), POLICY.replace(b"quorum both", b"quorum none"), "not_ruled_out"),
        ((TWO,), POLICY.replace(b"quorum both", b"quorum two"), "ruled_out"),
    ],
)
def test_the_policy_decides(tmp_path, cosigners, policy, state):
    """Who counts, and how many of them."""
    differing, verdict = ask(tmp_path, witnessed(Smith().create().work(20).closed(), *cosigners), policy)
    assert ([], {state}) == (differing, states(verdict))


def after(smith: Smith, **distance: float) -> int:
    """POSIX seconds of so much later than the newest entry."""
    return int((smith.now + dt.timedelta(**distance)).timestamp())


def seen_at(smith: Smith, *moments: int) -> Smith:
    """Witness ONE, then TWO, cosigned at these times."""
    lines = "".join(who.line(newest(smith), moment) for who, moment in zip((ONE, TWO), moments, strict=False))
    return witnessed(smith, change=lambda note: note + lines)


def newest(smith: Smith) -> str:
    return smith.checkpoint().decode().split("\n\n")[0] + "\n"


@pytest.mark.parametrize(
    ("first", "second", "policy", "state"),
    [
        (1, 47, POLICY, "ruled_out"),
        (1, 49, POLICY, "not_ruled_out"),
        (49, 1, POLICY, "not_ruled_out"),
        (1, 490, ANY, "ruled_out"),
        (490, 490, ANY, "not_ruled_out"),
        (1, 1, POLICY.replace(b"quorum both", b"quorum none"), "not_ruled_out"),
        (1, 1, None, "not_ruled_out"),
    ],
)
def test_clocks_of_enough_witnesses_bound_the_dates(tmp_path, first, second, policy, state):
    """Hours until they cosigned: the earliest time by which the quorum was there counts, and no clock alone."""
    smith = Smith().create().work(20)
    seen_at(smith, after(smith, hours=first), after(smith, hours=second)).closed()
    smith.now += dt.timedelta(days=30)
    differing, verdict = ask(tmp_path, smith, policy)
    assert ([], state) == (differing, verdict.threats["back_dating"][0])


def test_entries_after_the_last_round_may_be_dated_back(tmp_path):
    """Until now, and by what is before it in no case by more than until that round."""
    smith = Smith().create().work(20)
    seen_at(smith, after(smith, hours=1), after(smith, hours=1)).work(4).closed()
    assert "ruled_out" == ask(tmp_path / "a", smith)[1].threats["back_dating"][0]
    smith.now += dt.timedelta(days=30)
    differing, verdict = ask(tmp_path / "b", smith)
    assert ([], "not_ruled_out") == (differing, verdict.threats["back_dating"][0])
    assert "entries [22, " in verdict.threats["back_dating"][1]


def test_a_later_round_by_an_earlier_clock_is_the_stricter_one(tmp_path):
    """What existed earlier with more behind it existed earlier."""
    smith = Smith().create().work(20)
    seen_at(smith, after(smith, hours=90), after(smith, hours=90)).work(4)
    seen_at(smith, after(smith, hours=1), after(smith, hours=1)).closed()
    smith.now += dt.timedelta(days=30)
    differing, verdict = ask(tmp_path, smith)
    assert ([], "ruled_out") == (differing, verdict.threats["back_dating"][0])


@pytest.mark.parametrize("moment", [0, 1 << 62])
def test_clocks_that_are_off_bound_nothing_wrong(tmp_path, moment):
    """The year 1970 and one that no calendar has: an answer, and no failure."""
    smith = seen_at(Smith().create().work(20), moment, moment).closed()
    differing, verdict = ask(tmp_path, smith)
    assert ([], 0, "ruled_out") == (differing, verdict.exit_code, verdict.threats["back_dating"][0])


def test_entries_after_the_last_round_are_seen_by_nobody(tmp_path):
    """What was done since leaves the threats open."""
    differing, verdict = ask(tmp_path, witnessed(Smith().create().work(20), ONE, TWO).work(4).closed())
    assert ([], {"not_ruled_out"}) == (differing, states(verdict))


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.replace("log.example.com/smith\n", "log.example.com/smyth\n", 1),
        lambda note: note[:-20] + ("A" if note[-20] != "A" else "B") + note[-19:],
        lambda note: note + note[note.rindex("\u2014") :],
        lambda note: "rubbish",
        lambda note: note.replace("\n\u2014 log.example.com/smith ", "\n\u2014 log.example.com/smyth ", 1),
        lambda note: "\ud7ff" * 5000,
    ],
)
def test_lines_that_do_not_hold(tmp_path, change):
    """Changed, doubled, or no checkpoint at all: named by both."""
    differing, verdict = ask(tmp_path, witnessed(Smith().create().work(20), ONE, TWO, change=change).closed())
    assert ([], ["cosignature_invalid"]) == (differing, [finding.kind for finding in verdict.broken])


def test_another_history_that_witnesses_saw(tmp_path):
    """The holder of all keys rewrote the log; what the witnesses signed stands in it still."""
    other = Smith(seed="smith").create().work(23)
    smith = Smith().create().work(20)
    note = other.checkpoint(20)
    smith.entries = smith.entries[:]
    text = note.decode().split("\n\n")[0] + "\n"
    text = text.replace(text.split("\n")[2], base64.b64encode(bytes(32)).decode())
    line = smith.log_key.line(text) + smith.epoch_key().line(text)
    told = {"size": 20, "note": text + "\n" + line + ONE.line(text) + TWO.line(text)}
    smith.batch(smith.event("checkpoint_witnessed", told, actor_id="klingai-audit", actor_type="system"))
    differing, verdict = ask(tmp_path, smith.closed())
    assert ([], ["witness_disagrees"]) == (differing, [finding.kind for finding in verdict.broken])


def test_damage_after_a_round_leaves_nothing_ruled_out(tmp_path):
    """A changed entry is detected; what the witnesses saw is still told from what they did not."""
    smith = witnessed(Smith().create().work(20), ONE, TWO).work(8).closed()
    files = smith.files()
    day = next(name for name in files if name.startswith("audit"))
    files[day] = files[day].replace(b"studio-1", b"studio-9", 1)
    place = write_files(tmp_path / "audit", files)
    assert [] == differences(*ask_both(place, smith.log_key.vkey, smith.now, witnesses=POLICY))


def test_cosignatures_by_ml_dsa_are_not_checked_and_never_count(tmp_path):
    """A witness with such a key: `not_checked`, where the package would look."""
    public = b"\x06" + bytes(1312)
    key_id = hashlib.sha256(b"pq.example\n" + public).digest()[:4]
    vkey = f"pq.example+{key_id.hex()}+{base64.b64encode(public).decode()}"
    policy = f"witness pq {vkey}\nquorum pq\n".encode()
    line = f"\u2014 pq.example {base64.b64encode(key_id + bytes(2428)).decode()}\n"
    smith = witnessed(Smith().create().work(8), change=lambda note: note + line).closed()
    place = write_files(tmp_path / "audit", smith.files())
    verdict = alone.verify_log(str(place), smith.log_key.vkey, now=smith.now, witnesses=policy)
    assert {"not_checked"} == states(verdict)


BAD_POLICIES = [
    b"",
    b"quorum nobody\n",
    b"quorum none\nquorum none\n",
    POLICY + POLICY,
    POLICY.replace(b"group both all", b"group both 3"),
    POLICY.replace(b"group both all", b"group both 0"),
    POLICY.replace(b"all one two", b"all one one"),
    POLICY.replace(b"all one two", b"all one three"),
    POLICY.replace(b"witness two", b"witness one"),
    POLICY.replace(b"witness two", b"witness none"),
    POLICY.replace(TWO.vkey.encode(), ONE.vkey.encode()),
    POLICY.replace(b"+", b"", 1),
    b"\xff" + POLICY,
    POLICY + b"cosigner x\n",
    POLICY.replace(b"quorum both", b"group more any one\nquorum more"),
]


@pytest.mark.parametrize("policy", BAD_POLICIES)
def test_policies_that_are_none(policy):
    """What the package's parser refuses, the single file's does too."""
    with pytest.raises(Malformed):
        WitnessPolicy.parse(policy)
    with pytest.raises(alone.Malformed):
        alone.Policy(policy)


@pytest.mark.parametrize(
    "policy", [POLICY, ANY, b"# nobody\n\nquorum none # yet\n", POLICY.replace(b" one ", b"\tone\t")]
)
def test_policies_that_are_some(policy):
    """And what one takes the other takes."""
    assert len(WitnessPolicy.parse(policy).keys) == len(alone.Policy(policy).witnesses)


# --- time stamps ----------------------------------------------------------------------------------------------------


TOKENS = Path(__file__).parent / "tokens"
"""Tokens that were made once, by the digest of what they stamp: with them the damages at random are the same ones."""


def stamped(smith: Smith, files: dict[str, bytes], **metadata: object) -> Smith:
    """Stamp the newest checkpoint; the token is of the right form, and nobody stands behind it."""
    size, note = len(smith.entries), smith.checkpoint()
    made = TOKENS / f"{hashlib.sha256(note).hexdigest()}.tsr"
    token = made.read_bytes() if made.exists() else forged_stamp(note, smith.now)
    smith.kept[size] = note
    files[f"checkpoints/{size:020}.tsr"] = token
    told = stamp_metadata(size, note, token, parse_token(token)) | metadata
    smith.batch(smith.event("checkpoint_timestamped", told, actor_id="klingai-audit", actor_type="system"))
    return smith


def two_stamps() -> tuple[Smith, dict[str, bytes]]:
    tokens: dict[str, bytes] = {}
    smith = stamped(Smith().create().work(20), tokens)
    stamped(smith.work(8), tokens).work(4).closed()
    return smith, smith.files() | tokens


SMITH, FILES = two_stamps()
EARLIER, LATER = sorted(name for name in FILES if name.endswith(".tsr"))


def flip(name: str, at: int) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        data = files[name]
        at_byte = at % len(data)
        files[name] = data[:at_byte] + bytes([data[at_byte] ^ 4]) + data[at_byte + 1 :]

    return change


def move(files: dict[str, bytes]) -> None:
    files[EARLIER], files[LATER] = files[LATER], files[EARLIER]


DAMAGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "none": lambda files: None,
    "gone": lambda files: files.pop(EARLIER),
    "all gone": lambda files: (files.pop(EARLIER), files.pop(LATER)),
    "empty": lambda files: files.update({EARLIER: b""}),
    "exchanged": move,
    "copied": lambda files: files.update({EARLIER: files[LATER]}),
    "beside no checkpoint": lambda files: files.update({f"checkpoints/{3:020}.tsr": files[LATER]}),
    "beside a closing": lambda files: files.update({f"checkpoints/{len(SMITH.entries):020}.tsr": files[LATER]}),
    "one that nobody named": lambda files: files.update(
        {f"checkpoints/{len(SMITH.entries):020}.tsr": forged_stamp(SMITH.checkpoint(), SMITH.now)}
    ),
    "checkpoint gone": lambda files: files.pop(EARLIER[:-4]),
    "checkpoint changed": flip(EARLIER[:-4], 200),
    "first byte": flip(EARLIER, 0),
    "in the middle": flip(EARLIER, 300),
    "last byte": flip(LATER, -1),
    "an entry changed": lambda files: files.update(
        {name: data.replace(b"studio-1", b"studio-9", 1) for name, data in files.items() if name.endswith("jsonl")}
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_time_stamps(tmp_path, name):
    """By digests alone the same is found as by reading the tokens; back-dating is `not_checked`, never ruled out."""
    files = dict(FILES)
    DAMAGES[name](files)
    place = write_files(tmp_path / "audit", files)
    package, single = ask_both(place, SMITH.log_key.vkey, SMITH.now)
    assert [] == differences(package, single)
    assert single.states["back_dating"] in ("detected", "not_checked", "not_ruled_out")


@pytest.mark.parametrize(
    "metadata",
    [{"size": 0}, {"size": 99}, {"size": "20"}, {"size": True}, {"token": "x"}, {"checkpoint": "A" * 64}, {"tsa": 1}],
    ids=str,
)
def test_entries_that_tell_of_no_time_stamp(tmp_path, metadata):
    """Members of another form are named by both."""
    tokens: dict[str, bytes] = {}
    smith = stamped(Smith().create().work(8), tokens, **metadata).closed()
    place = write_files(tmp_path / "audit", smith.files())
    assert [] == differences(*ask_both(place, smith.log_key.vkey, smith.now))
    found = alone.verify_log(str(place), smith.log_key.vkey, now=smith.now)
    assert "stamp_malformed" in {finding.kind for finding in found.broken}


def test_the_tokens_were_made_before():
    """Else damage at random would be other damage each time."""
    digests = {hashlib.sha256(FILES[name.removesuffix(".tsr")]).hexdigest() for name in (EARLIER, LATER)}
    assert digests == {path.stem for path in TOKENS.iterdir()}


SEEN = witnessed(witnessed(Smith().create().work(20), ONE, TWO).work(30), ONE, TWO).closed()


@pytest.mark.slow
@pytest.mark.parametrize("edits", [1, 2, 3])
def test_damage_at_random_to_a_log_with_time_stamps(tmp_path, edits):
    """One damage, and several at once."""
    assert [] == damaged(tmp_path, SMITH, FILES, range(400), edits)


@pytest.mark.slow
@pytest.mark.parametrize("edits", [1, 2, 3])
def test_damage_at_random_to_a_log_with_cosignatures(tmp_path, edits):
    """One damage, and several at once."""
    assert [] == damaged(tmp_path, SEEN, SEEN.files(), range(400), edits, POLICY)
