"""Power loss: a journal of file operations, and every state of the disk that may be left when power goes.

What was synced stays. Of what was not: each write may be there, be missing, be torn, or have pages of zero bytes;
each name shows any of the states that it had since its folder was last synced, whatever its neighbours show. A
rename is atomic: a file does not lose its old name before it has its new one.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import FileOps, SyncError

PAGE: Final = 4096


@dataclass(frozen=True)
class Create:
    node: int
    mode: int
    folder: bool


@dataclass(frozen=True)
class Data:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Cut:
    node: int
    length: int


@dataclass(frozen=True)
class Sync:
    node: int


@dataclass(frozen=True)
class Name:
    """From now on `name` in `folder` is `node` (None: nothing); a name that moved needs the new one to be there."""

    folder: int
    name: str
    node: int | None
    needs: Name | None = None


@dataclass(frozen=True)
class Mark:
    """Something that the test wants to know of this moment."""

    what: str
    value: Any


Event = Create | Data | Cut | Sync | Name | Mark
ROOT: Final = 0
OUTSIDE: Final = -1


class JournalOps(FileOps):
    """Does everything at once, without waiting for the disk, and notes it. `base` exists and is durable.

    After `lives` more operations nothing happens any more: so it is for a process that died.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.events: list[Event] = []
        self.done = 0
        self.lives: int | None = None
        self._nodes: dict[Path, int] = {base: ROOT}
        self._open: dict[int, tuple[int, bool]] = {}
        self._count = ROOT
        self._mutex = threading.RLock()

    def mark(self, what: str, value: Any) -> None:
        """Note a moment."""
        with self._mutex:
            self.events.append(Mark(what, value))

    def _count_down(self, kind: type[OSError] = OSError) -> None:
        if self.lives is not None:
            if self.lives == 0:
                raise kind(errno.EIO, "the process is dead")
            self.lives -= 1
        self.done += 1

    def _new(self, path: Path, mode: int, *, folder: bool) -> int:
        self._count += 1
        self._nodes[path] = self._count
        self.events += [Create(self._count, mode, folder), Name(self._nodes[path.parent], path.name, self._count)]
        return self._count

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        with self._mutex:
            self._count_down()
            there = path.exists()
            fd = super().open(path, flags, mode)
            node = self._nodes.get(path, OUTSIDE) if there else self._new(path, mode, folder=False)
            if there and flags & os.O_TRUNC:
                self.events.append(Cut(node, 0))
            self._open[fd] = (node, bool(flags & os.O_APPEND))
            return fd

    def write(self, fd: int, data: bytes) -> int:
        with self._mutex:
            self._count_down()
            node, append = self._open[fd]
            offset = os.fstat(fd).st_size if append else os.lseek(fd, 0, os.SEEK_CUR)
            count = super().write(fd, data)
            self.events.append(Data(node, offset, data[:count]))
            return count

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        with self._mutex:
            self._count_down()
            count = super().write_at(fd, data, offset)
            self.events.append(Data(self._open[fd][0], offset, data[:count]))
            return count

    def sync(self, fd: int) -> None:
        with self._mutex:
            self._count_down(SyncError)
            self.events.append(Sync(self._open[fd][0]))

    def truncate(self, fd: int, length: int) -> None:
        with self._mutex:
            self._count_down()
            super().truncate(fd, length)
            self.events.append(Cut(self._open[fd][0], length))

    def rename(self, source: Path, target: Path) -> None:
        with self._mutex:
            self._count_down()
            if target.name == "checkpoint":
                self.events.append(Mark("note", source.read_bytes()))
            super().rename(source, target)
            node = self._nodes[target] = self._nodes.pop(source)
            moved = Name(self._nodes[target.parent], target.name, node)
            self.events += [moved, Name(self._nodes[source.parent], source.name, None, needs=moved)]

    def unlink(self, path: Path) -> None:
        with self._mutex:
            self._count_down()
            super().unlink(path)
            self._gone(path)

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        with self._mutex:
            self._count_down()
            super().mkdir(path, mode)
            self._new(path, mode, folder=True)

    def rmdir(self, path: Path) -> None:
        with self._mutex:
            self._count_down()
            super().rmdir(path)
            self._gone(path)

    def _gone(self, path: Path) -> None:
        if self._nodes.pop(path, None) is not None:
            self.events.append(Name(self._nodes[path.parent], path.name, None))


