"""Years in the life of a log, drawn from a seed, and a model of its own that says what must be true of it.

The model knows only what was asked for: who did what on which day, what was held, erased and put back. What is due,
held, readable and gone it works out by itself, from the policy below as it reads.
"""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.errors import UnderHold, UsageError
from klingai_audit.ledger.purged import line_hash, parse_purged
from klingai_audit.testing import HandClock
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import leaf_hash, verify_consistency
from klingai_audit.tlog.proof import TlogProof, verify_leaf_proof
from klingai_audit.trust.proofs import prove_entry
from klingai_audit.upkeep.backup import back_up
from klingai_audit.upkeep.erasure import erase_subject
from klingai_audit.upkeep.holds import active_holds, release_hold, set_hold
from klingai_audit.upkeep.retention import apply_retention
from klingai_audit.upkeep.unseal import make_unseal_key, unseal
from klingai_audit.views.query import Filter
from tests.support.faulty import QuickOps
from tests.support.years_model import POLICY, Entry, Model, Saved, last_day

__all__ = ["Years"]

START: Final = dt.datetime(2026, 1, 5, 9, tzinfo=dt.UTC)
DAY: Final = 24 * 3600
YEARS: Final = 8
PLANTED: Final = b"planted"
"""Stands in each e-mail address and each prompt, and nowhere else."""

PEOPLE: Final = tuple(f"{name}.planted@example.com" for name in ("ada", "ben", "cleo", "dai", "eva"))
KINDS: Final = ("x_brief", "x_brief", "x_note", "x_note", "prompt_submitted", "budget_modified", "user_added")


Stored = Mapping[str, bytes]


