"""The attacks of the drill: what is done to a copy of the log, and what verification must call it.

Each attack names the finding kinds of which at least one has to be reported, or, where nobody can detect it, the
threats that the verdict must not claim to rule out. An attack that this log offers nothing for raises `Impossible`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klingai_audit.ledger.line import PURGED_PREFIX, parse_members
from klingai_audit.ledger.purged import line_hash
from klingai_audit.tlog.note import format_note, parse_note
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edit_one, edited, forge, rechained

if TYPE_CHECKING:
    from klingai_audit.tlog.policy import WitnessPolicy
    from klingai_audit.trust.verdict import ThreatName

__all__ = ["ATTACKS", "Attack", "Eyes", "need"]


@dataclass(frozen=True, slots=True)
class Eyes:
    """What somebody who judges a log has besides it and its public key; by default nothing.

    `remembered` is a signed checkpoint kept elsewhere, `epoch_key` epoch 0's vkey, `mldsa_key` the ML-DSA-44 one,
    `witnesses` whose cosignatures count; `demanded` tells that enough of them must be there.
    """

    remembered: bytes | None = None
    epoch_key: str | None = None
    mldsa_key: str | None = None
    witnesses: WitnessPolicy | None = None
    demanded: bool = False


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `name`, what the attacker does in `words`, and the right answer to it.

    `expects` are the findings of which one must show it. An attack that nobody can detect with what `act` returns has
    `leaves` instead: the threats that must be `not_ruled_out`. `needs` says in words what a verifier must have to
    detect it, empty if the log and its key are enough. `act` returns with whose eyes to look, None for those of this
    machine.
    """

    name: str
    words: str
    expects: frozenset[str]
    act: Callable[[LogCopy], Eyes | None]
    leaves: frozenset[ThreatName] = frozenset()
    needs: str = ""


ATTACKS: Final[list[Attack]] = []
"""All attacks that need nothing but the log's files, in the order in which they are tried."""


def need(given: object, otherwise: str) -> None:
    """Raise `Impossible` with the reason `otherwise` unless something is given."""
    if not given:
        raise Impossible(otherwise)


def _attack(name: str, words: str, *expects: str) -> Callable[[Callable[[LogCopy], None]], Callable[[LogCopy], None]]:
    """Add a function to the attacks."""

    def add(act: Callable[[LogCopy], None]) -> Callable[[LogCopy], None]:
        ATTACKS.append(Attack(name, words, frozenset(expects), act))
        return act

    return add


