"""Archives on a real server with Object Lock: nothing can be deleted or changed there, and what is there verifies."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog
from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.ledger.line import PURGED_PREFIX
from tests.support.objects import ObjectServer, use
from tests.support.purged import OldLog

pytest.importorskip("boto3", reason="archives need boto3")
pytest.importorskip("obstore", reason="logs in buckets need obstore")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@dataclass(frozen=True)
class Vault:
    """A log in a folder, and a prefix of a bucket with Object Lock."""

    log: Path
    bucket: str
    objects: ObjectServer

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/team-a"

    @property
    def key(self) -> str:
        return (self.log.parent / "audit.keys" / "log.pub").read_text().strip()

    def versions(self, path: str) -> list[str]:
        """The versions of one object, newest first."""
        answer = self.objects.request("GET", f"/{self.bucket}", query={"versions": "", "prefix": f"team-a/{path}"})
        return [part.partition("</VersionId>")[0] for part in answer.body.decode().split("<VersionId>")[1:]]


@pytest.fixture
def vault(objects: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    use(objects, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    monkeypatch.setenv("KLINGAI_AUDIT_ACTOR", "keeper@example.com")
    made = Vault(tmp_path / "audit", objects.bucket(lock=True), objects)
    grow(made, 600)
    return made


def grow(vault: Vault, count: int) -> None:
    with AuditLog.open(vault.log) as audit:
        for number in range(count):
            audit.log("x_note", "user@example.com", resource_type="video", action="set", number=number)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*argv: object) -> Answer:
        code = run([*map(str, argv)])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return call


def archived(cli, vault: Vault, *more: object) -> Answer:
    return cli("archive", "--to", vault.url, "--log", vault.log, "--json", *(more or ("--days", "30")))


def test_the_server_refuses(cli, vault: Vault):
    """Whoever has all rights of the bucket cannot delete or replace a version that is under lock, nor shorten that."""
    done = archived(cli, vault)
    assert (0, True) == (done.code, done.json["recorded"])
    path = f"/{vault.bucket}/team-a/tile/entries/000"
    (version,) = vault.versions("tile/entries/000")
    before = vault.objects.request("GET", path).body
    for headers in ({}, {"x-amz-bypass-governance-retention": "true"}):
        refused = vault.objects.request("DELETE", path, query={"versionId": version}, headers=headers)
        assert HTTPStatus.FORBIDDEN == refused.status
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    shorter = f"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{soon}</RetainUntilDate></Retention>".encode()
    query = {"retention": "", "versionId": version}
    assert HTTPStatus.FORBIDDEN == vault.objects.request("PUT", path, query=query, body=shorter).status
    taken = vault.objects.request("PUT", path, body=b"forged", headers={"if-none-match": "*"})
    assert HTTPStatus.PRECONDITION_FAILED == taken.status
    vault.objects.request("PUT", path, body=b"forged")  # lies before the locked version, and takes nothing from it
    assert before == vault.objects.request("GET", path, query={"versionId": version}).body
    told = vault.objects.request("HEAD", path, query={"versionId": version}).headers
    assert "COMPLIANCE" == told["x-amz-object-lock-mode"]
    assert done.json["retain_until"][:10] == told["x-amz-object-lock-retain-until-date"][:10]


def test_it_goes_on_and_verifies(cli, vault: Vault, tmp_path: Path):
    """Runs add what is new; the archive verifies with the public key alone, and a forgery in it is found."""
    first = archived(cli, vault).json
    grow(vault, 300)
    second = archived(cli, vault, "--retain-until", "2090-01-01").json
    assert first["tree_size"] == second["old_size"] < second["tree_size"]
    found = cli("verify", "--log", vault.url, "--key", vault.key, "--json")
    assert "" == found.err
    assert (0, vault.url) == (found.code, found.json["log"])
    assert second["tree_size"] <= found.json["size"]
    notes = [one["kind"] for one in found.json["findings"]]
    assert [] == [one for one in found.json["findings"] if one["severity"] == "broken"], notes
    path = f"/{vault.bucket}/team-a/tile/entries/001"
    forged = vault.objects.request("GET", path).body.replace(b'"number":300', b'"number":301')
    vault.objects.request("PUT", path, body=forged)
    broken = cli("verify", "--log", vault.url, "--key", vault.key, "--json")
    assert (4, ["entry_changed"]) == (
        broken.code,
        [f["kind"] for f in broken.json["findings"] if f["severity"] == "broken"],
    )


def test_refused(cli, vault: Vault, objects: ObjectServer):
    """A bucket without Object Lock, a day that is over, and an archive of another log are refused."""
    open_bucket = f"s3://{objects.bucket()}/x"
    assert 2 == cli("archive", "--to", open_bucket, "--days", "3", "--log", vault.log).code
    assert 2 == cli("archive", "--to", vault.url, "--retain-until", "2020-01-01", "--log", vault.log).code
    assert 2 == cli("archive", "--to", vault.url, "--log", vault.log).code
    assert 0 == archived(cli, vault).code
    other = Vault(vault.log.parent / "other" / "audit", vault.bucket, objects)
    grow(other, 3)
    assert 4 == archived(cli, other).code


def test_nobody_writes_to_an_archive(cli, vault: Vault, tmp_path: Path):
    """A writer with the log's keys that is pointed at the archive is refused: it has no head."""
    assert 0 == archived(cli, vault).code
    keys = vault.log.parent / "audit.keys"
    answer = cli("log", "x_note", "--log", vault.url, "--keys", keys, "--state", tmp_path / "state")
    assert 0 != answer.code
    assert [] == vault.versions("head")


