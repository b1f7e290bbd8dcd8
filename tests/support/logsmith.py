"""An independent small writer of logs, made from docs/format.md with the standard library and cryptography only.

Tests of verification make good and attacked logs with it; nothing of the product is imported. Everything but
ML-DSA-44 signatures is deterministic: keys, ids and times follow from the seed. A log is a dict of file name to bytes,
so that an attack is an edit of that dict.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEPT_EVERY = 4096
START = dt.datetime(2026, 11, 20, 9, 0, tzinfo=dt.UTC)
POLICY = hashlib.sha256(b"policy").hexdigest()


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def mth(leaves: list[bytes]) -> bytes:
    """The root as RFC 6962 defines it, slow and obvious."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def format_time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Key:
    """An Ed25519 key with the name under which it signs."""

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = b"\x01" + self.private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(name.encode() + b"\n" + self.public).digest()[:4]
        self.vkey = f"{name}+{self.key_id.hex()}+{base64.b64encode(self.public).decode()}"

    def line(self, text: str) -> str:
        blob = self.key_id + self.private.sign(text.encode())
        return f"\u2014 {self.name} {base64.b64encode(blob).decode()}\n"


class SecondKey:
    """An ML-DSA-44 key: cosigns a checkpoint at a time (C2SP tlog-cosignature, type 0x06)."""

    def __init__(self, name: str, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        self.name = name
        self.private = MLDSA44PrivateKey.from_seed_bytes(seed)
        self.public = b"\x06" + self.private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(name.encode() + b"\n" + self.public).digest()[:4]
        self.vkey = f"{name}+{self.key_id.hex()}+{base64.b64encode(self.public).decode()}"

    def line(self, text: str, seconds: int) -> str:
        origin, size, root, _ = text.split("\n")
        stated = seconds.to_bytes(8, "big")
        message = b"subtree/v1\n\0" + bytes([len(self.name)]) + self.name.encode() + stated
        message += bytes([len(origin)]) + origin.encode() + bytes(8) + int(size).to_bytes(8, "big")
        blob = self.key_id + stated + self.private.sign(message + base64.b64decode(root))
        return f"\u2014 {self.name} {base64.b64encode(blob).decode()}\n"


def sign_note(text: str, *keys: Key) -> bytes:
    return (text + "\n" + "".join(key.line(text) for key in keys)).encode()


class Tree:
    """All complete subtrees, one list for each binary level."""

    def __init__(self) -> None:
        self.levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        return len(self.levels[0])

    def append(self, leaf: bytes) -> None:
        level, node = 0, leaf
        while True:
            self.levels[level].append(node)
            if len(self.levels[level]) % 2:
                return
            node = node_hash(*self.levels[level][-2:])
            level += 1
            if level == len(self.levels):
                self.levels.append([])

    def root(self, size: int | None = None) -> bytes:
        rest = self.size if size is None else size
        at, peaks = 0, []
        for level in reversed(range(rest.bit_length())):
            if rest >> level & 1:
                peaks.append(self.levels[level][at >> level])
                at += 1 << level
        root = peaks.pop() if peaks else hashlib.sha256(b"").digest()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


class Smith:
    """Writes one log. `seeds` may fix `log`, `epoch-<k>` and `tail-<k>` (32 bytes each).

    With `post_quantum` the log has an ML-DSA-44 key.
    """

    def __init__(
        self,
        origin: str = "log.example.com/smith",
        seed: str = "smith",
        start: dt.datetime = START,
        step: float = 0.25,
        seeds: dict[str, bytes] | None = None,
        *,
        post_quantum: bool = False,
    ) -> None:
        self.origin, self.seed, self.now, self.step = origin, seed, start, dt.timedelta(seconds=step)
        self.seeds = seeds or {}
        self.log_key = Key(origin, self.secret("log"))
        self.second = SecondKey(origin, self.secret("mldsa")) if post_quantum else None
        self.epoch = 0
        self.entries: list[bytes] = []
        self.days: list[str] = []
        self.tree = Tree()
        self.kept: dict[int, bytes] = {}
        self.ids = 0
        self.stream = self._generations()
        self.last_logged = ""

    # --- keys and ids

    def secret(self, name: str) -> bytes:
        return self.seeds.get(name) or hashlib.sha256(f"logsmith/{self.seed}/{name}".encode()).digest()

    def epoch_key(self, epoch: int | None = None) -> Key:
        epoch = self.epoch if epoch is None else epoch
        return Key(f"{self.origin}/epoch-{epoch}", self.secret(f"epoch-{epoch}"))

    def event_id(self) -> str:
        self.ids += 1
        noise = hashlib.sha256(f"{self.seed}/id/{self.ids}".encode()).hexdigest()
        stamp = f"{int(self.now.timestamp() * 1000):012x}"
        return f"{stamp[:8]}-{stamp[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"

    def end_id(self, task: str, state: str) -> str:
        parts = ("klingai-audit/end/v1", self.origin, task, state)
        digest = bytearray(hashlib.sha256(b"\0".join(part.encode() for part in parts)).digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        text = digest.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    # --- entries

    def event(self, event_type: str = "resource_read", metadata: dict[str, Any] | None = None, **members: Any) -> bytes:
        """Event bytes in the one member order; own entries name the log itself as the actor."""
        self.now += self.step
        own = event_type.startswith(("log_", "signing_", "clock_", "gap_"))
        known = {
            "schema": 1,
            "event_id": members.pop("event_id", None) or self.event_id(),
            "timestamp": members.pop("timestamp", None) or format_time(self.now),
            "event_type": event_type,
            "actor_id": members.pop("actor_id", "klingai-audit" if own else "p_7Q3kZr0bT9yVw2mXc4NdLg"),
            "actor_type": members.pop("actor_type", "system" if own else "user"),
        }
        outcome = members.pop("outcome", "success")
        order = ("on_behalf_of", "team", "project", "resource_type", "resource_id", "action", "outcome", "ip_address")
        order += ("ip_ref", "user_agent", "correlation_id", "request_id")
        members["outcome"] = outcome
        known |= {name: members[name] for name in order if name in members}
        if metadata is not None:
            known["metadata"] = metadata
        return canonical(known)

    def generation(self, number: int, outcome: str = "succeeded") -> list[bytes]:
        """The entries of one video generation, about as large as real ones."""
        prompt = base64.urlsafe_b64encode(hashlib.sha256(f"{self.seed}/{number}".encode()).digest())[:43].decode()
        task, cause = f"83{number:016d}", self.event_id()
        common: dict[str, Any] = {
            "team": f"studio-{number % 7}",
            "resource_type": "video",
            "action": "text_to_video",
            "correlation_id": cause,
            "ip_address": "192.168.xxx.xxx",
            "ip_ref": hashlib.sha256(task.encode()).hexdigest()[:32],
            "user_agent": "python-httpx/0",
            "actor_id": f"p_{prompt[:22]}",
        }
        intent: dict[str, Any] = {"phase": "intent", "deadline_s": 600, "model": "kling-3.0-turbo", "mode": "std"}
        intent["prompt"] = {"commitment": prompt, "bytes": 40 + number % 400}
        polls = {"from": "submitted", "to": "processing", "polls": 3}
        done: dict[str, Any] = {"charge": 1.25, "result_ids": [f"r{number}"], "duration": 5.041}
        end, state = self.end_id(task, outcome), "completed"
        if outcome == "failed":
            done, state = {"code": 1301}, "failed"
        return [
            self.event("prompt_submitted", intent, event_id=cause, outcome="unknown", **common),
            self.event(
                "video_generation_started", {"intent": cause}, resource_id=task, request_id=cause[::-1], **common
            ),
            self.event("task_status_changed", polls, resource_id=task, **common),
            self.event(f"video_generation_{state}", done, resource_id=task, event_id=end, **common),
        ]

    def batch(self, *bodies: bytes, sealed: bool = True) -> None:
        """Append entries as one batch with one `logged_at`; keep checkpoints where the format asks for them."""
        logged = max(format_time(self.now), self.last_logged)
        self.last_logged = logged
        for number, body in enumerate(bodies):
            seq = len(self.entries)
            prev = leaf_hash(self.entries[-1]) if seq else hashlib.sha256(b"").digest()
            entry = body[:-1] + f',"seq":{seq},"logged_at":"{logged}","prev_hash":"{prev.hex()}"}}'.encode()
            if sealed and number == len(bodies) - 1:
                entry = self.seal(entry)
            self.entries.append(entry)
            self.days.append(logged[:10])
            self.tree.append(leaf_hash(entry))
            if self.is_kept(len(self.entries)):
                self.kept[len(self.entries)] = self.checkpoint()

    def seal(self, entry: bytes) -> bytes:
        covered = entry[:-1]
        message = b"klingai-audit/seal/v1\0" + self.origin.encode() + b"\0" + covered
        mac = hmac.digest(self.secret(f"tail-{self.epoch}"), message, "sha256")
        return covered + b',"seal":"' + base64.urlsafe_b64encode(mac)[:43] + b'"}'

    # --- the life of a log

    def create(self, writer: str = "w1") -> Smith:
        first = {"format": 1, "origin": self.origin, "log_key": self.log_key.vkey, "epoch": 0}
        first |= {"epoch_key": self.epoch_key(0).vkey}
        first |= {"mldsa_key": self.second.vkey} if self.second else {}
        first |= {"policy": POLICY}
        self.batch(self.event("log_created", first), self.event("log_opened", {"policy": POLICY, "writer": writer}))
        return self

    def opened(self, writer: str = "w1") -> Smith:
        self.batch(self.event("log_opened", {"policy": POLICY, "writer": writer}))
        return self

    def closed(self, writer: str = "w1") -> Smith:
        self.batch(self.event("log_closed", {"writer": writer}))
        return self

    def work(self, count: int, size: int = 3) -> Smith:
        """Append `count` entries of generations in batches of `size`."""
        while count > 0:
            self.batch(*itertools.islice(self.stream, min(size, count)))
            count -= size
        return self

    def _generations(self) -> Iterator[bytes]:
        for number in itertools.count():
            yield from self.generation(number, "failed" if number % 20 == 19 else "succeeded")

    def rotate(self) -> Smith:
        """End the epoch: the entry with the handover note, the handover checkpoint, then the successor."""
        successor = self.epoch_key(self.epoch + 1)
        root = base64.b64encode(self.tree.root()).decode()
        text = (
            f"klingai-audit/handover/v1\n{self.origin}\n{self.epoch + 1}\n{self.tree.size}\n{root}\n{successor.vkey}\n"
        )
        note = sign_note(text, self.epoch_key()).decode()
        self.batch(
            self.event("signing_key_rotated", {"epoch": self.epoch + 1, "epoch_key": successor.vkey, "handover": note})
        )
        self.epoch += 1
        return self

    def next_day(self) -> Smith:
        self.now = dt.datetime.combine(self.now.date() + dt.timedelta(days=1), dt.time(0, 5), dt.UTC)
        return self

    def is_kept(self, size: int) -> bool:
        """Whether the format asks for a kept checkpoint of this size, time stamps aside."""
        last = self.entries[size - 1][118:]
        return size % KEPT_EVERY == 0 or last.startswith((b'signing_key_rotated"', b'log_closed"', b'log_migrated"'))

    def checkpoint(self, size: int | None = None, epoch: int | None = None, *, second: bool | None = None) -> bytes:
        """The signed checkpoint of `size` (default: now) by the log key and the epoch's key.

        The ML-DSA-44 line is there if the log has that key and it is `second` (default: where the format asks for it).
        """
        size = self.tree.size if size is None else size
        text = f"{self.origin}\n{size}\n{base64.b64encode(self.tree.root(size)).decode()}\n"
        note = sign_note(text, self.log_key, self.epoch_key(epoch))
        if self.second is None or not (self.is_kept(size) if second is None else second):
            return note
        return note + self.second.line(text, int(self.now.timestamp())).encode()

    # --- files

    def files(self, checkpoint: bytes | None = None) -> dict[str, bytes]:
        """All files of the log, by name, as docs/format.md lists them."""
        files: dict[str, bytes] = {}
        lines: dict[str, list[bytes]] = {}
        for day, entry in zip(self.days, self.entries, strict=True):
            lines.setdefault(day, []).append(entry + b"\n")
        for day, rows in lines.items():
            files[f"audit-{day}.jsonl"] = b"".join(rows)
        for level in range(0, len(self.tree.levels), 8):
            if self.tree.levels[level]:
                files[f"tree/{level // 8}"] = b"".join(self.tree.levels[level])
        files |= {f"checkpoints/{size:020}": note for size, note in self.kept.items()}
        files["checkpoint"] = checkpoint or self.checkpoint()
        return files

    def write(self, folder: Path) -> Path:
        return write_files(folder, self.files())


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a log's files below `folder` and return it."""
    for name in ("tree", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


VECTOR_PROMPT = "A serene mountain lake at sunrise"
VECTOR_TASK = "831000000000000042"


def vector() -> Smith:
    """The worked example of docs/format.md, section 12."""
    seeds = {"log": 0x00, "epoch-0": 0x20, "tail-0": 0x40, "epoch-1": 0x60, "tail-1": 0x80}
    fixed = {name: bytes(range(first, first + 32)) for name, first in seeds.items()}
    smith = Smith("log.example.com/vector", "vector", dt.datetime(2026, 11, 20, 23, 59, 58, tzinfo=dt.UTC), 0.5, fixed)
    smith.create()
    cause = smith.event_id()
    salt_input = b"klingai-audit/commit/v1\0" + cause.encode() + b"\0/metadata/prompt"
    salt = hmac.digest(b"\xa0" * 32, salt_input, "sha256")
    commitment = hashlib.sha256(b"klingai-audit/commit/v1\0" + salt + VECTOR_PROMPT.encode()).digest()
    prompt = {"commitment": base64.urlsafe_b64encode(commitment)[:43].decode(), "bytes": len(VECTOR_PROMPT)}
    act = {"resource_type": "video", "action": "text_to_video", "correlation_id": cause}
    intent = {"phase": "intent", "deadline_s": 60, "prompt": prompt, "duration": 5}
    smith.batch(smith.event("prompt_submitted", intent, event_id=cause, outcome="unknown", **act))
    smith.next_day().rotate()
    end = smith.end_id(VECTOR_TASK, "succeeded")
    smith.batch(
        smith.event("video_generation_completed", {"seconds": 5.041}, event_id=end, resource_id=VECTOR_TASK, **act),
        smith.event("log_closed", {"writer": "w1"}),
    )
    return smith


def vector_markdown() -> str:
    """Section 11's tables and blocks; the page holds exactly this."""
    smith = vector()
    files = smith.files()
    parts = ["| key | vkey |", "| --- | --- |"]
    keys = (("log key", smith.log_key), ("epoch 0", smith.epoch_key(0)), ("epoch 1", smith.epoch_key(1)))
    parts += [f"| {label} | `{key.vkey}` |" for label, key in keys]
    for name in sorted(files, key=lambda name: (not name.startswith("audit-"), name)):
        body = files[name]
        hashes = "".join(body[at : at + 32].hex() + "\n" for at in range(0, len(body), 32))
        text = hashes if "tree/" in name else body.decode()
        shown = " (in hex, a hash a line)" if "tree/" in name else ""
        parts += ["", f"`{name}`{shown}:", "", "```text", text + "```"]
    parts += ["", "| size | root |", "| --- | --- |"]
    parts += [f"| {size} | `{smith.tree.root(size).hex()}` |" for size in range(1, smith.tree.size + 1)]
    return "\n".join(parts) + "\n"