def _on_lines(change: Callable[[list[bytes], int], None]) -> Callable[[LogCopy], None]:
    """An attack on the longest day file, around an entry in its middle."""

    def act(copy: LogCopy) -> None:
        def work(lines: list[bytes]) -> None:
            if len(lines) < 4:
                raise Impossible("no day has four entries")
            at = min(target_of(lines), len(lines) - 3)
            change(lines, target_of(lines[:-2]) if lines[at].startswith(PURGED_PREFIX) else at)

        copy.change_lines(copy.longest_day(), work)

    return act


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _flip_byte(lines: list[bytes], index: int) -> None:
    lines[index] = _flip(lines[index], len(lines[index]) // 2)


def _edit(lines: list[bytes], index: int) -> None:
    lines[index] = edited(lines[index])


def _edit_and_link(lines: list[bytes], index: int) -> None:
    _edit(lines, index)
    lines[index + 1 :] = rechained(lines[index + 1 :], line_hash(lines[index]))


def _delete(lines: list[bytes], index: int) -> None:
    del lines[index]


def _delete_range(lines: list[bytes], index: int) -> None:
    del lines[index : index + 2]


def _insert(lines: list[bytes], index: int) -> None:
    lines.insert(index, edited(lines[index]))


def _duplicate(lines: list[bytes], index: int) -> None:
    lines.insert(index + 1, lines[index])


def _swap(lines: list[bytes], index: int) -> None:
    lines[index], lines[index + 1] = lines[index + 1], lines[index]


def _move(lines: list[bytes], index: int) -> None:
    lines.insert(1 if index else 2, lines.pop(index + 1))


def _smuggle(lines: list[bytes], index: int) -> None:
    lines[index] = lines[index].replace(b'"schema":1,', b'"schema":1,"seq":0,', 1)


def _double_member(lines: list[bytes], index: int) -> None:
    lines[index] = lines[index].replace(b',"seq":', b',"outcome":"success","seq":', 1)


def _space(lines: list[bytes], index: int) -> None:
    lines[index] = lines[index].replace(b'"schema":1,', b'"schema":1, ', 1)


def _carriage_returns(lines: list[bytes], _index: int) -> None:
    lines[:] = [line + b"\r" for line in lines]


def _cut_tail(lines: list[bytes], _index: int) -> None:
    del lines[-1]


for _name, _words, _expects, _change in (
    ("flip_bit", "flips one bit of an entry", {"entry_changed", "entry_malformed"}, _flip_byte),
    ("edit", "changes the outcome of an entry", {"entry_changed"}, _edit),
    ("edit_and_link", "changes an entry and fits the links of its day", {"entry_changed"}, _edit_and_link),
    ("insert", "inserts an entry", {"entry_inserted"}, _insert),
    ("duplicate", "repeats an entry", {"entry_duplicated"}, _duplicate),
    ("delete", "deletes an entry", {"entry_missing"}, _delete),
    ("delete_range", "deletes neighbouring entries", {"entry_missing"}, _delete_range),
    ("swap", "swaps two entries", {"entry_moved"}, _swap),
    ("move", "moves an entry to another place", {"entry_moved"}, _move),
    ("smuggle_ledger_member", "adds a second seq to an entry", {"entry_changed", "ledger_member"}, _smuggle),
    ("double_member", "adds a second outcome to an entry", {"entry_changed", "duplicate_member"}, _double_member),
    ("reformat", "adds a space where JSON allows one", {"entry_changed", "entry_malformed"}, _space),
    ("line_ends", "turns line ends into CR LF", {"entry_changed", "entry_malformed"}, _carriage_returns),
    ("cut_day", "removes the last entry of a day", {"entry_missing", "tail_cut", "file_missing"}, _cut_tail),
):
    _attack(_name, _words, *_expects)(_on_lines(_change))


@_attack("edit_first", "changes the log's first entry", "entry_changed", "first_entry")
def _edit_first(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        lines[0] = lines[0].replace(b'"actor_type":"system"', b'"actor_type":"user"', 1)

    copy.change_lines(copy.days[0], work)


@_attack("edit_last", "changes the log's last entry", "entry_changed")
def _edit_last(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        lines[-1] = edited(lines[-1])

    copy.change_lines(copy.days[-1], work)


@_attack("cut_head", "removes the first entries", "head_cut")
def _cut_head(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        del lines[:2]

    copy.change_lines(copy.days[0], work)


@_attack("cut_tail", "removes the last entries", "tail_cut")
def _cut_last(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        del lines[-2:]

    copy.change_lines(copy.days[-1], work)


@_attack("edit_and_fit_all", "changes an entry and fits every link", "entry_changed")
def _fit_links(copy: LogCopy) -> None:
    forge(copy, edit_one)


@_attack("edit_and_fit_tree", "changes an entry and fits links and tree files", "history_rewritten")
def _fit_tree(copy: LogCopy) -> None:
    forge(copy, edit_one, tree=True)


@_attack("backdate", "moves an entry's logged_at back by a day and fits all links", "entry_changed", "time_order")
def _backdate(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        index = target_of(lines)
        members = parse_members(lines[index])
        if members is None:
            raise Impossible("the entry has no ledger members")
        before = dt.datetime.fromisoformat(members.logged_at) - dt.timedelta(days=1)
        text = f"{before:%Y-%m-%dT%H:%M:%S.%f}Z".encode()
        lines[index] = lines[index].replace(members.logged_at.encode(), text)

    forge(copy, work)


@_attack("forge_end", "appends an entry with a made-up seal", "unsigned_tail")
def _forge_end(copy: LogCopy) -> None:
    def work(lines: list[bytes]) -> None:
        members = parse_members(lines[-1])
        if members is None:
            raise Impossible("the last entry has no ledger members")
        line = edited(lines[-1]).replace(b'"seq":%d,' % members.seq, b'"seq":%d,' % (members.seq + 1))
        lines.append(rechained([line], line_hash(lines[-1]))[0])

    copy.change_lines(copy.days[-1], work)


@_attack("tear_end", "appends half a line", "torn_tail")
def _tear_end(copy: LogCopy) -> None:
    copy.change(copy.days[-1], lambda data: data + b'{"schema":1,"event_id":"')


@_attack("remove_day", "deletes a day file", "file_missing", "tail_cut", "head_cut", "log_missing")
def _remove_day(copy: LogCopy) -> None:
    copy.drop(copy.longest_day())


@_attack("rename_day", "renames a day file", "file_renamed")
def _rename_day(copy: LogCopy) -> None:
    name = copy.days[-1]
    day = dt.date.fromisoformat(name[6:16]) + dt.timedelta(days=1)
    copy.put(f"audit-{day}.jsonl", copy.read(name))
    copy.drop(name)


@_attack("add_day", "adds a day file with copied entries", "file_added", "entry_duplicated", "unsigned_tail")
def _add_day(copy: LogCopy) -> None:
    day = dt.date.fromisoformat(copy.days[-1][6:16]) + dt.timedelta(days=1)
    copy.put(f"audit-{day}.jsonl", b"".join(line + b"\n" for line in copy.lines(copy.days[-1])[:2]))


@_attack("add_empty_day", "adds an empty day file", "file_empty")
def _add_empty_day(copy: LogCopy) -> None:
    day = dt.date.fromisoformat(copy.days[-1][6:16]) + dt.timedelta(days=1)
    copy.put(f"audit-{day}.jsonl", b"")


@_attack("add_file", "leaves a file of its own in the log", "file_unexpected")
def _add_file(copy: LogCopy) -> None:
    copy.put("notes.txt", b"nothing to see\n")


@_attack("change_tree", "changes a stored tree hash", "tree_changed")
def _change_tree(copy: LogCopy) -> None:
    copy.change("tree/0", lambda data: _flip(data, len(data) // 2))


@_attack("shorten_tree", "shortens a tree file", "tree_short")
def _shorten_tree(copy: LogCopy) -> None:
    copy.change("tree/0", lambda data: data[:-32])


@_attack("lengthen_tree", "lengthens a tree file", "tree_long")
def _lengthen_tree(copy: LogCopy) -> None:
    copy.change("tree/0", lambda data: data + data[:32])


@_attack("remove_tree", "deletes a tree file", "tree_short")
def _remove_tree(copy: LogCopy) -> None:
    copy.drop("tree/0")


@_attack("remove_checkpoint", "deletes the signed checkpoint", "checkpoint_missing")
def _remove_checkpoint(copy: LogCopy) -> None:
    copy.drop("checkpoint")


def _checkpoint_line(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def work(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[number] = change(lines[number])
        return b"\n".join(lines)

    return work


@_attack("shrink_checkpoint", "lowers the size in the checkpoint", "checkpoint_signature")
def _shrink_checkpoint(copy: LogCopy) -> None:
    copy.change("checkpoint", _checkpoint_line(1, lambda size: b"%d" % max(1, int(size) - 1)))


@_attack("change_root", "changes the root in the checkpoint", "checkpoint_signature", "checkpoint_malformed")
def _change_root(copy: LogCopy) -> None:
    copy.change("checkpoint", _checkpoint_line(2, lambda root: (b"B" if root[:1] == b"A" else b"A") + root[1:]))


@_attack("strip_epoch_line", "removes the epoch's signature", "checkpoint_malformed", "epoch_signature")
def _strip_epoch_line(copy: LogCopy) -> None:
    _keep_signatures(copy, slice(0, 1))


@_attack("strip_log_line", "removes the log key's signature", "checkpoint_malformed", "checkpoint_signature")
def _strip_log_line(copy: LogCopy) -> None:
    _keep_signatures(copy, slice(1, 2))


@_attack("add_signature", "adds a signature line", "checkpoint_malformed")
def _add_signature(copy: LogCopy) -> None:
    copy.change("checkpoint", lambda data: data + "— example.com/other AAAAAAAAAAA=\n".encode())


def _keep_signatures(copy: LogCopy, which: slice) -> None:
    note = parse_note(copy.read("checkpoint"))
    copy.put("checkpoint", format_note(type(note)(note.text, note.signatures[which])))


def _some_kept(copy: LogCopy) -> str:
    kept = copy.kept()
    if not kept:
        raise Impossible("no checkpoint is kept yet")
    return f"checkpoints/{kept[len(kept) // 2]:020}"


@_attack("remove_kept", "deletes a kept checkpoint", "kept_missing")
def _remove_kept(copy: LogCopy) -> None:
    copy.drop(_some_kept(copy))


@_attack("change_kept", "changes a kept checkpoint", "checkpoint_signature", "checkpoint_malformed")
def _change_kept(copy: LogCopy) -> None:
    copy.change(_some_kept(copy), _checkpoint_line(2, lambda root: (b"B" if root[:1] == b"A" else b"A") + root[1:]))


@_attack("add_kept", "keeps a checkpoint under a size of its own", "kept_unexpected", "checkpoint_malformed")
def _add_kept(copy: LogCopy) -> None:
    size = next(size for size in range(1, 10**9) if size not in copy.kept() and size % 4096)
    copy.put(f"checkpoints/{size:020}", copy.read("checkpoint"))
