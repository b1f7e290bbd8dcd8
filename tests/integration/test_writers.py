"""Several hosts write to one log on a server: they join by a file, derive each epoch's keys, and share the people."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.config import Places, open_store
from klingai_audit.ledger.line import event_type_of
from klingai_audit.trust.verify import verify

pytestmark = pytest.mark.slow

PASSPHRASE = "correct horse battery"


class Host:
    """A machine of its own, with its own home; all of them reach the same servers."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        self.environ = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), **environ}

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command line; return what it printed on either stream."""
        done = subprocess.run(
            [sys.executable, "-m", "klingai_audit.cli", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert code == done.returncode, done.stdout + done.stderr
        return done.stdout + done.stderr

    def places(self) -> Places:
        """Where this host's log has its parts."""
        found = json.loads(self.run("init", "--json"))["places"]
        return Places.resolve(self.environ["KLINGAI_AUDIT_LOG"], found["keys"], found["state"], environ={})


@pytest.fixture(params=["postgres", "bucket"])
def host(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Callable[[str], Host]:
    """Make hosts; their people are in PostgreSQL, wherever the log is."""
    url = postgres_url if request.param == "postgres" else request.getfixturevalue("bucket_url")

    def make(name: str) -> Host:
        (tmp_path / name).mkdir()
        return Host(tmp_path / name, KLINGAI_AUDIT_LOG=url, KLINGAI_AUDIT_SUBJECTS=postgres_url, PASSPHRASE=PASSPHRASE)

    return make


def test_a_second_host_joins(host: Callable[[str], Host]) -> None:
    """It writes under the same keys, names people alike, follows rotations, and every step is an entry."""
    one, two = host("one"), host("two")
    one.run("init")
    one.run("log", "x_first", "--actor", "user@example.com")
    file = one.home / "writer"
    said = one.run("keys", "export-writer", "-o", str(file), "--passphrase-env", "PASSPHRASE")
    assert PASSPHRASE not in said
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    one.run("keys", "export-writer", "-o", str(file), "--passphrase-env", "PASSPHRASE", code=2)
    one.run("keys", "rotate")
    one.run("keys", "rotate")
    shutil.copy(file, two.home / "writer")
    told = json.loads(
        two.run("keys", "import-writer", str(two.home / "writer"), "--passphrase-env", "PASSPHRASE", "--json")
    )
    assert (True, 2) == (told["joined"], told["epoch"])
    two.run("log", "x_second", "--actor", "user@example.com")
    two.run("keys", "rotate")
    one.run("log", "x_third", "--actor", "user@example.com")
    again = two.run("keys", "import-writer", str(two.home / "writer"), "--passphrase-env", "PASSPHRASE")
    assert "already" in again
    places = one.places()
    store = open_store(places)
    lines = [json.loads(line) for line in store.read_entries(0)]
    acts = [line for line in lines if line["event_type"].startswith("x_")]
    assert ["x_first", "x_second", "x_third"] == [line["event_type"] for line in acts]
    assert 1 == len({line["actor_id"] for line in acts})
    changed = [line for line in lines if line["event_type"] == "settings_changed" and line["resource_type"] == "keys"]
    assert ["export-writer", "import-writer"] == [line["action"] for line in changed]
    assert 1 == len({line["metadata"]["writer_file"] for line in changed})
    assert not [line for line in lines if line["event_type"] == "log_recovered"]
    assert 3 == sum(event_type_of(line) == "signing_key_rotated" for line in store.read_entries(0))
    private = {path.name for path in places.keys.iterdir() if path.suffix == ".key"}
    assert {"log.key", "lookup.key", "epoch-3.key", "tail-3.key"} == private
    assert [] == list(verify(store, key=(places.keys / "log.pub").read_text().strip()).findings)
    assert 0 == json.loads(two.run("verify", "--json"))["exit"]
    store.close()


def test_an_import_that_was_stopped_is_recorded_by_the_next(host: Callable[[str], Host]) -> None:
    """The keys are there, but the log could not be opened: the act becomes an entry as soon as it can be, once."""
    one, two = host("one"), host("two")
    one.run("init")
    file = str(one.home / "writer")
    one.run("keys", "export-writer", "-o", file, "--passphrase-env", "PASSPHRASE")
    argv = ("keys", "import-writer", file, "--passphrase-env", "PASSPHRASE")
    people = two.environ["KLINGAI_AUDIT_SUBJECTS"]
    two.environ["KLINGAI_AUDIT_SUBJECTS"] = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"
    two.run(*argv, code=3)
    two.environ["KLINGAI_AUDIT_SUBJECTS"] = people
    for _ in range(2):
        assert "already" in two.run(*argv)
    store = open_store(one.places())
    lines = [json.loads(line) for line in store.read_entries(0)]
    store.close()
    changed = [line for line in lines if line["event_type"] == "settings_changed" and line["resource_type"] == "keys"]
    assert ["export-writer", "import-writer"] == [line["action"] for line in changed]


def test_what_is_in_the_way_stays(host: Callable[[str], Host], tmp_path: Path) -> None:
    """Keys of another log are not overwritten, and keys do not fit another log."""
    one, two = host("one"), host("two")
    one.run("init")
    file = str(one.home / "writer")
    one.run("keys", "export-writer", "-o", file, "--passphrase-env", "PASSPHRASE")
    two.run("keys", "import-writer", file, "--passphrase-env", "HOME", code=2)
    two.environ["KLINGAI_AUDIT_KEYS"] = str(tmp_path / "other.keys")
    elsewhere = {"KLINGAI_AUDIT_LOG": str(tmp_path / "other"), "KLINGAI_AUDIT_SUBJECTS": ""}
    other = Host(two.home, **{**two.environ, **elsewhere})
    other.run("init")
    before = {path.name: path.read_bytes() for path in (tmp_path / "other.keys").iterdir()}
    assert "another log" in two.run("keys", "import-writer", file, "--passphrase-env", "PASSPHRASE", code=2)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "other.keys").iterdir()}
    other.environ["KLINGAI_AUDIT_KEYS"] = str(tmp_path / "new.keys")
    assert "folder" in other.run("keys", "import-writer", file, "--passphrase-env", "PASSPHRASE", code=2)
    assert not (tmp_path / "new.keys").exists()
