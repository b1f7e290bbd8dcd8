"""Witness policies: what is one, and when it is satisfied."""

from __future__ import annotations

from itertools import combinations

import pytest

from klingai_audit.errors import Malformed
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey, VerifierKey
from klingai_audit.tlog.policy import WitnessPolicy


def vkey(number: int, algorithm: int = COSIGNATURE) -> VerifierKey:
    return SignerKey(f"w{number}.example", bytes([number]) * 32, algorithm).verifier


LOG = SignerKey("log.example/one", b"\xf0" * 32).verifier
KEYS = [vkey(number) for number in range(1, 6)]
NAMES = "\n".join(f"witness w{number} {key.format()} https://w{number}.example" for number, key in enumerate(KEYS, 1))


def policy(*lines: str) -> WitnessPolicy:
    return WitnessPolicy.parse("\n".join((f"log {LOG.format()}", NAMES, *lines, "")).encode())


def enough(found: WitnessPolicy) -> set[tuple[int, ...]]:
    """The smallest sets of witnesses, by number, that satisfy a policy: all sets are tried."""
    sets = [chosen for count in range(6) for chosen in combinations(range(1, 6), count)]
    good = [chosen for chosen in sets if found.is_satisfied([KEYS[number - 1] for number in chosen])]
    return {chosen for chosen in good if not any(set(other) < set(chosen) for other in good)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["quorum none"], {()}),
        (["quorum w2"], {(2,)}),
        (["group g any w1 w2", "quorum g"], {(1,), (2,)}),
        (["group g all w1 w2", "quorum g"], {(1, 2)}),
        (["group g 2 w1 w2 w3", "quorum g"], {(1, 2), (1, 3), (2, 3)}),
        (["group a all w1 w2", "group b any w3 w4", "group c 2 a b w5", "quorum c"],
         {(1, 2, 3), (1, 2, 4), (1, 2, 5), (3, 5), (4, 5)}),
    ],
)  # fmt: skip
def test_quorums(lines: list[str], expected: set[tuple[int, ...]]) -> None:
    """Exactly these sets of cosigners are enough."""
    assert expected == enough(policy(*lines))


def test_items_are_read_with_their_urls() -> None:
    """Comments, tabs and empty lines are no part of a policy."""
    found = policy("", "# a comment", "\tgroup  g\t1 w1   # one is enough", "quorum g")
    assert (LOG, None) == (found.logs[0].key, found.logs[0].url)
    assert [("w1", "https://w1.example"), ("w2", "https://w2.example")] == [
        (witness.name, witness.url) for witness in found.witnesses[:2]
    ]
    assert "1 of 1 (w1)" == found.describe()


def test_a_stranger_counts_nothing() -> None:
    """A key that the policy does not name adds nothing, nor does the log's own."""
    found = policy("group g 2 w1 w2", "quorum g")
    assert not found.is_satisfied([KEYS[0], vkey(9), LOG])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "no quorum line"),
        (["quorum w1", "quorum w2"], "exactly one line"),
        (["quorum w9"], "named by no line"),
        (["quorum g", "group g any w1"], "named by no line"),
        (["group g any w9", "quorum g"], "named by no line"),
        (["group g 0 w1", "quorum g"], "can never be"),
        (["group g 3 w1 w2", "quorum g"], "can never be"),
        (["group g +1 w1", "quorum g"], "canonical decimal"),
        (["group g any w1 w1", "quorum g"], "a member already"),
        (["group g any w1", "group h any w1", "quorum g"], "a member already"),
        (["group w1 any w2", "quorum w1"], "taken"),
        (["group none any w2", "quorum none"], "taken"),
        (["group g any", "quorum g"], "a group is"),
        ([f"witness w9 {KEYS[0].format()}", "quorum none"], "stands in an earlier line"),
        ([f"witness w9 {LOG.format()}", "quorum none"], "earlier line"),
        ([f"witness w9 {SignerKey('x.example', b'9' * 32).verifier.format()}", "quorum none"], "type 0x04 or 0x06"),
        (["witness w9 x+00000000+AAAA", "quorum none"], "Line 7"),
        (["logs", "quorum none"], "begins with none of"),
        (["quorum\x0bnone"], "control character"),
        (["quorum\u00a0none"], "begins with none of"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(lines: list[str], words: str) -> None:
    """With the number of the line, where it is one line's fault."""
    with pytest.raises(Malformed, match=words):
        policy(*lines)


def test_bytes_that_are_no_text_are_refused() -> None:
    """Nor is a file longer than any policy read."""
    for data in (b"\xff", b"#" * 1_000_001):
        with pytest.raises(Malformed):
            WitnessPolicy.parse(data)
