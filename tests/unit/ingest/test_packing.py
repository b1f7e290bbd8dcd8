"""Packed bodies: whole, within the limit, or refused; never more in memory than the limit."""

from __future__ import annotations

import contextlib
import gzip
import sys
import time
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.ingest.packing import unpack
from klingai_audit.ingest.wire import Refused

LIMIT = 1 << 16
PACK = {"gzip": gzip.compress, "zstd": zstandard.compress}
both = pytest.mark.parametrize("encoding", PACK)


@both
@given(data=st.lists(st.binary(max_size=2000), min_size=1, max_size=4))
def test_what_was_packed_comes_out(encoding: str, data: list[bytes]) -> None:
    """In one piece or in several one after the other, in any spelling of the name."""
    packed = b"".join(map(PACK[encoding], data))
    assert b"".join(data) == unpack(packed, f" {encoding.upper()} ", LIMIT)


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_what_is_not_packed_stays(encoding: str) -> None:
    """No header is the same as identity."""
    assert b"event" == unpack(b"event", encoding, 5)


@both
def test_the_limit_is_exact(encoding: str) -> None:
    """As many bytes as allowed pass, one more does not."""
    assert LIMIT == len(unpack(PACK[encoding](b"a" * LIMIT), encoding, LIMIT))
    with pytest.raises(Refused) as caught:
        unpack(PACK[encoding](b"a" * (LIMIT + 1)), encoding, LIMIT)
    assert (413, "too_large") == (caught.value.status, caught.value.kind_of)


@both
def test_a_bomb_is_not_unpacked(encoding: str) -> None:
    """A body that would become 64 MiB, or many small ones in a row, takes little more memory than the limit."""
    for bomb in (PACK[encoding](bytes(64 << 20)), PACK[encoding](bytes(LIMIT)) * 64):
        tracemalloc.start()
        with pytest.raises(Refused) as caught:
            unpack(bomb, encoding, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 413 == caught.value.status
        assert peak < 8 * LIMIT


@pytest.mark.slow
@both
def test_many_tiny_frames_take_no_longer_than_their_bytes(encoding: str) -> None:
    """Nothing, packed two hundred thousand times over: half a second, where copying the rest each time took ten to
    two hundred. Time of this thread's processor is what counts, as the machine may be busy.
    """
    frame = PACK[encoding](b"")
    body = frame * ((4 << 20) // len(frame))
    begun = time.thread_time()
    assert b"" == unpack(body, encoding, LIMIT)
    assert time.thread_time() - begun < 6


@both
def test_what_is_cut_off_is_refused(encoding: str) -> None:
    """Wherever it is cut: a batch must not lose its last lines unseen. Two frames, cut within the second."""
    whole = PACK[encoding](b'{"event_type":"x_a"}\n' * 3)
    for length in range(len(whole)):
        with pytest.raises(Refused) as caught:
            unpack(whole[:length], encoding, LIMIT)
        assert (400, "malformed") == (caught.value.status, caught.value.kind_of)
    with pytest.raises(Refused):
        unpack(whole + whole[:-1], encoding, LIMIT)
    with pytest.raises(Refused):
        unpack(whole + b"more", encoding, LIMIT)


@both
@given(data=st.binary(max_size=200))
def test_nothing_but_refusals_escapes(encoding: str, data: bytes) -> None:
    """Whatever the bytes are."""
    for one in (data, PACK[encoding](b"a" * 30)[:9] + data):
        with contextlib.suppress(Refused):
            assert len(unpack(one, encoding, LIMIT)) <= LIMIT


def test_a_frame_with_a_huge_window_is_refused() -> None:
    """RFC 9659: no more than 8 MiB of window are needed to read HTTP content."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Refused):
        unpack(packer.compress(bytes(100)) + packer.flush(), "zstd", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "deflate", "gzip;q=1"])
def test_other_encodings_are_named(encoding: str) -> None:
    """415, and what would do."""
    with pytest.raises(Refused) as caught:
        unpack(b"", encoding, LIMIT)
    assert 415 == caught.value.status
    assert ("Accept-Encoding", "gzip, zstd, identity") in caught.value.headers


def test_without_zstandard_gzip_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra may be installed in part: the sender is told what would do."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Refused, match="no zstandard") as caught:
        unpack(zstandard.compress(b"a"), "zstd", LIMIT)
    assert (415, {"Accept-Encoding": "gzip, identity"}) == (caught.value.status, dict(caught.value.headers))
