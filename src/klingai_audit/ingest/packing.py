"""Bodies that are packed: gzip and zstd, never more than so many bytes of output at once or in all."""

from __future__ import annotations

import zlib
from typing import Final

from klingai_audit.ingest.wire import Refused

__all__ = ["ENCODINGS", "unpack"]

ENCODINGS: Final = "gzip, zstd, identity"
"""What `Content-Encoding` may say, one at a time."""

_GZIP: Final = 31
_MAX_WINDOW: Final = 8 << 20  # RFC 8878 and RFC 9659: what a decoder of HTTP content has to have, and no more
_PIECE: Final = 1 << 16
_STEP: Final = 1 << 12
"""Bytes that are unpacked at a time: what a frame leaves of them is copied, so a body of many tiny frames takes no
longer than others."""


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body unpacked, at most `limit` bytes. Raises: Refused (400, 413, 415)."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip"):
        return _gunzip(body, limit)
    if name == "zstd":
        return _unzstd(body, limit)
    raise Refused(
        415,
        "encoding_unknown",
        "The body is packed in a way that is not understood here.",
        do="Use gzip, zstd, or none.",
        headers=(("Accept-Encoding", ENCODINGS),),
    )


def _gunzip(body: bytes, limit: int) -> bytes:
    out, at, unpacker = bytearray(), 0, zlib.decompressobj(_GZIP)
    try:
        while at < len(body):
            if unpacker.eof:
                unpacker = zlib.decompressobj(_GZIP)
            piece = body[at : at + _STEP]
            out += unpacker.decompress(piece, limit - len(out) + 1)
            if len(out) > limit:
                raise _too_large(limit)
            at += len(piece) - len(unpacker.unused_data)
    except zlib.error:
        raise _broken("gzip") from None
    if not unpacker.eof:
        raise _broken("gzip")
    return bytes(out)


def _unzstd(body: bytes, limit: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise Refused(
            415,
            "encoding_unknown",
            "zstd cannot be unpacked here: the server has no zstandard.",
            do="Use gzip; or install: pip install 'klingai-audit[serve]'",
            headers=(("Accept-Encoding", "gzip, identity"),),
        ) from None
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    out = bytearray()
    try:
        with unpacker.stream_reader(body, read_across_frames=True) as stream:
            while piece := stream.read(min(_PIECE, limit - len(out) + 1)):
                out += piece
                if len(out) > limit:
                    raise _too_large(limit)
        # The reader takes a frame that is cut off for a whole one. What it gives is known to be small by now.
        at, frame = 0, unpacker.decompressobj()
        while at < len(body):
            if frame.eof:
                frame = unpacker.decompressobj()
            piece = body[at : at + _STEP]
            frame.decompress(piece)
            at += len(piece) - len(frame.unused_data)
    except zstandard.ZstdError:
        raise _broken("zstd") from None
    if not frame.eof:
        raise _broken("zstd")
    return bytes(out)


def _broken(name: str) -> Refused:
    return Refused(400, "malformed", f"The body is not whole {name}.", do="Pack it again and send it again.")


def _too_large(limit: int) -> Refused:
    return Refused(
        413,
        "too_large",
        f"The body has more than {limit:,} bytes when it is unpacked.",
        do="Send fewer events at once.",
    )
