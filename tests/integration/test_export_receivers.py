"""Exports to receivers over real sockets: syslog in TLS and in the clear, OTLP; breaks, refusals, bad certificates."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import MissingExtra, StorageError, UsageError
from klingai_audit.exports import Course, CursorFile, ExportResult, connection, export
from klingai_audit.exports.connection import Peer, SyslogSink
from klingai_audit.exports.record import Position
from klingai_audit.exports.sink import SinkLost
from klingai_audit.kling.simulator.tls import ServerCertificate
from tests.support.exported import HEAD, HOSTILE, record
from tests.support.faulty import QuickOps
from tests.support.ledgers import Ledger, event
from tests.support.receivers import OtlpReceiver, SyslogReceiver, free_port, wait_until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otlp is not installed")

ENTRIES = 1_600


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A closed log with hostile values in it."""
    with Ledger(tmp_path_factory.mktemp("log"), ops=QuickOps()) as open_ledger:
        for number in range(ENTRIES):
            value = HOSTILE[number % len(HOSTILE)]
            open_ledger.appender.append(event(metadata={"n": number, "value": value}))
    return open_ledger


@pytest.fixture(scope="module")
def certificate() -> Iterator[ServerCertificate]:
    """A server's certificate for localhost, and the authority that issued it."""
    found = ServerCertificate()
    yield found
    found.close()


def seq_of(message: bytes) -> int:
    found = re.search(rb' seq="([0-9]+)"', message)
    assert found is not None
    return int(found[1])


def next_of(cursor: CursorFile) -> int:
    """Where a cursor stands; 0 for one that was not moved yet."""
    return json.loads(cursor.path.read_bytes())["next"] if cursor.path.exists() else 0


def follow(ledger: Ledger, stop: threading.Event, **options: Any) -> tuple[threading.Thread, list[Any]]:
    """Export in a thread until `stop` is set; the list gets the result, or what was raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(export(ledger.reader, course=Course(follow=True, stop=stop.is_set), **options))
        except Exception as exc:  # noqa: BLE001  (the test looks at it)
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


# --- syslog --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["syslog", "cef"])
def test_everything_arrives_once_over_tls(ledger: Ledger, certificate: ServerCertificate, format: str) -> None:
    """One message for each entry, in order; the connection is closed in order, which tells that all was read."""
    with SyslogReceiver(certificate.server_context()) as receiver:
        done = export(ledger.reader, format, to=f"tls://localhost:{receiver.port}", ca=certificate.ca_file)
        wait_until(lambda: receiver.closed == 1)
    size = ledger.reader.size
    assert 0 == receiver.torn
    assert size == len(receiver.messages) == done.entries == done.end == done.tree_size
    assert (0, False, f"tls://localhost:{receiver.port}") == (done.again, done.recorded, done.to)
    assert all(message.startswith(b"<1") and b"\n" not in message for message in receiver.messages)
    if format == "syslog":
        assert list(range(size)) == [seq_of(message) for message in receiver.messages]


def test_the_leaf_hash_can_be_checked_at_the_other_end(ledger: Ledger, certificate: ServerCertificate) -> None:
    """The text of a plain entry is the stored one: its hash is the leaf's, and the log proves that leaf."""
    with SyslogReceiver() as receiver:
        export(ledger.reader, "syslog", to=f"tcp://127.0.0.1:{receiver.port}")
        wait_until(lambda: receiver.closed == 1)
    checked = 0
    for stored, message in zip(ledger.reader.entries(), receiver.messages, strict=True):
        leaf = re.search(rb' leaf="([0-9a-f]{64})"', message)
        text = message.partition(b"] {")[2]
        assert leaf is not None
        assert json.loads(b"{" + text) == json.loads(stored)
        assert hashlib.sha256(b"\0" + stored).hexdigest() == leaf[1].decode()
        checked += hashlib.sha256(b"\0{" + text).hexdigest() == leaf[1].decode()
    assert checked > ENTRIES // 2


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False])
def test_receiver_that_is_killed_twice_gets_everything(
    ledger: Ledger, certificate: ServerCertificate, tmp_path: Path, tls: bool
) -> None:
    """What was sent in the last seconds before a break is sent again; the cursor ends behind the last entry."""
    context = certificate.server_context() if tls else None
    stop = threading.Event()
    with SyslogReceiver(context) as receiver, CursorFile.open(tmp_path, "siem") as cursor:
        address = f"{'tls' if tls else 'tcp'}://localhost:{receiver.port}"
        receiver.paused.set()
        thread, outcome = follow(
            ledger, stop, format="syslog", to=address, ca=certificate.ca_file, cursor=cursor, resend=1.0
        )
        for _ in range(2):
            time.sleep(0.3)
            receiver.kill()
            receiver.paused.clear()
            time.sleep(0.3)
            receiver.start()
        wait_until(lambda: next_of(cursor) == ledger.reader.size)
        stop.set()
        thread.join(30)
        (done,) = outcome
        assert isinstance(done, ExportResult), done
        assert (ledger.reader.size, done.entries) == (done.end, ledger.reader.size + done.again)
    assert set(range(ledger.reader.size)) == {seq_of(message) for message in receiver.messages}


