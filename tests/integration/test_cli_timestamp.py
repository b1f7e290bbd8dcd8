"""`timestamp` and `verify --tsa-roots` on the command line, with a real authority behind HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog
from tests.support.tsa import Tsa, honest, serving

pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")

ASK = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def url(tsa: Tsa) -> Iterator[str]:
    with serving(honest(tsa)) as served:
        yield served


@pytest.fixture
def ask(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> ASK:
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_note", "user@example.com")

    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--log", str(tmp_path / "audit")])
        return code, *capfd.readouterr()

    return call


def dating(ask: ASK, *options: str) -> tuple[int, str, str]:
    """Return exit code, state and ground of the threat of back-dating."""
    code, out, _ = ask("verify", "--json", *options)
    threat = next(one for one in json.loads(out)["threats"] if one["threat"] == "back_dating")
    return code, threat["state"], threat["by"]


def test_stamp_and_verify(ask: ASK, tsa: Tsa, url: str) -> None:
    """One command stamps, another checks offline with given roots; without them it says what it did not check."""
    code, out, err = ask("timestamp", "--tsa", url, "--roots", str(tsa.root), "--json")
    told = json.loads(out)
    assert (0, "stamped", True, "") == (code, told["result"], told["checked"], err)
    (made,) = told["stamps"]
    assert ["size", "gen_time", "tsa", "token", "seq"] == list(made)
    assert made["size"] == told["size"] == made["seq"]
    assert (0, "ruled_out") == dating(ask, "--tsa-roots", str(tsa.root))[:2]
    code, state, by = dating(ask)
    assert (0, "not_checked") == (code, state)
    assert "who issued them was not checked" in by


def test_it_says_what_it_did(ask: ASK, url: str) -> None:
    """People read from when the stamp is, whether its issuer was checked, and why nothing was done."""
    code, out, _ = ask("timestamp", "--tsa", url)
    assert 0 == code
    assert "entries existed by 20" in out
    assert "Who issued it was not checked" in out
    code, out, _ = ask("timestamp", "--tsa", url)
    assert (0, "Nothing was stamped: nothing new.\n") == (code, out)
    assert 0 == ask("log", "x_note", "--actor", "user@example.com")[0]
    code, out, _ = ask("timestamp", "--tsa", url, "--interval", "1h")
    assert (0, "Nothing was stamped: not due.\n") == (code, out)


def test_the_policy_names_authority_and_roots(ask: ASK, tsa: Tsa, url: str, tmp_path: Path) -> None:
    """Set once, used by both commands."""
    assert 2 == ask("timestamp")[0]
    (tmp_path / "audit.keys" / "roots.pem").write_bytes(tsa.root.read_bytes())
    assert 0 == ask("policy", "set", "timestamp.tsa", url)[0]
    assert 0 == ask("policy", "set", "timestamp.roots", "roots.pem")[0]
    assert 0 == ask("timestamp")[0]
    assert (0, "ruled_out") == dating(ask)[:2]
    (tmp_path / "audit.keys" / "roots.pem").unlink()
    assert 2 == ask("verify")[0]


def test_a_bad_interval_of_the_policy_is_refused(ask: ASK) -> None:
    """What cannot be read is not set."""
    code, _, err = ask("policy", "set", "timestamp.interval", "sometimes")
    assert 2 == code
    assert "no span of time" in err


@pytest.mark.parametrize(
    "options, code",
    [
        (("--tsa", "ftp://tsa.example"), 2),
        (("--tsa", "http://127.0.0.1:9/"), 3),
        (("--tsa", "http://127.0.0.1:9/", "--roots", "none.pem"), 2),
        (("--tsa", "http://127.0.0.1:9/", "--interval", "often"), 2),
    ],
)
def test_exit_codes(ask: ASK, options: tuple[str, ...], code: int) -> None:
    """2 for what was typed, 3 for an authority that does not answer."""
    assert code == ask("timestamp", *options)[0]


def test_without_the_extra(ask: ASK, url: str, tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra; verification says that it did not check."""
    assert 0 == ask("timestamp", "--tsa", url)[0]
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    code, _, err = ask("timestamp", "--tsa", url)
    assert 2 == code
    assert "pip install 'klingai-audit[trust]'" in err
    code, state, by = dating(ask, "--tsa-roots", str(tsa.root))
    assert (0, "not_checked") == (code, state)
    assert "rfc3161-client" in by
