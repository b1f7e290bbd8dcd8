"""`reconcile`, `costs` and `activity --by` through the command line, against a simulator behind HTTP."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json
import os
import pty
import subprocess
import sys
import time

import httpx2
import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.cli.run import run
from klingai_audit.kling import KlingAI
from klingai_audit.kling.simulator import (
    DEFAULT_ACCESS_KEY,
    DEFAULT_API_KEY,
    DEFAULT_SECRET_KEY,
    RealClock,
    Simulator,
    serve,
)

HOSTILE = "=cmd|' /C calc'!A0 \x1b[31m\u202e<script>"


class World:
    """A simulator, a folder with a log, and the command line."""

    def __init__(self, server, folder, capsysbinary):
        self.server, self.folder, self._capture = server, folder, capsysbinary

    def cli(self, *argv):
        """Run one command line; returns code, stdout, stderr."""
        code = run(list(argv))
        out, err = self._capture.readouterr()
        return code, out.decode(), err.decode()

    def json(self, *argv):
        """Run one command line for programs; returns code and object."""
        code, out, err = self.cli(*argv, "--json")
        assert out, err
        return code, json.loads(out)

    def around(self, key=DEFAULT_API_KEY):
        """Order a video without the log, over HTTP."""
        done = httpx2.post(
            f"{self.server.base_url}/text-to-video/kling-3.0",
            json={"prompt": "nobody knows"},
            headers={"authorization": f"Bearer {key}"},
        )
        return done.json()["data"]["id"]


@pytest.fixture
def world(tmp_path, monkeypatch, capsysbinary):
    """A log in which two teams made videos, written and closed; credentials in the environment."""
    monkeypatch.chdir(tmp_path)
    with serve(Simulator(RealClock(speed=1000))) as server:
        monkeypatch.setenv("KLINGAI_BASE_URL", server.base_url)
        monkeypatch.setenv("KLINGAI_API_KEY", DEFAULT_API_KEY)
        monkeypatch.setenv("KLINGAI_AUDIT_ACTOR", "auditor@example.com")
        with AuditLog.open("audit") as audit, KlingAI(audit=audit) as kling:
            for team, model in (("studio-a", "kling-3.0"), (HOSTILE, "kling-3.0-turbo")):
                with acting("user@example.com", team=team):
                    kling.text_to_video("a lake", model=model, duration=3).wait(poll_interval=0.02)
        yield World(server, tmp_path, capsysbinary)


def test_nothing_wrong(world):
    """Exit 0, a sentence that says so, and an entry."""
    code, out, _ = world.cli("reconcile")
    assert 0 == code
    assert "2  matched" in out
    assert "Nothing is unexplained." in out
    assert "Recorded as entry" in out


def test_a_call_around_the_log(world):
    """Exit 4; who, what, how much, and what to do; the object has the same and the digest of the entry."""
    world.server.simulator.add_api_key("another-key-1", "render-farm")
    stranger = world.around("another-key-1")
    time.sleep(0.1)
    code, out, _ = world.cli("reconcile")
    assert 4 == code
    assert f"✗ missing_here task {stranger}" in out
    assert "with the key 'render-farm' (3 video units" in out
    assert "replace that key" in out
    code, told = world.json("reconcile")
    assert (4, 4, 1) == (code, told["exit"], told["unexplained"])
    assert {"matched": 2, "missing_here": 1} == told["counts"]
    (found,) = told["findings"]
    assert (stranger, "render-farm", {"video units": "3"}) == (
        found["task_id"],
        found["key_name"],
        found["amounts"]["ledger"],
    )
    code, out, _ = world.cli("query", "--type", "reconciled", "--json")
    entries = [json.loads(line) for line in out.splitlines()]
    assert [told["seq"], told["digest"]] == [entries[-1]["seq"], entries[-1]["metadata"]["digest"]]
    assert ["failure", "failure"] == [entry["outcome"] for entry in entries]
    assert b"another-key-1" not in b"".join(path.read_bytes() for path in world.folder.glob("audit/*.jsonl"))


def test_reads_are_recorded(world):
    """What reconcile itself asks is in the log, in the name of who ran it, and is a read."""
    world.cli("reconcile")
    _, out, _ = world.cli("query", "--actor", "auditor@example.com", "--json")
    kinds = [json.loads(line)["event_type"] for line in out.splitlines()]
    assert {"quota_checked", "resource_read", "reconciled"} <= set(kinds)
    assert all(
        seen.method == "GET" or seen.route.startswith(("/tasks", "/account"))
        for seen in world.server.simulator.requests[-5:]
    )


@pytest.mark.parametrize(
    "argv, code, words",
    [
        (["--from", "yesterday?"], 2, "is not a time"),
        (["--from", "2030-01-01"], 2, "The period is empty"),
        (["--from", "-1d", "--to", "-2d"], 2, "The period is empty"),
        (["--log", "elsewhere"], 3, "There is no log"),
    ],
)
def test_questions_that_are_none(world, argv, code, words):
    """One sentence, and the exit code of its kind."""
    found, _, err = world.cli("reconcile", *argv)
    assert code == found
    assert words in err


def test_credentials(world, monkeypatch):
    """An AccessKey reads the older lists; a wrong key and none are said in a sentence."""
    monkeypatch.setenv("KLINGAI_API_KEY", "wrong-key-22")
    code, _, err = world.cli("reconcile")
    assert (1, True) == (code, "the credential is not valid here" in err)
    monkeypatch.delenv("KLINGAI_API_KEY")
    assert 2 == world.cli("reconcile")[0]
    monkeypatch.setenv("KLINGAI_ACCESS_KEY", DEFAULT_ACCESS_KEY)
    monkeypatch.setenv("KLINGAI_SECRET_KEY", DEFAULT_SECRET_KEY)
    code, told = world.json("reconcile")
    assert "legacy_lists" == told["lists"][0]


def test_a_provider_that_is_gone(world):
    """Exit 3, and how to go on; then it goes on."""
    simulator = world.server.simulator
    simulator.fail_next("POST", "/account/billing/balance", code=1103)
    code, _, err = world.cli("reconcile", "--from", "-1d")
    assert (1, True) == (code, "--resume" in err)
    before = len(simulator.calls("POST", "/tasks"))
    code, told = world.json("reconcile", "--resume")
    assert (0, before) == (code, len(simulator.calls("POST", "/tasks")))
    assert {"matched": 2} == told["counts"]


def test_costs(world):
    """By team on the screen, inert; as JSON; as CSV that no spreadsheet runs."""
    code, out, _ = world.cli("costs", "--by", "team,model")
    assert 0 == code
    assert "studio-a" in out
    assert "\x1b[31m" not in out
    assert "\u202e" not in out
    assert "prices-2026-09-20.toml" in out
    code, told = world.json("costs", "--by", "team")
    assert {"studio-a": {"video units": "1.8"}, HOSTILE: {"video units": "2.4"}} == {
        row["team"]: row["amounts"] for row in told["rows"]
    }
    assert ({"video units": "4.2"}, None, False) == (told["total"]["amounts"], told["ledger"], told["recorded"])
    code, _, err = world.cli("costs", "--by", "team,key", "-o", "costs.csv")
    assert (0, True) == (code, "Written to costs.csv" in err)
    rows = list(csv.DictReader(io.StringIO((world.folder / "costs.csv").read_text())))
    assert ["1.8", "2.4"] == sorted(row["video_units"] for row in rows)
    assert {"prices-2026-09-20.toml"} == {row["price_list"] for row in rows}
    assert all(row["team"][0] in "'s" for row in rows)
    code, out, _ = world.cli("costs", "--output", "-", "--month", "2020-01")
    assert (0, "team,tasks,completed,failed,open,list_price_usd,price_list\r\n") == (code, out)


def test_costs_with_the_ledger(world):
    """`--ledger` reconciles first; the sums are compared; differences are exit 4."""
    since = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).date().isoformat()
    code, told = world.json("costs", "--ledger", "--since", since)
    assert (0, True) == (code, told["ledger"]["agrees"])
    assert told["ledger"]["ledger"] == {"video units": "4.2"}
    world.around()
    time.sleep(0.1)
    code, out, err = world.cli("costs", "--ledger", "--since", since)
    assert 4 == code
    assert "Unexplained differences: 1" in err
    assert "Seen, but not ordered through this log: 1" in out


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--by", "colour"], "cannot be grouped by"),
        (["--by", ","], "grouped by nothing"),
        (["--month", "October"], "is no month"),
        (["--month", "2026-10", "--since", "-1d"], "beside other times"),
        (["--prices", "absent.toml"], "There is no file"),
    ],
)
def test_costs_that_are_none(world, argv, words):
    """One sentence, exit 2."""
    code, _, err = world.cli("costs", *argv)
    assert (2, True) == (code, words in err)


def test_reads_of_costs_and_groups_are_recorded_if_asked(world):
    """`--record` leaves an entry with the question."""
    assert 0 == world.cli("costs", "--by", "team", "--record")[0]
    assert 0 == world.cli("activity", "--by", "team", "--record")[0]
    _, out, _ = world.cli("query", "--type", "log_queried", "--json")
    asked = [json.loads(line)["metadata"] for line in out.splitlines()]
    assert [("costs", ["team"]), ("activity", "team")] == [(told["command"], told["filter"]["by"]) for told in asked]


def test_activity_in_groups(world):
    """Everybody by default by person, masked; by team inert; one person is not grouped."""
    code, out, _ = world.cli("activity")
    assert (0, True, False) == (code, "us***@example.com" in out, "user@example.com" in out)
    code, out, _ = world.cli("activity", "--by", "team")
    assert (0, False) == (code, "\x1b[31m" in out)
    code, told = world.json("activity", "--by", "model")
    assert {"kling-3.0": 1.0, "kling-3.0-turbo": 1.0} == {
        row["model"]: row["success_rate"] for row in told["groups"] if row["model"]
    }
    assert 2 == world.cli("activity", "user@example.com", "--by", "team")[0]
    assert 2 == world.cli("activity", "--by", "shoe size")[0]


def test_an_empty_log(world):
    """A log without any order: empty answers, exit 0."""
    assert 0 == world.cli("init", "--log", "empty")[0]
    assert 0 == world.cli("costs", "--log", "empty")[0]
    code, told = world.json("activity", "--by", "team", "--log", "empty")
    assert (0, []) == (code, told["groups"])


def test_a_terminal_sees_what_is_read(world):
    """On a terminal a status line shows progress; without one nothing is printed."""
    parent, child = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "klingai_audit.cli", "reconcile"],
        stdout=subprocess.DEVNULL, stderr=child, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(parent, 1 << 16):
            shown += piece
    os.close(parent)
    assert 0 == running.wait()
    assert b"reading" in shown or b"asking" in shown
