"""A generated log for questions: `write_log(folder, count)`. README.md states the distribution.

Deterministic: equal arguments give equal bytes. The log is whole (day files, tree, kept and published checkpoints),
signed with throw-away keys; its people exist as pseudonyms only.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from klingai_audit.tlog.hashing import fold_tile
from klingai_audit.tlog.merkle import EMPTY_ROOT, CompactRange

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.logsmith import KEPT_EVERY, POLICY, Key, Smith, format_time, sign_note

__all__ = ["BEGIN", "DAYS", "PEOPLE", "write_log"]

BEGIN: Final = dt.datetime(2026, 8, 1, tzinfo=dt.UTC)
DAYS: Final = 92
PEOPLE: Final = 200

_TEAMS: Final = tuple(f"studio-{letter}" for letter in "abcdefghijkl")
_MODELS: Final = ("kling-3.0-turbo", "kling-3.0", "kling-2.6", "kling-o1", "kling-v2-master", "kling-image-3")
_WEIGHTS: Final = (40, 25, 15, 8, 7, 5)
_HOURS: Final = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 19, 18, 14, 17, 19, 18, 16, 12, 8, 6, 5, 4, 3, 2)
_BATCH: Final = 32
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class _Source:
    """Makes event bytes: one generation, or one other act, at a time."""

    def __init__(self, origin: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.origin = origin
        self.people = [f"p_{self._text(22)}" for _ in range(PEOPLE)]
        self.busy = [1 / (rank + 5) for rank in range(PEOPLE)]
        self.keys = [f"{self.dice.getrandbits(64):016x}" for _ in range(len(_TEAMS))]
        self.used: dict[str, dt.datetime] = {}
        self.tasks = 0

    def _text(self, length: int) -> str:
        return base64.urlsafe_b64encode(self.dice.randbytes(length * 3 // 4)).decode()[:length]

    def _uuid(self, moment: dt.datetime) -> str:
        stamp, noise = int(moment.timestamp() * 1000), f"{self.dice.getrandbits(72):018x}"
        return f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"

    def event(self, moment: dt.datetime, event_type: str, who: dict[str, Any], what: dict[str, Any]) -> bytes:
        members = {
            "schema": 1,
            "event_id": what.pop("event_id", None) or self._uuid(moment),
            "timestamp": format_time(moment),
            "event_type": event_type,
            **who,
        }
        for name in ("resource_type", "resource_id", "action", "outcome"):
            if name in what:
                members[name] = what.pop(name)
        network = {name: members.pop(name) for name in ("ip_address", "ip_ref", "user_agent") if name in members}
        members |= network
        for name in ("correlation_id", "request_id"):
            if name in what:
                members[name] = what.pop(name)
        return _encode({**members, "metadata": what}).encode()

    def act(self, moment: dt.datetime) -> list[tuple[dt.datetime, bytes]]:
        number = self.dice.choices(range(PEOPLE), self.busy)[0]
        who = {
            "actor_id": self.people[number],
            "actor_type": "user",
            "team": _TEAMS[number % len(_TEAMS)],
            "project": f"project-{number % 30:02}",
            "ip_address": f"10.{number % 50}.xxx.xxx",
            "ip_ref": hashlib.sha256(b"%d/%d" % (number, self.dice.randrange(3))).hexdigest()[:32],
            "user_agent": "python-httpx/0",
        }
        if self.dice.random() < 0.02:
            return [(moment, self._other(moment, who))]
        return list(self._generation(moment, who, self.keys[number % len(_TEAMS)]))

    def _other(self, moment: dt.datetime, who: dict[str, Any]) -> bytes:
        kind = self.dice.choice(("resource_read", "quota_checked", "settings_changed", "budget_modified"))
        what = {"resource_type": "task", "action": "list_tasks", "outcome": "success", "tasks": self.dice.randrange(30)}
        return self.event(moment, kind, who, what)

    def _generation(self, moment: dt.datetime, who: dict[str, Any], key: str) -> Iterator[tuple[dt.datetime, bytes]]:
        dice = self.dice
        self.tasks += 1
        task = f"{831_000_000_000_000_000 + self.tasks}"
        model = dice.choices(_MODELS, _WEIGHTS)[0]
        product = "image" if "image" in model else "video"
        action = (
            "generate_image"
            if product == "image"
            else dice.choice(("text_to_video", "text_to_video", "image_to_video"))
        )
        cause = self._uuid(moment)
        act = {"resource_type": product, "action": action, "correlation_id": cause}
        settings = {
            "resolution": dice.choice(("720p", "1080p")),
            "aspect_ratio": "16:9",
            "duration": dice.choice((5, 10)),
        }
        prompt = {"commitment": self._text(43), "bytes": dice.randrange(40, 600)}
        said = {"generation": "new", "host": "api-singapore.klingai.com", "model": model, "prompt": prompt}
        begun = {**act, "event_id": cause, "outcome": "success", "phase": "intent", "deadline_s": 300, **said}
        begun |= {"settings": settings, "external_task_id": cause, "key_kind": "api_key", "key_fingerprint": key}
        yield moment, self.event(moment, "prompt_submitted", who, begun)
        facts = {"intent": cause, "elapsed_ms": dice.randrange(180, 900), "generation": "new", "model": model}
        facts |= {"external_task_id": cause, "key_kind": "api_key", "key_fingerprint": key}
        moment += dt.timedelta(milliseconds=facts["elapsed_ms"])
        if moment - self.used.get(key, BEGIN - dt.timedelta(1)) > dt.timedelta(hours=1):
            self.used[key] = moment
            used = {"resource_type": "api_key", "resource_id": key, "action": action, "outcome": "success"}
            yield (
                moment,
                self.event(moment, "api_key_used", who, {**used, "correlation_id": cause, "key_fingerprint": key}),
            )
        fate = dice.random()
        if fate < 0.05:
            kind, code = ("policy_violation", 1301) if fate < 0.03 else ("rate_limit_exceeded", 1303)
            refused = {**act, "outcome": "blocked", **facts, "http_status": 400, "code": code, "category": "policy"}
            yield moment, self.event(moment, kind, who, refused)
            return
        seen = {"resource_id": task, **act, "outcome": "success", "request_id": self._text(24)}
        started = {**seen, **facts, "http_status": 200, "status": "submitted"}
        yield moment, self.event(moment, f"{product}_generation_started", who, started)
        for _ in range(dice.choice((1, 1, 2))):
            moment += dt.timedelta(seconds=dice.uniform(3, 60))
            polled = {
                **seen,
                "action": "query_task",
                "status": "processing",
                "model": model,
                "polls": dice.randrange(1, 20),
            }
            yield moment, self.event(moment, "task_status_changed", who, polled)
        moment += dt.timedelta(seconds=dice.uniform(20, 200))
        well = fate > 0.12
        yield from self._end(moment, who, task, model, product, {**seen, "action": "query_task"}, well=well)
        if well and dice.random() < 0.8:
            yield from self._download(moment, who, task, product, cause)

    def _end(
        self,
        moment: dt.datetime,
        who: dict[str, Any],
        task: str,
        model: str,
        product: str,
        seen: dict[str, Any],
        *,
        well: bool,
    ) -> Iterator[tuple[dt.datetime, bytes]]:
        dice = self.dice
        state = "succeeded" if well else "failed"
        digest = bytearray(hashlib.sha256(f"{self.origin}\0{task}\0{state}".encode()).digest()[:16])
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        text = digest.hex()
        what = {**seen, "event_id": f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"}
        what |= {"status": state, "generation": "new", "model": model, "outcome": "success" if well else "failure"}
        what["provider_updated_at"] = format_time(moment)
        if well:
            what["results"] = [{"kind": product, "id": self._text(20), "duration": f"{dice.choice((5.041, 10.082))}"}]
            if dice.random() < 0.95:
                amount = f"{dice.choice((0.5, 1, 2, 3.5, 4, 8))}"
                what["charge"] = [{"charge_type": "unit", "amount": amount, "package_type": product}]
            else:
                amount = f"{dice.randrange(10, 400) / 100:.2f}"
                what["charge"] = [{"charge_type": "cash", "amount": amount, "cash_type": "balance", "currency": "USD"}]
        kind = f"{product}_generation_{'completed' if well else 'failed'}"
        yield moment, self.event(moment, kind, who, dict(what))
        if dice.random() < 0.005:  # a second observer of the same end
            moment += dt.timedelta(seconds=dice.uniform(1, 600))
            yield moment, self.event(moment, kind, who, {**what, "request_id": self._text(24)})

    def _download(
        self, moment: dt.datetime, who: dict[str, Any], task: str, product: str, cause: str
    ) -> Iterator[tuple[dt.datetime, bytes]]:
        moment += dt.timedelta(seconds=self.dice.uniform(0.1, 30))
        act = {"resource_type": product, "resource_id": task, "action": "download", "correlation_id": cause}
        link = {"commitment": self._text(43), "bytes": 214}
        asked = {**act, "outcome": "unknown", "phase": "intent", "deadline_s": 3600, "url": link}
        yield moment, self.event(moment, f"{product}_downloaded", who, asked)
        moment += dt.timedelta(seconds=self.dice.uniform(0.3, 9))
        got = {
            "bytes": self.dice.randrange(1 << 20, 1 << 25),
            "sha256": self.dice.randbytes(32).hex(),
            "complete": True,
        }
        facts = {"elapsed_ms": 2100, "http_status": 200, **got, "type": "video/mp4"}
        yield moment, self.event(moment, f"{product}_downloaded", who, {**act, "outcome": "success", **facts})


def _events(source: _Source, smith: Smith, count: int) -> Iterator[tuple[dt.datetime, bytes]]:
    """Yield `count` events in order of time: working hours are busy, weekends are not."""
    first = {"format": 1, "origin": smith.origin, "log_key": smith.log_key.vkey, "epoch": 0}
    first |= {"epoch_key": smith.epoch_key(0).vkey, "policy": POLICY}
    own = {"actor_id": "klingai-audit", "actor_type": "system", "outcome": "success"}
    yield BEGIN, source.event(BEGIN, "log_created", own, first)
    yield BEGIN, source.event(BEGIN, "log_opened", own, {"policy": POLICY, "writer": "w1"})
    shares = [
        _HOURS[hour] * (1 if (BEGIN.weekday() + day) % 7 < 5 else 0.2) for day in range(DAYS) for hour in range(24)
    ]
    per_act, made = 5.69, 2
    ready: list[tuple[dt.datetime, bytes]] = []
    scale = count / per_act / sum(shares)
    for slot, share in enumerate(shares):
        hour = BEGIN + dt.timedelta(hours=slot)
        acts = max(1, round(share * scale))
        for number in range(acts):
            ready += source.act(hour + dt.timedelta(seconds=3600 * (number + source.dice.random()) / acts))
        ready.append((hour, source.event(hour, "log_heartbeat", own, {"entries": made})))
        ready.sort(key=lambda item: item[0])
        until = hour + dt.timedelta(hours=1)
        last = slot == len(shares) - 1
        while ready and (last or ready[0][0] < until):
            if made == count:
                return
            due = len(ready) if last else next((n for n, item in enumerate(ready) if item[0] >= until), len(ready))
            yield from ready[: min(due, count - made)]
            made += min(due, count - made)
            del ready[:due]
    while made < count:
        moment = BEGIN + dt.timedelta(days=DAYS, seconds=-1)
        yield moment, source.event(moment, "log_heartbeat", own, {"entries": made})
        made += 1


def write_log(folder: Path, count: int, seed: int = 1) -> Path:
    """Write a log of `count` entries below `folder` and return its place."""
    smith = Smith("log.example.com/bench", f"bench-{seed}")
    log = folder / "audit"
    for name in ("tree", "checkpoints"):
        (log / name).mkdir(parents=True, exist_ok=True)
    tree, leaves, seal_key = CompactRange(), [], smith.secret("tail-0")
    context = b"klingai-audit/seal/v1\0" + smith.origin.encode() + b"\0"
    keys = (smith.log_key, smith.epoch_key())
    prev, day, file, last = EMPTY_ROOT, "", None, ""
    for seq, (moment, body) in enumerate(_events(_Source(smith.origin, seed), smith, count)):
        if seq % _BATCH == 0:
            last = max(last, format_time(moment + dt.timedelta(milliseconds=2)))
        if file is None or last[:10] != day:
            if file is not None:
                file.close()
            day = last[:10]
            file = (log / f"audit-{day}.jsonl").open("wb")
        entry = b'%b,"seq":%d,"logged_at":"%b","prev_hash":"%b"' % (body[:-1], seq, last.encode(), prev.hex().encode())
        if seq % _BATCH == _BATCH - 1 or seq == count - 1:
            mac = hmac.digest(seal_key, context + entry, "sha256")
            entry += b',"seal":"' + base64.urlsafe_b64encode(mac)[:43] + b'"'
        entry += b"}"
        file.write(entry + b"\n")
        prev = hashlib.sha256(b"\0" + entry).digest()
        leaves.append(prev)
        if (seq + 1) % KEPT_EVERY == 0:
            tree.extend(b"".join(leaves[tree.size :]))
            (log / "checkpoints" / f"{seq + 1:020}").write_bytes(_note(smith.origin, tree, keys))
    if file is not None:
        file.close()
    tree.extend(b"".join(leaves[tree.size :]))
    level, hashes = 0, b"".join(leaves)
    while hashes:
        (log / "tree" / str(level)).write_bytes(hashes)
        full = len(hashes) // 8192
        hashes = b"".join(fold_tile(hashes[at * 8192 : (at + 1) * 8192]) for at in range(full))
        level += 1
    (log / "checkpoint").write_bytes(_note(smith.origin, tree, keys))
    return log


def _note(origin: str, tree: CompactRange, keys: tuple[Key, ...]) -> bytes:
    text = f"{origin}\n{tree.size}\n{base64.b64encode(tree.root()).decode()}\n"
    return sign_note(text, *keys)


if __name__ == "__main__":
    print(write_log(Path(sys.argv[1]), int(sys.argv[2])))
