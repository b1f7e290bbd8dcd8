"""The search for what must not be in a log finds what was planted, and names the place only."""

from __future__ import annotations

import re

import pytest

from klingai_audit.index import Index
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.shapes import has_shape
from klingai_audit.report import compose
from klingai_audit.report.leaks import SUSPICIOUS
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith

SECRETS = (
    "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrbGluZyJ9.c2lnbmF0dXJl",
    "api-key-kling-0123456789abcdef",
    "whsec_C2FVsBQIhrscChlQIMV5b5s",
    "PRIVATE+KEY+log.example.com+0a0b0c0d+AQIDBAUGBwgJCgsMDQ4P",
    "sk-live0123456789abcdef",
    "rk_live_0123456789abcdef",
    "ghp_0123456789abcdefABCD",
    "github_pat_0123456789abcdefABCD",
    "glpat-0123456789abcdefABCD",
    "xoxb-0123456789-abcdef",
    "AKIA0123456789ABCDEF",
    "LTAI0123456789ABCDEF",
    "AIzaSy0123456789-abcdefghijklmnopqrstu",
    "ya29.0123456789abcdefABCDEFGH",
    "hf_0123456789abcdefABCDEF",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_whatever_has_the_shape_of_a_key_looks_suspicious(secret):
    """The generous pattern finds every shape that the door knows."""
    assert (True, True) == (has_shape(secret), re.search(SUSPICIOUS, f"text {secret} text") is not None)


def leaks_of(tmp_path, *metadata, **members):
    smith = Smith().create()
    for facts in metadata:
        smith.batch(smith.event("resource_read", facts, **members))
    smith.closed()
    smith.write(tmp_path / "audit")
    store = DirectoryStore(tmp_path / "audit", tmp_path / "failed")
    reader = LogReader(store)
    verdict = verify(store, patience=0)
    with Index.open(reader, tmp_path / "index") as index:
        made = compose(reader, verdict, index.rows, None, days=10, until="2026-11-25", at=reader.size)
    return made.to_json()["leakage"]


def test_planted_leaks_are_found_by_entry(tmp_path):
    """A key, an address and a prompt that stand in the bytes are found; masks and commitments are not."""
    found = leaks_of(
        tmp_path,
        {"note": f"used {SECRETS[1]}"},
        {"nested": {"deep": ["mail user@example.com"]}},
        {"prompt": "a lake at dawn"},
        {"prompt": {"commitment": "x" * 43, "bytes": 5}, "who": "us***@example.com"},
        {"sk-": "no key", "mask": "sk-abc"},
    )
    assert ([(2, "credential"), (3, "address")], 2, 1) == (
        [(leak["seq"], leak["what"]) for leak in found["found"]],
        found["total"],
        found["prompts"],
    )


def test_a_finding_never_repeats_what_it_found(tmp_path):
    """Neither the key nor the address is in the report."""
    found = leaks_of(tmp_path, {"note": SECRETS[1]}, {"who": "user@example.com"})
    assert (2, False, False) == (found["total"], SECRETS[1] in str(found), "user@" in str(found))


def test_random_letters_of_the_log_itself_are_no_key(tmp_path):
    """A commitment, a pseudonym or a seal may spell a key by chance; beside them a key is found all the same."""
    spelled = "sk-HNWob66lPJI3izmSGK0_D1Au2iRs_FUBClAAAAAA"[:43]
    pseudonym = "p_sk-6OgOlu1GitfpwgWomBA"
    assert (True, True) == (has_shape(spelled), has_shape(pseudonym))
    withheld = {"prompt": {"commitment": spelled, "bytes": 5}, "media": [{"commitment": spelled, "bytes": 9}]}
    found = leaks_of(tmp_path, withheld, {**withheld, "note": spelled}, actor_id=pseudonym, on_behalf_of=pseudonym)
    assert [(3, "credential")] == [(leak["seq"], leak["what"]) for leak in found["found"]]
