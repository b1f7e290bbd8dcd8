"""CSV, CEF and syslog: what anybody puts into a field stays in that field, and does nothing there.

Each format is read back by a slow and obvious parser written from its specification, not by the product.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.exports import cef, columns, syslog
from klingai_audit.exports.record import Record
from klingai_audit.exports.text import ascii_json, cell, cut, harmless
from klingai_audit.views.inert import inert
from tests.support.exported import HOSTILE, filled, json_values, line, record, text

ANY = st.sampled_from(HOSTILE) | text
GIVEN = ANY.filter(bool)


def is_inert(shown: str) -> bool:
    """Whether no character of it moves a cursor, hides, reorders or ends a line."""
    return not any(unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"} for char in shown)


# --- slow parsers --------------------------------------------------------------------------------------


def parse_csv(data: bytes) -> list[list[str | None]]:
    """RFC 4180, one character at a time; an empty cell without quotation marks is None."""
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    rest = data.decode()
    while rest:
        if rest.startswith('"'):
            value, at = "", 1
            while not (rest[at] == '"' and rest[at + 1 : at + 2] != '"'):
                value += rest[at]
                at += 2 if rest[at] == '"' else 1
            row.append(value)
            rest = rest[at + 1 :]
        else:
            at = min(at for at in (rest.find(","), rest.find("\r\n"), len(rest)) if at >= 0)
            row.append(rest[:at] or None)
            rest = rest[at:]
        if rest.startswith("\r\n"):
            rows.append(row)
            row, rest = [], rest[2:]
        else:
            assert rest[0] == ","
            rest = rest[1:]
    assert row == []
    return rows


def parse_cef(data: str) -> tuple[list[str], dict[str, str]]:
    """Header and extension of one CEF line, one character at a time."""
    assert data.startswith("CEF:0|")
    fields, field, at = [], "", len("CEF:0|")
    while len(fields) < 6:
        if data[at] == "\\":
            assert data[at + 1] in "\\|"
            field, at = field + data[at + 1], at + 2
        elif data[at] == "|":
            fields.append(field)
            field, at = "", at + 1
        else:
            field, at = field + data[at], at + 1
    pairs: dict[str, str] = {}
    key, word, value, inside = "", "", "", False
    while at < len(data):
        if data[at] == "\\":
            assert inside
            assert data[at + 1] in "\\=", "only what has to be escaped is"
            word, at = word + data[at + 1], at + 2
            continue
        if data[at] == "=":
            if inside:
                assert word
                assert key not in pairs
                pairs[key] = value.removesuffix(" ")
            key, word, value, inside = word, "", "", True
        elif data[at] == " ":
            value, word = value + word + " ", ""
        else:
            word += data[at]
        at += 1
    pairs[key] = value + word
    return fields, pairs


def parse_syslog(data: bytes) -> dict[str, Any]:
    """RFC 5424 section 6, one part after the other."""
    head = re.match(rb"<(\d{1,3})>1 (\S+) (\S{1,255}) (\S{1,48}) (\S{1,128}) (\S{1,32}) ", data)
    assert head is not None
    rest = data[head.end() :].decode()
    parameters: dict[str, str] = {}
    if rest.startswith("-"):
        rest = rest[1:]
    else:
        name = re.match(r"\[([^ =\]\"]{1,32})", rest)
        assert name is not None
        assert name[1] == syslog.SD_ID
        at = name.end()
        while rest[at] != "]":
            found = re.match(r' ([^ =\]"]{1,32})="', rest[at:])
            assert found is not None
            at += found.end()
            value = ""
            while rest[at] != '"':
                assert rest[at] != "]", "RFC 5424 wants it escaped"
                if rest[at] == "\\" and rest[at + 1] in '"\\]':
                    at += 1
                value, at = value + rest[at], at + 1
            assert found[1] not in parameters
            parameters[found[1]] = value
            at += 1
        rest = rest[at + 1 :]
    assert rest == "" or rest[0] == " "
    return {"priority": int(head[1]), "time": head[2], "kind": head[6].decode(), "data": parameters, "text": rest[1:]}


# --- the text itself -----------------------------------------------------------------------------------


@given(ANY)
def test_harmless_text_is_one_visible_line_without_tags(value: str) -> None:
    """No control character, no tag; nothing else is touched."""
    shown = harmless(value)
    assert is_inert(shown)
    assert "<" not in shown
    assert ">" not in shown
    assert inert(value) == shown.replace("\\x3c", "<").replace("\\x3e", ">") or "\\x3" in value


@given(ANY)
def test_a_cell_is_no_formula_and_can_be_read_back(value: str) -> None:
    """A spreadsheet sees text; one apostrophe taken away is what was put in, made visible."""
    (read,) = next(csv.reader(io.StringIO(cell(value), newline="")))
    assert is_inert(read)
    assert read.lstrip()[:1] not in set("=+-@|%\t\r\n\uff1d\uff0b\uff0d\uff20")
    assert inert(value) == read.removeprefix("'")


@given(json_values)
def test_ascii_json_is_the_same_value_in_printable_ascii(value: Any) -> None:
    """Nothing but printable ASCII, no tag, and the same JSON."""
    raw = line(metadata={"value": value})
    shown = ascii_json(raw)
    assert re.fullmatch(r"[\x20-\x7e]+", shown)
    assert not set("<>&") & set(shown)
    assert json.loads(raw) == json.loads(shown)


def test_plain_entries_keep_their_bytes() -> None:
    """An entry in ASCII without tags can be hashed at the other end."""
    raw = line(metadata={"model": "kling-2.6", "path": 'a\\b "c" \n'})
    assert raw == ascii_json(raw).encode()


@pytest.mark.parametrize("value,limit,expected", [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("ab", 1, "…")])
def test_a_cut_shows(value: str, limit: int, expected: str) -> None:
    """What is too long ends with an ellipsis and is exactly as long as allowed."""
    assert expected == cut(value, limit)


# --- CSV -----------------------------------------------------------------------------------------------


@given(GIVEN)
def test_csv_keeps_every_value_in_its_cell(value: str) -> None:
    """The slow parser and the standard library read the same cells, and those say what the entry says."""
    data = columns.csv_head() + columns.encode_csv(filled(value)) + b"\r\n"
    names, cells = parse_csv(data)
    assert list(columns.CSV_COLUMNS) == names
    assert len(names) == len(cells)
    (found,) = csv.DictReader(io.StringIO(data.decode(), newline=""))
    assert found == {str(name): shown or "" for name, shown in zip(names, cells, strict=True)}
    assert inert(value) == found["team"].removeprefix("'")
    assert all(is_inert(shown) and shown[:1] not in set("=+-@") for shown in found.values())
    assert b"\n" not in columns.encode_csv(filled(value))


def test_csv_tells_missing_from_given() -> None:
    """A member that the entry does not have is an empty cell without quotation marks."""
    names, cells = parse_csv(columns.csv_head() + columns.encode_csv(record(team="studio-a")) + b"\r\n")
    row = dict(zip(names, cells, strict=True))
    assert ("studio-a", None, None) == (row["team"], row["project"], row["metadata"])


# --- CEF -----------------------------------------------------------------------------------------------


@given(GIVEN)
def test_cef_keeps_every_value_in_its_pair(value: str) -> None:
    """The slow parser finds our keys and no others, and the values are what the entry says, made visible."""
    encoded = cef.encode(filled(value)).decode()
    head, pairs = parse_cef(encoded)
    labels = {f"{key}Label" for key in cef.LABELS}
    assert is_inert(encoded)
    assert "<" not in encoded
    assert set(pairs) <= set(cef.EXTENSIONS) | labels
    assert ["klingai-audit", "klingai-audit", "video_downloaded"] == [head[0], head[1], head[3]]
    expected = cut(harmless(value), 1023)
    assert expected.rstrip(" ") == pairs["act"].rstrip(" ")
    assert cut(harmless(f"{value}/{value}"), 4000).rstrip(" ") == pairs["cs6"].rstrip(" ")
    assert all(len(pairs[key]) <= limit for key, (_, limit, _value) in cef.EXTENSIONS.items() if key in pairs)


def test_cef_carries_the_proof_and_the_severity() -> None:
    """Place, leaf hash and tree, and a number from 0 to 10."""
    exported = record("policy_violation", outcome="blocked", seq=41)
    head, pairs = parse_cef(cef.encode(exported).decode())
    assert ["policy_violation", "The provider refused the content.", "8"] == [*head[3:5], head[5]]
    assert ("41", "1000", exported.leaf_hash) == (pairs["cn1"], pairs["cn2"], pairs["cs1"])
    assert ("seq", "tree size", "leaf hash") == (pairs["cn1Label"], pairs["cn2Label"], pairs["cs1Label"])
    assert exported.head.root_text == pairs["cs2"]
    assert str(exported.entry.timestamp.timestamp() * 1000).removesuffix(".0") == pairs["rt"]


# --- syslog --------------------------------------------------------------------------------------------


def check_message(exported: Record, value: str) -> None:
    """One message: what its parts say is what the entry says."""
    message = syslog.encode(exported, "host")
    found = parse_syslog(message)
    assert len(message) <= syslog.MAX_MESSAGE
    assert is_inert(message.decode())
    assert b"<" not in message[1:].replace(b"\\x3c", b"")
    assert set(found["data"]) <= {*syslog.PARAMETERS, "cut"}
    assert cut(harmless(value), 255) == found["data"]["team"]
    stored = json.loads(exported.entry.raw)
    if found["data"].get("cut"):
        stored.pop("metadata", None)
    assert found["text"] == "" or stored == json.loads(found["text"])


@given(GIVEN)
def test_syslog_keeps_every_value_in_its_parameter(value: str) -> None:
    """The slow parser finds our parameters and no others, and the text is the entry."""
    check_message(filled(value), value)


@pytest.mark.parametrize("size", [1_000, 6_000, 60_000])
def test_long_entries_are_cut_and_say_so(size: int) -> None:
    """No message is longer than every receiver takes; the proof is never what is left out."""
    exported = record(team="studio-a", metadata={"x": "y" * size})
    check_message(exported, "studio-a")
    found = parse_syslog(syslog.encode(exported, "host"))
    assert (size > 6_000) == ("cut" in found["data"])
    assert exported.leaf_hash == found["data"]["leaf"]
    long = record(action="é" * 9_000, resource_id="é" * 9_000, team="studio-a")
    check_message(long, "studio-a")
    assert "" == parse_syslog(syslog.encode(long, "host"))["text"]


@pytest.mark.parametrize("value", [*HOSTILE, "é" * 1_800, "=" * 3_600])
def test_cef_in_syslog_is_one_message_of_bounded_length(value: str) -> None:
    """Other characters than ASCII are announced as RFC 5424 asks; long values are cut shorter."""
    message = syslog.encode_cef(filled(value), "host")
    assert len(message) <= syslog.MAX_MESSAGE
    shown = parse_syslog(message)["text"]
    assert shown.startswith("\ufeff") != shown.isascii()
    assert parse_cef(shown.removeprefix("\ufeff"))[1]["cn1"] == "7"


def test_syslog_head_says_when_what_and_how_grave() -> None:
    """Facility 13, the severity of the event, its own time, its type."""
    found = parse_syslog(syslog.encode(record("verification_failed", outcome="failure"), "host"))
    assert (13 * 8 + 2, b"2026-11-21T12:00:00.000000Z", "verification_failed") == (
        found["priority"],
        found["time"],
        found["kind"],
    )
    own = parse_syslog(syslog.encode(record("x_" + "a" * 62), "host"))
    assert ("x_" + "a" * 30, 13 * 8 + 6) == (own["kind"], own["priority"])
    assert re.fullmatch(r"[\x21-\x7e]{1,255}", syslog.host_name())


def test_frames_count_octets() -> None:
    """The length in front is that of the bytes, not of the characters."""
    assert b"4 \xc3\xa9ab" == syslog.frame("éab".encode())
