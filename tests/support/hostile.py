"""Values that would do harm where they are not shown as text: in terminals, pages, spreadsheets, typesetting."""

from __future__ import annotations

from pathlib import Path

from tests.support.reportlog import START, Team, units

TEXTS = (
    "<script>alert(document.domain)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "{{ 7*7 }} {% raw %}",
    '#read("/etc/passwd")',
    '#import "@preview/evil:0.1.0"',
    "$ sum_(i=0)^n $ *bold* _it_ `raw` = Heading \\ @ref <label>",
    "[bold red]markup[/] :smile:",
    "\x1b[31mred\x1b]0;title\x07\x9b31m",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(1)",
    "invoice\u202efdp.exe\u2066\u200f",
    "שלום عربى 中文 ไทย 😀",
    "a\r\nSet-Cookie: x\tb",
    "'+alert(1)+'",
    "\\u0027;alert(1)//",
    "x" * 400,
    "W" * 60,
)
"""Each of them stands in every field that a caller can fill."""


def hostile_log(folder: Path) -> Path:
    """Write a log whose fields hold all of `TEXTS` and return its folder."""
    team = Team(folder, start=START)
    for number, text in enumerate(TEXTS):
        who = (f"{text}@example.com" if number % 2 else f"{text}", text)
        team.generation(who, text, "success", units("1.5", text))
        team.generation(who, text, "refused")
        team.audit.log(
            "budget_modified", who[0], text, text, resource_id=text, actor_type=text, team=text, project=text,
            user_agent=text, metadata={text[:60]: text, "code": text, "rule": text},
        )  # fmt: skip
        team.generation(who, text, "open")
    return team.close()
