"""`verify.html`: one page without network that checks a bundle in the reader's browser.

The page with evidence differs from the empty one in the content of its data block alone.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from klingai_audit.errors import Malformed

__all__ = ["embedded_evidence", "empty_page", "page_with"]

_OPEN: Final = b'<script type="application/json" id="evidence">'
_CLOSE: Final = b"</script>"
_SCRIPTS: Final = ("form.js", "checks.js", "judge.js", "zip.js", "view.js")


def _source(name: str) -> str:
    return files("klingai_audit.bundle").joinpath("page", name).read_text("utf-8")


@cache
def empty_page() -> bytes:
    """Return the page without evidence, as it is released: it takes any bundle."""
    script = "\n" + '"use strict";\n' + "".join(map(_source, _SCRIPTS))
    style = "\n" + _source("verify.css")
    page = _source("verify.html")
    values = {
        "@STYLE_HASH@": _digest(style),
        "@SCRIPT_HASH@": _digest(script),
        "@STYLE@": style,
        "@SCRIPT@": script,
    }
    for name, value in values.items():
        page = page.replace(name, value)
    return page.encode()


def page_with(evidence: bytes) -> bytes:
    """Return the page that holds `evidence` (the bytes of `evidence.json`)."""
    head, tail = _split(empty_page())
    return head + evidence.replace(b"<", b"\\u003c") + tail


def embedded_evidence(page: bytes) -> bytes:
    """Return the data block of a page, with `<` escaped as it stands there. Raises: Malformed if there is none."""
    head, tail = _split(page)
    return page[len(head) : len(page) - len(tail)]


def _split(page: bytes) -> tuple[bytes, bytes]:
    begin = page.find(_OPEN) + len(_OPEN)
    end = page.find(_CLOSE, begin)
    if begin < len(_OPEN) or end < 0:
        raise Malformed("The page has no block for evidence.")
    return page[:begin], page[end:]


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
