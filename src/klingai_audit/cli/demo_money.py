"""The demo's last scene: the log against the provider's own records, and what the team spent.

The script that ran without its added line went around the log. Nobody could see that in the log; the provider's list
and ledger show it.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.cli.demo_stage import LEAD, Stage, as_person
from klingai_audit.cli.session import Session
from klingai_audit.config import open_reader, open_subjects
from klingai_audit.reconcile import reconcile

if TYPE_CHECKING:
    from klingai_audit.reconcile import Result
    from klingai_audit.views.costs import Costs

_SLACK: Final = dt.timedelta(seconds=1)


def compare(stage: Stage, began: dt.datetime) -> Result:
    """Compare what was ordered since the demo began; an earlier run on the same folder had another simulator."""
    stage.narrator.scene(LEAD, "compares the log with the provider's own lists and ledger")
    with as_person(LEAD), stage.client() as kling:
        result = reconcile(stage.audit, kling, began - _SLACK)
    around = result.of("missing_here")
    stage.narrator.aside("every order of the log is looked up there, and every task there is looked up in the log")
    calls = "1 call" if len(around) == 1 else f"{len(around)} calls"
    stage.narrator.result("unseen", f"{result.matched} tasks agree; {calls} went around the log")
    return result


def spent(own: Session) -> Costs:
    """Add up the last day of the demo's log, by team."""
    from klingai_audit.views.costs import costs

    reader = open_reader(own.places)
    return costs(reader.entries(0, reader.size), ["team"], since="-1d", subjects=open_subjects(own.places))


def draw(session: Session, found: Costs, result: Result) -> None:
    """Show both."""
    from klingai_audit.cli.costing import draw_costs
    from klingai_audit.cli.reconciling import draw_result

    session.say(("\nWhat was spent, by team", "bold cyan"))
    draw_costs(session, found)
    session.say(("\nThe log against the provider's own records", "bold cyan"))
    draw_result(session, result)


def told(found: Costs, result: Result) -> dict[str, Any]:
    """Return both for programs."""
    around = [finding.task_id for finding in result.of("missing_here")]
    compared = {"counts": result.counts, "unexplained": result.unexplained, "around": around, "seq": result.seq}
    return {"costs": found.to_json(), "reconciliation": compared}
