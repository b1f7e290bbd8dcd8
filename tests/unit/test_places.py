"""Where a log's parts are: beside a folder, or in the user's state directory for a log on a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.config import Places
from klingai_audit.errors import UsageError
from klingai_audit.stores.urls import RemoteUrl

URL = "postgresql://ann:secret@db.example.com/audit"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "klingai-audit" / "logs"


@pytest.mark.parametrize("url", [URL, "postgres://h/d", "s3://bucket/prefix", "gs://b/p", "az://c/p"])
def test_a_log_on_a_server_has_its_places_at_home(home: Path, url: str) -> None:
    """Keys, state, vault and people lie in a folder of this log alone."""
    places = Places.resolve(url, environ={})
    here = home / RemoteUrl(url).name
    assert (here / "keys", here / "state", here / "vault") == (places.keys, places.state, places.vault)
    assert here / "keys" / "subjects.sqlite" == places.subjects == places.subjects_file
    assert (None, here) == (places.folder, places.home)


def test_each_place_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of them named no home is needed; people may be in a database."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda _path: (_ for _ in ()).throw(RuntimeError("no home")))
    given = {"KLINGAI_AUDIT_LOG": URL, "KLINGAI_AUDIT_KEYS": "k", "KLINGAI_AUDIT_STATE": "s"}
    places = Places.resolve(environ={**given, "KLINGAI_AUDIT_SUBJECTS": URL, "KLINGAI_AUDIT_VAULT": "v"})
    assert (Path("k"), Path("s"), Path("v"), None) == (places.keys, places.state, places.vault, places.subjects_file)
    with pytest.raises(UsageError, match="no home"):
        Places.resolve(environ=given)


def test_passwords_are_not_shown(home: Path) -> None:
    """Neither in JSON nor in a repr nor as the log's name; `address` still has it."""
    places = Places.resolve(URL, subjects=URL, environ={})
    assert "secret" not in f"{places} {places!r} {places.as_json()} {places.log}"
    assert places.as_json()["log"] == places.as_json()["subjects"] == "postgresql://ann@db.example.com/audit"
    address = places.address
    assert isinstance(address, RemoteUrl)
    assert URL == address.reveal()
    assert places == Places.resolve(address, subjects=places.subjects, environ={})


@pytest.mark.parametrize("url", ["ftp://h/x", "https://ann:secret@h/x", "s4://b"])
def test_other_urls_are_refused(url: str) -> None:
    """A scheme that no driver serves is no folder either."""
    with pytest.raises(UsageError, match="not served") as refused:
        Places.resolve(url, environ={})
    assert "secret" not in str(refused.value)
    with pytest.raises(UsageError, match="not served"):
        Places.resolve("audit", subjects=f"mysql://{url}", environ={})


def test_folders_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the log, by its name; a log in memory has a temporary folder."""
    monkeypatch.chdir(tmp_path)
    places = Places.resolve("audit/", environ={})
    assert ("audit", Path("audit"), Path("audit.keys")) == (places.log, places.folder, places.keys)
    assert (tmp_path, Path("audit.vault"), Path("audit.state")) == (places.home, places.vault, places.state)
    assert Path("audit") == places.need_folder("A drill")
    memory = Places.resolve("memory:", environ={})
    assert memory.folder is None
    assert memory.keys.parent == memory.state.parent != tmp_path
    with pytest.raises(UsageError, match="in a folder"):
        memory.need_folder("A drill")
