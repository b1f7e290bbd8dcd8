"""`python -m klingai_audit.cli` is `klingai-audit`."""

from __future__ import annotations

from klingai_audit.cli import main

main()
