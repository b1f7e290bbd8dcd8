"""A locker in memory: what S3 Object Lock promises, without a server; for tests of what is put there."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator

from klingai_audit.errors import AuditUnavailable, HeadConflict
from klingai_audit.publish.locker import Kept


class MemoryLocker:
    """Versions of objects by path, the newest last; `fails` is asked before each put."""

    url = "s3://vault/team-a"

    def __init__(self) -> None:
        self.versions: dict[str, list[Kept]] = {}
        self.fails: Callable[[str], bool] = lambda path: False
        self._mutex = threading.Lock()

    @property
    def objects(self) -> dict[str, bytes]:
        """The newest version of each object."""
        return {path: versions[-1].data for path, versions in self.versions.items()}

    def get(self, path: str) -> Kept | None:
        return self.versions[path][-1] if path in self.versions else None

    def put_new(self, path: str, data: bytes, until: dt.datetime) -> bool:
        try:
            self.replace(path, data, None, until)
        except HeadConflict:
            return False
        return True

    def replace(self, path: str, data: bytes, tag: str | None, until: dt.datetime) -> None:
        if self.fails(path):
            raise AuditUnavailable("The server went away.")
        with self._mutex:
            here = self.versions.setdefault(path, [])
            if tag != (here[-1].tag if here else None):
                raise HeadConflict("There is another.")
            here.append(Kept(data, f"{path}-{len(here)}", until))

    def extend(self, path: str, until: dt.datetime) -> None:
        last = self.versions[path][-1]
        assert last.until is not None
        assert last.until < until
        self.versions[path][-1] = Kept(last.data, last.tag, until)

    def names(self, prefix: str) -> Iterator[str]:
        return (path for path in sorted(self.versions) if path.startswith(prefix))
