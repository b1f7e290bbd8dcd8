"""klingai-audit-verify: check an audit log with one file of Python, and nothing else.

    python3 klingai_audit_verify.py FOLDER --key VKEY|FILE [--epoch-key VKEY|FILE] [--remembered CHECKPOINT] [--json]
    python3 klingai_audit_verify.py --proof FILE --key VKEY|FILE [--entry FILE] [--old CHECKPOINT]

It needs Python 3.9 or later and its standard library. It was written from `docs/format.md` (section numbers below are
of that page) and shares no line of code with the package that writes the logs, so that one mistake is not made twice.
It only reads. FOLDER is a log, or a copy of one in a bucket (docs/object-layout.md), which is unpacked into a temporary
folder first. With --tsa-roots it asks the program `openssl` who issued time stamps, and for nothing else. Ed25519 is
here, too (RFC 8032), for public keys and signatures only: nothing in this file is secret.

Exit codes: 0 nothing is broken; 2 the question is off (no key, no such option); 3 the log cannot be read; 4 something
is broken. Memory does not grow with the log; only to name what was done to a damaged one, it takes 64 bytes an entry.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import datetime as dt
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zlib

__all__ = [
    "Alignment",
    "Bucket",
    "Checkpoint",
    "Epochs",
    "Finding",
    "Folder",
    "Foreign",
    "Key",
    "Line",
    "Malformed",
    "Note",
    "Notes",
    "Own",
    "Policy",
    "Run",
    "SecondKey",
    "Signed",
    "StoredLevel",
    "StoredTree",
    "Tree",
    "Unpacked",
    "Unusable",
    "Verdict",
    "Verifier",
    "Walk",
    "Witness",
    "ask_openssl",
    "canonical_float",
    "check_consistency",
    "check_name",
    "check_proof",
    "choose",
    "climb",
    "count",
    "decode_base64",
    "decode_entry",
    "distinct",
    "ed25519_verify",
    "end_id",
    "entries_of",
    "fold",
    "from_seconds",
    "group_root",
    "handover_fault",
    "has_second_form",
    "inert",
    "is_bucket",
    "is_day",
    "is_quiet",
    "join_purged",
    "joins",
    "key_argument",
    "lines_of",
    "listed_ranges",
    "main",
    "moment",
    "node",
    "open_regular",
    "openssl_ts",
    "own_kind",
    "parse_arguments",
    "parse_key",
    "print_verdict",
    "read_argument",
    "read_vkey",
    "run",
    "run_consistency",
    "stamp_fault",
    "stamp_time",
    "subtract",
    "uncovered",
    "verify_log",
    "witnessed_sizes",
]

FORMAT = 1
MAX_ENTRY = 65_535
MAX_NESTING = 16
MAX_NOTE = 1 << 16
MAX_PROOF = 8 << 20
MAX_LISTED = 1000
KEPT_EVERY = 4096
TILE = 256
EMPTY_ROOT = hashlib.sha256(b"").digest()
SILENCE = dt.timedelta(minutes=65)
DATED_WITHIN = dt.timedelta(hours=48)
LATEST = 253_402_300_799
TOLERANCE = dt.timedelta(minutes=5)

# =====================================================================================================================
# Ed25519 (RFC 8032, section 5.1). Only verification; points in extended coordinates (X, Y, Z, T).
# =====================================================================================================================

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_2D = 2 * _D % _P
_I = pow(2, (_P - 1) // 4, _P)
_NEUTRAL = (0, 1, 1, 0)


def _add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = p[3] * _2D * q[3] % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _decode_point(data):
    """Return the point of 32 bytes, None if they are not the encoding of one."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        if v * x * x % _P != -u % _P:
            return None
        x = x * _I % _P
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _encode_point(point):
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _table_of(point):
    """Return 64 rows of the multiples 0…15 of 16^row times the point: a product is then 64 additions."""
    rows = []
    for _ in range(64):
        row = [_NEUTRAL]
        for _ in range(15):
            row.append(_add(row[-1], point))
        rows.append(row)
        point = _add(row[-1], point)
    return rows


def _multiply(table, scalar):
    result = _NEUTRAL
    for row in table:
        if scalar & 15:
            result = _add(result, row[scalar & 15])
        scalar >>= 4
    return result


_TABLES: dict = {}


def _table(name):
    if name not in _TABLES:
        if len(_TABLES) > 64:
            _TABLES.clear()
        if name == "base":
            y = 4 * pow(5, _P - 2, _P) % _P
            point = _decode_point(y.to_bytes(32, "little"))
        else:
            point = _decode_point(name)
            if point is not None:
                point = (_P - point[0], point[1], 1, _P - point[3])
        _TABLES[name] = None if point is None else _table_of(point)
    return _TABLES[name]


