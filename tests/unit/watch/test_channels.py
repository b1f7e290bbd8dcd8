"""How alerts leave: webhooks with signatures and retries, syslog messages; over real sockets."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from klingai_audit.errors import StorageError, UnsafePermissions, UsageError
from klingai_audit.watch.channels import MAX_ALERTS, Context, Syslog, Webhook, read_secret
from klingai_audit.watch.memory import Message
from klingai_audit.watch.problems import Alert, Problem
from tests.support.alerted import SECRET, Hook
from tests.support.receivers import SyslogReceiver, free_port, wait_until

PROBLEM = Problem(source="verify", kind="entry_changed", level="broken", text="Bytes.", key="k", seq=5, seq_end=9)
CONTEXT = Context(origin="log.example", threats={"edit": "detected"}, open=1)


def message(count: int = 1) -> Message:
    return Message(id="watch_1", time=1_795_000_000, alerts=[Alert(change="new", problem=PROBLEM)] * count)


def test_a_webhook_is_signed_and_says_what_was_found() -> None:
    """The receiver computes the same signature from its secret; kinds, ranges and threats, nothing else."""
    with Hook() as hook:
        Webhook(hook.url, SECRET).send(message(), CONTEXT)
    assert [True] == hook.signed
    assert {
        "type": "klingai_audit.watch",
        "id": "watch_1",
        "time": "2026-11-18T11:06:40Z",
        "origin": "log.example",
        "alerts": [
            {"change": "new", "source": "verify", "kind": "entry_changed", "level": "broken", "seq": 5, "seq_end": 9,
             "text": "Bytes."}
        ],
        "more": 0,
        "open": 1,
        "threats": {"edit": "detected"},
    } == hook.taken[0]  # fmt: skip


def test_without_a_secret_there_is_no_signature() -> None:
    """It is sent all the same."""
    with Hook() as hook:
        Webhook(hook.url).send(message(), CONTEXT)
    assert ([False], 1) == (hook.signed, len(hook.taken))


def test_a_long_message_names_the_first_alerts_and_counts_the_rest() -> None:
    """No receiver gets a body without bounds."""
    with Hook() as hook:
        Webhook(hook.url).send(message(MAX_ALERTS + 7), CONTEXT)
    assert (MAX_ALERTS, 7) == (len(hook.taken[0]["alerts"]), hook.taken[0]["more"])


@pytest.mark.parametrize(
    "answers, tries", [([503, 500], 3), ([429], 2), ([503, 503, 503], 3), ([400], 1), ([302], 1), ([404], 1)]
)
def test_a_webhook_is_tried_again_where_that_may_help(answers: list[int], tries: int) -> None:
    """The same id each time; a refusal for good is told at once, redirects are not followed."""
    pauses: list[float] = []
    with Hook() as hook:
        hook.answers += answers
        sender = Webhook(hook.url, SECRET, pause=pauses.append)
        if len(answers) == tries:
            with pytest.raises(StorageError, match=f"answers {answers[-1]}"):
                sender.send(message(), CONTEXT)
        else:
            sender.send(message(), CONTEXT)
        assert ["watch_1"] * tries == hook.ids
    assert [0.3, 0.9][: tries - 1] == pytest.approx(pauses)


def test_nobody_listens() -> None:
    """Refused connections are told without the path, which may be secret."""
    dead = Webhook(f"http://127.0.0.1:{free_port()}/secret-path", pause=lambda _: None)
    with pytest.raises(StorageError) as caught:
        dead.send(message(), CONTEXT)
    assert "secret-path" not in str(caught.value)
    with pytest.raises(StorageError, match="cannot be reached"):
        Syslog(f"tcp://127.0.0.1:{free_port()}").send(message(), CONTEXT)


def test_syslog_has_one_message_for_each_alert() -> None:
    """RFC 5424 with the facts as structured data, critical for what is broken; the connection ends in order."""
    with SyslogReceiver() as receiver:
        Syslog(f"tcp://127.0.0.1:{receiver.port}").send(message(2), CONTEXT)
        wait_until(lambda: len(receiver.messages) == 2)
        wait_until(lambda: receiver.closed == 1)
    head, _, rest = receiver.messages[0].partition(b" klingai-audit - watch ")
    assert head.startswith(b"<106>1 2026-11-18T11:06:40.000000Z ")
    assert (
        b'[klingai-audit@32473 id="watch_1" origin="log.example" change="new" source="verify" '
        b'finding="entry_changed" level="broken" seq="5" seq_end="9"] new: entry_changed: Bytes.'
    ) == rest


@pytest.mark.parametrize(
    "url", ["ftp://localhost/", "https://", "https://user:pass@host.example/", "http://host.example/", "nonsense"]
)
def test_addresses_that_are_none(url: str) -> None:
    """Nothing is sent in the clear to another machine unless that is meant."""
    with pytest.raises(UsageError):
        Webhook(url)


def test_plain_is_an_answer() -> None:
    """With `plain` another machine may be told in the clear; syslog alike."""
    assert "http://host.example" == Webhook("http://host.example/x", plain=True).name
    with pytest.raises(UsageError, match="clear"):
        Syslog("tcp://host.example")
    assert "tcp://host.example:601" == Syslog("tcp://host.example", plain=True).name


def test_the_secret_comes_from_a_private_file(tmp_path: Path) -> None:
    """Base64 with or without its prefix; a file that others may read, or that is none, is refused."""
    path = tmp_path / "secret"
    with pytest.raises(UsageError, match="no secret"):
        read_secret(path)
    path.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    path.chmod(0o644)
    with pytest.raises(UnsafePermissions):
        read_secret(path)
    path.chmod(0o600)
    assert SECRET == read_secret(path)
    path.write_text("?\n")
    with pytest.raises(UsageError):
        read_secret(path)