def test_a_log_in_a_database(cli, vault: Vault, postgres_url: str, tmp_path: Path):
    """A log on one server is archived on another, with what of it is purged by then."""
    log = Vault(vault.log, vault.bucket, vault.objects)
    places = {"keys": tmp_path / "pg.keys", "state": tmp_path / "pg.state"}
    with AuditLog.open(postgres_url, **places) as audit:
        for number in range(300):
            audit.log("x_note", "user@example.com", resource_type="video", action="set", number=number)
    given = ("--log", postgres_url, "--keys", places["keys"], "--state", places["state"])
    done = cli("archive", "--to", log.url, "--days", "1", "--json", *given)
    assert (0, True) == (done.code, done.json["recorded"])
    key = (places["keys"] / "log.pub").read_text().strip()
    found = cli("verify", "--log", log.url, "--key", key, "--json")
    assert (0, done.json["tree_size"]) == (found.code, found.json["size"])


def test_purged_after(cli, tmp_path: Path, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    """What is purged from the log stays in the archive, which still verifies, and says so in a note."""
    use(objects, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    old = OldLog(tmp_path)
    with old.open() as audit:
        for _ in range(6):
            old.day(audit, rounds=12)
    made = Vault(old.path, objects.bucket(lock=True), objects)
    assert 0 == archived(cli, made).code
    with old.open() as audit:
        purged = old.apply(audit)
        for _ in range(6):
            old.day(audit, rounds=12)
    assert purged
    assert 0 == archived(cli, made).code
    found = cli("verify", "--log", made.url, "--key", made.key, "--json")
    assert 0 == found.code
    assert "purge_unfinished" in {one["kind"] for one in found.json["findings"]}
    assert "after 3 days" in cli("archive", "--to", made.url, "--days", "90", "--log", made.log).err
    lines = list(open_reader(Places.resolve(made.url)).lines())
    assert [] == [seq for seq in purged if lines[seq].startswith(PURGED_PREFIX)]


def test_the_plan_tells(cli, vault: Vault):
    """`retention plan` says what lies under lock where, and until when."""
    done = archived(cli, vault).json
    plan = cli("retention", "plan", "--log", vault.log, "--json").json
    (told,) = plan["archives"]
    assert (vault.url, done["retain_until"]) == (told["to"], told["retain_until"])
    assert done["tree_size"] == told["entries"] > 600
    assert vault.url in cli("retention", "plan", "--log", vault.log).out
