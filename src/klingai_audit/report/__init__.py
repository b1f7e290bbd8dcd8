"""The compliance report: what a log shows of a period, as HTML, PDF, JSON and CSV, every number with its question.

`build(audit, days=90).save("report.html")`. HTML and PDF need the extra `klingai-audit[report]`.
"""

from __future__ import annotations

from klingai_audit.report.making import Rendered, Report, build, compose

__all__ = ["Rendered", "Report", "build", "compose"]
