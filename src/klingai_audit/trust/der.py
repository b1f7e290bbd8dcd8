"""Reading DER: as much of ASN.1 as a time stamp is made of, strictly, so that one value has one encoding.

Source: ITU-T X.690, section 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import Malformed

__all__ = [
    "BIT_STRING",
    "BOOLEAN",
    "INTEGER",
    "OCTETS",
    "OID",
    "SEQUENCE",
    "SET",
    "TIME",
    "Fields",
    "Value",
    "read_one",
    "write",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTETS: Final = 0x04
OID: Final = 0x06
TIME: Final = 0x18
"""GeneralizedTime."""
SEQUENCE: Final = 0x30
SET: Final = 0x31

_LONG: Final = 0x80
_MULTIBYTE_TAG: Final = 0x1F


@dataclass(frozen=True, slots=True)
class Value:
    """One value: its tag octet, its content, and all its octets."""

    tag: int
    content: bytes
    whole: bytes

    def fields(self, tag: int = SEQUENCE) -> Fields:
        """Return what a constructed value with this tag holds. Raises: Malformed."""
        if self.tag != tag:
            raise Malformed(f"DER tag {self.tag:#04x} stands where {tag:#04x} belongs.")
        return Fields(_read_all(self.content))

    def integer(self) -> int:
        """Return an INTEGER. Raises: Malformed."""
        data = self.content
        if self.tag & 0x1F != INTEGER and self.tag < _LONG:
            raise Malformed("No DER integer stands where one belongs.")
        padded = len(data) > 1 and (data[0], data[1] >> 7) in ((0, 0), (0xFF, 1))
        if not data or padded:
            raise Malformed("A DER integer is not of the shortest form.")
        return int.from_bytes(data, "big", signed=True)

    def oid(self) -> str:
        """Return an OBJECT IDENTIFIER in dotted decimals. Raises: Malformed."""
        if self.tag != OID or not self.content or self.content[-1] & _LONG:
            raise Malformed("No DER object identifier stands where one belongs.")
        arcs, number = [], 0
        for octet in self.content:
            number = number << 7 | octet & 0x7F
            if not octet & _LONG:
                arcs.append(number)
                number = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - first * 40, *arcs[1:])))


class Fields:
    """The values of a SEQUENCE or SET, taken one after the other."""

    def __init__(self, values: Iterator[Value]) -> None:
        self._values = list(values)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values)

    def take(self, *tags: int) -> Value:
        """Take the next value, which has one of these tags (any without). Raises: Malformed."""
        if not self._values or (tags and self._values[0].tag not in tags):
            raise Malformed("A DER structure lacks a field.")
        return self._values.pop(0)

    def optional(self, tag: int) -> Value | None:
        """Take the next value if it has this tag."""
        return self._values.pop(0) if self._values and self._values[0].tag == tag else None

    def end(self) -> None:
        """Raises: Malformed if a value is left."""
        if self._values:
            raise Malformed("A DER structure has a field too many.")


def read_one(data: bytes) -> Value:
    """Return the one value that `data` is, nothing before or after it. Raises: Malformed."""
    value, end = _read(data, 0)
    if end != len(data):
        raise Malformed(f"{len(data) - end} bytes follow a DER value.")
    return value


def write(tag: int, *parts: bytes) -> bytes:
    """Return the value with this tag whose content is `parts`."""
    content = b"".join(parts)
    size = len(content).to_bytes(4, "big").lstrip(b"\0")
    length = bytes([len(content)]) if len(content) < _LONG else bytes([_LONG | len(size)]) + size
    return bytes([tag]) + length + content


def _read_all(data: bytes) -> Iterator[Value]:
    at = 0
    while at < len(data):
        value, at = _read(data, at)
        yield value


def _read(data: bytes, at: int) -> tuple[Value, int]:
    if at + 2 > len(data) or data[at] & _MULTIBYTE_TAG == _MULTIBYTE_TAG:
        raise Malformed("A DER value is cut off, or has a tag of several octets.")
    length, begin = data[at + 1], at + 2
    if length & _LONG:
        count = length & 0x7F
        octets = data[begin : begin + count]
        length, begin = int.from_bytes(octets, "big"), begin + count
        if not 0 < count <= 4 or len(octets) != count or octets[0] == 0 or length < _LONG:
            raise Malformed("A DER length is not of the shortest form.")
    end = begin + length
    if end > len(data):
        raise Malformed("A DER value is cut off.")
    return Value(data[at], data[begin:end], data[at:end]), end