class Years:
    """A log below `folder`, or at the URL `log` with keys, state and vault below `folder`, and what happens to it.

    `stored` gives names and bytes of what lies at the URL.
    """

    def __init__(self, folder: Path, seed: int, log: str = "", stored: Callable[[], Stored] = dict) -> None:
        self.folder = folder
        self.log = log or folder / "audit"
        self._stored = stored
        self.random = random.Random(seed)
        self.clock = HandClock(START)
        self.model = Model()
        self.proofs: list[tuple[TlogProof, bytes]] = []
        self.checkpoints: dict[int, Checkpoint] = {}
        self.addresses: set[bytes] = set()
        self.done: list[str] = []
        self._number = 0
        self._wanted: dict[int, tuple[str, str, str | None, str | None]] = {}
        self._open().close()
        make_unseal_key(folder / "audit.keys")
        (folder / "audit.keys" / "policy.toml").write_bytes(POLICY)
        self.audit = self._open()

    def _open(self) -> AuditLog:
        places = {name: self.folder / f"audit.{name}" for name in ("keys", "state", "vault")}
        return AuditLog.open(self.log, **places, clock=self.clock, ops=QuickOps())

    def close(self) -> None:
        self.audit.close()

    @property
    def today(self) -> dt.date:
        return self.clock.now.date()

    @property
    def over(self) -> bool:
        return (self.clock.now - START).days >= YEARS * 365.25

    # --- what happens -----------------------------------------------------------------------------

    def step(self, most_days: int) -> None:
        """Something happens, up to so many days pass, and everything is checked."""
        acts: dict[Callable[[], None], int] = {
            self.prove: 4,
            self.apply: 6,
            self.hold: 3,
            self.release: 3,
            self.save: 2,
            self.put_back: 3,
            self.erase: 4,
            self.look: 3,
            self.look_in_vain: 2,
            self.rotate: 2,
            self.reopen: 1,
        }
        (act,) = self.random.choices(list(acts), list(acts.values()))
        self.done.append(f"{self.today} {act.__name__}")
        if self.random.random() < 0.7:
            self.work()
        with acting("keeper@example.org", actor_type="admin"):
            act()
            self.check()
        self.clock.advance(self.random.randrange(1, most_days * 24) * 3600)

    def work(self) -> None:
        """A few people do a few things."""
        for _ in range(self.random.randrange(1, 6)):
            self._number += 1
            kind, person = self.random.choice(KINDS), self.random.choice(PEOPLE)
            prompt = f"a planted thought, number {self._number}" if self.random.random() < 0.6 else None
            address = f"203.0.113.{self.random.randrange(1, 255)}" if self.random.random() < 0.5 else None
            other = self.random.choice(PEOPLE)
            resource = ("user", other) if kind == "user_added" else ("video", str(self.random.randrange(7)) * 18)
            with acting(person, on_behalf_of=other if self.random.random() < 0.2 else None):
                receipt = self.audit.log(
                    kind,
                    resource_type=resource[0],
                    resource_id=resource[1],
                    action="do",
                    ip_address=address,
                    correlation_id=f"c-{self._number // 3}",
                    metadata={"prompt": prompt} if prompt else None,
                )
            receipt.wait()
            self._wanted[receipt.seq] = kind, person, prompt, address
            self.clock.advance(60)

    def prove(self) -> None:
        """Proofs of some entries are handed out."""
        self.audit.flush("published")
        whole = [entry for entry in self.model.whole() if entry.seq < self.audit.reader.size]
        for entry in self.random.sample(whole, min(3, len(whole))):
            self.proofs.append((prove_entry(self.audit.reader, entry.seq), entry.leaf))

    def apply(self) -> None:
        """What is due goes, all of it and nothing else; sometimes on the last day of something and the day after."""
        self._apply()
        days = {last_day(entry) for entry in self.model.whole()} - {None}
        soon = sorted(day for day in days if 0 <= (day - self.today).days < 60)
        if soon and self.random.random() < 0.5:
            self.clock.advance((self.random.choice(soon) - self.today).days * DAY)
            for _ in range(2):
                self._apply()
                self.clock.advance(DAY)

    def _apply(self) -> None:
        self._learn()
        due = self.model.due(self.today)
        sealed = [one for known in (True, False) for one in self.model.sealed(readable=known) if one.seq in due]
        done = apply_retention(self.audit, today=self.today)
        assert len(due) == done.purged
        assert [] == [entry.seq for entry in sealed if self.audit.vault.has(entry.actor, entry.commitment)]
        self.model.purged |= due

    def hold(self) -> None:
        """A hold is set on a range, a person, a generation or what a query finds."""
        self._learn()
        self._number += 1
        model, name, size = self.model, f"case-{self._number}", len(self.model.entries)
        kind = self.random.choice(["range", "actor", "task", "query"])
        known = sorted(model.table)
        tasks = sorted({entry.task for entry in model.whole() if entry.task is not None})
        if kind == "actor" and known:
            person = model.table[self.random.choice(known)]
            set_hold(self.audit, name, actor=person)
            model.held_people[name] = person
            model.holds[name] = lambda entry: person in entry.names
        elif kind == "task" and tasks:
            task = self.random.choice(tasks)
            related = {entry.correlation for entry in model.whole() if entry.task == task}
            set_hold(self.audit, name, task=task)
            model.holds[name] = lambda entry: entry.task == task or entry.correlation in related - {None}
        elif kind == "query":
            until = self.today - dt.timedelta(days=self.random.randrange(900))
            set_hold(
                self.audit, name, query=Filter(event_type=("x_brief", "prompt_submitted"), until=f"{until}T00:00Z")
            )
            model.holds[name] = lambda entry: entry.kind in {"x_brief", "prompt_submitted"} and entry.day < until
        else:
            first = self.random.randrange(size)
            last = first + self.random.randrange(30)
            set_hold(self.audit, name, range=(first, last))
            model.holds[name] = lambda entry: first <= entry.seq <= last

    def release(self) -> None:
        """A hold ends."""
        if self.model.holds:
            name = self.random.choice(sorted(self.model.holds))
            release_hold(self.audit, name)
            del self.model.holds[name]
            self.model.held_people.pop(name, None)

    def save(self) -> None:
        """A backup is made, of the vault too."""
        self._learn()
        self._number += 1
        folder = self.folder / f"saved-{self._number}"
        back_up(self.audit.places, folder, keys=True, ops=QuickOps())
        if self.audit.places.vault.is_dir():
            shutil.copytree(self.audit.places.vault, folder / "audit.vault", dirs_exist_ok=True)
        self.model.saved.append(Saved(folder, dict(self.model.table)))

    def put_back(self) -> None:
        """Table of people and vault are put back from a backup: this brings back nobody who was erased."""
        self._learn()
        if not self.model.saved:
            return
        back = [saved for saved in self.model.saved if self.model.erased.keys() & set(saved.table.values())]
        saved = self.random.choice(back or self.model.saved)
        places = self.audit.places
        self.audit.close()
        shutil.copyfile(saved.folder / "audit.keys" / "subjects.sqlite", places.subjects)
        if (saved.folder / "audit.vault").is_dir():
            shutil.copytree(saved.folder / "audit.vault", places.vault, dirs_exist_ok=True)
        self.audit = self._open()
        self.model.table = {name: who for name, who in saved.table.items() if who not in self.model.erased}

    def erase(self) -> None:
        """Somebody is erased, unless a hold stands against it; who was erased already stays so."""
        self._learn()
        model = self.model
        if not model.table:
            return
        name = self.random.choice(sorted(model.table))
        pseudonym = model.table[name]
        if model.protected(pseudonym):
            with pytest.raises(UnderHold):
                erase_subject(self.audit, name, basis="Art. 17")
            return
        key = self.audit.subjects.get(pseudonym).key
        about = [entry.seq for entry in model.whole() if pseudonym in entry.names]
        told = erase_subject(self.audit, name, basis="Art. 17")
        assert (pseudonym, len(about), True) == (told.pseudonym, told.entries, told.verified)
        assert (about[0], about[-1]) == (told.first, told.last) if about else told.first is None
        model.erased[pseudonym] = key
        del model.table[name]
        again = erase_subject(self.audit, pseudonym, basis="Art. 17")
        assert (True, told.seq) == (again.again, again.seq)
        if self.random.random() < 0.5:
            self.put_back()

    def look(self) -> None:
        """Sealed content is opened: it is what was given."""
        self._learn()
        for entry in self._some(self.model.sealed(readable=True)):
            assert entry.prompt == unseal(self.audit, entry.seq, "prompt", reason="a question").text
            if entry.address is not None:
                assert entry.address == unseal(self.audit, entry.seq, "full_address", reason="a question").text

    def look_in_vain(self) -> None:
        """Nobody opens what an erased person left, nor what was purged."""
        self._learn()
        gone = [entry for entry in self.model.entries if entry.prompt is not None and entry.seq in self.model.purged]
        for entry in self._some(self.model.sealed(readable=False)) + self._some(gone):
            with pytest.raises(UsageError):
                unseal(self.audit, entry.seq, "prompt", reason="a question")

    def rotate(self) -> None:
        """A new signing key."""
        self.audit.rotate_keys()

    def reopen(self) -> None:
        """The writer ends and another takes over."""
        self.audit.close()
        self.audit = self._open()

    def _some(self, entries: list[Entry]) -> list[Entry]:
        return self.random.sample(entries, min(2, len(entries)))

    # --- what must be true ------------------------------------------------------------------------

    def check(self) -> None:
        """Everything that must be true after each step."""
        self._learn()
        verdict = self.audit.verify(now=self.clock.now)
        assert [] == [(finding.kind, finding.seq) for finding in verdict.broken]
        assert 0 == verdict.exit_code
        assert self.model.purged == {seq for begin, end, _ in verdict.purged for seq in range(begin, end)}
        lines = list(self.audit.reader.lines())
        for entry, line in zip(self.model.entries, lines, strict=True):
            assert entry.leaf == line_hash(line)
            assert (entry.seq in self.model.purged) == (parse_purged(line) is not None)
        self._check_proofs([line_hash(line) for line in lines])
        self._check_holds(lines)
        self._check_people()
        self._check_bytes()

    def _check_proofs(self, hashes: list[bytes]) -> None:
        key = VerifierKey.parse(self.audit.vkey)
        for proof, leaf in self.proofs:
            assert leaf == hashes[proof.index]
            checkpoint = verify_leaf_proof(proof, hashes[proof.index], self.audit.origin, [key])
            self.checkpoints[checkpoint.size] = checkpoint
        now = self.audit.reader.checkpoint()
        for size, old in self.checkpoints.items():
            proof = self.audit.reader.consistency(size, now.size) if size < now.size else ()
            verify_consistency(size, now.size, old.root, now.root, proof)

    def _check_holds(self, lines: list[bytes]) -> None:
        holds = active_holds(self.audit)
        assert sorted(self.model.holds) == sorted(hold.name for hold in holds)
        tests = {hold.name: hold.test() for hold in holds}
        for entry in self.model.whole():
            covered = {name for name, test in tests.items() if test(lines[entry.seq])}
            assert covered == {name for name, covers in self.model.holds.items() if covers(entry)}

    def _check_people(self) -> None:
        subjects = self.audit.subjects
        for name in PEOPLE:
            found = subjects.find(name)
            assert self.model.table.get(name) == (None if found is None else found.pseudonym)
        in_vault = set(self.audit.vault.subjects())
        for pseudonym in self.model.erased:
            assert subjects.get(pseudonym) is None
            assert subjects.reveal(pseudonym) is None
            assert pseudonym not in in_vault

    def _check_bytes(self) -> None:
        """No file of log, keys, state and vault holds an e-mail address, a prompt, an address, or an erased key."""
        keys = list(self.model.erased.values())
        needles = [PLANTED, *self.addresses, *keys]
        needles += [text for key in keys for text in (key.hex().encode(), base64.b64encode(key).rstrip(b"="))]
        for path in self.folder.glob("audit*/**/*"):
            if path.is_file():
                data = path.read_bytes()
                data += gzip.decompress(data) if path.suffix == ".gz" else b""
                assert (path.name, []) == (path.name, [needle for needle in needles if needle in data])
        for name, data in self._stored().items():
            assert (name, []) == (name, [needle for needle in needles if needle in data])

    def _learn(self) -> None:
        """Take notes of what was written since, as it is before anything happens to it."""
        self.audit.flush("published")
        model = self.model
        for seq, line in enumerate(self.audit.reader.lines(len(model.entries)), len(model.entries)):
            told = json.loads(line)
            names = [told.get(name) for name in ("actor_id", "on_behalf_of", "resource_id")]
            kind, person, prompt, address = self._wanted.pop(seq, (told["event_type"], None, None, None))
            assert kind == told["event_type"]
            if person is not None:
                assert told["actor_id"] == model.table.setdefault(person, told["actor_id"])
            entry = Entry(
                seq=seq,
                kind=kind,
                day=dt.date.fromisoformat(told["logged_at"][:10]),
                leaf=leaf_hash(line),
                actor=told["actor_id"],
                names=frozenset(name for name in names if name is not None),
                task=told["resource_id"] if told.get("resource_type") == "video" else None,
                correlation=told.get("correlation_id"),
                prompt=prompt,
                commitment=told["metadata"]["prompt"]["commitment"] if prompt else "",
                address=address,
            )
            assert entry.day <= self.today
            model.entries.append(entry)
            if address is not None:
                self.addresses.add(address.encode())
        for name in PEOPLE:  # people who were only worked for, or added
            if name not in model.table and (found := self.audit.subjects.find(name)) is not None:
                model.table[name] = found.pseudonym
