"""What `drill` tells people: what was caught, what nobody could detect, and what was not tried."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.cli.session import Session
    from klingai_audit.trust.verdict import ThreatName
    from klingai_audit.upkeep.drill import Drilled, DrillResult


def draw_drill(session: Session, result: DrillResult) -> None:
    """Print each attack, what it was called and where it was seen; then what is open, and what was not tried."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for attack in result.tried:
        mark = Text("caught", style="green") if attack.caught else Text("MISSED", style="bold red")
        table.add_row(mark, Text(inert(attack.words)), Text(inert(_seen(attack)), style="dim"))
    for attack in result.open:
        words = "not ruled out: " + ", ".join(threat.threat for threat in attack.open)
        table.add_row(Text("open", style="yellow"), Text(inert(attack.words)), Text(words, style="dim"))
    session.show(table)
    tried, caught = len(result.tried), result.caught
    colour = "bold green" if caught == tried else "bold red"
    session.say((f"{caught} of {tried} attacks caught", colour), ", each called by its name and place.")
    if result.open:
        count = f"{len(result.open)} more" if tried else str(len(result.open))
        session.tell(f"{count} cannot be told from the truth by whoever looks there; the verdict says so:", hanging=2)
        for do, names in _advice(result).items():
            session.tell((f"{', '.join(names)}: {inert(do)}", "dim"), indent=2, hanging=2)
    for why, attacks in groupby((one for one in result.attacks if one.skipped), key=lambda one: str(one.skipped)):
        words = "; ".join(one.words for one in attacks)
        session.tell((f"not tried: {inert(words)} ({inert(why)})", "dim"), indent=2, hanging=2)


def _seen(attack: Drilled) -> str:
    from klingai_audit.cli.verdict import place_of

    if attack.finding is None:
        return attack.told
    return f"{attack.finding.kind}, {place_of(attack.finding.as_json())}"


def _advice(result: DrillResult) -> dict[str, list[ThreatName]]:
    """Return what to do, and against which threats; each advice that a verdict gave once."""
    found: dict[str, list[ThreatName]] = {}
    for threat in (threat for attack in result.open for threat in attack.open):
        names = found.setdefault(threat.do, [])
        if threat.threat not in names:
            names.append(threat.threat)
    return found
