"""The same commands over a log in PostgreSQL and in a bucket; no password is ever shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.standalone.klingai_audit_verify import main as verify_alone
from klingai_audit.stores.urls import RemoteUrl

pytestmark = pytest.mark.slow

USER = "user@example.com"


class Commands:
    """Command lines about one log on a server; what they print is searched for the passwords."""

    def __init__(self, home: Path, log: str, subjects: str, secrets: list[str]) -> None:
        self.home = home
        self.log = log
        self.secrets = secrets
        self.environ = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home), "KLINGAI_AUDIT_LOG": log}
        if subjects:
            self.environ["KLINGAI_AUDIT_SUBJECTS"] = subjects

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "klingai_audit.cli", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        said = done.stdout + done.stderr
        assert code == done.returncode, said
        assert [] == [secret for secret in self.secrets if secret in said]
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Return what a command printed as JSON."""
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture(params=["postgres", "bucket"])
def commands(request: pytest.FixtureRequest, tmp_path: Path) -> Commands:
    if request.param == "bucket":
        url, objects = request.getfixturevalue("bucket_url"), request.getfixturevalue("objects")
        return Commands(tmp_path, url, "", [objects.secret])
    postgres = request.getfixturevalue("postgres")
    url = postgres.database()
    return Commands(tmp_path, url, url, [postgres.password])


def test_one_log_and_its_commands(commands: Commands, tmp_path: Path) -> None:
    """From init to verify: the same entries, answers, proofs and copies as for a folder."""
    made = commands.json("init")
    shown = str(RemoteUrl(commands.log))
    assert (True, shown) == (made["created"], made["places"]["log"])
    assert str(tmp_path) in made["places"]["keys"]
    assert commands.json("init")["created"] is False
    seq = commands.json("log", "x_hello", "--actor", USER)["seq"]
    commands.json("log", "x_other", "--actor", "other@example.com")
    assert commands.json("status")
    assert ["x_hello"] == [
        json.loads(line)["event_type"] for line in commands("query", "--actor", USER, "--json").splitlines()
    ]
    assert "x_other" in commands("tail")
    assert "x_hello" in commands("show", str(seq))
    assert 0 == commands.json("verify")["exit"]
    assert 0 == commands.json("verify", "--quick")["exit"]
    proof, vkey = str(tmp_path / "proof"), made["keys"][0]["vkey"]
    commands("prove", str(seq), "-o", proof)
    commands("check", proof, "--key", vkey)
    commands("report", "-o", str(tmp_path / "report.json"))
    commands("activity", USER)
    commands("keys", "rotate")
    commands("watch", "--once")
    commands("detect")
    commands("drill")
    commands("export", "--format", "csv", "-o", str(tmp_path / "export.csv"))
    commands("bundle", "--actor", USER, "-o", str(tmp_path / "bundle.html"))
    commands("retention", "plan")
    commands("erase", USER, "--basis", "GDPR 17 case 1")
    assert "" == commands("query", "--actor", USER, "--json")
    told = commands.json("verify")
    assert (0, 1) == (told["exit"], len(told["erased"]))
    commands("backup", str(tmp_path / "backup"))
    assert 0 == verify_alone([str(tmp_path / "backup" / "audit"), "--key", vkey])


def test_errors_name_the_place_without_its_password(commands: Commands) -> None:
    """No log there, no server there, a wrong password: each says where, and what to do."""
    for arguments in (("verify",), ("query",), ("log", "x_a", "--actor", USER), ("status",), ("drill",)):
        commands(*arguments, "--log", commands.log, code=3)
    gone = commands.log.replace("127.0.0.1", "127.0.0.2") if "127.0.0.1" in commands.log else "s3://not-there/at/all"
    commands("log", "x_a", "--actor", USER, "--log", gone, code=3)
    commands("verify", "--log", "ftp://user:hidden@h/x", code=2)


def test_the_sql_for_a_dba(postgres: Any, tmp_path: Path) -> None:
    """What `init --sql` prints makes a schema in which a mere writer may work; it may be run again."""
    url = postgres.database()
    commands = Commands(tmp_path, f"{url}?schema=videos", f"{url}?schema=videos", [postgres.password])
    script = commands("init", "--sql")
    assert script == commands.json("init", "--sql")["sql"]["videos"].rstrip("\n") + "\n"
    with postgres.connect(url) as connection:
        for _ in range(2):
            connection.execute(script)
        connection.execute("DROP ROLE IF EXISTS service")
        connection.execute("CREATE ROLE service LOGIN PASSWORD 'known' IN ROLE videos_writer")
    login = f"postgresql://service:known@{url.partition('@')[2]}?schema=videos"
    service = Commands(tmp_path, login, login, ["known"])
    assert service.json("init")["created"] is True
    service("log", "x_a", "--actor", USER)
    assert 0 == service.json("verify")["exit"]
    commands("init", "--sql", "--log", str(tmp_path / "folder"), "--subjects", str(tmp_path / "people"), code=2)
