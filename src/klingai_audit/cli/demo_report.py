"""The demo's report: written where the extra for it is installed, else a line that says how to have it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from klingai_audit.cli.session import Session, escaped
from klingai_audit.errors import MissingExtra
from klingai_audit.views.inert import inert

_DAYS: Final = 7


def write(own: Session, output: Path) -> Path | None:
    """Write the report of the demo's log to `output`; None without the extra `report`."""
    from klingai_audit.cli.reporting import make_report, write_report
    from klingai_audit.cli.trusting import check_log
    from klingai_audit.report.charts import require_extra

    try:
        require_extra()
    except MissingExtra:
        return None
    verdict = check_log(own, compare=False)
    write_report(own, make_report(own, verdict, days=_DAYS), output)
    return output


def draw(session: Session, output: Path | None) -> None:
    """Say where the report is."""
    session.say(("\nThe report", "bold cyan"))
    if output is None:
        session.tell("Not written: HTML and PDF need the extra `report`. `make demo-full` installs it.")
    else:
        session.say("Written to ", (inert(escaped(str(output))), "bold"), "; open it in a browser.")
