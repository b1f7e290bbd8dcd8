"""End to end: a client orders, the prompt is nowhere on the disk, an officer opens it, an outsider checks that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.cli.run import run
from klingai_audit.errors import AuditUnavailable
from tests.unit.kling.world import POLL, make_world

PROMPT = "Wombat-7731 dances in a quarry of glass"
NEGATIVE = "no Zeppelin-4402 anywhere"
USER, ADDRESS = "user@example.com", "203.0.113.177"

pytestmark = pytest.mark.slow

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with sealed prompts of a client that ordered a video from the simulator, and fetched it."""
    folder = tmp_path_factory.mktemp("sealed")
    log = str(folder / "audit")
    for argv in (
        ["init"],
        ["keys", "unseal-init", "--unseal-key", str(folder / "officer.key")],
        ["policy", "set", "vault.seal", '["prompt", "*_prompt"]'],
        ["policy", "set", "vault.addresses", "true"],
    ):
        assert run([*argv, "--log", log]) == 0
    with make_world(folder) as world, acting(USER, ip=ADDRESS, team="studio-a"), world.client() as kling:
        task = kling.text_to_video(PROMPT, model="kling-v2-6", negative_prompt=NEGATIVE)
        task.wait(poll_interval=POLL).download(folder / "lake.mp4")
    return folder


@pytest.fixture
def ask(place: Path, capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command on that log."""

    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--log", str(place / "audit")])
        return code, *capfd.readouterr()

    return call


def entry_of(ask: Ask, kind: str) -> dict[str, object]:
    _, out, _ = ask("query", "--type", kind, "--json")
    return json.loads(out.splitlines()[-1])


def unseal(ask: Ask, place: Path, seq: object, *more: str) -> tuple[int, str, str]:
    return ask("unseal", str(seq), "--reason", "complaint 17", "--unseal-key", str(place / "officer.key"), *more)


def test_what_was_ordered_is_on_no_disk_in_plain(place: Path) -> None:
    """Neither the prompts nor the address, in any file of log, keys, state and vault."""
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".sealed"]) >= 3
    for path in files:
        data = path.read_bytes()
        for planted in (PROMPT, "Wombat-7731", "Zeppelin-4402", ADDRESS, USER):
            assert planted.encode() not in data, path.name


def test_an_officer_opens_it_and_an_outsider_checks(place: Path, ask: Ask, tmp_path: Path) -> None:
    """The content is shown, the log says so, and the opening proves it with nothing but the log's key."""
    seq = entry_of(ask, "prompt_submitted")["seq"]
    code, out, _ = unseal(ask, place, seq, "--field", "prompt", "--opening", str(tmp_path / "o.json"))
    assert (0, True, True) == (code, PROMPT in out, "stands in entry" in out)
    code, out, _ = unseal(ask, place, seq, "--field", "/metadata/negative_prompt", "--json")
    told = json.loads(out)
    unsealed = entry_of(ask, "content_unsealed")
    assert (0, NEGATIVE, unsealed["seq"], None) == (code, told["value"], told["recorded"], told["opening"])
    code, out, _ = unseal(ask, place, seq, "--field", "full_address", "--raw")
    assert (0, ADDRESS) == (code, out)
    key = place / "audit.keys" / "log.pub"
    elsewhere = ("--log", str(tmp_path / "none"), "--keys", str(tmp_path / "nothing"))
    assert run(["check", "--opening", str(tmp_path / "o.json"), "--key", str(key), *elsewhere]) == 0
    data = (tmp_path / "o.json").read_text()
    (tmp_path / "o.json").write_text(data.replace("Wombat", "Numbat"))
    assert run(["check", "--opening", str(tmp_path / "o.json"), "--key", str(key), *elsewhere]) == 4
    assert ask("verify", "--json")[0] == 0
    assert ask("check", "--opening", "x", "y")[0] == ask("check")[0] == 2


def test_what_is_refused_is_said_and_recorded(place: Path, ask: Ask, tmp_path: Path) -> None:
    """Without the key, and for what is not sealed."""
    seq = entry_of(ask, "prompt_submitted")["seq"]
    code, _, err = ask("unseal", str(seq), "--field", "prompt", "--reason", "curious")
    assert (3, True) == (code, "There is no key at" in err)
    denied = entry_of(ask, "access_denied")
    assert ("blocked", "no_key", "curious") == (
        denied["outcome"], denied["metadata"]["why"], denied["metadata"]["reason"],
    )  # fmt: skip
    assert unseal(ask, place, seq, "--field", "prompt", "--raw", "--json")[0] == 2
    assert ask("keys", "unseal-init")[0] == 2


def test_an_order_is_not_sent_when_its_prompt_cannot_be_sealed(tmp_path: Path) -> None:
    """The class of the act decides: what costs money is refused, and nothing reaches Kling."""
    AuditLog.open(tmp_path / "audit").close()
    assert run(["keys", "unseal-init", "--log", str(tmp_path / "audit")]) == 0
    (tmp_path / "audit.keys" / "policy.toml").write_text("[vault]\nseal = ['prompt']\n")
    (tmp_path / "audit.vault").write_text("a file stands where the vault belongs")
    with make_world(tmp_path) as world, acting(USER), world.client() as kling:
        with pytest.raises(AuditUnavailable, match="was not sent"):
            kling.text_to_video(PROMPT, model="kling-v2-6")
        assert [] == world.sim.calls("POST", "/v1/videos/text2video")
        (tmp_path / "audit.vault").unlink()
        kling.text_to_video(PROMPT, model="kling-v2-6")
        assert 1 == len(world.sim.calls("POST", "/v1/videos/text2video"))
