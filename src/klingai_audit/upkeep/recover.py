"""Taking a log up again after a failed sync, a crash, or damage to what can be derived from its entries.

What contradicts a signature is never repaired over: entries that do not lead to the signed root stop everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from klingai_audit.config import Places, open_store
from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.batches import sealed_only
from klingai_audit.ledger.heads import HeadReader
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import SealedStore
from klingai_audit.log import AuditLog
from klingai_audit.tlog.hashing import fold_tile
from klingai_audit.tlog.merkle import CompactRange
from klingai_audit.upkeep.republish import find_head, republish

__all__ = ["Mended", "RecoverResult", "mend", "recover"]

_HASH: Final = 32
_TILE: Final = 256 * _HASH


@dataclass(frozen=True, slots=True)
class Mended:
    """What stood in the way of opening a log and was mended.

    `failed_sync` tells whether one was on record; `tree` names tree files that were written anew; `checkpoint` tells
    whether a lost one was put back.
    """

    failed_sync: bool
    tree: tuple[str, ...]
    checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """What `recover` found and did.

    `set_aside` are SHA-256 digests (hex) of bytes now kept in the state folder under `aside/`; `entries` is the
    log's size in the end; the rest as in `Mended`.
    """

    failed_sync: bool
    tree: tuple[str, ...]
    set_aside: tuple[str, ...]
    entries: int
    checkpoint: bool = False


def recover(places: Places) -> RecoverResult:
    """Make a log writable again and open it once, so that its recovery is an entry of it; may be repeated.

    After a failed sync the last day file is copied, synced and renamed, its unsigned end also kept in `aside/`. Tree
    files are written anew if they do not fit the entries, provided that the entries lead to the signed root. A
    `checkpoint` that is gone or garbled is put back from the head that the state folder remembers, on the same terms.
    Raises: LogNotFound, LogDamaged, InconsistentCheckpoints (nothing was repaired over), AuditUnavailable.
    """
    state = StateFolder(places.state)
    before = state.set_aside()
    store = sealed_only(open_store(places), "recover")
    try:
        mended = mend(store, state, KeyFolder(places.keys))
    finally:
        store.close()
    with AuditLog.open(
        places.address,
        keys=places.keys,
        state=places.state,
        subjects=places.subjects,
        vault=places.vault,
        create=False,
    ) as audit:
        pass
    after = tuple(name for name in state.set_aside() if name not in before)
    return RecoverResult(mended.failed_sync, mended.tree, after, audit.reader.size, mended.checkpoint)


def mend(store: SealedStore, state: StateFolder, keys: KeyFolder) -> Mended:
    """Remove what keeps a log from being opened; see `recover`. Raises: as `recover`."""
    if not store.exists():
        return Mended(failed_sync=_clear_mark(store, state, 0), tree=())
    heads = HeadReader(store, state, keys)
    head, lost = find_head(store, state, heads, keys)
    signed = [one.size for one in (head, heads.remembered()) if one is not None]
    failed = _clear_mark(store, state, max(signed, default=0))
    if not lost:
        head = heads.published()
    tree = () if head is None else _mend_tree(store, state, head.size, head.root)
    again = lost and head is not None and republish(store, heads, keys, head, state.put_aside)
    return Mended(failed, tree, again)


def _clear_mark(store: SealedStore, state: StateFolder, covered: int) -> bool:
    if not state.failed_sync:
        return False
    store.create()
    state.create()
    with store.transaction(recovering=True):
        store.recover_sync(lambda _name, data: _keep(state, data), covered=covered)
    state.clear_failed_sync()
    return True


def _keep(state: StateFolder, data: bytes) -> None:
    state.put_aside(data)


def _mend_tree(store: SealedStore, state: StateFolder, size: int, root: bytes) -> tuple[str, ...]:
    """Write tree files anew that differ from what the first `size` entries say, if these have the signed root."""
    levels = [b"".join(map(line_hash, store.read_entries(0, size)))]
    tree = CompactRange()
    tree.extend(levels[0])
    if (tree.size, tree.root()) != (size, root):
        raise LogDamaged(
            f"The entries of {store.url} do not lead to the root that is signed for the first {size} of them.",
            kind_of_damage="history_rewritten",
        )
    while len(levels[-1]) >= _TILE:
        below = levels[-1]
        levels.append(b"".join(fold_tile(below[at : at + _TILE]) for at in range(0, len(below) - _TILE + 1, _TILE)))
    mended: list[str] = []
    for level, hashes in enumerate(levels):
        stored = store.read_hashes(level, 0, len(hashes) // _HASH)
        if stored == hashes:
            continue
        if not hashes.startswith(stored):
            state.put_aside(stored)
        store.create()
        with store.publication() as publication:
            publication.put_hashes(level, 0, hashes)
            publication.sync_hashes()
        mended.append(f"tree/{level}")
    return tuple(mended)