def ed25519_verify(public, message, signature):
    """Tell whether `signature` (64 bytes) of `message` is by the public key (32 bytes)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    minus_a = _table(bytes(public))
    if s >= _L or minus_a is None:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % _L
    return _encode_point(_add(_multiply(_table("base"), s), _multiply(minus_a, k))) == signature[:32]


# =====================================================================================================================
# What is said: findings, threats (section 10.1 and 10.2)
# =====================================================================================================================

THREATS = (
    "edit", "insert", "delete", "reorder", "head_cut", "tail_cut", "rollback", "fork", "back_dating", "foreign_key",
    "key_holder", "key_theft", "quantum",
)  # fmt: skip

BROKEN = {
    "entry_changed": ("edit",),
    "history_rewritten": ("edit",),
    "unexplained": ("edit",),
    "link_broken": ("edit",),
    "entry_inserted": ("insert",),
    "entry_duplicated": ("insert",),
    "file_added": ("insert",),
    "file_unexpected": ("insert",),
    "unsigned_tail": ("insert",),
    "entry_missing": ("delete",),
    "file_missing": ("delete",),
    "purge_unauthorised": ("delete",),
    "file_empty": ("delete",),
    "entry_moved": ("reorder",),
    "file_renamed": ("reorder",),
    "head_cut": ("head_cut",),
    "tail_cut": ("tail_cut",),
    "rollback": ("rollback",),
    "fork": ("fork",),
    "checkpoint_root": ("fork",),
    "wrong_day": ("back_dating",),
    "time_order": ("back_dating",),
    "foreign_key": ("foreign_key",),
    "epoch_misused": ("key_theft",),
    "epoch_replaced": ("key_theft",),
    "handover_invalid": ("key_theft",),
    "mldsa_missing": ("quantum",),
    "mldsa_invalid": ("quantum",),
    "mldsa_replaced": ("quantum",),
    "torn_tail": (),
    "tree_changed": (),
    "tree_short": (),
    "tree_long": (),
    "file_unreadable": (),
    "sealed_changed": (),
    "entry_malformed": (),
    "entry_too_large": (),
    "duplicate_member": (),
    "ledger_member": (),
    "unknown_version": (),
    "first_entry": (),
    "checkpoint_missing": (),
    "checkpoint_behind": (),
    "checkpoint_malformed": (),
    "checkpoint_signature": (),
    "kept_missing": (),
    "kept_unexpected": (),
    "epoch_signature": (),
    "memory_invalid": (),
    "cosignature_invalid": ("fork",),
    "witness_disagrees": ("fork", "key_holder"),
    "stamp_missing": ("back_dating",),
    "stamp_malformed": ("back_dating",),
    "stamp_changed": ("back_dating",),
    "stamp_moved": ("back_dating",),
    "stamp_unexpected": (),
    "stamp_untrusted": ("back_dating",),
    "back_dated": ("back_dating",),
    "dated_ahead": ("back_dating",),
}
"""Kinds of findings that make the exit code 4, and the threats that each shows."""

GONE = ("entry_missing", "file_missing", "head_cut", "tail_cut")
"""What nobody can tell of a log that cannot be read as a whole."""

UNFINISHED = {
    "unsigned_tail", "torn_tail", "file_unexpected", "checkpoint_missing", "checkpoint_behind", "kept_unexpected",
    "kept_missing", "tree_short", "tree_long", "tree_changed", "entry_changed", "tail_cut", "rollback",
    "file_empty", "checkpoint_malformed", "purge_unauthorised", "sealed_changed",
}  # fmt: skip
"""What a writer at work can look like for a moment."""


class Unusable(Exception):
    """The question cannot be answered; `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Malformed(Exception):
    """Bytes do not have the form that the format asks for; the text says which rule they break."""


class Finding:
    """One thing that is off. Entries `[seq, seq_end)`, `file` below the log, `line` from 1; None where unknown."""

    def __init__(self, kind, message, seq=None, seq_end=None, file=None, line=None):
        self.kind, self.message, self.file, self.line = kind, message, file, line
        self.seq, self.seq_end = seq, seq + 1 if seq is not None and seq_end is None else seq_end

    @property
    def severity(self) -> str:
        """`broken` or `note`."""
        return "broken" if self.kind in BROKEN else "note"

    def as_json(self) -> dict:
        """Return the members as the product's JSON has them."""
        names = ("kind", "severity", "seq", "seq_end", "file", "line", "message")
        return {name: getattr(self, name) for name in names}


def inert(text) -> str:
    """Return text that does nothing to a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in str(text)
    )


def count(number, thing):
    return "{:,} {}{}".format(
        number, thing[:-1] + "ie" if number != 1 and thing.endswith("y") else thing, "" if number == 1 else "s"
    )


# =====================================================================================================================
# Keys, notes, checkpoints (sections 6 to 8)
# =====================================================================================================================

_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_EPOCH_NAME = re.compile(r"(.*)/epoch-(0|[1-9][0-9]{0,8})\Z", re.DOTALL)


def decode_base64(text):
    """Decode canonical base64 with padding, else raise Malformed."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, UnicodeError):
        raise Malformed("a base64 text is none") from None
    if base64.b64encode(data).decode() != text:
        raise Malformed("a base64 text is not canonical")
    return data


class Key:
    """The public key of a signer: `name`, `key_id` (4 bytes), `public` (32 bytes), `vkey`."""

    def __init__(self, vkey):
        self.name, self.key_id, self.public = read_vkey(vkey, 1, 32, "Ed25519")
        self.vkey = vkey

    def signed(self, text, signature):
        """Tell whether the 64 bytes are this key's signature of the text."""
        return ed25519_verify(self.public, text, signature)


class SecondKey:
    """The public ML-DSA-44 key of a log (type 0x06): what it signs has a form and a name, more is not checked here."""

    def __init__(self, vkey):
        self.name, self.key_id, _ = read_vkey(vkey, 6, 1312, "ML-DSA-44")
        self.vkey = vkey


def read_vkey(vkey, algorithm, length, words):
    """Return name, key id and public key of a vkey of this algorithm. Raises: Malformed."""
    name, _, rest = vkey.partition("+")
    stated, _, encoded = rest.partition("+")
    data = decode_base64(encoded)
    if len(data) != 1 + length or data[0] != algorithm:
        raise Malformed(f"a vkey does not hold an {words} key")
    key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    check_name(name)
    if stated != key_id.hex():
        raise Malformed("a vkey's key id is not that of its key")
    return name, key_id, data[1:]


def check_name(name):
    if not name or "+" in name or any(char.isspace() or char < " " for char in name):
        raise Malformed("a signer's name is none")
    return name


class Witness:
    """A witness's public key: Ed25519 cosignatures (type 0x04) are checked, those by ML-DSA-44 (0x06) are not."""

    def __init__(self, vkey):
        name, _, rest = vkey.partition("+")
        stated, _, encoded = rest.partition("+")
        data = decode_base64(encoded)
        if (len(data), data[:1]) not in ((33, b"\x04"), (1313, b"\x06")):
            raise Malformed("a witness's vkey holds no key of a kind that witnesses have")
        self.name, self.public, self.checked = check_name(name), data[1:], data[0] == 4
        self.key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        if stated != self.key_id.hex():
            raise Malformed("a witness's key id is not that of its key")

    def cosigned(self, text, blob):
        """Tell whether these 72 bytes are this witness's time and cosignature of a checkpoint's text."""
        if len(blob) != 72 or int.from_bytes(blob[:8], "big") >= 1 << 63:
            return False
        head = "cosignature/v1\ntime {}\n".format(int.from_bytes(blob[:8], "big")).encode()
        return ed25519_verify(self.public, head + text, blob[8:])


class Policy:
    """Whose cosignatures count (C2SP tlog-policy): `witnesses` by (name, key id), and the quorum over them.

    `named` has for each witness or group how many of which have to sign.
    """

    def __init__(self, data):
        self.witnesses, self.named, self.quorum = {}, {}, None
        keys, taken, quorums = set(), set(), 0
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise Malformed("it is not UTF-8") from None
        for line in lines:
            words = line.replace("\t", " ").partition("#")[0].split()
            if not words:
                continue
            if words[0] == "log" and len(words) in (2, 3):
                Key(words[1])
            elif words[0] == "witness" and len(words) in (3, 4) and self.is_free(words[1]):
                witness = Witness(words[2])
                if witness.public in keys:
                    raise Malformed("one key stands there twice")
                keys.add(witness.public)
                self.witnesses[witness.name, witness.key_id] = witness
                self.named[words[1]] = (1, [witness])
            elif words[0] == "group" and len(words) > 3 and self.is_free(words[1]):
                members = words[3:]
                known = len(set(members)) == len(members) and all(member in self.named for member in members)
                if not known or taken & set(members):
                    raise Malformed("a group has members that are not there, or in another group")
                taken.update(members)
                due = {"all": str(len(members)), "any": "1"}.get(words[2], words[2])
                if not _DECIMAL.match(due) or not 1 <= int(due) <= len(members):
                    raise Malformed("a group asks for a number that it cannot have")
                self.named[words[1]] = (int(due), [self.named[member] for member in members])
            elif words[0] == "quorum" and len(words) == 2 and (words[1] == "none" or words[1] in self.named):
                self.quorum, quorums = self.named.get(words[1]), quorums + 1
            else:
                raise Malformed("a line is none of a policy's")
        if quorums != 1:
            raise Malformed("it has not one line quorum")

    def is_free(self, name):
        """Tell whether a name may be given."""
        return name not in self.named and name != "none"

    def time_of(self, times):
        """Return the earliest time (POSIX seconds) by which enough of these witnesses had signed, None if never."""
        for moment in sorted(set(times.values())):
            if self.satisfied([one for one, told in times.items() if told <= moment]):
                return moment
        return None

    def satisfied(self, witnesses, asked=None):
        """Tell whether these witnesses are enough."""
        due, members = asked or self.quorum
        there = [one in witnesses if isinstance(one, Witness) else self.satisfied(witnesses, one) for one in members]
        return sum(there) >= due


class Note:
    """A signed note: `text` with its last LF (bytes), `signatures` as (name, key id, signature)."""

    def __init__(self, data):
        if len(data) > MAX_PROOF:
            raise Malformed("it is too long")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("it is not UTF-8") from None
        if any(char < " " and char != "\n" for char in whole):
            raise Malformed("it holds control characters")
        at = whole.rfind("\n\n")
        if at < 0 or not whole.endswith("\n") or at + 2 == len(whole):
            raise Malformed("it is no signed note")
        self.text = whole[: at + 1].encode()
        self.signatures = []
        for line in whole[at + 2 : -1].split("\n"):
            words = line.split(" ")
            if len(words) != 3 or words[0] != "\u2014":
                raise Malformed("a signature line is none")
            blob = decode_base64(words[2])
            if len(blob) < 5:
                raise Malformed("a signature is too short")
            self.signatures.append((check_name(words[1]), blob[:4], blob[4:]))


def has_second_form(blob):
    """Tell whether these are 8 bytes of time and as many bytes as an ML-DSA-44 signature has."""
    return len(blob) == 2428 and int.from_bytes(blob[:8], "big") < 1 << 63


class Checkpoint:
    """A checkpoint in the form of section 7; nothing about it is believed yet.

    `size`, `root`, `origin`; `log` and `epoch` are the two signatures, `number` is the epoch that the second names,
    `second` the line by ML-DSA-44 (None without one). `exact` allows nothing but these lines; a proof's checkpoint may
    have more (cosignatures).
    """

    def __init__(self, data, exact=True):
        note = Note(data)
        lines = note.text.decode().split("\n")
        if len(lines) != 4 or lines[3]:
            raise Malformed("a checkpoint has three lines before the signatures")
        if exact and len(note.signatures) not in (2, 3):
            raise Malformed("it has {}, not two or three".format(count(len(note.signatures), "signature")))
        self.origin, size, root = check_name(lines[0]), lines[1], lines[2]
        if not _DECIMAL.match(size) or size == "0" or int(size) >= 1 << 53:
            raise Malformed("its size is none")
        self.size, self.root, self.text, self.data = int(size), decode_base64(root), note.text, data
        if len(self.root) != 32:
            raise Malformed("its root is not of 32 bytes")
        self.signatures = note.signatures
        self.log, self.epoch, self.number = note.signatures[0], None, None
        if len(note.signatures) > 1:
            self.epoch = note.signatures[1]
            named = _EPOCH_NAME.match(self.epoch[0])
            if named and named.group(1) == self.origin:
                self.number = int(named.group(2))
        if exact and (self.log[0] != self.origin or self.number is None):
            raise Malformed("its signatures are not by the log and an epoch, in this order")
        if exact and (len(self.log[2]) != 64 or len(self.epoch[2]) != 64):
            raise Malformed("a signature is not of 64 bytes")
        self.second = note.signatures[2] if exact and len(note.signatures) == 3 else None
        if self.second is not None and (self.second[0] != self.origin or not has_second_form(self.second[2])):
            raise Malformed("its third signature is not one by ML-DSA-44, by the log")

    def signed_by(self, key):
        """Tell whether the first signature is by this key, key id included."""
        return self.log[:2] == (key.name, key.key_id) and key.signed(self.text, self.log[2])


# =====================================================================================================================
# Entries (section 2)
# =====================================================================================================================

_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
_TAIL = re.compile(
    (
        r',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"(' + _TIME + r')","prev_hash":"([0-9a-f]{64})"'
        r'(,"seal":"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")?\}\Z'
    ).encode()
)
_HEAD = re.compile(
    rb'\{"schema":1,"event_id":"([0-9a-f-]{36})","timestamp":"[^"]{27}","event_type":"([a-z][a-z0-9_]*)"'
)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))*"')
_REST = re.compile(r'[\[\]{}:,"a-z0-9.+-]*\Z')
_NUMBER = re.compile(r"-?[0-9][0-9.e+-]*")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_TYPE = re.compile(r"[a-z][a-z0-9_]*\Z")
_TIME_ONLY = re.compile(_TIME + r"\Z")
_EVENT = (
    "schema", "event_id", "timestamp", "event_type", "actor_id", "actor_type", "on_behalf_of", "team", "project",
    "resource_type", "resource_id", "action", "outcome", "ip_address", "ip_ref", "user_agent", "correlation_id",
    "request_id", "metadata",
)  # fmt: skip
_LEDGER = ("seq", "logged_at", "prev_hash", "seal")
_ORDER = {name: at for at, name in enumerate(_EVENT + _LEDGER)}
_ALWAYS = ("schema", "event_id", "timestamp", "event_type", "actor_id", "actor_type", "outcome", *_LEDGER[:3])
_OUTCOMES = ("success", "failure", "blocked", "unknown")


class _Twice(Exception):
    """An object holds one name twice; `pairs` is that object."""


def _object(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Twice(pairs)
    return result


def _no_constant(_text):
    raise ValueError


def _short_int(text):
    if len(text) > 17 or not -(2**53) <= int(text) <= 2**53:
        raise ValueError
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_short_int)
_LOOSE = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs, parse_constant=_no_constant, parse_int=len)


def moment(text):
    """Return the time of 27 characters, None if there is no such time."""
    if not isinstance(text, str) or not _TIME_ONLY.match(text):
        return None
    try:
        return dt.datetime(
            int(text[:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), int(text[17:19]),
            int(text[20:26]), tzinfo=dt.timezone.utc,
        )  # fmt: skip
    except ValueError:
        return None


def canonical_float(text):
    """Return the one spelling of this double, None if there is none."""
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        return None
    if value == 0:
        return "-0.0" if text.startswith("-") else "0.0"
    sign, shortest = ("-", repr(-value)) if value < 0 else ("", repr(value))
    mantissa, _, exponent = shortest.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0") or "0"
    first = point - 1
    if first < -5 or first > 15:
        return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + "e" + str(first)
    if point <= 0:
        return sign + "0." + "0" * -point + digits
    if point >= len(digits):
        return sign + digits + "0" * (point - len(digits)) + ".0"
    return sign + digits[:point] + "." + digits[point:]


def decode_entry(entry):
    """Return (object, None) for an entry of section 2, else (None or object, (kind, what is wrong))."""
    if len(entry) > MAX_ENTRY:
        return None, ("entry_too_large", "it has more than {:,} bytes".format(MAX_ENTRY))
    if entry[:1] != b"{":
        return None, ("entry_malformed", "it is no object")
    try:
        text = entry.decode("utf-8")
    except UnicodeDecodeError:
        return None, ("entry_malformed", "it is not UTF-8")
    rest = _STRING.sub('""', text)
    if (rest.count("{") + rest.count("[")) > MAX_NESTING and _nesting(rest) > MAX_NESTING + 1:
        return None, ("entry_malformed", "it is nested too deeply")
    try:
        found = _DECODER.decode(text)
    except _Twice:
        return None, _twice(text)
    except (ValueError, RecursionError):
        try:
            _LOOSE.decode(text)
        except (ValueError, RecursionError):
            return None, ("entry_malformed", "it is not JSON")
        twice = _twice(text)
        return None, twice if twice[0] == "ledger_member" else ("entry_malformed", "an integer is out of range")
    if not isinstance(found, dict):
        return None, ("entry_malformed", "it is no object")
    fault = _members_fault(found, _TAIL.search(entry, max(0, len(entry) - 300)) is not None)
    if fault is None and (not _REST.match(rest) or not _numbers_are_canonical(rest)):
        fault = ("entry_malformed", "it is not spelled canonically")
    return found, fault


def _nesting(rest):
    deepest = depth = 0
    for char in rest:
        if char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    return deepest


def _numbers_are_canonical(rest):
    if "." not in rest and "e+" not in rest and "e-" not in rest and "-0" not in rest and not re.search("[0-9]e", rest):
        return True
    for text in _NUMBER.findall(rest):
        if "." in text or "e" in text:
            if text != canonical_float(text):
                return False
        elif text == "-0":
            return False
    return True


def _twice(text):
    """Name a repeated member: one of the ledger's on the top level, or any other."""
    pairs = _LOOSE.decode(text)
    names = [name for name, _ in pairs] if isinstance(pairs, list) else []
    for name in _LEDGER:
        if names.count(name) > 1:
            return "ledger_member", "a ledger member stands where it does not belong"
    return "duplicate_member", "an object holds a name twice"


def _members_fault(found, ended):
    names = list(found)
    places = [_ORDER.get(name, -1) for name in names]
    ledger = [name for name in names if name in _LEDGER]
    if found.get("schema") is True or found.get("schema") != 1 or isinstance(found.get("schema"), float):
        return "unknown_version", "it is of another version than 1"
    if not ended:
        return "entry_malformed", "its ledger members are none"
    if names[-len(ledger) :] != ledger:
        return "ledger_member", "a ledger member stands where it does not belong"
    if -1 in places or places != sorted(places):
        return "entry_malformed", "it has other members than the format, or in another order"
    if any(name not in found for name in _ALWAYS):
        return "entry_malformed", "a member is missing"
    for name, value in found.items():
        if name == "metadata":
            if not isinstance(value, dict):
                return "entry_malformed", "metadata is no object"
        elif name not in ("schema", "seq") and not isinstance(value, str):
            return "entry_malformed", "a member is not of its type"
    if not _UUID.match(found["event_id"]) or not _TYPE.match(found["event_type"]):
        return "entry_malformed", "event_id or event_type is none"
    if moment(found["timestamp"]) is None or moment(found["logged_at"]) is None:
        return "entry_malformed", "a time is none"
    if found["outcome"] not in _OUTCOMES:
        return "entry_malformed", "its outcome is none"
    return None


# =====================================================================================================================
# The folder (section 1): only regular files are opened, whatever their name is; reading is in small pieces
# =====================================================================================================================

_DAY = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl(?:\.gz)?\Z")
_PURGED = re.compile(rb'\{"purged":"([0-9a-f]{64})","by":(0|[1-9][0-9]{0,15})\}\Z')
_KEPT = re.compile(r"checkpoints/([0-9]{20})\Z")
_STAMP = re.compile(r"checkpoints/([0-9]{20})\.tsr\Z")
_TREE = re.compile(r"tree/(0|[1-9][0-9]*)\Z")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path):
    """Open a regular file for reading; OSError for anything else, without waiting for it."""
    fd = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("not a regular file")
    return os.fdopen(fd, "rb", buffering=1 << 16)


def is_day(text):
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True


class Unpacked:
    """What is packed in a sealed day, to be read in order; OSError if that is not one whole gzip member.

    `digest` takes in the packed bytes.
    """

    def __init__(self, file, digest=None):
        self.file, self.digest, self.unpacker = file, digest or hashlib.sha256(), zlib.decompressobj(31)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def _packed(self, length):
        data = self.file.read(length)
        self.digest.update(data)
        return data

    def read(self, length):
        """Return at most so many bytes, none at the end."""
        while not self.unpacker.eof:
            data = self.unpacker.unconsumed_tail or self._packed(1 << 16)
            try:
                found = self.unpacker.decompress(data, length)
            except zlib.error:
                raise OSError("it does not unpack") from None
            if found:
                return found
            if not data and not self.unpacker.eof:
                raise OSError("it is cut off")
        if self.unpacker.unused_data or self._packed(1):
            raise OSError("something follows what is packed")
        return b""


class Folder:
    """The files of a log by kind: `days` (in order), `kept` (size → name), `tree` (level → name), `strays`.

    `sealed` are the days that are packed (name → SHA-256 of the bytes), `beside` those that lie beside the file that
    counts; these are strays, too.
    """

    def __init__(self, path):
        self.path = path
        self.days, self.kept, self.tree, self.strays, self.lengths, self.stamps = [], {}, {}, [], {}, {}
        self.odd, self.unreadable, self.has_checkpoint, self.sealed, self.beside = [], [], False, {}, {}
        try:
            entries = list(os.scandir(path))
        except OSError as exc:
            raise Unusable("The log {} cannot be read: {}.".format(inert(path), exc.strerror), 3) from None
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.name in ("tree", "checkpoints") and entry.is_dir(follow_symlinks=False):
                try:
                    for below in sorted(os.scandir(entry.path), key=lambda item: item.name):
                        self._take(entry.name + "/" + below.name, below)
                except OSError:
                    self.unreadable.append(entry.name)
            else:
                self._take(entry.name, entry)
        for name in [name for name in self.days if name + ".gz" in self.days]:
            self.days.remove(name + ".gz")
            self.strays.append(name + ".gz")
            self.beside[name + ".gz"] = ""

    def unpack(self):
        """Look into the sealed days once: what does not unpack is none of the days from now on, but unreadable."""
        for name in [name for name in self.days if name.endswith(".gz")]:
            digest, length = hashlib.sha256(), 0
            try:
                with Unpacked(self._open(name), digest) as file:
                    while True:
                        data = file.read(1 << 20)
                        if not data:
                            break
                        length += len(data)
            except OSError:
                self.days.remove(name)
                self.unreadable.append(name)
                continue
            self.sealed[name], self.lengths[name] = digest.hexdigest(), length
        for name in self.beside:
            digest = hashlib.sha256()
            try:
                with self._open(name) as file:
                    for data in iter(lambda: file.read(1 << 20), b""):
                        digest.update(data)
            except OSError:
                continue
            self.beside[name] = digest.hexdigest()

    def _take(self, name, entry):
        try:
            info = entry.stat(follow_symlinks=False)
            regular, length = stat.S_ISREG(info.st_mode), info.st_size
        except OSError:
            regular, length = False, 0
        day, kept, tree = _DAY.match(name), _KEPT.match(name), _TREE.match(name)
        if not regular:
            self.odd.append(name)
            return
        self.lengths[name] = length
        if day and is_day(day.group(1)):
            self.days.append(name)
        elif name == "checkpoint":
            self.has_checkpoint = True
        elif kept and int(kept.group(1)) < 1 << 53:
            self.kept[int(kept.group(1))] = name
        elif tree:
            self.tree[name[5:]] = name
        elif _STAMP.match(name):
            self.stamps[int(name[12:32])] = name
        else:
            self.strays.append(name)

    @property
    def empty(self) -> bool:
        """Nothing of a log is here."""
        return not (self.days or self.kept or self.tree or self.strays or self.odd or self.has_checkpoint)

    def _open(self, name):
        return open_regular(os.path.join(self.path, *name.split("/")))

    def open(self, name):
        """Open a file for reading in order; of what is packed, what is in it. A day may have been sealed meanwhile."""
        try:
            file = self._open(name)
        except FileNotFoundError:
            if not name.endswith(".jsonl"):
                raise
            return Unpacked(self._open(name + ".gz"))
        return Unpacked(file) if name.endswith(".gz") else file

    def read_note(self, name):
        """Return a small file's bytes, or a note's worth of them if it is larger; None if it cannot be read."""
        try:
            with self.open(name) as file:
                return file.read(MAX_NOTE + 1)
        except OSError:
            if name not in self.unreadable:
                self.unreadable.append(name)
            return None

    def read_at(self, name, begin, length):
        """Return bytes of a tree file, fewer where it ends; nothing if it cannot be read."""
        try:
            with self.open(name) as file:
                file.seek(begin)
                return file.read(length)
        except (OSError, ValueError):
            if name not in self.unreadable:
                self.unreadable.append(name)
            return b""


class Line:
    """One line: `data` without LF (None if longer than any entry), its `leaf`, `whole` if LF ends it, `at` its offset.

    `members` are (seq, logged_at, prev_hash, sealed) as they stand at its end, None if they do not. `purged` is the
    entry that authorised the purge if the line stands for a purged one, whose leaf hash it states; else None.
    """

    __slots__ = ("at", "data", "leaf", "members", "purged", "whole")

    def __init__(self, data, whole, at, leaf=None):
        self.data, self.whole, self.at = data, whole, at
        self.leaf = leaf or hashlib.sha256(b"\0" + data).digest()
        self.members = self.purged = None
        gone = _PURGED.match(data) if data is not None and data[:11] == b'{"purged":"' else None
        if gone:
            self.leaf, self.purged = bytes.fromhex(gone.group(1).decode()), int(gone.group(2))
        elif data is not None and leaf is None:
            found = _TAIL.search(data, max(0, len(data) - 300))
            if found:
                self.members = (
                    int(found.group(1)),
                    found.group(2).decode(),
                    bytes.fromhex(found.group(3).decode()),
                    found.group(4) is not None,
                )


def lines_of(file):
    """Give every line of a file, in pieces of a megabyte; a line longer than an entry is hashed and let go."""
    rest, at = b"", 0
    while True:
        chunk = file.read(1 << 20)
        if not chunk:
            break
        parts = (rest + chunk).split(b"\n")
        rest = parts.pop()
        for part in parts:
            yield Line(part, True, at)
            at += len(part) + 1
        if len(rest) > MAX_ENTRY:
            digest, begin, whole = hashlib.sha256(b"\0" + rest), at, False
            at, rest = at + len(rest), b""
            while not whole:
                chunk = file.read(1 << 20)
                if not chunk:
                    break
                part, feed, rest = chunk.partition(b"\n")
                digest.update(part)
                at, whole = at + len(part) + len(feed), bool(feed)
            yield Line(None, whole, begin, digest.digest())
            if rest.count(b"\n"):
                parts = rest.split(b"\n")
                rest = parts.pop()
                for part in parts:
                    yield Line(part, True, at)
                    at += len(part) + 1
    if rest:
        yield Line(rest, False, at)


# =====================================================================================================================
# A log in a bucket (docs/object-layout.md)
# =====================================================================================================================

_TILE = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9]|[1-9][0-9]|1[0-9]{2}|2[0-5][0-9]))?\Z"
)
_CHECKPOINTS = ("checkpoint", "checkpoint.cosigned")
_WRITERS = re.compile(r"(?:head|staging/[0-9a-f]{64}|days/[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9]{20})\Z")
_MAX_BUNDLE = 256 * (2 + MAX_ENTRY)


def is_bucket(path):
    """Tell whether a folder is a copy of a log in a bucket: tiles, and no day files."""
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return "tile" in names and not any(_DAY.match(name) for name in names)


class Bucket:
    """The objects below a folder: `tiles` ((level, n) → (width → path)), `small` files of a log, `strays`."""

    def __init__(self, path):
        self.path, self.tiles, self.small, self.strays = path, {}, [], []
        for folder, _, files in os.walk(path):
            for file in files:
                full = os.path.join(folder, file)
                name = os.path.relpath(full, path).replace(os.sep, "/")
                tile = _TILE.match(name)
                if tile and not os.path.islink(full):
                    level = -1 if tile.group(1) == "entries" else int(tile.group(1))
                    n = int(tile.group(2).replace("x", "").replace("/", ""))
                    self.tiles.setdefault((level, n), {})[int(tile.group(3) or 256)] = full
                elif name in _CHECKPOINTS or _KEPT.match(name) or _STAMP.match(name):
                    self.small.append(name)
                elif not _WRITERS.match(name):
                    self.strays.append(name)
        self.strays.sort()
        self.size = self._size()

    def _size(self):
        """The size that `checkpoint` states, as far as there are bundles; of one that states none, all there are."""
        there = max((256 * n + max(widths) for (level, n), widths in self.tiles.items() if level < 0), default=0)
        lines = self._read(os.path.join(self.path, "checkpoint"), MAX_NOTE).split(b"\n")
        stated = lines[1].decode("ascii", "replace") if len(lines) > 1 else ""
        return min(there, int(stated)) if _DECIMAL.match(stated) and len(stated) < 19 else there

    @staticmethod
    def _read(path, limit):
        try:
            with open_regular(path) as file:
                return file.read(limit + 1)
        except OSError:
            return b""

    def _best(self, level, n, width):
        """Return the bytes of the tile or bundle that a tree with so many in it has, else of the next wider one."""
        widths = self.tiles.get((level, n), {})
        fitting = sorted(other for other in widths if other >= width) or sorted(widths)[-1:]
        return self._read(widths[fitting[0]], _MAX_BUNDLE) if fitting else b""

    def unpack(self, target):
        """Write the files of section 1 into the folder `target`."""
        for name in ("tree", "checkpoints"):
            os.mkdir(os.path.join(target, name))
        self._unpack_entries(target)
        for level in sorted({level for level, _ in self.tiles if level >= 0}):
            self._unpack_tree(target, level)
        for name in self.small:
            with open(os.path.join(target, *name.split("/")), "wb") as file:
                file.write(self._read(os.path.join(self.path, *name.split("/")), _MAX_BUNDLE))

    def _unpack_entries(self, target):
        day = ""
        for n in sorted(n for level, n in self.tiles if level < 0):
            lines = {}
            width = min(256, self.size - 256 * n)
            for line in entries_of(self._best(-1, n, width))[: max(0, width)]:
                found = _TAIL.search(line, max(0, len(line) - 300))
                stated = found.group(2).decode()[:10] if found else ""
                if stated > day and is_day(stated):
                    day = stated
                lines.setdefault(day or "1970-01-01", []).append(line + b"\n")
            for name, several in lines.items():
                with open(os.path.join(target, "audit-{}.jsonl".format(name)), "ab") as file:
                    file.writelines(several)

    def _unpack_tree(self, target, level):
        count, hashes = self.size >> 8 * level, b""
        with open(os.path.join(target, "tree", str(level)), "wb") as file:
            for n in range(-(-count // 256)):
                width = min(256, count - 256 * n)
                hashes = self._best(level, n, width)[: 32 * width]
                file.write(hashes)
                if len(hashes) < 32 * width:
                    break
        if not count:
            os.unlink(os.path.join(target, "tree", str(level)))


def entries_of(data):
    """Return the entries of a bundle, as many as it holds whole."""
    found, at = [], 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            break
        found.append(data[at + 2 : end])
        at = end
    return found


# =====================================================================================================================
# The tree (section 5)
# =====================================================================================================================


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree of leaf hashes with O(log n) memory; `on_node(level, index, hash)` sees tile levels ≥ 1."""

    def __init__(self, on_node=None):
        self.size, self.peaks, self.on_node = 0, [], on_node

    def append(self, leaf):
        self.size += 1
        self.grow(leaf, 0)

    def grow(self, top, bits):
        """Take in the root of 2^bits leaves that were counted already."""
        done = self.size >> bits
        while done % 2 == 0:
            top = node(self.peaks.pop(), top)
            bits, done = bits + 1, done >> 1
            if bits % 8 == 0 and self.on_node is not None:
                self.on_node(bits // 8, (self.size >> bits) - 1, top)
        self.peaks.append(top)

    def root(self):
        """Return the root over all leaves so far."""
        if not self.peaks:
            return EMPTY_ROOT
        result = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            result = node(peak, result)
        return result


def fold(hashes):
    """Return the root over 256 hashes."""
    while len(hashes) > 1:
        hashes = [node(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def group_root(groups):
    """Return the root from the hashes at each tile level that no higher one covers, highest level first."""
    peaks = []
    for hashes in groups:
        at = 0
        for bit in reversed(range(8)):
            if len(hashes) >> bit & 1:
                part = hashes[at : at + (1 << bit)]
                at += 1 << bit
                while len(part) > 1:
                    part = [node(part[i], part[i + 1]) for i in range(0, len(part), 2)]
                peaks.append(part[0])
    result = peaks.pop()
    while peaks:
        result = node(peaks.pop(), result)
    return result


class StoredLevel:
    """One tree file, read in step with the hashes that it should hold; what differs is collected."""

    def __init__(self, folder, level):
        self.folder, self.name, self.at, self.block, self.changed = folder, "tree/" + level, 0, b"", []
        self.length = folder.lengths[self.name]
        try:
            self.file = folder.open(self.name)
        except OSError:
            self.file = None
            folder.unreadable.append(self.name)

    def compare(self, index, value):
        """Take the hash that should stand at `index`; indices come in order."""
        if self.file is None or (index + 1) * 32 > self.length:
            return
        stored = self.file.read(32)
        if stored != value and len(stored) == 32 and len(self.changed) < MAX_LISTED:
            self.changed.append(index)

    def close(self):
        if self.file is not None:
            self.file.close()


class StoredTree:
    """All tree files against one sequence of leaf hashes (section 10, step 5)."""

    def __init__(self, folder):
        self.levels = {int(level): StoredLevel(folder, level) for level in folder.tree if len(level) < 3}
        self.folder = folder

    def compare(self, level, index, value):
        """Take the hash that should stand at `index` of a level."""
        if level in self.levels:
            self.levels[level].compare(index, value)

    def findings(self, need, most, grown):
        """What differs, what is too short for `need` entries, what too long for `most`."""
        found = []
        present = {int(level) if len(level) < 3 else 1 << 20 for level in self.folder.tree}
        wanted = {level for level in range(8) if need >> 8 * level}
        for level in sorted(present | wanted):
            name = "tree/{}".format(level)
            if name in self.folder.unreadable:
                continue
            stored = self.levels.get(level)
            length = -1 if stored is None else stored.length
            low, high = (need >> 8 * level) * 32, (most >> 8 * level) * 32
            if level in present and level > 7:
                found.append(Finding("tree_long", "There is no such level in this tree.", file=name))
            elif level in wanted and length < low:
                found.append(Finding("tree_short", "Stored tree hashes are missing.", file=name))
            elif length >= 0 and (length > high or high == 0) and not grown:
                found.append(Finding("tree_long", "There are more stored tree hashes than entries.", file=name))
            for index in stored.changed if stored is not None else ():
                begin, end = index << 8 * level, index + 1 << 8 * level
                text = "A stored tree hash is not that of the entries."
                found.append(Finding("tree_changed", text, begin, end, name))
        return found

    def close(self):
        for level in self.levels.values():
            level.close()


# =====================================================================================================================
# One walk over all lines
# =====================================================================================================================


class Own:
    """An entry that verification needs, see `_OWN`. `root` is that of the entries before it."""

    def __init__(self, seq, kind, found, root, file, line):
        metadata = found.get("metadata") if isinstance(found, dict) else None
        self.seq, self.kind, self.root, self.file, self.line = seq, kind, root, file, line
        self.metadata, self.logged = None, found.get("logged_at") if isinstance(found, dict) else None
        if kind not in ("log_closed", "log_migrated"):
            self.metadata = metadata if isinstance(metadata, dict) else {}


_OWN = {
    b"log_created": "log_created",
    b"signing_key_rotated": "signing_key_rotated",
    b"log_closed": "log_closed",
    b"log_migrated": "log_migrated",
    b"checkpoint_timestamped": "checkpoint_timestamped",
    b"checkpoint_witnessed": "checkpoint_witnessed",
    b"retention_applied": "retention_applied",
}
_CLOSING = ("signing_key_rotated", "log_closed", "log_migrated")
_QUIET = (b"checkpoint_witnessed", b"checkpoint_timestamped", b"log_heartbeat", b"log_opened", b"log_closed")


def is_quiet(data):
    """Tell whether an entry is the log's own bookkeeping, which alone is no reason to ask witnesses again."""
    head = _HEAD.match(data) if data is not None else None
    return head is not None and head.group(2) in _QUIET


def witnessed_sizes(folder):
    """Return the sizes at which cosigned checkpoints stand in entries: their roots are needed on the way."""
    sizes = set()
    for name in folder.days:
        try:
            with folder.open(name) as file:
                for line in lines_of(file):
                    if own_kind(line.data) == "checkpoint_witnessed" and len(sizes) < 1_000_000:
                        found, _ = decode_entry(line.data)
                        size = (found or {}).get("metadata", {}).get("size")
                        sizes.update([size] if isinstance(size, int) else [])
        except (OSError, AttributeError):
            continue
    return sizes


def own_kind(data):
    head = _HEAD.match(data) if data is not None else None
    return _OWN.get(head.group(2)) if head else None


class Walk:
    """Reads all day files once, as if every line stood at its place; says whether that holds.

    `roots` (size → root) for the sizes asked for, `own`, `faults` as (position, kind, words, file, line), `total`
    lines, `beyond` the position of the first line that is not covered, `later` lines written after the first look,
    `acts` (position, logged_at) of the first act from each of the sizes on, `times` the logged_at before each of them,
    `purged` (position, one after, authority, file, line) of the stretches of purged lines.
    """

    def __init__(self, folder, sizes, covered, notes, limits):
        self.folder, self.covered, self.limits, self.notes = folder, covered, limits, notes
        self.roots, self.own, self.faults, self.files = {}, [], [], {}
        self.total = self.later = 0
        self.overlong = False
        self.in_place, self.torn, self.oldest, self.last = True, False, None, None
        self.last_leaf, self.loud = EMPTY_ROOT, -1
        self.acts, self.times, self.fresh, self.last_time, self.purged = [], {}, True, "", []
        wanted = set(sizes)
        stored = StoredTree(folder)
        tree = Tree(stored.compare)
        for name in folder.days:
            number, begin = 0, self.total
            self.off = self.dated = 0
            try:
                with folder.open(name) as file:
                    for line in lines_of(file):
                        late = self.total >= covered and not name.endswith(".gz")
                        if late and line.at >= limits.get(name, 0) and limits:
                            self.later += 1
                            continue
                        number += 1
                        seq = self.total
                        if not line.whole:
                            self.torn = True
                            if name == folder.days[-1] and self.total >= covered:
                                self.fault(seq, "torn_tail", "The last line is incomplete.", name, number)
                                continue
                        if line.purged is None:
                            self.entry(seq, line, name, number, tree)
                        else:
                            self.gone(seq, line, name, number)
                        members = line.members
                        if seq == covered:
                            self.oldest = members[1] if members else None
                        self.last_leaf, self.last = line.leaf, (name, number)
                        stored.compare(0, seq, line.leaf)
                        tree.append(line.leaf)
                        self.total += 1
                        if self.total in wanted:
                            self.roots[self.total] = tree.root()
                            self.times[self.total] = self.last_time or None
                            self.fresh = True
            except OSError:
                folder.unreadable.append(name)
            self.files[name] = (begin, self.total, self.off, self.dated)
        self.root_of_all = tree.root()
        self.stored = stored
        stored.close()

    def gone(self, seq, line, name, number):
        """Take a line that stands for a purged entry: only where it stands, and who authorised that."""
        self.purged.append((seq, seq + 1, line.purged, name, number))
        if len(self.purged) > 1 and joins(self.purged[-2], self.purged[-1]):
            self.purged[-2:] = [(self.purged[-2][0], seq + 1, *self.purged[-2][2:])]
        if seq < self.covered:
            self.loud = seq
        if self.notes is not None:
            self.notes.hide()

    def entry(self, seq, line, name, number, tree):
        """Take a line that should be an entry."""
        members, covered = line.members, self.covered
        found, fault = (
            decode_entry(line.data)
            if line.data is not None
            else (None, ("entry_too_large", "it has more than {:,} bytes".format(MAX_ENTRY)))
        )
        self.overlong = self.overlong or line.data is None or len(line.data) > MAX_ENTRY
        if fault is None and members is None:
            fault = ("entry_malformed", "its ledger members are none")
        if fault:
            self.fault(seq, fault[0], "Entry {} is not of the format: {}.".format(seq, fault[1]), name, number)
        if members is None:
            self.in_place = False
        else:
            if members[0] != seq:
                self.in_place = False
                self.fault(seq, "entry_malformed", "Entry {} states another seq.".format(seq), name, number)
            if members[2] != self.last_leaf:
                text = "prev_hash of entry {} is not the hash of the entry before.".format(seq)
                self.fault(seq, "link_broken", text, name, number)
            if members[1] < self.last_time:
                text = "Entry {} was logged before the one before it.".format(seq)
                self.fault(seq, "time_order", text, name, number)
            else:
                self.last_time = members[1]
            self.off += members[1][:10] != name[6:16]
            self.dated += 1
        if seq < covered and not is_quiet(line.data):
            self.loud = seq
            if self.fresh and members is not None and moment(members[1]) is not None:
                self.acts.append((seq, moment(members[1])))
                self.fresh = False
        kind = own_kind(line.data)
        if kind and (kind not in ("log_closed", "log_migrated") or seq < covered):
            self.own.append(Own(seq, kind, found, tree.root(), name, number))
        if self.notes is not None and fault is None and members is not None:
            self.notes.take(seq, found, members[1], name, number)

    def fault(self, seq, kind, words, file, line):
        """Note what is off with the line at position `seq`."""
        if len(self.faults) < 100_000:
            self.faults.append((seq, kind, words, file, line))


# =====================================================================================================================
# The signed hashes of a damaged log, and which line is which entry (section 10.1)
# =====================================================================================================================


def choose(options, accept):
    """Pick one hash for each place so that `accept` takes them all; None if no few changes do.

    `options[i]` holds the candidates for place i, one from each source (stored, stored below, links, lines), None
    where a source has nothing to say.
    """
    known = [distinct(several) for several in options]
    if not all(known):
        return None
    # Where a source says nothing, the line's own hash is the next best.
    tries = [[one[source] or one[3] or rest[0] for one, rest in zip(options, known)] for source in range(4)]
    tries.append([rest[0] for rest in known])
    for at, picked in enumerate(tries):
        if picked not in tries[:at] and accept(picked):
            return picked
    picked = tries[-1]
    open_places = [at for at, several in enumerate(known) if len(several) > 1]
    for at in open_places:
        for value in known[at][1:]:
            other = list(picked)
            other[at] = value
            if accept(other):
                return other
    if 1 < len(open_places) <= 10:
        for values in itertools.islice(itertools.product(*(known[at] for at in open_places)), 4096):
            other = list(picked)
            for at, value in zip(open_places, values):
                other[at] = value
            if accept(other):
                return other
    return None


def distinct(values):
    """The values that are there, each once, the commonest first, else in their order."""
    there = [value for value in values if value is not None]
    return sorted(dict.fromkeys(there), key=lambda value: -there.count(value))


def joins(one, other):
    """Tell whether a stretch of purged lines goes on in another: in the same file, by the same authority."""
    return one[1:4] == (other[0], other[2], other[3]) and one[4] + one[1] - one[0] == other[4]


def join_purged(stretches):
    """Return (first, one after, authority) of purged entries, neighbours of one authority as one, in order."""
    joined = []
    for begin, end, by in sorted({one[:3] for one in stretches}):
        if joined and joined[-1][2] == by and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]), by)
        else:
            joined.append((begin, end, by))
    return joined


class Signed:
    """The leaf hashes that were signed, as far as they can be told: `leaf(i)`, None where nothing tells.

    Candidates are the stored hash, the link of the line that claims to be the next entry, and the hash of the line
    that claims to be this one. Up to `proven` they lead to a signed root.
    """

    def __init__(self, folder, limit):
        self.folder, self.limit, self.proven = folder, limit, 0
        self.link, self.own = bytearray(32 * limit), bytearray(32 * limit)
        self.leaves, self.searches = bytearray(32 * limit), 1000

    def claim(self, line, place):
        """Take what a line says of itself and, by its link, of the entry before; return where the next one belongs.

        A purged line says no more than its `place`.
        """
        if line.members is None:
            if line.purged is not None and place < self.limit and not any(self.own[32 * place : 32 * place + 32]):
                self.own[32 * place : 32 * place + 32] = line.leaf
            return place + 1
        seq, _, link, _ = line.members
        if 0 < seq <= self.limit and not any(self.link[32 * seq - 32 : 32 * seq]):
            self.link[32 * seq - 32 : 32 * seq] = link
        if seq < self.limit and not any(self.own[32 * seq : 32 * seq + 32]):
            self.own[32 * seq : 32 * seq + 32] = line.leaf
        return seq + 1

    def find(self, leaf, near):
        """Return the proven entry that has this leaf hash, None if none has; first sought near the place given."""
        for begin, end in ((max(0, near - 4096), min(near + 4096, self.proven)), (0, self.proven)):
            if end - begin > 8192:
                self.searches -= 1
                if self.searches < 0:
                    return None
            at = self.leaves.find(leaf, 32 * begin, 32 * end)
            while at % 32 and at >= 0:
                at = self.leaves.find(leaf, at + 1, 32 * end)
            if at >= 0:
                return at // 32
        return None

    def prove(self, size, root):
        """Try to find `size` leaf hashes that lead to the root; True if `leaf` knows them from now on."""
        if size > self.limit:
            return False
        levels = [level for level in range(8) if size >> 8 * level]
        top, groups = levels[-1], []
        for level in reversed(levels):
            begin = 0 if level == top else size >> 8 * (level + 1) << 8
            groups.append((level, begin, size >> 8 * level))
        options, places = [], []
        for level, begin, end in groups:
            for index in range(begin, end):
                options.append(self._options(level, index))
                places.append((level, index))

        def accept(picked):
            parts, at = [], 0
            for _, begin, end in groups:
                parts.append(picked[at : at + end - begin])
                at += end - begin
            return group_root([part for part in parts if part]) == root

        picked = choose(options, accept)
        if picked is None:
            return False
        if not all(self._descend(level, index, value) for (level, index), value in zip(places, picked)):
            return False
        self.proven = size
        return True

    def _descend(self, level, index, value):
        """Find the leaf hashes below a proven one; False if they cannot be told."""
        if level == 0:
            self.leaves[32 * index : 32 * index + 32] = value
            return True
        picked = self._block(level - 1, index)
        if picked is None or fold(picked) != value:
            below = [self._options(level - 1, child) for child in range(index * TILE, (index + 1) * TILE)]
            picked = choose(below, lambda hashes: fold(hashes) == value)
        if picked is None:
            return False
        return all(self._descend(level - 1, index * TILE + at, one) for at, one in enumerate(picked))

    def _options(self, level, index):
        stored = self.folder.read_at("tree/{}".format(level), index * 32, 32) if str(level) in self.folder.tree else b""
        values = [stored if len(stored) == 32 else None]
        if level == 0:
            values.append(None)
            for claims in (self.link, self.own):
                value = bytes(claims[32 * index : 32 * index + 32])
                values.append(value if any(value) else None)
        else:
            below = self._block(level - 1, index)
            values.append(fold(below) if below else None)
            begin, end = (index << 8 * level) * 32, (index + 1 << 8 * level) * 32
            for first, second in ((self.link, self.own), (self.own, self.own)):
                tree = Tree()
                for at in range(begin, end, 32):
                    value = bytes(first[at : at + 32])
                    value = value if any(value) else bytes(second[at : at + 32])
                    tree.append(value)
                values.append(tree.root())
        return values

    def _block(self, level, index):
        if str(level) not in self.folder.tree:
            return None
        data = self.folder.read_at("tree/{}".format(level), index * 32 * TILE, 32 * TILE)
        if len(data) < 32 * TILE:
            return None
        return [data[at : at + 32] for at in range(0, len(data), 32)]

    def leaf(self, seq):
        """Return the proven leaf hash of an entry, None beyond what is proven."""
        return bytes(self.leaves[32 * seq : 32 * seq + 32]) if seq < self.proven else None


class Run:
    """`count` entries from `seq` on that stand one after the other in `file`, the first in `line`.

    `off` if they were logged on another day than the file's (None if no date is known), `whole` False if no LF ends
    the last.
    """

    def __init__(self, seq, number, file, line, off, whole, at):
        self.seq, self.count, self.file, self.line, self.off, self.whole, self.at = (
            seq, number, file, line, off, whole, at,
        )  # fmt: skip
        self.fate = "moved"

    @property
    def end(self):
        """One after the last entry."""
        return self.seq + self.count

    def cut(self, seq):
        """Split off what begins at `seq` and return it."""
        taken = seq - self.seq
        rest = Run(seq, self.count - taken, self.file, self.line + taken, self.off, self.whole, self.at)
        self.count, self.whole = taken, True
        return rest


class Foreign:
    """A line that was never signed as it stands; `claims` is the seq that it states, if any."""

    def __init__(self, file, line, claims, whole):
        self.file, self.line, self.claims, self.whole = file, line, claims, whole


class Alignment:
    """Which line is which signed entry: `runs` and `foreign` lines in the order of the files."""

    def __init__(self, folder, signed, size, names):
        self.size, self.items, self.own, self.faults = size, [], [], []
        self.days, self.loud, self.sealed = {}, -1, False
        self.purged = []
        expected, before, signed_before = 0, None, None
        for name in names:
            day = "" if name in folder.strays else name[6:16]
            number, run = 0, None
            try:
                with folder.open(name) as file:
                    for line in lines_of(file):
                        number += 1
                        self.sealed = bool(line.members and line.members[3])
                        seq = self._place(signed, line, expected)
                        if seq is None:
                            claims = line.members[0] if line.members else None
                            self.items.append(Foreign(name, number, claims, line.whole))
                            expected, run, before = expected + 1, None, line
                            continue
                        self._neighbours(seq, line, before, signed_before, signed.proven, name, number)
                        time = signed_before[2] if signed_before and signed_before[0] == seq - 1 else ""
                        time = time if line.members is None else line.members[1]
                        before, signed_before = line, (seq, line, time)
                        off = None if line.members is None else line.members[1][:10] != day
                        like = run is not None and (off is None or run.off in (None, off))
                        if like and run.end == seq and run.whole:
                            run.count, run.whole, run.off = run.count + 1, line.whole, run.off if off is None else off
                        else:
                            run = Run(seq, 1, name, number, off, line.whole, len(self.items))
                            self.items.append(run)
                        if line.members is not None:
                            self.days.setdefault(name, set()).add((line.members[1][:10], off))
                        expected = seq + 1
                        self._keep(seq, line, name, number)
            except OSError:
                folder.unreadable.append(name)

    def _place(self, signed, line, expected):
        """Return which entry the line is: by its hash where one is proven, else by its own word."""
        if line.data is None or len(line.data) > MAX_ENTRY:
            return None
        if expected < signed.proven and signed.leaf(expected) == line.leaf:
            return expected
        if line.purged is not None:
            found = signed.find(line.leaf, expected)
            return expected if found is None and signed.proven <= expected < self.size else found
        if line.members is not None and line.members[0] < self.size:
            claims = line.members[0]
            if claims >= signed.proven or signed.leaf(claims) == line.leaf:
                return claims
        return None

    def _keep(self, seq, line, name, number):
        if not is_quiet(line.data):
            self.loud = max(self.loud, seq)
        if line.purged is not None:
            self.purged.append((seq, seq + 1, line.purged, name, number))
            return
        kind = own_kind(line.data)
        if kind:
            found, _ = decode_entry(line.data)
            self.own.append(Own(seq, kind, found, None, name, number))
        if len(self.faults) > 10_000:
            return
        fault = decode_entry(line.data)[1]
        if fault is None and line.members is None:
            fault = ("entry_malformed", "its ledger members are none")
        if fault is not None:
            text = "Entry {} is not of the format: {}.".format(seq, fault[1])
            self.faults.append((seq, fault[0], text, name, number))
        elif line.members[0] != seq:
            self.faults.append((seq, "entry_malformed", "Entry {} states another seq.".format(seq), name, number))

    def _neighbours(self, seq, line, before, signed_before, proven, name, number):
        """The link and the time against the line before, where that is the entry before."""
        follows = signed_before is not None and signed_before[0] == seq - 1
        if line.members is None or len(self.faults) > 10_000:
            return
        last = signed_before[1] if follows else None
        if follows and line.members[1] < signed_before[2]:
            text = "Entry {} was logged before the one before it.".format(seq)
            self.faults.append((seq, "time_order", text, name, number))
        beside = before is not None and (
            follows and before is last if seq < proven else before.members is not None and before.members[0] == seq - 1
        )
        if beside and line.members[2] != before.leaf:
            text = "prev_hash of entry {} is not the hash of the entry before.".format(seq)
            self.faults.append((seq, "link_broken", text, name, number))

    def by_their_days(self, names, strays):
        """Return the files in the order of the days of their entries, where a file has another name than its day."""
        keys = []
        for name in names:
            days = self.days.get(name, set())
            renamed = bool(days) and all(off for _, off in days)
            keys.append((min(days)[0] if renamed else name[6:16], renamed, name))
        keys += [(day, True, name) for day, name in strays]
        return [name for _, _, name in sorted(keys)]

    def settle(self):
        """Decide which runs stand in order, which were moved, which are copies."""
        runs = [item for item in self.items if isinstance(item, Run)]
        marks = sorted({run.seq for run in runs} | {run.end for run in runs})
        pieces, budget = [], 2_000_000
        for item in self.items:
            pieces.append(item)
            if not isinstance(item, Run):
                continue
            first = bisect.bisect_right(marks, item.seq)
            while first < len(marks) and marks[first] < pieces[-1].end and budget:
                pieces.append(pieces[-1].cut(marks[first]))
                first, budget = first + 1, budget - 1
        self.items = pieces
        runs = [item for item in self.items if isinstance(item, Run)]
        for run in _heaviest(runs):
            run.fate = "kept"
        taken = {run.seq for run in runs if run.fate == "kept"}
        for run in runs:
            if run.fate == "kept":
                continue
            run.fate = "copy" if run.seq in taken else "moved"
            taken.add(run.seq)
        return runs


def _heaviest(runs):
    """Return the runs of the ascending chain that holds most entries."""
    ends = sorted({run.end for run in runs} | {run.seq for run in runs})
    rank = {value: at + 1 for at, value in enumerate(ends)}
    best = [(0, None)] * (len(ends) + 2)
    chains = []
    for run in runs:
        at, weight, before = rank[run.seq], 0, None
        while at:
            if best[at][0] > weight:
                weight, before = best[at]
            at &= at - 1
        chains.append((run, before))
        at, value = rank[run.end], (weight + run.count, len(chains) - 1)
        while at < len(best):
            if best[at][0] < value[0]:
                best[at] = value
            at += at & -at
    weight, last = 0, None
    at = len(ends)
    while at:
        if best[at][0] > weight:
            weight, last = best[at]
        at &= at - 1
    kept = []
    while last is not None:
        run, last = chains[last]
        kept.append(run)
    return kept


# =====================================================================================================================
# Notes (section 10.3): what is odd in a log that is whole
# =====================================================================================================================


class Notes:
    """Collects what is not broken and deserves a look; see `SILENCE`. `bits` bounds the memory for event ids."""

    def __init__(self, bytes_of_log):
        self.found, self.writers, self.last, self.gaps = [], set(), None, []
        self.intents, self.by_cause, self.crowded, self.left = {}, {}, False, None
        bits = 1 << 20
        while bits < bytes_of_log // 4 and bits < 1 << 27:
            bits <<= 1
        self.bits, self.seen = bits, bytearray(bits // 8)
        self.repeated, self.siblings, self.origin = set(), {}, ""

    def take(self, seq, found, logged, file, line):
        """Take an entry that is of the format."""
        kind, metadata = found["event_type"], found.get("metadata") or {}
        place = (seq, seq + 1, file, line)
        phase = metadata.get("phase") if kind == "log_migrated" else None
        if self.left is not None and phase != "in":
            self.add("migration_ignored", "The log was to go on in another store; entries follow here.", self.left)
        self.left = place if phase == "out" else None
        now = moment(logged)
        if now is not None:
            self.silence(now)
            self.last = (now, place)
        if kind.startswith(("log_", "clock_", "gap_")):
            self._own(kind, metadata, place)
        self._acts(found, kind, metadata, place)
        self._ids(found)

    def hide(self):
        """Take a purged entry: when it was logged nobody knows, and it may have been the outcome of any act before."""
        self.last = None
        self.intents.clear()
        self.by_cause.clear()

    def silence(self, now):
        """Take the time of an entry, or of now."""
        if self.writers and self.last is not None and now - self.last[0] > SILENCE:
            self.add("heartbeat_gap", "Over an hour of silence although a writer was open.", self.last[1])
            self.writers.clear()

    def add(self, kind, words, place):
        """Note something at a place: (seq, one after, file, line)."""
        self.found.append(Finding(kind, words, *place))

    def _own(self, kind, metadata, place):
        writer = json.dumps(metadata.get("writer"))[:200]
        if kind == "log_opened" and len(self.writers) < 100_000:
            self.writers.add(writer)
        elif kind == "log_closed":
            self.writers.discard(writer)
        elif kind == "log_recovered":
            self.writers.clear()
            if "set_aside" in metadata:
                self.add("lines_set_aside", "Unacknowledged lines were put aside, outside the log.", place)
        elif kind == "clock_stepped":
            self.add("clock_step", "The writer's clock jumped.", place)
        elif kind == "gap_opened":
            self.gaps.append(place)
        elif kind == "gap_closed" and self.gaps:
            self.gaps.pop()

    def _acts(self, found, kind, metadata, place):
        cause = found.get("correlation_id")
        if metadata.get("phase") == "intent":
            deadline, begun = metadata.get("deadline_s"), moment(found["timestamp"])
            if isinstance(deadline, (int, float)) and not isinstance(deadline, bool) and begun is not None:
                if len(self.intents) < 200_000:
                    self.intents[found["event_id"]] = (begun, deadline, place)
                    self.by_cause.setdefault(cause, []).append(found["event_id"])
                else:
                    self.crowded = True
        elif "intent" in metadata:
            self.intents.pop(
                json.loads(json.dumps(metadata["intent"])) if isinstance(metadata["intent"], str) else "", None
            )
        elif kind != "api_key_used" and cause is not None:
            for event_id in self.by_cause.pop(cause, ()):
                self.intents.pop(event_id, None)

    def _seen(self, event_id, add):
        digest = hashlib.sha256(event_id.encode()).digest()
        known = True
        for begin in (0, 8, 16):
            at = int.from_bytes(digest[begin : begin + 8], "big") % self.bits
            if not self.seen[at >> 3] >> (at & 7) & 1:
                known = False
                if add:
                    self.seen[at >> 3] |= 1 << (at & 7)
        return known

    def _ids(self, found):
        event_id = found["event_id"]
        if event_id[14] == "8" and "resource_id" in found:
            task, kind = found["resource_id"], found["event_type"]
            state = "succeeded" if event_id == end_id(self.origin, task, "succeeded") else "failed"
            other = end_id(self.origin, task, "failed" if state == "succeeded" else "succeeded")
            if kind and self._seen(other, add=False) and len(self.siblings) < 1_000_000:
                self.siblings[event_id] = other
        if self._seen(event_id, add=True) and len(self.repeated) < 1_000_000:
            self.repeated.add(event_id)

    def close(self, folder, now, size):
        """Finish: silence up to now, intents past their deadline, gaps, ids that may stand twice looked up."""
        self.silence(now)
        for begun, deadline, place in self.intents.values():
            if (now - begun).total_seconds() > deadline:
                self.add("intent_overdue", "An act was announced and its outcome never came.", place)
        for place in self.gaps:
            self.add("open_gap", "Events could not be recorded, and the gap was not closed.", place)
        if self.left is not None:
            self.add("migrated", "The log goes on in another store, which this entry names.", self.left)
        if self.repeated or self.siblings:
            self._look_up(folder, size)
        return sorted(self.found, key=lambda finding: finding.seq or 0)

    def _look_up(self, folder, size):
        wanted = {one.encode() for one in self.repeated | set(self.siblings) | set(self.siblings.values())}
        met, seq, told = set(), 0, set()
        for name in folder.days:
            with folder.open(name) as file:
                for number, line in enumerate(lines_of(file), 1):
                    if seq >= size:
                        return
                    found = line.data[24:60] if line.data else b""
                    if found in wanted:
                        text, place = found.decode(), (seq, seq + 1, name, number)
                        if found in met:
                            self.add("equal_event_id", "Two entries have the same event_id.", place)
                        other = self.siblings.get(text)
                        if other is not None and other.encode() in met and text not in told:
                            told.add(text)
                            self.add("two_ends", "One task has two different ends.", place)
                        met.add(found)
                    seq += 1


def end_id(origin, task, state):
    """Return the event id of a task's end (section 9.1)."""
    parts = ("klingai-audit/end/v1", origin, task, state)
    digest = bytearray(hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


# =====================================================================================================================
# Epochs (section 7)
# =====================================================================================================================


class Epochs:
    """The chain of epoch keys: `ends[k]` is the handover size of epoch k, `keys[k]` its key or None if not known."""

    def __init__(self):
        self.keys, self.ends, self.handovers = [], [], 0

    def at(self, size):
        """Return the number of the epoch in force at a size."""
        return bisect.bisect_left(self.ends, size)

    def check(self, name, checkpoint, sure):
        """Return the finding about a checkpoint's second signature, None if it is as it should be.

        `sure` tells whether all rotations before this size are known.
        """
        due = self.at(checkpoint.size)
        _, key_id, signature = checkpoint.epoch
        key = self.keys[due] if due < len(self.keys) else None
        if not sure:
            return None
        named = key is not None and checkpoint.number == due and key.key_id == key_id
        if named and key.signed(checkpoint.text, signature):
            return None
        for later in range(due + 1, len(self.keys)):
            other = self.keys[later]
            if other is not None and other.signed(checkpoint.text, signature):
                text = "Epoch {} signed what epoch {} had closed.".format(later, due)
                end = self.ends[due] if due < len(self.ends) else checkpoint.size
                return Finding("epoch_misused", text, 0, end, name, 6)
        text = "The second signature is not by epoch {}{}.".format(due, "" if key else ", whose key nothing proves")
        return Finding("epoch_signature", text, file=name, line=6)


def handover_fault(own, origin, number, keys):
    """Say what is wrong with a rotation entry, None if nothing is; and the successor's key if the note proves it."""
    metadata = own.metadata
    try:
        successor = Key(metadata.get("epoch_key") if isinstance(metadata.get("epoch_key"), str) else "")
        if successor.name != "{}/epoch-{}".format(origin, number):
            raise Malformed("the successor's key has another name")
        if list(metadata) != ["epoch", "epoch_key", "handover"]:
            raise Malformed("its metadata is not that of a rotation")
        if metadata["epoch"] != number or isinstance(metadata["epoch"], (bool, float)):
            raise Malformed("it is not the rotation to epoch {}".format(number))
        if not isinstance(metadata["handover"], str):
            raise Malformed("its handover is no note")
        try:
            note = Note(metadata["handover"].encode("utf-8"))
        except UnicodeError:
            raise Malformed("its handover is no note") from None
        lines = note.text.decode().split("\n")
        stated = lines[4] if len(lines) > 4 else ""
        if lines != ["klingai-audit/handover/v1", origin, str(number), str(own.seq), stated, successor.vkey, ""]:
            raise Malformed("the note states something else than the log")
        if len(note.signatures) != 1:
            raise Malformed("the note has more than one signature")
        outgoing = keys[-1]
        if outgoing is not None:
            name, key_id, signature = note.signatures[0]
            if (name, key_id) != (outgoing.name, outgoing.key_id) or not outgoing.signed(note.text, signature):
                raise Malformed("the note is not signed by the epoch that ends")
    except Malformed as exc:
        return str(exc), None
    if own.root is not None and stated != base64.b64encode(own.root).decode():
        return "the entries before it have another root than the note", successor
    return None, successor


# =====================================================================================================================
# The verification (section 10)
# =====================================================================================================================


class Verdict:
    """What was found: `findings`, `threats` (name → (state, reasons)), and the numbers around them."""

    def __init__(self, log, key, source):
        self.log, self.key, self.source = log, key, source
        self.origin, self.size, self.total, self.unsigned, self.oldest = None, 0, 0, 0, None
        self.findings, self.threats, self.purged = [], {}, []

    @property
    def broken(self) -> list:
        """The findings that make the exit code 4."""
        return [finding for finding in self.findings if finding.severity == "broken"]

    @property
    def exit_code(self) -> int:
        """4 if anything is broken, else 0."""
        return 4 if self.broken else 0

    def as_json(self) -> dict:
        """Return what `--json` prints: the members of the product's `verify --json`."""
        concerned = sorted((f.seq, f.seq_end) for f in self.broken if f.seq is not None)
        invalid = end = 0
        for first, last in concerned:
            invalid += max(0, last - max(first, end))
            end = max(end, last)
        listed = self.findings[: MAX_LISTED * 2]
        return {
            "format": FORMAT,
            "verifier": "klingai-audit-verify",
            "log": self.log,
            "origin": self.origin,
            "key": None if self.key is None else {"vkey": self.key, "source": self.source},
            "size": self.size,
            "total": self.total,
            "invalid": invalid,
            "integrity_ok": not self.broken,
            "exit": self.exit_code,
            "quick_from": None,
            "unsigned": {"entries": self.unsigned, "oldest": self.oldest},
            "purged": [{"seq": begin, "seq_end": end, "by": by} for begin, end, by in self.purged],
            "threats": [
                {"threat": name, "state": state, "by": by, "do": do} for name, (state, by, do) in self.threats.items()
            ],
            "findings": [finding.as_json() for finding in listed],
            "recorded": False,
        }


class Verifier:
    """One verification of one folder. See `verify_log` for the arguments."""

    def __init__(self, path, key, epoch_key, remembered, now, limits, policy=None, second_key=None, roots_file=None):
        self.folder, self.policy, self.witnessed, self.unread = Folder(path), policy, None, False
        self.key, self.epoch_key, self.memory, self.now, self.limits = key, epoch_key, remembered, now, limits
        self.verdict = Verdict(str(path), None if key is None else key.vkey, "option")
        self.found = self.verdict.findings
        self.epochs = Epochs()
        self.stated = None
        self.second_key, self.second, self.second_known = second_key, None, False
        self.covered = self.remembers = self.anchored = False
        self.missing = []
        self.damaged = False
        self.stamped, self.stamps, self.rounds, self.points = set(), 0, [], []
        self.roots_file, self.issued, self.unasked = roots_file, [], False
        self.tail = None
        self.signed, self.listed, self.proven, self.known_strays, self.half = None, {}, 0, set(), []
        self.ends_sealed = False

    def say(self, kind, message, *place, **more):
        """Add a finding."""
        self.found.append(Finding(kind, message, *place, **more))

    # --- what is signed -----------------------------------------------------------------------------------------------

    def run(self):
        """Take the steps of section 10 and return the verdict."""
        folder, verdict = self.folder, self.verdict
        if folder.empty:
            if self.memory is None:
                raise Unusable("There is no log at {}.".format(inert(folder.path)), 3)
            self.say("log_missing", "There is no log, but one is remembered.")
            self.judge()
            return verdict
        folder.unpack()
        self.files()
        checkpoint = self.checkpoint_file()
        self.stated = self.first_key()
        newest = self.trusted("checkpoint", checkpoint) if checkpoint is not None else None
        kept = self.kept_files()
        memory = self.remembered_checkpoint()
        self.anchors = {one.size: one for one in kept.values()}
        if newest is not None:
            self.anchors[newest.size] = newest
            verdict.size, verdict.origin = newest.size, newest.origin
        upto = [size for size in self.anchors if newest is None or size <= newest.size]
        self.size = max(upto, default=0)
        self.wanted = witnessed_sizes(folder) if self.policy else set()
        sizes = set(self.anchors) | ({memory.size} if memory else set()) | self.wanted
        notes = Notes(sum(folder.lengths[name] for name in folder.days))
        notes.origin = newest.origin if newest is not None else ""
        self.walk = walk = Walk(folder, sizes, self.size, notes, self.limits)
        self.roots, self.own, self.loud = walk.roots, walk.own, walk.loud
        self.known = self.size
        verdict.total = walk.total
        if any(name in folder.unreadable for name in folder.days):
            self.own = []
        else:
            self.entries(upto)
            self.first_entry()
            self.rotations()
            self.check_epochs(newest, kept)
            self.check_second(newest, kept)
            self.witnesses()
            self.time_stamps(kept)
            self.check_kept(kept, newest)
            self.retention()
            self.strays()
            self.check_memory(memory, newest)
        for name in sorted(set(folder.unreadable)):
            self.say("file_unreadable", "It cannot be read.", file=name)
        if any(name.endswith(".gz") for name in folder.unreadable):
            self.covered = False
            self.found[:] = [one for one in self.found if one.kind not in GONE]
        if not verdict.broken:
            self.found.extend(self.unfinished())
            self.found.extend(notes.close(folder, self.now, self.size))
        self.judge()
        return verdict

    def files(self):
        """Step 1: what is no regular file, what is empty."""
        for name in self.folder.odd:
            self.say("file_unexpected", "It is no regular file.", file=name)
        for name in self.folder.days:
            if self.folder.lengths[name] == 0:
                self.say("file_empty", "A day file is empty.", file=name)
        self.folder.days = [name for name in self.folder.days if self.folder.lengths[name]]

    def parse(self, name, data):
        """Return a checkpoint that has the form of one, else say so."""
        if data is None:
            return None
        try:
            if len(data) > MAX_NOTE:
                raise Malformed("it is longer than any checkpoint")
            return Checkpoint(data)
        except Malformed as exc:
            self.say("checkpoint_malformed", "It is not in the form of a checkpoint: {}.".format(exc), file=name)
            return None

    def checkpoint_file(self):
        """Step 2: return the newest checkpoint as it stands, unverified."""
        if not self.folder.has_checkpoint:
            self.say("checkpoint_missing", "There is no signed checkpoint.", file="checkpoint")
            return None
        return self.parse("checkpoint", self.folder.read_note("checkpoint"))

    def first_key(self):
        """Return the log key that entry 0 names, None if it names none."""
        for name in self.folder.days[:1]:
            try:
                with self.folder.open(name) as file:
                    line = next(lines_of(file), None)
            except OSError:
                return None
            if line is None or line.data is None:
                return None
            found, _ = decode_entry(line.data)
            try:
                return Key(found["metadata"]["log_key"])
            except (TypeError, KeyError, AttributeError, Malformed):
                return None
        return None

    def trusted(self, name, checkpoint):
        """Return the checkpoint if the trusted key signed it, or the key that the log itself names."""
        key = self.key or self.stated
        if key is None:
            self.say("checkpoint_signature", "No key is known that it could be signed by.", file=name, line=5)
            return None
        if checkpoint.origin == key.name and checkpoint.log[1] == key.key_id:
            if key.signed(checkpoint.text, checkpoint.log[2]):
                self.anchored = True
                return checkpoint
            self.say("checkpoint_signature", "The log key's signature does not verify.", file=name, line=5)
            return None
        if checkpoint.origin == key.name and key.signed(checkpoint.text, checkpoint.log[2]):
            self.say("checkpoint_signature", "The log key's signature bears another key id.", file=name, line=5)
            return None
        stated = self.stated
        by_itself = stated is not None and checkpoint.origin == stated.name and checkpoint.signed_by(stated)
        if not by_itself or name == "checkpoint":
            self.say("foreign_key", "It is signed by another key than the one you trust.", file=name, line=5)
        return checkpoint if by_itself else None

    def kept_files(self):
        """Return the kept checkpoints that the log signed, by size."""
        kept = {}
        for size, name in sorted(self.folder.kept.items()):
            checkpoint = self.parse(name, self.folder.read_note(name))
            if checkpoint is not None and checkpoint.size != size:
                self.say("checkpoint_malformed", "Its size is not the one in its name.", file=name)
            elif checkpoint is not None:
                checkpoint = self.trusted(name, checkpoint)
                if checkpoint is not None:
                    kept[size] = checkpoint
        return kept

    def remembered_checkpoint(self):
        """Return the checkpoint that was seen earlier, if it is one of this log."""
        if self.memory is None:
            return None
        key = self.key or self.stated
        try:
            checkpoint = Checkpoint(self.memory)
            if key is None or not checkpoint.signed_by(key):
                raise Malformed("it is not signed by this log's key")
        except Malformed as exc:
            self.say("memory_invalid", "The remembered checkpoint is not one of this log: {}.".format(exc))
            return None
        return checkpoint

    # --- the entries --------------------------------------------------------------------------------------------------

    def entries(self, upto):
        """Steps 3 to 5, in the quick way if every line is the entry that was signed."""
        walk = self.walk
        fits = [size for size in sorted(upto) if walk.roots.get(size) == self.anchors[size].root]
        whole = not upto or (walk.total >= self.size and self.size in fits and not walk.overlong)
        if not upto:
            self.size = walk.total
            whole = walk.in_place and not any(fault[1] == "link_broken" for fault in walk.faults)
        if whole and walk.total == self.size and not self.lost_files():
            self.covered = bool(upto)
            self.in_order()
        else:
            self.align(upto)

    def lost_files(self):
        """A torn line inside, or a day file without a day of its own, wants the closer look."""
        return any(off and off == dated for _, _, off, dated in self.walk.files.values())

    def in_order(self):
        """Every line is the entry that was signed; what is left is their form."""
        walk = self.walk
        told = set()
        for seq, kind, words, file, line in walk.faults:
            if kind == "torn_tail":
                self.say(kind, words, file=file, line=line)
            elif seq not in told or kind in ("time_order", "link_broken"):
                told.add(seq)
                self.say(kind, words, seq, file=file, line=line)
        self.proven, self.purged = self.size, walk.purged
        for name, (begin, end, off, _) in walk.files.items():
            if off:
                self.say("wrong_day", "Entries were logged on another day than the file's.", begin, end, name, 1)
        if walk.torn and walk.last is not None and not any(fault[1] == "torn_tail" for fault in walk.faults):
            self.say("torn_tail", "The last line is incomplete.", file=walk.last[0], line=walk.last[1])
        grown = walk.later > 0
        self.found.extend(walk.stored.findings(self.size, walk.total, grown))

    def strays(self):
        """Name the files that are no part of a log, but for those that turned out to hold entries."""
        for name in self.folder.strays:
            if name not in self.known_strays:
                text = "The log holds something that is no part of a log."
                if name == "checkpoint.cosigned":
                    text = "It looks like evidence of a later version, which this verifier does not check."
                self.say("file_unexpected", text, file=name)

    def align(self, upto):
        """Find out what was done to the lines, with the hashes that were signed."""
        walk, folder = self.walk, self.folder
        self.damaged = True
        lines = walk.total + 1
        limit = min(self.size, 4 * lines + sum(folder.lengths.values()) // 32) if upto else 2 * lines
        signed = Signed(folder, limit)
        place = 0
        for name in folder.days:
            with folder.open(name) as file:
                for line in lines_of(file):
                    place = signed.claim(line, place)
        proven = 0
        for size in sorted(upto, reverse=True):
            if signed.prove(size, self.anchors[size].root):
                proven = size
                break
        self.covered, self.known = bool(upto) and proven == self.size, proven
        if not upto:
            limit = self.reach(signed, limit)
            self.size = limit
        names = list(folder.days)
        placed = Alignment(folder, signed, min(self.size, limit), names)
        renamed = self.renamed_strays(placed, signed, limit)
        ordered = placed.by_their_days(names, renamed)
        if ordered != names:
            placed = Alignment(folder, signed, min(self.size, limit), ordered)
        runs = placed.settle()
        if not self.covered and upto:
            after = min(size for size in upto if size > proven)
            text = "The entries do not have the root that was signed; nothing tells which."
            self.say("history_rewritten", text, proven, after)
        self.ends_sealed = placed.sealed
        self.tell_runs(runs)
        self.tell_gaps(placed, runs)
        for seq, kind, words, file, line in placed.faults:
            self.say(kind, words, seq, file=file, line=line)
        self.known_strays = {name for _, name in renamed}
        self.signed, self.proven, self.purged = signed, proven, placed.purged
        self.rebuild(signed, proven, placed)
        here = sorted((run.seq, run.end) for run in runs if run.fate != "copy")
        self.missing = list(subtract(0, self.size, here))

    def reach(self, signed, limit):
        """Without any signature: how many entries the lines and their links speak of."""
        while limit and not any(signed.own[32 * limit - 32 : 32 * limit]):
            limit -= 1
        return limit

    def renamed_strays(self, placed, signed, limit):
        """Return (day, name) of files of other names that begin with an entry that is missing."""
        here = [(item.seq, item.end) for item in placed.items if isinstance(item, Run)]
        missing = list(subtract(0, min(self.size, limit), here))
        found = []
        for name in self.folder.strays:
            if "/" in name:
                continue
            try:
                with self.folder.open(name) as file:
                    line = next(lines_of(file), None)
                seq = line.members[0] if line is not None and line.members else limit
                gone = any(first <= seq < last for first, last in missing)
                if gone and signed.leaf(seq) == line.leaf:
                    found.append((line.members[1][:10], name))
            except OSError:
                continue
        return found

    def tell_runs(self, runs):
        """Name what stands elsewhere than it should, and what stands there twice."""
        by_file = {}
        for run in runs:
            if run.fate != "copy":
                by_file.setdefault(run.file, []).append(run)
        renamed = {
            name
            for name, several in by_file.items()
            if any(run.off for run in several) and not any(run.off is False for run in several)
        }
        for name, several in by_file.items():
            off = [run for run in several if run.off]
            if off:
                first, last = min(run.seq for run in off), max(run.end for run in off)
                kind = "file_renamed" if name in renamed else "wrong_day"
                text = "Entries stand under another file name than their day's."
                self.say(kind, text, first, last, name, off[0].line)
        for run in runs:
            if run.fate == "copy":
                self.say("entry_duplicated", "Signed entries stand here again.", run.seq, run.end, run.file, run.line)
            elif run.fate == "moved" and run.file not in renamed:
                self.say(
                    "entry_moved",
                    "Signed entries stand at another place than they had.",
                    run.seq,
                    run.end,
                    run.file,
                    run.line,
                )
            if not run.whole:
                self.say("torn_tail", "No line feed ends this entry.", run.end - 1, file=run.file, line=run.line)

    def tell_gaps(self, placed, runs):
        """Name what is gone, changed and added between the entries that stand in order."""
        moved = sorted((run.seq, run.end) for run in runs if run.fate == "moved")
        with_entries = {run.file for run in runs}
        at, lines, before = 0, [], None
        for item in [*placed.items, None]:
            if isinstance(item, Foreign):
                lines.append(item)
            elif item is None or item.fate == "kept":
                end = self.size if item is None else item.seq
                self.tell_gap(at, end, lines, (before, item), moved, with_entries)
                lines = []
                if item is not None:
                    at, before = item.end, item

    def tell_gap(self, begin, end, lines, around, moved, with_entries):
        """Deal the lines of one gap to the stretches that are missing there."""
        missing = list(subtract(begin, end, moved))
        ranges, at_end = missing or [(begin, begin)], around[1] is None and not missing
        dealt, firsts = {first: [] for first, _ in ranges}, [first for first, _ in ranges]
        for line in lines:
            at = -1 if line.claims is None else bisect.bisect_right(firsts, line.claims) - 1
            claimed = at >= 0 and line.claims < ranges[at][1]
            dealt[firsts[at if claimed else -1]].append(line)
        for first, last in ranges:
            here = dealt[first]
            changed = min(last - first, len(here))
            if changed:
                self.say(
                    "entry_changed",
                    "The bytes are not those that were signed.",
                    first,
                    first + changed,
                    here[0].file,
                    here[0].line,
                )
            if first + changed < last:
                self.tell_lost(first + changed, last, around)
            self.tell_added(here[changed:], at_end, with_entries)

    def tell_lost(self, begin, end, around):
        """Name entries that are nowhere."""
        before, after = around
        if begin == 0:
            kind, text = "head_cut", "The first entries are gone."
        elif end >= self.size:
            kind, text = "tail_cut", "The last entries are gone."
        elif self.day_between(before, after):
            kind, text = "file_missing", "All entries of one or more days are gone."
        else:
            kind, text = "entry_missing", "Entries that were signed are gone."
        place = after or before
        self.say(kind, text, begin, end, place.file if place else None, place.line if place else None)

    def day_between(self, before, after):
        """Two neighbours stand in files of days between which there is another day without a file."""
        if before is None or after is None or before.file == after.file or after.line != 1:
            return False
        first, second = _DAY.match(before.file), _DAY.match(after.file)
        if not first or not second or not is_day(first.group(1)) or not is_day(second.group(1)):
            return False
        days = dt.date.fromisoformat(second.group(1)) - dt.date.fromisoformat(first.group(1))
        return days.days > 1

    def tell_added(self, lines, at_end, with_entries):
        """Name lines that were never signed and stand in no entry's place; `at_end`: after the last of all entries."""
        by_file = {}
        for line in lines:
            by_file.setdefault(line.file, []).append(line)
        seal = "" if self.ends_sealed else " The last one has no seal: no writer ever acknowledged it."
        for name, several in by_file.items():
            first = several[0]
            if at_end and self.anchors:
                torn = [line for line in several if not line.whole]
                if torn:
                    self.say("torn_tail", "The last line is incomplete.", file=name, line=torn[0].line)
                number = len(several) - len(torn)
                if number:
                    self.verdict.unsigned += number
                    self.tail = (name, first.line)
                    self.say(
                        "unsigned_tail",
                        "No signed checkpoint covers {}.{}".format(count(number, "line"), seal),
                        self.size,
                        self.size + number,
                        name,
                        first.line,
                    )
            elif name not in with_entries:
                self.say("file_added", "A day file holds no entry that was ever signed.", file=name, line=1)
            elif at_end and not first.whole:
                self.say("torn_tail", "The last line is incomplete.", file=name, line=first.line)
            else:
                text = "{} here that {} never signed.".format(
                    "A line stands" if len(several) == 1 else "{:,} lines stand".format(len(several)),
                    "was" if len(several) == 1 else "were",
                )
                self.say("entry_inserted", text, file=name, line=first.line)

    def rebuild(self, signed, proven, placed):
        """Roots, own entries and tree files from the signed hashes instead of the lines as they stand."""
        stored = StoredTree(self.folder)
        tree = Tree(stored.compare)
        self.loud = placed.loud
        sizes = set(self.roots) | set(self.anchors) | self.wanted
        stated = [own.metadata.get("size") for own in placed.own if own.kind == "checkpoint_witnessed"]
        sizes.update(size for size in stated if isinstance(size, int))
        befores = {own.seq for own in placed.own}
        roots, before = {}, {}
        upto = proven
        for seq in range(upto):
            if seq in befores:
                before[seq] = tree.root()
            leaf = signed.leaf(seq)
            stored.compare(0, seq, leaf)
            tree.append(leaf)
            if tree.size in sizes:
                roots[tree.size] = tree.root()
        walk = self.walk
        if self.whole_beyond(walk):
            roots.update({size: root for size, root in walk.roots.items() if size > self.size})
        stored.close()
        self.roots = roots
        seen = {}
        for own in placed.own:
            own.root = before.get(own.seq)
            seen.setdefault(own.seq, own)
        self.own = [seen[seq] for seq in sorted(seen)]
        most = max(self.size, walk.total)
        need = self.size
        if upto < self.size:
            found = [one for one in stored.findings(upto, 1 << 62, False) if one.kind == "tree_changed"]
            found += [one for one in stored.findings(need, most, walk.later > 0) if one.kind != "tree_changed"]
        else:
            found = stored.findings(need, most, walk.later > 0)
        self.found.extend(found)

    def whole_beyond(self, walk):
        """All signed entries stand at their places; more lines follow."""
        return (
            walk.total >= self.size and walk.roots.get(self.size) == self.anchors.get(self.size, walk).root
            if self.size in self.anchors
            else False
        )

    def known_before(self, size):
        """All entries before `size` are at hand, so that no rotation among them is unknown."""
        return not self.missing or self.missing[0][0] >= size

    # --- what was purged and sealed -----------------------------------------------------------------------------------

    def retention(self):
        """Step 10."""
        verdict, named = self.verdict, {}
        verdict.purged = join_purged(self.purged)
        told = [own for own in self.own if own.kind == "retention_applied" and own.seq < min(self.size, self.proven)]
        for own in told:
            ranges = listed_ranges(own)
            if ranges is not None:
                self.listed[own.seq] = (ranges, own.metadata["leaves"])
            name, digest = own.metadata.get("file"), own.metadata.get("sha256")
            if own.metadata.get("action") == "seal" and isinstance(name, str) and isinstance(digest, str):
                named.setdefault(name, []).append(digest)
        stretches = {}
        for begin, end, by in verdict.purged:
            if self.proven <= by < self.size:
                continue
            stretches.setdefault(by, []).append((begin, end))
        places = sorted(self.purged)
        starts = [place[0] for place in places]
        for by, gone in stretches.items():
            left, text = (
                gone,
                "Entry {}, which is to have authorised a purge, states nothing that bears it out.".format(by),
            )
            if by in self.listed and self.bears_out(by):
                left = uncovered(gone, self.listed[by][0])
                text = "Entry {}, which is to have authorised a purge, does not list all that is gone.".format(by)
            for first, last in left:
                begin, _, _, file, line = places[bisect.bisect_right(starts, first) - 1]
                self.say("purge_unauthorised", text, first, last, file, line + first - begin)
        if self.proven < self.size:
            return
        for name, digest in self.folder.sealed.items():
            if digest not in named.get(name, ()):
                self.say("sealed_changed", "No entry says that this is how the day was sealed.", file=name)
            elif digest != named[name][-1]:
                self.half.append(Finding("seal_unfinished", "It is an older form than the one sealed last.", file=name))
        for name, digest in self.folder.beside.items():
            if digest in named.get(name, ()):
                self.known_strays.add(name)
                self.half.append(Finding("seal_unfinished", "It lies beside the file that it replaces.", file=name))

    def bears_out(self, by):
        """Tell whether the digest that a purge entry states is that of the entries it lists."""
        ranges, stated = self.listed[by]
        digest = hashlib.sha256()
        for leaves in self.leaves_of(ranges):
            digest.update(leaves)
        return digest.hexdigest() == stated

    def leaves_of(self, ranges):
        """Give the proven leaf hashes of ranges that ascend: as stored where that was compared, else from the lines."""
        stored = self.walk.stored.levels.get(0)
        if self.signed is not None:
            for begin, end in ranges:
                yield bytes(self.signed.leaves[32 * begin : 32 * end])
        elif stored is not None and not stored.changed and stored.length >= 32 * self.size:
            for first, last in ranges:
                for begin in range(first, last, 1 << 15):
                    yield self.folder.read_at("tree/0", 32 * begin, 32 * min(1 << 15, last - begin))
        else:
            ranges, seq, at = list(ranges), 0, 0
            for name in self.folder.days:
                with self.folder.open(name) as file:
                    for line in lines_of(file):
                        while at < len(ranges) and ranges[at][1] <= seq:
                            at += 1
                        if at < len(ranges) and ranges[at][0] <= seq:
                            yield line.leaf
                        seq += 1

    def unfinished(self):
        """Give what a stopped run of retention leaves, in a log with nothing broken."""
        gone = [(begin, end) for begin, end, _ in self.verdict.purged]
        for ranges, _ in self.listed.values():
            there = list(uncovered(ranges, gone))
            if there:
                text = "{} that an entry lists for purging are still there.".format(
                    count(sum(end - begin for begin, end in there), "entry")
                )
                yield Finding("purge_unfinished", text, *there[0])
        yield from self.half

    # --- keys ---------------------------------------------------------------------------------------------------------

    def first_entry(self):
        """Step 6."""
        for own in self.own:
            if own.kind == "log_created" and own.seq:
                self.say("first_entry", "The log is created a second time.", own.seq, file=own.file, line=own.line)
        if not self.known_before(1) or not self.size:
            self.epochs.keys.append(None)
            return
        first = next((own for own in self.own if own.seq == 0), None)
        place = {"file": first.file, "line": first.line} if first else {}
        if first is None or first.kind != "log_created":
            self.say("first_entry", "The first entry does not create the log.", 0, **place)
            self.epochs.keys.append(None)
            return
        metadata, epoch = first.metadata, None
        try:
            epoch = Key(metadata.get("epoch_key", ""))
            if epoch.name != "{}/epoch-0".format(metadata.get("origin")):
                epoch = None
        except (Malformed, AttributeError, TypeError):
            epoch = None
        version = metadata.get("format", FORMAT)
        if version != FORMAT or isinstance(version, (bool, float)):
            self.say("unknown_version", "The log is of another format than 1.", 0, **place)
        try:
            second = ["mldsa_key"] if "mldsa_key" in metadata else []
            if list(metadata) != ["format", "origin", "log_key", "epoch", "epoch_key", *second, "policy"]:
                raise Malformed("it has other members")
            if metadata["epoch"] != 0 or isinstance(metadata["epoch"], (bool, float)):
                raise Malformed("its epoch is not 0")
            if not isinstance(metadata["policy"], str) or not re.match(r"[0-9a-f]{64}\Z", metadata["policy"]):
                raise Malformed("its policy is no digest")
            if not all(isinstance(metadata[name], str) for name in ("origin", "log_key", "epoch_key", *second)):
                raise Malformed("its keys are none")
            log_key = Key(metadata["log_key"])
            if log_key.name != metadata["origin"] or epoch is None:
                raise Malformed("its keys have other names")
            named = SecondKey(metadata["mldsa_key"]) if second else None
            if named is not None and named.name != metadata["origin"]:
                raise Malformed("its keys have other names")
            self.second, self.second_known = named, version == FORMAT
            origin = self.key.name if self.key else self.verdict.origin
            if self.key is not None and log_key.vkey != self.key.vkey and log_key.name == origin:
                self.say("foreign_key", "The first entry names another log key than the one you trust.", 0, **place)
            elif origin is not None and log_key.name != origin:
                raise Malformed("it is of another log")
            if self.epoch_key is not None and epoch.vkey != self.epoch_key.vkey:
                self.say("epoch_replaced", "Epoch 0 has another key than the one you kept.", 0, **place)
            if self.second_key is not None and (named is None or named.vkey != self.second_key.vkey):
                text = "The ML-DSA-44 key is not the one you kept, or none is named."
                self.say("mldsa_replaced", text, 0, **place)
        except Malformed as exc:
            self.say("first_entry", "The first entry does not describe this log: {}.".format(exc), 0, **place)
        self.epochs.keys.append(epoch)

    def rotations(self):
        """Step 7: walk the chain of epochs."""
        origin = self.verdict.origin or (self.key.name if self.key else self.stated.name if self.stated else "")
        for own in self.own:
            if own.kind != "signing_key_rotated" or own.seq >= self.size:
                continue
            number = len(self.epochs.keys)
            if not self.known_before(own.seq):
                stated = own.metadata.get("epoch")
                if isinstance(stated, int) and not isinstance(stated, bool) and number <= stated < number + 10_000:
                    while len(self.epochs.keys) < stated:
                        self.epochs.keys.append(None)
                        self.epochs.ends.append(own.seq)
                    number = stated
            fault, successor = handover_fault(own, origin, number, self.epochs.keys)
            if fault:
                text = "The handover is not what the outgoing epoch signed: {}.".format(fault)
                self.say("handover_invalid", text, own.seq, file=own.file, line=own.line)
            else:
                self.epochs.handovers += 1
            self.epochs.keys.append(successor)
            self.epochs.ends.append(own.seq + 1)

    def check_epochs(self, newest, kept):
        """Step 7: the second signature of each checkpoint."""
        for name, one in [("checkpoint", newest), *((self.folder.kept[size], one) for size, one in kept.items())]:
            if one is None:
                continue
            finding = self.epochs.check(name, one, self.known_before(one.size - 1) and one.size <= self.size)
            if finding is not None:
                self.found.append(finding)

    def check_second(self, newest, kept):
        """Step 7: the line by ML-DSA-44 is there where it must be, and by its key's name; no more is checked here."""
        closing = {own.seq + 1 for own in self.own if own.kind in _CLOSING}
        for name, one in [("checkpoint", newest), *((self.folder.kept[size], one) for size, one in kept.items())]:
            if one is None or not self.second_known or not self.known_before(one.size - 1) or one.size > self.size:
                continue
            if self.second is None and one.second is not None:
                self.say("mldsa_invalid", "It has a third signature, but the log names no such key.", file=name, line=7)
            elif self.second is not None and one.second is None:
                if one.size % KEPT_EVERY == 0 or one.size in closing:
                    text = "It lacks the ML-DSA-44 line that a checkpoint of this size has."
                    self.say("mldsa_missing", text, file=name, line=7)
            elif self.second is not None and one.second[1] != self.second.key_id:
                self.say("mldsa_invalid", "The third signature is not by the log's ML-DSA-44 key.", file=name, line=7)

    def witnesses(self):
        """Cosigned checkpoints in entries, by the policy that was given (section 9.5)."""
        key = self.key or self.stated
        if self.policy is None or key is None:
            return
        for own in self.own:
            if own.kind != "checkpoint_witnessed" or own.seq >= self.known:
                continue
            place = {"file": own.file, "line": own.line}
            try:
                checkpoint, known = self.cosigned(own.metadata, key)
            except Malformed as exc:
                text = "Entry {} tells of witnesses, but: {}.".format(own.seq, exc)
                self.say("cosignature_invalid", text, own.seq, **place)
                continue
            root = self.roots.get(checkpoint.size) if checkpoint.size <= self.size else None
            if root is not None and root != checkpoint.root:
                self.say("witness_disagrees", "Witnesses cosigned another history than this one.", own.seq, **place)
            elif root is not None and self.policy.quorum and self.policy.satisfied(known):
                found = (checkpoint.size, sorted(one.name for one in known))
                self.witnessed = max(self.witnessed or found, found, key=lambda one: one[0])
                self.rounds.append((checkpoint.size, self.policy.time_of(known)))
                self.points.append((checkpoint.size, from_seconds(self.rounds[-1][1])))

    def cosigned(self, metadata, key):
        """Return the checkpoint of a checkpoint_witnessed entry, and known witnesses whose lines verify, with times."""
        try:
            data = metadata["note"].encode("utf-8")
        except (KeyError, AttributeError, UnicodeError):
            raise Malformed("it holds no checkpoint") from None
        checkpoint = Checkpoint(data, exact=False)
        if checkpoint.origin != key.name or metadata.get("size") != checkpoint.size:
            raise Malformed("the checkpoint is of another size or log")
        if not checkpoint.signed_by(key):
            raise Malformed("the log key's line does not verify")
        known = {}
        for name, key_id, blob in checkpoint.signatures[2:]:
            witness = self.policy.witnesses.get((name, key_id))
            if witness is None:
                continue
            if not witness.checked:
                self.unread = True
            elif witness in known:
                raise Malformed("two lines are by one witness")
            elif not witness.cosigned(checkpoint.text, blob):
                raise Malformed("a witness's line does not verify")
            else:
                known[witness] = int.from_bytes(blob[:8], "big")
        return checkpoint, known

    def time_stamps(self, kept):
        """Step 9, as far as digests tell: who issued a token, and when, is not checked here."""
        stamps = []
        for own in self.own:
            if own.kind != "checkpoint_timestamped" or own.seq >= self.size:
                continue
            fault = stamp_fault(own)
            if fault:
                self.say(
                    "stamp_malformed",
                    "Entry {} tells of a time stamp, but {}.".format(own.seq, fault),
                    own.seq,
                    file=own.file,
                    line=own.line,
                )
            else:
                stamps.append(own.metadata)
        self.stamped = {one["size"] for one in stamps}
        tokens = {one["token"] for one in stamps}
        for one in stamps:
            size, name = one["size"], "checkpoints/{:020}.tsr".format(one["size"])
            if size not in kept:
                continue
            if size not in self.folder.stamps:
                self.say("stamp_missing", "A time stamp that an entry names is gone.", file=name)
                continue
            token = self.folder.read_note(name)
            if token is None:
                continue
            self.stamps += 1
            digest = hashlib.sha256(token).hexdigest()
            if hashlib.sha256(kept[size].data).hexdigest() != one["checkpoint"]:
                self.say("stamp_moved", "An entry tells of a time stamp of another checkpoint.", file=name)
            elif digest != one["token"] and digest in tokens:
                self.say("stamp_moved", "It is the time stamp of another checkpoint.", file=name)
            elif digest != one["token"] or len(token) > MAX_NOTE:
                self.say("stamp_changed", "It is not the time stamp that an entry names.", file=name)
            else:
                self.issuer(name, token, one)
        self.unnamed_stamps(kept)
        self.contradictions(own for own in self.own if own.kind == "checkpoint_timestamped" and own.seq < self.size)

    def issuer(self, name, token, told=None):
        """Ask openssl who issued a token; False with a finding if no root stands behind it.

        `told` is what its entry says, None if there is none: then it bounds no dates.
        """
        program = self.roots_file and shutil.which("openssl")
        kept = hashlib.sha256(self.folder.read_note(name[:-4]) or b"").hexdigest()
        found = stamp_time(program, token) if program else None
        if found is None:
            self.unasked = True
            return True
        at, accuracy = found
        if told is not None and (told["gen_time"][:19], told["gen_time"][20:26]) != (
            at.strftime("%Y-%m-%dT%H:%M:%S"), "{:06}".format(at.microsecond),
        ):  # fmt: skip
            self.say("stamp_changed", "An entry states another time than the time stamp.", file=name)
            return False
        elif not ask_openssl(program, token, kept, self.roots_file, at):
            self.say("stamp_untrusted", "No root that you trust stands behind it, says openssl.", file=name)
            return False
        elif at > self.now + TOLERANCE + accuracy:
            self.say("stamp_untrusted", "It is dated in the future.", file=name)
            return False
        elif told is not None:
            self.issued.append((told["size"], told["token"], at, accuracy))
            self.points.append((told["size"], at + accuracy))
        return True

    def contradictions(self, named):
        """What a time stamp covers existed when it was made; what follows the entry that names it did not."""
        if self.damaged or self.verdict.broken:
            return
        tokens = {token: (size, at, accuracy) for size, token, at, accuracy in self.issued}
        for own in named:
            if own.metadata.get("token") not in tokens:
                continue
            size, at, accuracy = tokens[own.metadata["token"]]
            logged, last = moment(own.logged), moment(self.walk.times.get(size))
            if logged is not None and logged < at - TOLERANCE - accuracy:
                text = "An entry claims to be older than the time stamp that it names."
                self.say("back_dated", text, own.seq, file=own.file, line=own.line)
            if last is not None and last > at + TOLERANCE + accuracy:
                self.say("dated_ahead", "An entry claims to be younger than a time stamp over it.", size - 1)

    def unnamed_stamps(self, kept):
        """A writer may have been stopped, once, before the entry that names its newest token."""
        if self.damaged:
            return
        after = max(self.stamped, default=0)
        for size, name in sorted(self.folder.stamps.items()):
            if size in self.stamped:
                continue
            token = self.folder.read_note(name)
            if token is not None and size in kept and after < size <= self.size:
                if hashlib.sha256(kept[size].data).digest() not in token:
                    self.say("stamp_moved", "It is a time stamp of something else than the file beside it.", file=name)
                    continue
                if not self.issuer(name, token):
                    continue
                text = "No entry names this time stamp: a writer was stopped just before, or somebody put it there."
                self.say("stamp_unfinished", text, file=name)
                self.stamped.add(size)
                after = self.size
            else:
                self.say("stamp_unexpected", "No entry names this time stamp.", file=name)

    def check_kept(self, kept, newest):
        """Step 8."""
        if newest is not None:
            self.check_kept_set(kept, newest)
        for size, one in kept.items():
            root = self.roots.get(size)
            if size <= self.size and root is not None and root != one.root and not self.rewritten(size):
                text = "A signed checkpoint has another root than the log at that size."
                self.say("checkpoint_root", text, 0, size, self.folder.kept[size])

    def check_kept_set(self, kept, newest):
        """Step 8: the kept checkpoints are those that section 8 asks for."""
        due = set(
            range(KEPT_EVERY, min(self.size, self.walk.total + len(self.folder.kept) * KEPT_EVERY + 1) + 1, KEPT_EVERY)
        )
        due.update(own.seq + 1 for own in self.own if own.kind in _CLOSING and own.seq < self.size)
        due.update(self.stamped)
        there = self.folder.kept
        for size in sorted(due - set(there)):
            if size <= self.size and "checkpoints" not in self.folder.unreadable:
                name = "checkpoints/{:020}".format(size)
                self.say("kept_missing", "A kept checkpoint is missing.", file=name)
        for size, name in sorted(there.items()):
            if size > newest.size:
                self.kept_ahead(size, name, kept, newest)
            elif size not in due and size <= self.size:
                if not any(first <= size - 1 < last for first, last in self.missing):
                    self.say("kept_unexpected", "A checkpoint is kept that no rule asks for.", file=name)
            elif size > self.size:
                self.say("kept_unexpected", "A checkpoint is kept for more entries than are signed.", file=name)

    def rewritten(self, size):
        """A finding about the entries below this size says already that they are not the signed ones."""
        return any(one.kind == "history_rewritten" and one.seq < size for one in self.found)

    def kept_ahead(self, size, name, kept, newest):
        """Judge a kept checkpoint of a larger size than that of checkpoint."""
        one = kept.get(size)
        if one is None:
            self.say("kept_unexpected", "It is kept for more entries than are signed, and signs nothing.", file=name)
        elif self.roots.get(size) == one.root:
            text = "A kept checkpoint signs more of these lines than checkpoint: nothing is gone."
            self.say("checkpoint_behind", text, newest.size, size, name)
        else:
            text = "A kept checkpoint signs {} entries, checkpoint {}.".format(size, newest.size)
            self.say("rollback", text, newest.size, size, name)

    def check_memory(self, memory, newest):
        """Step 9."""
        if memory is None:
            return
        root = self.roots.get(memory.size)
        if memory.size <= self.size:
            if root is not None and root != memory.root:
                text = "The log has root {} at size {}, the remembered checkpoint has {}.".format(
                    root.hex(), memory.size, memory.root.hex()
                )
                self.say("fork", text, 0, memory.size, "checkpoint")
            else:
                self.remembers = root is not None
        elif root == memory.root:
            self.remembers = True
        else:
            text = "{} were signed with root {}; the log's checkpoint is of {}{}.".format(
                count(memory.size, "entry"),
                memory.root.hex(),
                self.size,
                "" if newest is None else " with root " + newest.root.hex(),
            )
            if not any(one.kind == "rollback" for one in self.found):
                self.say("rollback", text, self.size, memory.size, "checkpoint")

    # --- the answers --------------------------------------------------------------------------------------------------

    def judge(self):
        verdict = self.verdict
        shown = {}
        for finding in verdict.broken:
            for threat in ("delete", "rollback") if finding.kind == "log_missing" else BROKEN[finding.kind]:
                shown.setdefault(threat, finding)
        size, pinned = self.__dict__.get("size", 0), self.key is not None
        rests = "the root over {}, signed by the log key".format(count(size, "entry"))
        if not pinned:
            rests += ", which only the log itself names"
        nothing = "no usable signature covers the entries, or not all of them could be told apart"
        for threat in THREATS:
            if threat in shown:
                verdict.threats[threat] = self.detected(shown[threat])
            elif threat in THREATS[:6]:
                answer = (
                    ("ruled_out", rests, "")
                    if self.covered
                    else ("not_ruled_out", nothing, "Get an undamaged copy of the log and verify that.")
                )
                verdict.threats[threat] = answer
            else:
                verdict.threats[threat] = self.open_threat(threat)

    def detected(self, finding):
        """The answer for a threat that a finding shows."""
        place = [] if finding.seq is None else ["entries [{}, {})".format(finding.seq, finding.seq_end)]
        place += [] if finding.file is None else [finding.file]
        place += [] if finding.line is None else ["line {}".format(finding.line)]
        return (
            "detected",
            "{}: {}".format(finding.kind, ", ".join(place) or finding.message),
            ("Change nothing; copy everything as it is."),
        )

    def by_witnesses(self):
        """The answer for what witnesses rule out, up to what they cosigned."""
        if self.witnessed is None:
            text = "cosignatures by ML-DSA-44 are there, which this file cannot check"
            return "not_checked", text, "klingai-audit verify --witnesses checks them."
        size, names = self.witnessed
        by = "{} cosigned this history up to size {}".format(", ".join(names), size)
        if self.loud < size and self.known_before(self.size):
            return "ruled_out", by, ""
        return "not_ruled_out", by + "; nobody else has seen all entries after it", "Have the log witnessed again."

    def dated(self):
        """The answer about back-dating, by time stamps that lead to a root and by the clocks of witnesses."""
        widest, stretch, end, bound = dt.timedelta(0), None, self.size, self.now
        for begin, told in sorted([*self.points, (0, self.now)], reverse=True):
            act = next((logged for seq, logged in self.walk.acts if begin <= seq < end), None)
            if act is not None and bound - act > widest:
                widest, stretch = bound - act, (begin, end)
            end, bound = min(end, begin), min(bound, told)
        sources = []
        if self.issued:
            size, _, at, _ = max(self.issued)
            words = "{} lead to the given roots, the last over {} on {:%Y-%m-%d %H:%M:%S} UTC"
            sources.append(words.format(count(len(self.issued), "time stamp"), count(size, "entry"), at))
        if self.rounds:
            size, told = max(self.rounds)
            words = "by the clocks of {} the first {} existed on {:%Y-%m-%d %H:%M:%S} UTC"
            sources.append(words.format(", ".join(self.witnessed[1]), count(size, "entry"), from_seconds(told)))
        by = "; ".join(sources)
        hours = "{:,} h".format(-(-widest // dt.timedelta(hours=1)))
        if widest <= DATED_WITHIN:
            return "ruled_out", "{}; no entry is dated back by more than {}".format(by, hours), ""
        by += "; entries [{}, {}) may be dated back by up to {}".format(*stretch, hours)
        return "not_ruled_out", by, "Have the log witnessed or stamped more often."

    def open_threat(self, threat):
        """The answer for a threat that no finding shows and the tree does not rule out."""
        if threat == "rollback":
            if self.remembers:
                return "ruled_out", "the remembered checkpoint, which this log extends", ""
            return (
                "not_ruled_out",
                "no usable checkpoint seen earlier was given",
                ("Keep a copy of the file checkpoint and give it next time: --remembered FILE"),
            )
        if threat == "foreign_key":
            if self.key is None:
                return "not_ruled_out", "the key is the one that the log itself names", "Give the key: --key VKEY"
            if not self.anchored:
                return (
                    "not_ruled_out",
                    "nothing in the log is signed by the key that was given",
                    ("Get a copy of the log with its checkpoint."),
                )
            return "ruled_out", "the log key that was given, {}".format(self.key.key_id.hex()), ""
        if threat == "back_dating" and self.points and not self.damaged and not self.verdict.broken:
            answer = self.dated()
            if answer[0] == "ruled_out" or not self.unasked:
                return answer
        if threat == "back_dating" and self.stamps and not self.unasked:
            return "not_checked", "time stamps are kept; the log itself is not in order", ""
        if threat == "back_dating" and self.stamps:
            text = "{} kept beside checkpoints; who issued them, and when, is not checked here".format(
                count(self.stamps, "time stamp")
            )
            return "not_checked", text, "Where the program openssl is: --tsa-roots PEM (section 9.6)."
        if threat == "quantum" and self.second is not None:
            text = "lines by the log's ML-DSA-44 key stand where they must; their signatures are not checked here"
            return "not_checked", text, "klingai-audit verify --mldsa-key VKEY checks them."
        if threat in ("fork", "key_holder", "key_theft") and (self.witnessed or self.unread):
            return self.by_witnesses()
        texts = {
            "fork": (
                "nothing here tells whether others are shown the same log",
                "Compare checkpoints with others, or have them witnessed.",
            ),
            "back_dating": ("times in the log are by the writer's clock alone", "Have checkpoints time-stamped."),
            "key_holder": (
                "whoever holds the current keys can sign another history",
                "Keep checkpoints where the operator cannot reach them.",
            ),
            "key_theft": (
                "the current epoch is protected by nothing but its key ({} checked)".format(
                    count(self.epochs.handovers, "handover")
                ),
                "Keep checkpoints elsewhere; rotate keys.",
            ),
            "quantum": (
                "all signatures are Ed25519",
                "Keep checkpoints elsewhere, with their dates. A new log: klingai-audit init --post-quantum",
            ),
        }
        return ("not_ruled_out", *texts[threat])


def listed_ranges(own):
    """Return what a purge entry lists, as half-open ranges; None if it is not of the form of section 9.7."""
    ranges, after = own.metadata.get("ranges"), 1
    if own.metadata.get("action") != "purge" or not isinstance(own.metadata.get("leaves"), str):
        return None
    if not isinstance(ranges, list):
        return None
    found = []
    for one in ranges:
        if not isinstance(one, list) or len(one) != 2 or [type(number) for number in one] != [int, int]:
            return None
        if not after <= one[0] <= one[1] < own.seq:
            return None
        found.append((one[0], one[1] + 1))
        after = one[1] + 1
    return found


def stamp_fault(own):
    """Say what is wrong with a checkpoint_timestamped entry, None if nothing is (section 9.6)."""
    metadata = own.metadata
    if list(metadata) != ["size", "checkpoint", "token", "tsa", "gen_time"]:
        return "it has other members"
    size, texts = metadata["size"], list(metadata.values())[1:]
    if isinstance(size, bool) or not isinstance(size, int) or not all(isinstance(one, str) for one in texts):
        return "a member is not of its type"
    if not all(re.match(r"[0-9a-f]{64}\Z", one) for one in texts[:2]):
        return "a digest is none"
    if not 0 < size <= own.seq:
        return "it names a size that does not come before it"
    return None


def from_seconds(told):
    """Return the moment of POSIX seconds, the latest that there is for what lies beyond it."""
    return dt.datetime.fromtimestamp(min(told, LATEST), dt.timezone.utc)


_STAMP_TIME = re.compile(
    rb"^Time stamp: ([A-Z][a-z]{2}) +(\d+) (\d+):(\d+):(\d+)(?:\.(\d{1,6})\d*)? (\d{4}) GMT$", re.MULTILINE
)
_ACCURACY = re.compile(rb"^Accuracy: (\w+) seconds, (\w+) millis, (\w+) micros$", re.MULTILINE)
_MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


def openssl_ts(program, words, data):
    """Run `openssl ts` with bytes as its input and return (whether it agrees, what it prints)."""
    try:
        done = subprocess.run(
            [program, "ts", *words], input=data, capture_output=True, timeout=60, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.SubprocessError):
        return False, b""
    return done.returncode == 0, done.stdout


def stamp_time(program, reply):
    """Return (genTime, accuracy) of an RFC 3161 reply as openssl reads it, None if it cannot."""
    fine, token = openssl_ts(program, ["-reply", "-in", "/dev/stdin", "-token_out"], reply)
    fine, text = openssl_ts(program, ["-reply", "-in", "/dev/stdin", "-token_in", "-text"], token) if fine else (0, b"")
    found, near = _STAMP_TIME.search(text), _ACCURACY.search(text)
    if not fine or found is None or b"\nHash Algorithm: sha256\n" not in text[: found.start()]:
        return None
    month, day, hour, minute, second, fraction, year = found.groups()
    try:
        at = dt.datetime(
            int(year), _MONTHS.index(month) // 3 + 1, int(day), int(hour), int(minute), int(second),
            int((fraction or b"0").ljust(6, b"0")), tzinfo=dt.timezone.utc,
        )  # fmt: skip
        parts = [0 if part == b"unspecified" else int(part, 16) for part in near.groups()] if near else [0, 0, 0]
        return at, dt.timedelta(seconds=parts[0], milliseconds=parts[1], microseconds=parts[2])
    except (ValueError, OverflowError):
        return None


def ask_openssl(program, reply, digest, roots_file, at):
    """Tell whether openssl finds a root behind this reply over a SHA-256 (hex), judged at the time that it states."""
    words = ["-verify", "-in", "/dev/stdin", "-digest", digest, "-CAfile", roots_file]
    return openssl_ts(program, [*words, "-attime", str(int(at.timestamp()))], reply)[0]


def subtract(begin, end, ranges):
    """Give what is left of [begin, end) without the ranges, in order."""
    for first, last in sorted(ranges):
        if last <= begin or first >= end:
            continue
        if first > begin:
            yield begin, first
        begin = max(begin, last)
    if begin < end:
        yield begin, end


def uncovered(ranges, others):
    """Give what is left of ranges without the others; both ascend and do not overlap."""
    at = 0
    for begin, end in ranges:
        while at < len(others) and others[at][1] <= begin:
            at += 1
        over, rest = at, begin
        while over < len(others) and others[over][0] < end:
            if others[over][0] > rest:
                yield rest, others[over][0]
            rest, over = max(rest, others[over][1]), over + 1
        if rest < end:
            yield rest, end
        at = max(at, over - 1)


BROKEN["log_missing"] = ("delete", "rollback")


def verify_log(
    path,
    key=None,
    epoch_key=None,
    remembered=None,
    now=None,
    patience=0.0,
    witnesses=None,
    mldsa_key=None,
    tsa_roots=None,
):
    """Verify the log in the folder `path`, or the copy there of one in a bucket, and return its Verdict.

    `key`, `epoch_key` and `mldsa_key` are vkeys (text) that are trusted, `key` None to take the log's own word;
    `remembered` is a checkpoint (bytes) seen earlier. `patience` is in seconds: how long to look again at what a writer
    may be about to finish. `witnesses` is the policy (bytes) that cosignatures are judged by. `tsa_roots` is the path
    of root certificates (PEM) that the program openssl judges time stamps by, if it is there. Raises Unusable if there
    is no log, or a key or policy is none.
    """
    now = now or dt.datetime.now(dt.timezone.utc)
    trusted = None if key is None else parse_key(key, "the log key")
    first = None if epoch_key is None else parse_key(epoch_key, "the epoch key")
    try:
        second = None if mldsa_key is None else SecondKey(mldsa_key.strip())
    except (Malformed, UnicodeError) as exc:
        raise Unusable("The ML-DSA-44 key is none: {}.".format(exc), 2) from None
    try:
        policy = None if witnesses is None else Policy(witnesses)
    except Malformed as exc:
        raise Unusable("The policy of witnesses is none: {}.".format(exc), 2) from None
    if is_bucket(path):
        with tempfile.TemporaryDirectory(prefix="klingai-audit-verify-") as target:
            bucket = Bucket(path)
            bucket.unpack(target)
            verifier = Verifier(target, trusted, first, remembered, now, {}, policy, second, tsa_roots)
            verifier.folder.strays += bucket.strays
            verdict = verifier.run()
            verdict.log = path
            return verdict
    begin = time.monotonic()
    limits = {}
    if patience > 0:
        limits = dict(Folder(path).lengths)
    while True:
        verdict = Verifier(path, trusted, first, remembered, now, limits, policy, second, tsa_roots).run()
        kinds = {finding.kind for finding in verdict.broken}
        if not kinds or not kinds <= UNFINISHED or time.monotonic() - begin >= patience:
            return verdict
        time.sleep(0.1)


def parse_key(text, what):
    try:
        return Key(text.strip())
    except (Malformed, UnicodeError) as exc:
        raise Unusable("{} is none: {}.".format(what[:1].upper() + what[1:], exc), 2) from None


# =====================================================================================================================
# Proofs (C2SP tlog-proof)
# =====================================================================================================================


def check_proof(data, key, entry=None):
    """Check a `.tlog-proof` with the log's vkey; return (index, Checkpoint, entry). Raises Malformed with the reason.

    The entry is what the proof's `extra` line holds, else `entry` (bytes without LF).
    """
    trusted = parse_key(key, "the log key")
    head, _, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("its head is not ASCII") from None
    if lines.pop(0) != "c2sp.org/tlog-proof@v1" or not note:
        raise Malformed("it is no c2sp.org/tlog-proof@v1")
    if lines and lines[0].startswith("extra "):
        held = decode_base64(lines.pop(0)[6:])
        if entry is not None and entry != held:
            raise Malformed("it holds another entry than the one that was given")
        entry = held
    if not lines or not lines[0].startswith("index ") or not _DECIMAL.match(lines[0][6:]):
        raise Malformed("it has no index")
    if entry is None:
        raise Unusable("The proof does not hold the entry.", 2)
    index, path = int(lines.pop(0)[6:]), [decode_base64(line) for line in lines]
    checkpoint = Checkpoint(note, exact=False)
    by_log = [one for one in checkpoint.signatures if one[:2] == (trusted.name, trusted.key_id)]
    if checkpoint.origin != trusted.name or len(by_log) != 1 or not trusted.signed(checkpoint.text, by_log[0][2]):
        raise Malformed("its checkpoint is not signed by the key that was given")
    if not 0 <= index < checkpoint.size or any(len(value) != 32 for value in path):
        raise Malformed("its index or hashes are none")
    result = hashlib.sha256(b"\0" + entry).digest()
    if climb(index, checkpoint.size - 1, path, result)[1] != checkpoint.root:
        raise Malformed("the hashes do not lead from the entry to the signed root")
    members = Line(entry, True, 0).members
    fault = decode_entry(entry)[1]
    if fault or members is None or members[0] != index:
        raise Malformed(
            "what it proves is no entry of this place: {}".format(fault[1] if fault else "it states another seq")
        )
    return index, checkpoint, entry


def climb(fn, sn, path, start):
    """Go up from a node to the root along the hashes of a proof (RFC 9162, 2.1.3.2 and 2.1.4.2).

    Return the root over what lies left of the node's end, and over all. Raises Malformed for a path of another length.
    """
    left = whole = start
    for value in path:
        if sn == 0:
            raise Malformed("it has too many hashes")
        if fn & 1 or fn == sn:
            left, whole = node(value, left), node(value, whole)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            whole = node(whole, value)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise Malformed("it has too few hashes")
    return left, whole


def check_consistency(data, old, key):
    """Check that a checkpoint (bytes) is the beginning of that in a proof; return both Checkpoints.

    The proof is the body of a C2SP `add-checkpoint` request. Raises Malformed with the reason.
    """
    trusted = parse_key(key, "the log key")
    head, _, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("its head is not ASCII") from None
    if not note or not lines[0].startswith("old ") or not _DECIMAL.match(lines[0][4:]):
        raise Malformed("it is no proof of consistency")
    path = [decode_base64(line) for line in lines[1:]]
    before, after = Checkpoint(old, exact=False), Checkpoint(note, exact=False)
    for one in (before, after):
        by_log = [line for line in one.signatures if line[:2] == (trusted.name, trusted.key_id)]
        if one.origin != trusted.name or len(by_log) != 1 or not trusted.signed(one.text, by_log[0][2]):
            raise Malformed("a checkpoint is not signed by the key that was given")
    if before.size != int(lines[0][4:]) or any(len(value) != 32 for value in path) or before.size > after.size:
        raise Malformed("its sizes or hashes are none, or not those of the older checkpoint")
    if before.size == after.size:
        if path or before.root != after.root:
            raise Malformed("two histories of one size were signed: keep both checkpoints")
        return before, after
    if before.size & before.size - 1 == 0:
        path.insert(0, before.root)
    if not path:
        raise Malformed("it has too few hashes")
    fn, sn = before.size - 1, after.size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    if climb(fn, sn, path[1:], path[0]) != (before.root, after.root):
        raise Malformed("the newer checkpoint is not of a log that extends the older one: keep both checkpoints")
    return before, after


# =====================================================================================================================
# The command
# =====================================================================================================================

MARKS = {
    "ruled_out": "ruled out",
    "detected": "DETECTED",
    "not_ruled_out": "not ruled out",
    "not_checked": "not checked",
}


def print_verdict(verdict, write):
    """Write the findings and the table of threats for people."""
    broken, notes = verdict.broken, [one for one in verdict.findings if one.severity == "note"]
    write("Log      {}".format(inert(verdict.origin or verdict.log)))
    write("Key      {}".format(inert(verdict.key) if verdict.key else "none given: only what the log names itself"))
    write("Entries  {:,} lines, {:,} of them signed".format(verdict.total, min(verdict.size, verdict.total)))
    if verdict.purged:
        gone = count(sum(end - begin for begin, end, _ in verdict.purged), "entry")
        by = sorted({by for _, _, by in verdict.purged})
        shown = ", ".join(map(str, by[:10])) + (", …" if by[10:] else "")
        write("Purged   {}: what they said is gone; as authority they name entry {}".format(gone, shown))
    write("")
    if broken:
        write("BROKEN: {}. Do not repair anything; copy the files as they are.".format(count(len(broken), "finding")))
    else:
        write("Nothing is broken." + (" {}.".format(count(len(notes), "note")) if notes else ""))
    for finding in (broken + notes)[:50]:
        place = [] if finding.file is None else [inert(finding.file)]
        place += [] if finding.line is None else ["line {}".format(finding.line)]
        place += (
            []
            if finding.seq is None
            else [
                "entry {}".format(finding.seq)
                if finding.seq_end == finding.seq + 1
                else "entries {} to {}".format(finding.seq, finding.seq_end - 1)
            ]
        )
        write("  {:<20} {}{}".format(finding.kind, finding.message, "  ({})".format(", ".join(place)) if place else ""))
    if len(broken + notes) > 50:
        write("  … and {:,} more (--json lists them)".format(len(broken + notes) - 50))
    write("")
    for threat, (state, by, do) in verdict.threats.items():
        write("  {:<12} {:<14} {}".format(threat, MARKS[state], inert(by)))
        if do and state != "ruled_out":
            write("  {:<12} {:<14} {}".format("", "", inert(do)))


def read_argument(path, what, limit):
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise Unusable("{} {} cannot be read: {}.".format(what, inert(path), reason), 2) from None
    if len(data) > limit:
        raise Unusable("{} {} is too large.".format(what, inert(path)), 2)
    return data


def key_argument(text):
    """Return the vkey that the argument is, or that the file holds which it names."""
    if text is None or re.match(r"[^\s+]+\+[0-9a-f]{8}\+\S+\Z", text):
        return text
    try:
        return read_argument(text, "The key file", MAX_NOTE).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Unusable("The key file {} holds no vkey.".format(inert(text)), 2) from None


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="klingai-audit-verify",
        description="Check a klingai-audit log, or a proof of one entry, with the Python standard library alone.",
    )
    parser.add_argument("folder", nargs="?", help="the log's folder (where the audit-*.jsonl files are)")
    parser.add_argument("--key", metavar="VKEY|FILE", help="the log's public key, from elsewhere than the log")
    parser.add_argument("--epoch-key", metavar="VKEY|FILE", help="the public key of epoch 0")
    parser.add_argument("--mldsa-key", metavar="VKEY|FILE", help="the log's ML-DSA-44 public key, if it has one")
    parser.add_argument("--remembered", metavar="FILE", help="a checkpoint of this log that you kept earlier")
    parser.add_argument("--witnesses", metavar="FILE", help="a policy: whose cosignatures count (C2SP tlog-policy)")
    parser.add_argument(
        "--tsa-roots", metavar="PEM", help="root certificates of time stamp authorities (needs the program openssl)"
    )
    parser.add_argument("--trust-first-key", action="store_true", help="take the key that the log itself names")
    parser.add_argument("--proof", metavar="FILE", help="check this .tlog-proof instead of a folder")
    parser.add_argument("--entry", metavar="FILE", help="the entry's bytes, where the proof does not hold them")
    parser.add_argument("--old", metavar="FILE", help="the older checkpoint, where the proof is one of consistency")
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=2.0,
        help="how long to wait for a writer at work (default 2)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(argv)
    if (asked.folder is None) == (asked.proof is None):
        parser.error("name a folder, or a proof with --proof")
    if (asked.key is None and not asked.trust_first_key) or (asked.proof and asked.key is None):
        parser.error("give the log's public key with --key (a key that only the log names proves little)")
    return asked


def run_consistency(asked, key, write):
    """Check a proof that a log extends an older checkpoint and return the exit code."""
    data, old = read_argument(asked.proof, "The proof", MAX_PROOF), read_argument(asked.old, "The checkpoint", MAX_NOTE)
    try:
        before, after = check_consistency(data, old, key)
    except Malformed as exc:
        told = {"valid": False, "exit": 4, "message": str(exc)}
        write(json.dumps(told) if asked.json else "NOT PROVEN: {}.".format(inert(exc)))
        return 4
    told = {"valid": True, "exit": 0, "old": before.size, "new": after.size, "origin": after.origin}
    text = "Proven: the first {:,} of {:,} entries are what the older checkpoint covered."
    write(json.dumps(told) if asked.json else text.format(before.size, after.size))
    return 0


def run(argv, write):
    """Do what the arguments ask for and return the exit code."""
    asked = parse_arguments(argv)
    key, epoch = key_argument(asked.key), key_argument(asked.epoch_key)
    if asked.proof and asked.old:
        return run_consistency(asked, key, write)
    if asked.proof:
        data = read_argument(asked.proof, "The proof", MAX_PROOF)
        entry = read_argument(asked.entry, "The entry", MAX_ENTRY + 1) if asked.entry else None
        if entry is not None and entry.endswith(b"\n"):
            entry = entry[:-1]
        try:
            index, checkpoint, entry = check_proof(data, key, entry)
        except Malformed as exc:
            told = {"valid": False, "exit": 4, "message": str(exc)}
            write(json.dumps(told) if asked.json else "NOT PROVEN: {}.".format(inert(exc)))
            return 4
        told = {
            "valid": True,
            "exit": 0,
            "seq": index,
            "tree_size": checkpoint.size,
            "origin": checkpoint.origin,
            "cosignatures": {"state": "not_checked", "lines": len(checkpoint.signatures) - 1},
            "entry": entry.decode("utf-8"),
        }
        if asked.json:
            write(json.dumps(told))
        else:
            write(
                "Proven: entry {} is in the tree of {:,} entries of {}.".format(
                    index, checkpoint.size, inert(checkpoint.origin)
                )
            )
            write(inert(entry.decode("utf-8")))
            if len(checkpoint.signatures) > 1:
                write(
                    "Not checked: {} by others than the log key.".format(
                        count(len(checkpoint.signatures) - 1, "signature")
                    )
                )
            write("Not shown by this: that everybody is shown the same tree.")
        return 0
    remembered = read_argument(asked.remembered, "The checkpoint", MAX_NOTE) if asked.remembered else None
    policy = read_argument(asked.witnesses, "The policy", MAX_PROOF) if asked.witnesses else None
    second = key_argument(asked.mldsa_key)
    if asked.tsa_roots:
        read_argument(asked.tsa_roots, "The root certificates", MAX_PROOF)
    verdict = verify_log(
        asked.folder, key, epoch, remembered, patience=asked.patience, witnesses=policy, mldsa_key=second,
        tsa_roots=asked.tsa_roots,
    )  # fmt: skip
    if asked.json:
        write(json.dumps(verdict.as_json()))
    else:
        print_verdict(verdict, write)
    return verdict.exit_code


def main(argv=None):
    """Run the command; returns its exit code. Whatever goes wrong inside is exit 4: nothing was verified."""

    def write(text):
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        getattr(sys.stdout, "buffer", sys.stdout).write(data)

    try:
        code = run(sys.argv[1:] if argv is None else argv, write)
        sys.stdout.flush()
    except Unusable as exc:
        print("klingai-audit-verify: {}".format(exc), file=sys.stderr)
        return exc.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        kind = type(exc).__name__
        print(
            "klingai-audit-verify: stopped with an internal error ({}); nothing was verified.".format(kind),
            file=sys.stderr,
        )
        return 4
    return code


if __name__ == "__main__":
    sys.exit(main())
