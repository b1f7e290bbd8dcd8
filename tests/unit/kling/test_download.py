"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import hashlib

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import UsageError
from klingai_audit.kling.download import PartFile
from klingai_audit.kling.errors import KlingDownloadFailed


def test_a_whole_file(tmp_path):
    """Written beside its place, then put there, with its digest; an old file is replaced."""
    target = tmp_path / "lake.mp4"
    target.write_bytes(b"old")
    part = PartFile(target)
    part.restart()
    part.write(b"wrong")
    part.restart()
    part.write(b"fi")
    part.write(b"lm")
    assert target.read_bytes() == b"old"
    done = part.commit()
    part.discard()
    assert (done.path, done.size, done.sha256) == (target, 4, hashlib.sha256(b"film").hexdigest())
    assert target.read_bytes() == b"film"
    assert [path.name for path in tmp_path.iterdir()] == ["lake.mp4"]


def test_a_broken_file_leaves_nothing(tmp_path):
    """What is discarded is gone, and what stood there stays."""
    target = tmp_path / "lake.mp4"
    target.write_bytes(b"old")
    part = PartFile(target)
    part.restart()
    part.write(b"half")
    part.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["lake.mp4"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_a_full_disk_is_a_failed_download(tmp_path, operation):
    """Whatever the disk does wrong is one exception, and no file."""

    class Failing(FileOps):
        def __getattribute__(self, name):
            if name == operation:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().__getattribute__(name)

    part = PartFile(tmp_path / "lake.mp4", ops=Failing())
    with pytest.raises(KlingDownloadFailed, match="No space left"):
        part.restart()
        part.write(b"film")
        part.commit()
    part.discard()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_bad_targets(tmp_path):
    """A missing folder or a folder as target is said before anything is fetched."""
    for path in (tmp_path / "no" / "x.mp4", tmp_path):
        with pytest.raises(UsageError):
            PartFile(path)
