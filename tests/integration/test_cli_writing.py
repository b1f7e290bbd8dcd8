"""`init`, `log`, `keys`, `recover`, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.tlog.keys import VerifierKey


@pytest.fixture
def cli(tmp_path, capfdbinary):
    """Run a command line on `tmp_path/audit` and return (code, what stdout said as JSON, stderr)."""

    def call(*argv: str):
        code = run([*argv, "--json", "--log", str(tmp_path / "audit")])
        out, err = capfdbinary.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return call


def private_parts(folder: Path) -> list[bytes]:
    """The secrets in a keys folder, as they could be printed."""
    return [path.read_bytes().strip().split(b"+", 4)[-1] for path in folder.glob("*.key")]


def test_init_prints_the_public_keys_and_repeats_itself(cli, tmp_path):
    """The first call creates log and keys, the second changes nothing and prints the same."""
    code, (first,), _ = cli("init", "--origin", "log.example.com/a")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    again, (second,), _ = cli("init")
    assert (0, 0, True, False) == (code, again, first.pop("created"), second.pop("created"))
    assert first == second
    assert ("log.example.com/a", 0) == (first["origin"], first["epoch"])
    assert ["log.example.com/a", "log.example.com/a/epoch-0"] == [
        VerifierKey.parse(key["vkey"]).name for key in first["keys"]
    ]
    assert before == sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())


def test_init_refuses_another_name_for_a_log_that_has_one(cli):
    """An origin is for ever."""
    cli("init", "--origin", "log.example.com/kept")
    assert 2 == cli("init", "--origin", "log.example.com/other")[0]


def test_init_finishes_what_was_cut_off(cli, tmp_path):
    """Keys without a log, as a crash leaves them, are taken up and not replaced."""
    cli("init")
    vkey = (tmp_path / "audit.keys" / "log.pub").read_bytes()
    (tmp_path / "audit.keys" / "init.pending").write_text(vkey.decode().split("+")[0] + "\n")
    for path in sorted((tmp_path / "audit").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for path in (*(tmp_path / "audit.state" / "heads").iterdir(), tmp_path / "audit.state" / "acknowledged"):
        path.unlink()
    code, (told,), _ = cli("init")
    assert (0, True, vkey) == (code, told["created"], (tmp_path / "audit.keys" / "log.pub").read_bytes())


def test_log_appends_one_published_entry(cli):
    """Every option lands in its member, people and addresses through the privacy door."""
    cli("init")
    code, (told,), _ = cli(
        "log", "budget_modified", "--actor", "boss@example.com", "--actor-type", "admin", "--team", "a",
        "--project", "p", "--on-behalf-of", "user@example.com", "--resource-type", "budget", "--resource-id", "r",
        "--action", "raise", "--outcome", "failure", "--ip", "192.0.2.1", "--user-agent", "x/1.2", "--correlation", "c",
        "--request-id", "q", "--timestamp", "-1h", "--metadata", "old=1", "new=2", "why=because",
    )  # fmt: skip
    assert (0, ["seq", "event_id", "leaf_hash", "state"], "published") == (code, list(told), told["state"])
    _, (entry,), _ = cli("show", str(told["seq"]))
    expected = {
        "event_type": "budget_modified", "actor_type": "admin", "team": "a", "project": "p",
        "resource_type": "budget", "resource_id": "r", "action": "raise", "outcome": "failure",
        "ip_address": "192.0.xxx.xxx", "user_agent": "x/1", "correlation_id": "c", "request_id": "q",
        "metadata": {"old": 1, "new": 2, "why": "because"}, "event_id": told["event_id"],
    }  # fmt: skip
    assert expected == {name: entry[name] for name in expected}
    assert entry["timestamp"] < entry["logged_at"]
    assert ["p_", "p_"] == [entry[name][:2] for name in ("actor_id", "on_behalf_of")]


@pytest.mark.parametrize(
    "argv",
    [
        ["log", "video_generaton_started", "--actor", "a"],
        ["log", "x_own"],
        ["log", "x_own", "--actor", "a", "--outcome", "fine"],
        ["log", "x_own", "--actor", "a", "--metadata", "nameless"],
        ["log", "x_own", "--actor", "a", "--timestamp", "soon"],
        ["log", "log_created", "--actor", "a"],
        ["log", "budget_modified", "--actor", "a"],
        ["log", "x_own", "--actor", "a", "--metadata", "big=" + "x" * 70_000],
    ],
)
def test_a_wrong_event_is_refused_and_nothing_is_written(cli, argv):
    """Exit 2, one sentence, and no entry of it in the log."""
    cli("init")
    code, out, err = cli(*argv)
    assert (2, []) == (code, out)
    assert json.loads(err)["error"]["message"] != ""
    assert [] == [entry for entry in cli("query")[1] if not entry["event_type"].startswith("log_")]


def test_log_creates_no_log(cli, tmp_path):
    """A mistyped place is an error, not a new log."""
    assert 3 == cli("log", "x_own", "--actor", "a")[0]
    assert [] == list(tmp_path.iterdir())


def test_keys_show_and_rotate_print_nothing_private(cli, tmp_path, capfdbinary):
    """Public keys, epoch and fingerprints; after a rotation the next epoch; never a private key, for nobody."""
    cli("init")
    _, (before,), _ = cli("keys", "show")
    _, (after,), _ = cli("keys", "rotate")
    assert (0, 1) == (before["epoch"], after["epoch"])
    assert before["keys"][0] == after["keys"][0]
    assert ["role", "vkey", "key_id", "sha256"] == list(after["keys"][1])
    for argv in (["keys", "show"], ["init"], ["verify"], ["keys", "show", "--json"]):
        run([*argv, "--log", str(tmp_path / "audit")])
    out, err = capfdbinary.readouterr()
    assert 4 <= len(private_parts(tmp_path / "audit.keys"))
    assert [] == [part for part in private_parts(tmp_path / "audit.keys") if part in out + err]


def test_keys_show_needs_only_the_public_files(cli, tmp_path):
    """An auditor's copy of the keys folder holds two public keys and nothing else."""
    cli("init")
    (tmp_path / "public").mkdir()
    for name in ("log.pub", "epoch-0.pub"):
        (tmp_path / "public" / name).write_bytes((tmp_path / "audit.keys" / name).read_bytes())
    assert cli("keys", "show")[1] == cli("keys", "show", "--keys", str(tmp_path / "public"))[1]


