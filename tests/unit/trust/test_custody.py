"""Where the keys lie, as a verdict tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.ledger.custody import Custody, custody_of
from klingai_audit.trust.custody import with_custody
from klingai_audit.trust.verdict import Threat, Verdict

FILES = {
    ("file", "file"): ["log.key", "epoch-3.key", "log.pub"],
    ("external", "file"): ["log.signer", "epoch-0.key", "log.pub"],
    ("absent", "absent"): ["log.pub", "epoch-0.pub"],
    ("file", "absent"): ["log.key"],
}


def folder(base: Path, names: list[str]) -> Path:
    keys = base / "audit.keys"
    keys.mkdir()
    for name in names:
        (keys / name).write_text("")
    return keys


def verdict(state: str = "not_ruled_out") -> Verdict:
    """A verdict with the two threats that keys are about, and one that they are not."""
    names = ("edit", "key_holder", "key_theft")
    return Verdict(
        scope="log",
        log="audit",
        origin=None,
        key=None,
        key_source="",
        size=1,
        total=1,
        valid=1,
        findings=(),
        threats=tuple(Threat(name, state, f"by {name}") for name in names),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("places", FILES)
def test_names_in_the_keys_folder_tell(tmp_path: Path, places: tuple[str, str]) -> None:
    """A file, a signer's settings, or neither; nothing is opened."""
    custody = custody_of(folder(tmp_path, FILES[places]))
    assert {"log_key": places[0], "epoch_key": places[1]} == custody.as_json()


def test_no_keys_folder_is_no_key_here(tmp_path: Path) -> None:
    """An auditor's machine has none."""
    assert Custody("absent", "absent") == custody_of(tmp_path / "none")


def test_a_file_in_the_place_of_the_folder_tells_nothing(tmp_path: Path) -> None:
    """What is no folder cannot be looked into."""
    (tmp_path / "audit.keys").write_text("")
    assert Custody("unknown", "unknown") == custody_of(tmp_path / "audit.keys")


@pytest.mark.parametrize(
    ("places", "holder", "theft"),
    [
        (("file", "file"), "whoever administers it holds both", "one theft takes both"),
        (("external", "file"), "has to have it sign", "have its signer sign"),
        (("absent", "absent"), "neither key lies on this machine", "neither key lies on this machine"),
    ],
)
def test_the_threats_of_keys_take_it_into_account(
    tmp_path: Path, places: tuple[str, str], holder: str, theft: str
) -> None:
    """`key_holder` and `key_theft` go on to say what the place means; other threats do not."""
    told = with_custody(verdict(), folder(tmp_path, FILES[places]))
    assert "by edit" == told.threat("edit").by
    assert told.threat("key_holder").by.startswith("by key_holder; ")
    assert holder in told.threat("key_holder").by
    assert theft in told.threat("key_theft").by
    assert {"log_key": places[0], "epoch_key": places[1]} == told.to_json()["custody"]


@pytest.mark.parametrize("state", ["ruled_out", "detected", "not_checked"])
def test_what_is_ruled_out_or_detected_stays_as_it_is(tmp_path: Path, state: str) -> None:
    """The place of the keys changes no state, and no reason that does not rest on it."""
    before = verdict(state)
    told = with_custody(before, folder(tmp_path, FILES["file", "file"]))
    assert before.threats == told.threats


def test_keys_that_are_strangely_apart_are_named_without_a_conclusion(tmp_path: Path) -> None:
    """A log key without an epoch key is told as it is."""
    told = with_custody(verdict(), folder(tmp_path, FILES["file", "absent"]))
    assert verdict().threats == told.threats
    assert {"log_key": "file", "epoch_key": "absent"} == told.to_json()["custody"]


def test_a_verdict_of_nobody_who_looked(tmp_path: Path) -> None:
    """Without a keys folder to look into, the member is null."""
    assert None is verdict().to_json()["custody"]


@pytest.mark.parametrize(("name", "place"), [("mldsa.key", "file"), ("mldsa.pub", "absent")])
def test_the_third_key_has_its_place(tmp_path: Path, name: str, place: str) -> None:
    """A log with an ML-DSA-44 key says where that lies; one without says nothing of it."""
    folder(tmp_path, [*FILES["file", "file"], name])
    custody = custody_of(tmp_path / "audit.keys")
    assert {"log_key": "file", "epoch_key": "file", "mldsa_key": place} == custody.as_json()
    assert ["log key", "epoch key", "ML-DSA-44 key"] == [key for key, _ in custody.words()]