def test_slow_receiver_makes_the_export_wait(tmp_path: Path) -> None:
    """Back-pressure: while the receiver reads nothing, not much more than its buffers is sent; then all arrives."""
    with Ledger(tmp_path, ops=QuickOps()) as big:
        for number in range(2_000):
            big.appender.append(event(metadata={"n": number, "x": "y" * 5_000}))
    stop = threading.Event()
    with SyslogReceiver() as receiver:
        receiver.paused.set()
        thread, outcome = follow(big, stop, format="syslog", to=f"tcp://localhost:{receiver.port}")
        time.sleep(0.5)
        assert [] == receiver.messages
        receiver.paused.clear()
        wait_until(lambda: len(receiver.messages) >= big.reader.size)
        stop.set()
        thread.join(30)
    assert isinstance(outcome[0], ExportResult)
    assert list(range(big.reader.size)) == [seq_of(message) for message in receiver.messages]


def test_what_is_settled_is_what_is_old(certificate: ServerCertificate) -> None:
    """Messages count as arrived after the time to send again, while the connection stands; not earlier."""
    now = [100.0]
    with SyslogReceiver(certificate.server_context()) as receiver:
        peer = Peer("localhost", receiver.port, ca=certificate.ca_file)
        sink = SyslogSink(peer, lambda exported: b"x%d" % exported.seq, resend=5, clock=lambda: now[0])
        sink.open(Position(3, bytes(32)))
        sink.send([record(seq=3)], Position(4, b"4" * 32))
        wait_until(lambda: len(receiver.messages) == 1)
        now[0] += 4.9
        sink.send([record(seq=4)], Position(5, b"5" * 32))
        wait_until(lambda: len(receiver.messages) == 2)
        assert Position(3, bytes(32)) == sink.settled
        now[0] += 0.2
        wait_until(lambda: sink.check(HEAD) is None and sink.settled.seq == 4)
        receiver.kill()
        with pytest.raises(SinkLost):
            for _ in range(100):
                sink.check(HEAD)
                time.sleep(0.01)
        with pytest.raises(SinkLost):
            sink.send([], Position(5, b"5" * 32))
        assert 4 == sink.settled.seq


@pytest.mark.parametrize("tls", [True, False])
def test_what_is_settled_grows_without_a_rest(certificate: ServerCertificate, tls: bool) -> None:
    """In one long stream, what the other system has taken counts; what waits in this one does not."""
    with SyslogReceiver(certificate.server_context() if tls else None) as receiver:
        peer = Peer("localhost", receiver.port, tls=tls, ca=certificate.ca_file)
        sink = SyslogSink(peer, lambda exported: b"x" * 1_000, resend=0)
        sink.open(Position(0, None))
        batch = [record()] * 100
        for count in range(1, 201):
            sink.send(batch, Position(count, bytes(32)))
        assert 100 < sink.settled.seq < 200
        receiver.paused.set()
        with pytest.raises(SinkLost), pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "TAKES_SECONDS", 0.5)
            for count in range(201, 100_000):
                sink.send(batch, Position(count, bytes(32)))
        assert sink.settled.seq < count - 1
        receiver.paused.clear()


def test_receiver_that_resets_at_the_end_did_not_read_everything() -> None:
    """Closing in order is what tells that all was read; a reset is a break."""
    with SyslogReceiver() as receiver:
        receiver.paused.set()
        sink = SyslogSink(Peer("localhost", receiver.port, tls=False), lambda exported: b"x" * 1_000)
        sink.open(Position(0, None))
        sink.send([record()], Position(1, bytes(32)))
        time.sleep(0.1)
        threading.Timer(0.2, receiver.kill).start()
        with pytest.raises(SinkLost):
            sink.finish(HEAD)
        assert 0 == sink.settled.seq