def test_recover_puts_aside_what_nobody_acknowledged(cli, tmp_path):
    """Forged lines beyond the last seal and a mark of a failed sync are dealt with; the log can be written again."""
    cli("init")
    (day,) = (tmp_path / "audit").glob("*.jsonl")
    whole = day.read_bytes()
    day.write_bytes(whole + b'{"forged":true}\nhalf a li')
    (tmp_path / "audit.state" / "failed-sync").write_text("x: y\n")
    assert 3 == cli("log", "x_own", "--actor", "a")[0]
    code, (told,), _ = cli("recover")
    assert (0, ["failed_sync", "tree", "set_aside", "entries", "checkpoint"]) == (code, list(told))
    aside = [(tmp_path / "audit.state" / "aside" / name).read_bytes() for name in told["set_aside"]]
    assert (True, True) == (told["failed_sync"], any(b'{"forged":true}\nhalf a li' in data for data in aside))
    assert whole == day.read_bytes()[: len(whole)]
    assert 0 == cli("log", "x_own", "--actor", "a")[0]


def test_recover_with_nothing_to_do_says_so(cli):
    """A healthy log stays as it is but for the opening and closing of a writer."""
    cli("init")
    code, (told,), _ = cli("recover")
    assert (0, False, [], []) == (code, told["failed_sync"], told["tree"], told["set_aside"])


def test_the_installed_program_runs(tmp_path):
    """`python -m klingai_audit.cli` and the script share one entry point, and need no terminal and no locale."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "70"}
    command = [sys.executable, "-m", "klingai_audit.cli", "--log", str(tmp_path / "audit")]
    for argv in (
        ["init"],
        ["log", "x_own", "--actor", "zoë@example.com", "--action", "湖"],
        ["query"],
        ["keys", "show"],
    ):
        done = subprocess.run([*command, *argv], env=environment, capture_output=True, check=False)
        assert (0, b"") == (done.returncode, done.stderr.replace(b"Not recorded in the log (--record does).\n", b""))


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
@pytest.mark.parametrize("part", ["--log", "--keys", "--state", "--subjects"])
def test_paths_that_are_no_utf8(tmp_path, monkeypatch, capfdbinary, part):
    """The first `init` succeeds with such a path, says it in a way that can be printed, and the log can be used."""
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"od\xffd")
    options = {"--log": "audit", "--keys": "audit.keys", "--state": "audit.state", "--subjects": "people.sqlite"}
    places = [word for name, value in {**options, part: odd}.items() for word in (name, value)]
    for argv in (["init", "--json"], ["log", "x_note", "--actor", "user@example.com"], ["verify"], ["init"]):
        code = run([*argv, *places])
        assert (code, capfdbinary.readouterr().err) == (0, b""), argv
    assert (tmp_path / odd).exists()
