"""`python -m bench proofs`: building and checking the proof of one entry of a large log, entries chosen at random."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.million import write_log
from klingai_audit.config import Places, open_reader
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.submission import AddCheckpoint
from klingai_audit.trust.proofs import check_consistency, check_entry_proof, prove_consistency, prove_entry
from tests.support.logsmith import Smith

BARS = {"proof of an entry built": 0.005, "the same, log just opened": 0.005, "proof of an entry checked": 0.005}
"""What the project promises on a million entries, in seconds."""

SAMPLES = 1_000


def measure(base: Path, count: int, rounds: int, log: Path | None = None) -> dict[str, Any]:
    """Prove and check `SAMPLES` entries a round; each round's p50, p99, longest, and p99 of CPU, in seconds."""
    places = Places.resolve(write_log(base, count) if log is None else log)
    key = VerifierKey.parse(Smith("log.example.com/bench", "bench-1").log_key.vkey)
    reader = open_reader(places)
    found: dict[str, list[dict[str, float]]] = {}
    hashes = size = 0
    for number in range(rounds):
        dice = random.Random(number)
        chosen = [dice.randrange(count) for _ in range(SAMPLES)]
        proofs = [prove_entry(reader, seq).format() for seq in chosen]
        hashes = max(hashes, *(len(proof.partition(b"\n\n")[0].split(b"\n")) - 3 for proof in proofs))
        size = max(size, *map(len, proofs))
        olds = [4096 * dice.randrange(1, count // 4096 + 1) for _ in range(SAMPLES // 10)]
        grown = [prove_consistency(reader, old).format() for old in olds]
        kept = [(proof, reader.store.read_kept(old) or b"") for proof, old in zip(grown, olds, strict=True)]
        cases: dict[str, Iterable[Callable[[], Any]]] = {
            "proof of an entry built": (lambda seq=seq: prove_entry(reader, seq).format() for seq in chosen),
            "the same, log just opened": (
                lambda seq=seq: prove_entry(open_reader(places), seq).format() for seq in chosen[: SAMPLES // 10]
            ),
            "proof of an entry checked": (lambda proof=proof: check_entry_proof(proof, [key]) for proof in proofs),
            "proof of consistency built": (lambda old=old: prove_consistency(reader, old).format() for old in olds),
            "proof of consistency checked": (
                lambda proof=proof, old=old: check_consistency(AddCheckpoint.parse(proof), old, [key])
                for proof, old in kept
            ),
        }
        for name, acts in cases.items():
            found.setdefault(name, []).append(_spread(acts))
    return {"entries": count, "samples": SAMPLES, "hashes": hashes, "bytes": size, "cases": found}


def report(result: dict[str, Any]) -> None:
    """Print medians over rounds and the spread of rounds, beside what is promised."""
    print(f"\nproofs from a log of {result['entries']:,} entries, {result['samples']:,} entries a round")
    print(f"  at most {result['hashes']} hashes and {result['bytes']:,} bytes, the entry included")
    for name, spreads in result["cases"].items():
        shown = []
        for what in ("p50", "p99", "cpu99"):
            values = [one[what] * 1000 for one in spreads]
            shown.append(f"{what} {statistics.median(values):6.2f} ms ({min(values):.2f}-{max(values):.2f})")
        bar = f"bar {BARS[name] * 1000:.0f} ms" if name in BARS else ""
        print(f"  {name:30} {'  '.join(shown)}  {bar}")


def _spread(acts: Iterable[Callable[[], Any]]) -> dict[str, float]:
    times, used = [], []
    for act in acts:
        begin, before = time.perf_counter(), time.thread_time()
        act()
        used.append(time.thread_time() - before)
        times.append(time.perf_counter() - begin)
    times.sort()
    used.sort()
    last = len(times) * 99 // 100
    return {"p50": statistics.median(times), "p99": times[last], "max": times[-1], "cpu99": used[last]}