@dataclass
class _Disk:
    """What a journal up to some moment may have left: unsynced operations wait for their fate."""

    rng: random.Random
    modes: dict[int, Create] = field(default_factory=lambda: {ROOT: Create(ROOT, 0o755, folder=True)})
    data: dict[int, bytearray] = field(default_factory=dict)
    waiting: dict[int, list[Data | Cut]] = field(default_factory=dict)
    names: dict[tuple[int, str], int | None] = field(default_factory=dict)
    unsynced: dict[tuple[int, str], list[Name]] = field(default_factory=dict)

    def play(self, event: Event) -> None:
        match event:
            case Create():
                self.modes[event.node] = event
                self.data[event.node] = bytearray()
            case Data() | Cut():
                self.waiting.setdefault(event.node, []).append(event)
            case Name():
                self.unsynced.setdefault((event.folder, event.name), []).append(event)
            case Sync():
                for change in self.waiting.pop(event.node, []):
                    self._apply(change)
                for place in [place for place in self.unsynced if place[0] == event.node]:
                    self.names[place] = self.unsynced.pop(place)[-1].node
            case Mark():
                pass

    def _apply(self, change: Data | Cut) -> None:
        data = self.data[change.node]
        if isinstance(change, Cut):
            del data[change.length :]
            data.extend(bytes(change.length - len(data)))
            return
        data.extend(bytes(max(0, change.offset - len(data))))
        data[change.offset : change.offset + len(change.data)] = change.data

    def lose_power(self, keep: float) -> None:
        """Decide what becomes of all that was not synced; `keep` is the chance of each piece to be there."""
        for changes in self.waiting.values():
            for change in changes:
                if self.rng.random() < keep:
                    self._apply(self._torn(change))
        self.waiting.clear()
        shown = {place: sum(self.rng.random() < keep for _ in states) for place, states in self.unsynced.items()}
        while self._follow_renames(shown):
            pass
        for place, states in self.unsynced.items():
            if shown[place]:
                self.names[place] = states[shown[place] - 1].node
        self.unsynced.clear()

    def _follow_renames(self, shown: dict[tuple[int, str], int]) -> bool:
        """Where an old name is gone, let its new name be there (or have been); tell whether that changed anything."""
        changed = False
        for place, states in self.unsynced.items():
            for state in states[: shown[place]]:
                if state.needs is None:
                    continue
                target = (state.needs.folder, state.needs.name)
                index = next((i for i, s in enumerate(self.unsynced.get(target, [])) if s is state.needs), -1)
                if shown.get(target, 0) < index + 1:
                    shown[target], changed = index + 1, True
        return changed

    def _torn(self, change: Data | Cut) -> Data | Cut:
        if isinstance(change, Cut):
            return change
        fate = self.rng.random()
        if fate < 0.4:
            return change
        if fate < 0.8:
            return Data(change.node, change.offset, change.data[: self.rng.randint(0, len(change.data))])
        data = bytearray(change.data)
        for begin in range(-change.offset % PAGE, len(data), PAGE):
            if self.rng.random() < 0.5:
                data[begin : begin + PAGE] = bytes(len(data[begin : begin + PAGE]))
        return Data(change.node, change.offset, bytes(data))

    def write_out(self, target: Path) -> None:
        """Put what is left into the folder `target`."""
        self._write_folder(ROOT, target, {})

    def _write_folder(self, folder: int, target: Path, written: dict[int, Path]) -> None:
        for (parent, name), node in self.names.items():
            if parent != folder or node is None:
                continue
            path = target / name
            if self.modes[node].folder:
                path.mkdir(self.modes[node].mode)
                self._write_folder(node, path, written)
            elif node in written:
                path.hardlink_to(written[node])
            else:
                path.write_bytes(self.data[node])
                path.chmod(self.modes[node].mode)
                written[node] = path


def after_power_loss(events: list[Event], moment: int, target: Path, seed: int) -> None:
    """Write into `target` one state that the disk may have if power goes just before `events[moment]`."""
    rng = random.Random(seed)
    disk = _Disk(rng)
    for event in events[:moment]:
        disk.play(event)
    disk.lose_power(rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)))
    disk.write_out(target)


def marks(events: list[Event], moment: int, what: str) -> list[Any]:
    """Return the values of all marks of this kind before a moment."""
    return [event.value for event in events[:moment] if isinstance(event, Mark) and event.what == what]
