"""Administrative acts through the command line, and options that changed between openings."""

from __future__ import annotations

import io
import json
import sys

import pytest

from klingai_audit import AuditLog
from klingai_audit.cli.run import run


@pytest.fixture
def cli(tmp_path, capfdbinary):
    """Run a command line on `tmp_path/audit` and return (code, what stdout said as JSON, stderr)."""

    def call(*argv: str):
        code = run([*argv, "--json", "--log", str(tmp_path / "audit")])
        out, err = capfdbinary.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    call("init")
    return call


def entries(cli, name: str) -> list[dict]:
    """The entries of one type."""
    return cli("query", "--type", name)[1]


BOSS = ("--actor", "boss@example.com")


def test_every_command_is_an_entry(cli, monkeypatch, tmp_path):
    """Each command writes one entry of its type in the name of the admin, and says which."""
    monkeypatch.setenv("SOME_KEY", "key-of-some-length-0005")
    for argv, name, change in (
        (("users", "add", "user@example.com", "--role", "editor"), "user_added", (None, "editor")),
        (("users", "remove", "user@example.com"), "user_removed", ("editor", None)),
        (("budget", "set", "team:a", "250"), "budget_modified", (None, "250 units per month")),
        (("policy", "set", "privacy.unknown_actor", "refuse"), "policy_updated", ("warn", "refuse")),
        (("api-key", "rotate", "--from-env", "SOME_KEY"), "api_key_rotated", None),
    ):
        code, (told,), _ = cli(*argv, *BOSS, "--reason", "because")
        (entry,) = entries(cli, name)
        assert (0, True, entry["seq"]) == (code, told["changed"], told["seq"])
        assert ("admin", "because") == (entry["actor_type"], entry["metadata"]["reason"])
        assert change in (None, (told["old"], told["new"]))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"key-of-some-length" not in stored


def test_lists_show_what_is_declared(cli):
    """People as masks, or as ids where asked for; nothing is written for it."""
    cli("users", "add", "user@example.com", "--team", "a", *BOSS)
    cli("budget", "set", "user:user@example.com", "7.5", "--unit", "usd", *BOSS)
    _, (listed,), _ = cli("users", "list")
    _, (resolved,), _ = cli("users", "list", "--resolve")
    _, (budgets,), _ = cli("budget", "list")
    (user,) = listed["users"]
    assert ("us***@example.com", "user", "a") == (user["shown"], user["role"], user["team"])
    assert "user@example.com" == resolved["users"][0]["shown"]
    assert [f"user:{user['user']}"] == [budget["scope"] for budget in budgets["budgets"]]


def test_repetition_is_no_entry(cli):
    """A budget that is so already says so, exit 0."""
    cli("budget", "set", "account", "1", *BOSS)
    code, (told,), _ = cli("budget", "set", "account", "1.0", *BOSS)
    assert (0, False, None) == (code, told["changed"], told["seq"])
    assert 1 == len(entries(cli, "budget_modified"))


def test_errors_exit_2_and_write_nothing(cli):
    """Wrong arguments are the caller's to mend."""
    for argv in (
        ("users", "remove", "nobody@example.com"),
        ("budget", "set", "team:a", "lots"),
        ("policy", "set", "privacy.reads", "sometimes"),
        ("policy", "set", "nothing", "x"),
        ("api-key", "rotate", "--from-env", "NO_SUCH_VARIABLE_HERE"),
        ("api-key", "rotate", "key-of-some-length-0006"),
    ):
        code, told, err = cli(*argv)
        assert (2, []) == (code, told), argv
        assert b"error" in err
    assert [] == cli("query", "--category", "admin")[1]


def test_key_is_read_from_standard_input(cli, monkeypatch):
    """The first line, without its end; an argument would stand in the list of processes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("key-of-some-length-0007\nrest\n"))
    assert 0 == cli("api-key", "rotate", *BOSS)[0]
    monkeypatch.setenv("SAME_KEY", "key-of-some-length-0007")
    assert 2 == cli("api-key", "rotate", "--from-env", "SAME_KEY", *BOSS)[0]


def test_words_for_people(tmp_path, capsys):
    """Without --json each command says what it did in words."""
    log = ("--log", str(tmp_path / "audit"))
    AuditLog.open(tmp_path / "audit").close()
    assert 0 == run(["users", "list", *log])
    assert 0 == run(["users", "add", "user@example.com", *BOSS, *log])
    assert 0 == run(["users", "list", *log])
    assert 0 == run(["budget", "set", "account", "2", *BOSS, *log])
    assert 0 == run(["budget", "set", "account", "2", *BOSS, *log])
    out = capsys.readouterr().out
    words = ("No user is declared", "in the log", "us***@example.com", "none → 2 units per month", "so already")
    assert [] == [text for text in words if text not in out]


# --- options that changed -------------------------------------------------------------------------------


def changed(audit: AuditLog) -> list[dict]:
    """What settings_changed says, entry by entry."""
    audit.flush()
    return [entry.metadata["changed"] for entry in audit.query(event_type="settings_changed")]


def test_changed_options_are_recorded_once(tmp_path):
    """Another policy, place or given option is an entry at the next opening, and no further one after that."""
    log = tmp_path / "audit"
    AuditLog.open(log, wait="durable").close()
    AuditLog.open(log).close()
    with AuditLog.open(log) as audit:
        before = audit.policy.digest
        assert [] == changed(audit)
    (tmp_path / "audit.keys" / "policy.toml").write_text("")
    (tmp_path / "people").mkdir()
    (tmp_path / "audit.keys" / "subjects.sqlite").rename(tmp_path / "people" / "subjects.sqlite")
    options = {"subjects": tmp_path / "people" / "subjects.sqlite", "wait": "published"}
    with AuditLog.open(log, **options) as audit:
        assert [
            {
                "policy": {"old": before, "new": audit.policy.digest},
                "subjects": {"old": "audit.keys/subjects.sqlite", "new": "people/subjects.sqlite"},
                "wait": {"old": "durable", "new": "published"},
            }
        ] == changed(audit)
        assert audit.verify().integrity_ok
    with AuditLog.open(log, **options) as audit:
        assert 1 == len(changed(audit))


def test_moving_the_whole_log_is_no_change(tmp_path):
    """Places are told as seen from the log."""
    (tmp_path / "one").mkdir()
    AuditLog.open(tmp_path / "one" / "audit").close()
    (tmp_path / "one").rename(tmp_path / "two")
    with AuditLog.open(tmp_path / "two" / "audit") as audit:
        assert [] == changed(audit)


def test_places_elsewhere_are_told_by_fingerprint(tmp_path, tmp_path_factory):
    """A path outside may name a person."""
    elsewhere = tmp_path_factory.mktemp("person") / "subjects.sqlite"
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "audit.keys" / "subjects.sqlite").rename(elsewhere)
    with AuditLog.open(tmp_path / "audit", subjects=elsewhere) as audit:
        (told,) = changed(audit)
    assert told["subjects"]["new"].startswith("elsewhere:")
    assert "person" not in str(told)


def test_without_memory_nothing_is_compared(tmp_path):
    """The file may be deleted or torn at will."""
    for damage in (None, b"{", b"[]", b'{"policy":1}'):
        AuditLog.open(tmp_path / "audit").close()
        path = tmp_path / "audit.state" / "options.json"
        path.unlink() if damage is None else path.write_bytes(damage)
        with AuditLog.open(tmp_path / "audit") as audit:
            assert [] == changed(audit)
