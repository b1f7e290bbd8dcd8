"""Evidence bundles: chosen entries with all that is needed to check them, in one file, and a page that checks it.

A bundle is a zip file. The page `verify.html` in it needs a browser and nothing else; docs/how-to/hand-out-evidence.md.
"""

from __future__ import annotations

from klingai_audit.bundle.archive import build_bundle
from klingai_audit.bundle.check import CheckedBundle, check_bundle, is_bundle, origin_of_bundle
from klingai_audit.bundle.evidence import MAX_ENTRIES, Evidence, gather
from klingai_audit.bundle.page import empty_page

__all__ = [
    "MAX_ENTRIES",
    "CheckedBundle",
    "Evidence",
    "build_bundle",
    "check_bundle",
    "empty_page",
    "gather",
    "is_bundle",
    "origin_of_bundle",
]
