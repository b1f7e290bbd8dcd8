"""What a release holds beside the package, for whom checks logs of others: `python -m tools.release_files FOLDER`.

The empty page that checks bundles and the verifier that is one file, each with its SHA-256 as `sha256sum --check` reads
it. Made of the sources alone: whoever has them makes the same bytes, on any day and system.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from klingai_audit.bundle import empty_page
from klingai_audit.standalone import klingai_audit_verify
from tools.docs_pages import table

__all__ = ["checksums", "release_files", "write_files"]


def release_files() -> Mapping[str, bytes]:
    """Return the files by name."""
    verifier = Path(klingai_audit_verify.__file__).read_bytes().replace(b"\r\n", b"\n")
    return {"verify.html": empty_page(), "klingai_audit_verify.py": verifier}


def checksums() -> str:
    """Return the table of names and digests that the sources give, as Markdown."""
    rows = [(f"`{name}`", f"`{hashlib.sha256(data).hexdigest()}`") for name, data in release_files().items()]
    return table(("file", "SHA-256"), rows)


def write_files(folder: Path) -> list[Path]:
    """Write each file, and beside it `<name>.sha256`; returns all paths. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in release_files().items():
        line = f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()
        for path, content in ((folder / name, data), (folder / f"{name}.sha256", line)):
            path.write_bytes(content)
            written.append(path)
    return written


if __name__ == "__main__":
    for made in write_files(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")):
        print(made.as_posix())
