"""Ask both verifiers about one log: the package's, and the one that is a single file of plain Python."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith, write_files

Files = dict[str, bytes]


@dataclass(frozen=True)
class Answer:
    """Kinds of findings, and the state of each threat."""

    kinds: frozenset[str]
    states: Mapping[str, str]


def ask_both(
    folder: Path,
    key: str | None,
    now: dt.datetime,
    *,
    remembered: bytes | None = None,
    epoch_key: str | None = None,
    mldsa_key: str | None = None,
    witnesses: bytes | None = None,
) -> tuple[Answer, Answer]:
    """What the package says of the log in `folder`, and what the single file says."""
    store = DirectoryStore(folder, folder.parent / "mark")
    theirs = verify(
        store,
        key=key,
        now=now,
        remembered=remembered,
        epoch_key=epoch_key,
        mldsa_key=mldsa_key,
        witnesses=None if witnesses is None else WitnessPolicy.parse(witnesses),
        patience=0.0,
        processes=1,
    )
    ours = alone.verify_log(str(folder), key, epoch_key, remembered, now=now, witnesses=witnesses, mldsa_key=mldsa_key)
    return (
        Answer(frozenset(f.kind for f in theirs.findings), {t.threat: t.state for t in theirs.threats}),
        Answer(frozenset(f.kind for f in ours.findings), {name: state for name, (state, *_) in ours.threats.items()}),
    )


def differences(package: Answer, single: Answer) -> list[str]:
    """In what the two differ; a threat that one of them does not check is no difference."""
    found = [f"only the package says {kind}" for kind in sorted(package.kinds - single.kinds)]
    found += [f"only the single file says {kind}" for kind in sorted(single.kinds - package.kinds)]
    for threat, state in package.states.items():
        other = single.states[threat]
        if state != other and "not_checked" not in (state, other):
            found.append(f"{threat} is {state} for the package and {other} for the single file")
    return found


def disagreement(folder: Path, files: Files, key: str | None, now: dt.datetime, **known: bytes | str) -> list[str]:
    """Write a log and return in what the two verifiers differ about it."""
    return differences(*ask_both(write_files(folder, files), key, now, **known))  # type: ignore[arg-type]


def three_days(*, post_quantum: bool = False) -> Smith:
    """Some 300 entries over three days and three epochs, each day closed."""
    smith = Smith(post_quantum=post_quantum).create().work(100).closed()
    smith.next_day().opened().rotate().work(100).closed()
    return smith.next_day().opened().rotate().work(100).closed()


LINE_EDITS = ("delete", "double", "swap", "insert", "edit", "join", "move")
FILE_EDITS = ("flip", "flip", "flip", "truncate", "truncate", "cut", "grow", "drop", "copy", "rename", "zero")


def mutate(files: Files, luck: random.Random) -> str:
    """Change one thing somewhere, and say what."""
    days = [name for name in sorted(files) if name.startswith("audit")]
    name = luck.choice(days if days and luck.random() < 0.5 else sorted(files))
    kind = luck.choice(FILE_EDITS + (LINE_EDITS if name in days else ()))
    data = files[name]
    at = luck.randrange(len(data)) if data else 0
    if kind in LINE_EDITS:
        files[name] = _lines(data, kind, luck)
    elif kind == "flip" and data:
        files[name] = data[:at] + bytes([data[at] ^ 1 << luck.randrange(8)]) + data[at + 1 :]
    elif kind == "truncate":
        files[name] = data[:at]
    elif kind == "cut":
        files[name] = data[:at] + data[at + luck.randrange(1, 2000) :]
    elif kind == "grow":
        files[name] = data[:at] + luck.randbytes(luck.randrange(1, 9)) + data[at:]
    elif kind == "copy":
        files[name + luck.choice("012")] = data
    elif kind == "rename":
        files[name + luck.choice("012")] = files.pop(name)
    elif kind == "drop":
        del files[name]
    elif kind == "zero":
        files[name] = bytes(len(data))
    return f"{kind} {name}"


def _lines(data: bytes, kind: str, luck: random.Random) -> bytes:
    lines = data.split(b"\n")[:-1]
    if len(lines) < 3:
        return data
    one, other = luck.randrange(len(lines)), luck.randrange(len(lines))
    if kind == "delete":
        del lines[one : one + luck.choice([1, 1, 2, 5])]
    elif kind == "double":
        lines.insert(other, lines[one])
    elif kind == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == "insert":
        lines.insert(other, lines[one].replace(b'"action"', b'"akshun"'))
    elif kind == "edit":
        lines[one] = lines[one].replace(b"studio", b"studia").replace(b'klingai-audit"', b'klingai-audiT"')
    elif kind == "join":
        lines[one : one + 2] = [b"".join(lines[one : one + 2])]
    else:
        lines.insert(other, lines.pop(one))
    return b"".join(line + b"\n" for line in lines)