def test_certificate_of_an_unknown_authority_is_refused(ledger: Ledger, certificate: ServerCertificate) -> None:
    """Nothing is sent to a receiver that nobody vouches for, and it is not tried again."""
    with SyslogReceiver(certificate.server_context()) as receiver, pytest.raises(StorageError) as caught:
        export(ledger.reader, "syslog", to=f"tls://localhost:{receiver.port}", course=Course(follow=True))
    assert "--ca" in caught.value.do
    assert not isinstance(caught.value, SinkLost)
    assert [] == receiver.messages


def test_receiver_that_does_not_speak_tls(ledger: Ledger) -> None:
    """Plain TCP at the other end is told."""
    with SyslogReceiver() as receiver, pytest.raises(StorageError) as caught:
        threading.Timer(0.5, receiver.kill).start()
        export(ledger.reader, "syslog", to=f"tls://localhost:{receiver.port}")
    assert str(receiver.port) in caught.value.message


def test_files_that_are_no_certificates(ledger: Ledger, tmp_path: Path) -> None:
    """A wrong --ca or --cert is the caller's mistake, told before anything is tried."""
    (tmp_path / "ca.pem").write_text("nonsense")
    for options in ({"ca": str(tmp_path / "ca.pem")}, {"ca": str(tmp_path / "no")}, {"certificate": str(tmp_path)}):
        with pytest.raises(UsageError):
            export(ledger.reader, "syslog", to="tls://localhost:1", **options)  # type: ignore[arg-type]


def test_nobody_listens(ledger: Ledger) -> None:
    """An unreachable receiver is told at once, whoever follows."""
    for follows in (False, True):
        for name, scheme in (("syslog", "tcp"), ("otlp", "http")):
            begun = time.monotonic()
            with pytest.raises(SinkLost):
                export(ledger.reader, name, to=f"{scheme}://localhost:{free_port()}", course=Course(follow=follows))
            assert time.monotonic() - begun < 30


# --- OTLP ----------------------------------------------------------------------------------------------


