"""Transparency-log formats and mathematics (RFC 6962, C2SP): no files, no clock, no network.

`merkle` and `hashing` are the tree, `tile` its layout, `keys` and `note` signed notes, `checkpoint` the log's
head, `cosignature` other people's words on it, `proof` the file that goes to a stranger. All parsers accept exactly
one spelling and raise only `errors.Malformed`. `verify_…` and `open_…` return what they proved or raise.
"""

from __future__ import annotations

from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from klingai_audit.tlog.cosignature import cosign, parse_cosignature, verify_cosignature
from klingai_audit.tlog.hashing import fold_subtree, fold_tile, hash_leaves, hash_pairs
from klingai_audit.tlog.keys import COSIGNATURE, ED25519, ML_DSA_44, SignerKey, VerifierKey
from klingai_audit.tlog.merkle import (
    EMPTY_ROOT,
    CompactRange,
    NodeReader,
    build_consistency,
    build_inclusion,
    leaf_hash,
    node_hash,
    peaks_at,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from klingai_audit.tlog.note import Note, SignatureLine, format_note, open_note, parse_note, sign_note, signed_note
from klingai_audit.tlog.proof import TlogProof, parse_proof, verify_leaf_proof, verify_proof
from klingai_audit.tlog.strict import HASH_BYTES, MAX_SIZE
from klingai_audit.tlog.tile import (
    MAX_ENTRY_BYTES,
    MAX_TILE_LEVEL,
    TILE_WIDTH,
    RangeReader,
    check_tile,
    decode_bundle,
    encode_bundle,
    node_reader,
    parse_tile_path,
    tile_path,
    tiles_of,
)

__all__ = [
    "COSIGNATURE",
    "ED25519",
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_ENTRY_BYTES",
    "MAX_SIZE",
    "MAX_TILE_LEVEL",
    "ML_DSA_44",
    "TILE_WIDTH",
    "Checkpoint",
    "CompactRange",
    "NodeReader",
    "Note",
    "RangeReader",
    "SignatureLine",
    "SignerKey",
    "TlogProof",
    "VerifierKey",
    "build_consistency",
    "build_inclusion",
    "check_tile",
    "cosign",
    "decode_bundle",
    "encode_bundle",
    "fold_subtree",
    "fold_tile",
    "format_note",
    "hash_leaves",
    "hash_pairs",
    "leaf_hash",
    "node_hash",
    "node_reader",
    "open_checkpoint",
    "open_note",
    "parse_checkpoint",
    "parse_cosignature",
    "parse_note",
    "parse_proof",
    "parse_tile_path",
    "peaks_at",
    "root_at",
    "sign_note",
    "signed_note",
    "tile_path",
    "tiles_of",
    "verify_consistency",
    "verify_cosignature",
    "verify_inclusion",
    "verify_leaf_proof",
    "verify_proof",
]