def test_records_arrive_with_proof(
    ledger: Ledger, certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Body, times, severity and attributes of each record, decoded from the protobuf that arrived over TLS.

    The authority that is given counts, whatever the environment says.
    """
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    with OtlpReceiver(certificate.server_context()) as receiver:
        done = export(ledger.reader, "otlp", to=receiver.url, ca=certificate.ca_file)
    size = ledger.reader.size
    assert (size, 0) == (len(receiver.records), done.again)
    assert {"/v1/logs"} == {request["path"] for request in receiver.requests}
    checkpoint = ledger.reader.checkpoint()
    for seq, found in enumerate(receiver.records):
        stored = ledger.reader.entry(seq) if seq % 100 == 0 else found.body.string_value.encode()
        told = {item.key: item.value.string_value or item.value.int_value for item in found.attributes}
        assert stored == found.body.string_value.encode()
        assert hashlib.sha256(b"\0" + stored).hexdigest() == told["audit.integrity.value"]
        assert (seq, checkpoint.size) == (told["audit.sequence.number"], told["klingai.tree.size"])
        assert json.loads(stored)["event_id"] == told["audit.record.id"]
        assert "klingai-audit." + json.loads(stored)["event_type"] == found.event_name
        assert found.time_unix_nano > 0
        assert found.severity_number == 9
        assert not found.trace_id
    assert {checkpoint.origin} == {resource["klingai.log.origin"] for resource in receiver.resources}


def test_otlp_receiver_that_is_killed_twice_gets_everything(ledger: Ledger, tmp_path: Path) -> None:
    """A batch that was not answered is sent again, whole; equal ids are the same event."""
    stop = threading.Event()
    with OtlpReceiver() as receiver, CursorFile.open(tmp_path, "otel") as cursor:
        killed = {2: threading.Event(), 3: threading.Event()}

        def late(_count: int) -> None:
            if (number := len(receiver.requests)) in killed:
                killed[number].wait(60)

        receiver.answer = late
        thread, outcome = follow(ledger, stop, format="otlp", to=receiver.url, cursor=cursor)
        for number, gone in killed.items():
            wait_until(lambda number=number: len(receiver.requests) >= number)
            receiver.kill()
            gone.set()
            time.sleep(0.2)
            receiver.start()
        wait_until(lambda: len({key(found) for found in receiver.records}) >= ledger.reader.size)
        stop.set()
        thread.join(60)
        assert isinstance(outcome[0], ExportResult), outcome
        assert ledger.reader.size == next_of(cursor)
    assert ledger.reader.size == len({key(found) for found in receiver.records})


def test_otlp_receiver_of_an_unknown_authority_is_refused(ledger: Ledger, certificate: ServerCertificate) -> None:
    """Nobody vouches for it, so nothing is sent, and it is not tried again."""
    with OtlpReceiver(certificate.server_context()) as receiver, pytest.raises(StorageError) as caught:
        export(ledger.reader, "otlp", to=receiver.url, course=Course(follow=True))
    assert "--ca" in caught.value.do
    assert [] == receiver.requests


def key(found: Any) -> str:
    return next(item.value.string_value for item in found.attributes if item.key == "audit.record.id")


@pytest.mark.parametrize(
    "answer",
    [
        400,
        401,
        404,
        (302, {"Location": "http://localhost/elsewhere"}, b""),
        (200, {"Content-Type": "text/html"}, b"<html>sign in</html>"),
        (200, {"Content-Type": "application/json"}, b'{"partialSuccess":{"rejectedLogRecords":"3"}}'),
        (200, {"Content-Type": "application/json"}, b"nonsense"),
    ],
)
def test_refusals_end_the_export_and_the_cursor_stays(ledger: Ledger, tmp_path: Path, answer: Any) -> None:
    """What the receiver did not take is never counted as sent, redirects and pages of proxies included."""
    with OtlpReceiver() as receiver, CursorFile.open(tmp_path, "otel") as cursor:
        receiver.answer = lambda count: answer
        with pytest.raises(StorageError) as caught:
            export(ledger.reader, "otlp", to=receiver.url, cursor=cursor)
        assert not isinstance(caught.value, SinkLost)
        assert str(receiver.port) in caught.value.message
        assert not cursor.path.exists()
        assert 1 == len(receiver.requests)


def test_partial_refusal_says_how_many_and_why(ledger: Ledger) -> None:
    """The receiver's own words are shown, inert."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 2
    answer.partial_success.error_message = "too \x1b[31mred"
    with OtlpReceiver() as receiver:
        receiver.answer = lambda count: (200, {"Content-Type": "application/x-protobuf"}, answer.SerializeToString())
        with pytest.raises(StorageError) as caught:
            export(ledger.reader, "otlp", to=receiver.url)
    assert "refused 2 of entries 0 to 499" in caught.value.message
    assert "too \\x1b[31mred" in caught.value.message


def test_batches_that_are_too_large_are_halved(ledger: Ledger) -> None:
    """A receiver with a small limit gets smaller requests; one record that is too large is refused."""
    with OtlpReceiver() as receiver:
        receiver.answer = lambda count: 413 if count > 200 else None
        done = export(ledger.reader, "otlp", to=receiver.url)
        assert (ledger.reader.size, ledger.reader.size) == (done.entries, len(receiver.records))
        receiver.answer = lambda count: 413
        with pytest.raises(StorageError):
            export(ledger.reader, "otlp", to=receiver.url)


@pytest.mark.parametrize("status", [500, 503])
def test_busy_receiver_is_asked_again(ledger: Ledger, status: int) -> None:
    """A receiver that cannot just now gets the same batch again, and the rest."""
    with OtlpReceiver() as receiver:
        left = [None, status]
        receiver.answer = lambda count: left.pop(0) if left else None
        done = export(ledger.reader, "otlp", to=receiver.url)
    assert (ledger.reader.size, ledger.reader.size) == (done.entries, len({key(found) for found in receiver.records}))


def test_keys_of_a_receiver_come_from_the_environment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that every OpenTelemetry exporter reads; a URL holds no secrets."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
    with OtlpReceiver() as receiver:
        export(ledger.reader, "otlp", to=f"{receiver.url}/own/path")
    assert {("/own/path", "secret")} == {(request["path"], request["x-api-key"]) for request in receiver.requests}


def test_files_for_otlp_are_checked(ledger: Ledger, tmp_path: Path) -> None:
    """A file that is not there is told before anything is tried."""
    with pytest.raises(UsageError):
        export(ledger.reader, "otlp", to="https://localhost:1", ca=str(tmp_path / "no"))


def test_missing_extra_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exporter the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    with pytest.raises(MissingExtra) as caught:
        export(ledger.reader, "otlp", to="http://localhost:1")
    assert "klingai-audit[otlp]" in caught.value.do
