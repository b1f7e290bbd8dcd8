"""Real sockets: keep-alive, many clients at once, replies that are late, cut, lost or never come."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from typing import Any

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import Simulator, SimulatorServer, serve

CREATE = "/text-to-video/kling-3.0"
KEY = {"Authorization": "Bearer sim-api-key"}
HEAD = b"Host: localhost\r\nAuthorization: Bearer sim-api-key\r\n"


@pytest.fixture
def server(sim: Simulator) -> Iterator[SimulatorServer]:
    """The simulator on a free loopback port."""
    with serve(sim) as running:
        yield running


@pytest.fixture
def connection(server: SimulatorServer) -> Iterator[HTTPConnection]:
    """One client connection with a time-out."""
    client = HTTPConnection("localhost", server.port, timeout=20)
    yield client
    client.close()


def _call(connection: HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection.request(method, path, None if body is None else json.dumps(body), KEY)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def _raw(server: SimulatorServer, request: bytes, *, until_closed: bool = True) -> bytes:
    """Send bytes as they are; return what comes back until the server closes."""
    with socket.create_connection(("localhost", server.port), timeout=20) as wire:
        wire.sendall(request)
        received = b""
        while part := wire.recv(65536):
            received += part
            if not until_closed and b"\r\n\r\n" in received:
                break
        return received


def test_the_address_is_loopback_and_shown_by_name(sim: Simulator) -> None:
    """The base URL names localhost and carries the prefix; the socket listens on loopback only."""
    sim.prefix = "/kling"
    with serve(sim) as server:
        assert server.base_url == f"http://localhost:{server.port}/kling"
        assert server.origin == f"http://localhost:{server.port}"
        assert server._running().server_address[0] == "127.0.0.1"


def test_one_connection_serves_many_requests(connection: HTTPConnection, sim: Simulator) -> None:
    """Keep-alive: refusals, creates and downloads go over one socket."""
    connection.connect()
    port = connection.sock.getsockname()[1]
    for number in range(5):
        assert _call(connection, "POST", CREATE, {"prompt": f"number {number}"})[0] == 200
        assert _call(connection, "POST", CREATE, {})[0] == 400
        assert _call(connection, "GET", "/nowhere")[0] == 404
    assert connection.sock.getsockname()[1] == port
    assert len(sim.requests) == 15


def test_a_download_leads_back_to_this_server(connection: HTTPConnection, server: SimulatorServer, clock) -> None:
    """Result addresses are absolute, under the server's origin, and need no Authorization."""
    task_id = _call(connection, "POST", CREATE, {"prompt": "a"})[1]["data"]["id"]
    clock.advance(30)
    (output,) = _call(connection, "GET", f"/tasks?task_ids={task_id}")[1]["data"][0]["outputs"]
    assert output["url"].startswith(server.origin + "/media/")
    connection.request("GET", output["url"].removeprefix(server.origin))
    reply = connection.getresponse()
    body = reply.read()
    assert (reply.status, reply.headers["Content-Type"]) == (200, "video/mp4")
    assert int(reply.headers["Content-Length"]) == len(body) <= 100 * 1024
    assert "authorization" not in server.simulator.calls("GET", "/media/*")[0].headers


def test_many_clients_at_once(server: SimulatorServer, sim: Simulator) -> None:
    """Sixteen threads with their own connections create and read; nothing is lost or mixed up."""
    sim.concurrency["video"] = 1000
    wrong: list[str] = []

    def work(worker: int) -> None:
        client = HTTPConnection("localhost", server.port, timeout=60)
        for number in range(10):
            name = f"w{worker}-{number}"
            status, made = _call(client, "POST", CREATE, {"prompt": name, "options": {"external_task_id": name}})
            _, read = _call(client, "GET", f"/tasks?external_task_ids={name}")
            if status != 200 or [record["id"] for record in read["data"]] != [made["data"]["id"]]:
                wrong.append(name)
        client.close()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(sim.tasks), len(sim.requests)) == ([], 160, 320)


def test_a_reply_can_be_lost_after_acceptance(connection: HTTPConnection, sim: Simulator) -> None:
    """The client sees the connection close; the task exists and answers to its external id."""
    sim.fail_next("POST", CREATE, drop=True, after_accept=True)
    with pytest.raises(RemoteDisconnected):
        _call(connection, "POST", CREATE, {"prompt": "a", "options": {"external_task_id": "mine"}})
    connection.close()
    _, found = _call(connection, "GET", "/tasks?external_task_ids=mine")
    assert [record["id"] for record in found["data"]] == [sim.task("mine").task_id]


def test_a_connection_can_be_lost_before_acceptance(connection: HTTPConnection, sim: Simulator) -> None:
    """The client sees the same, but nothing has happened."""
    sim.fail_next("POST", CREATE, drop=True)
    with pytest.raises(RemoteDisconnected):
        _call(connection, "POST", CREATE, {"prompt": "a"})
    assert (sim.tasks, len(sim.requests)) == ([], 1)


def test_a_slow_reply_outlasts_a_patient_clients_wait(connection: HTTPConnection, sim: Simulator) -> None:
    """A delayed reply is the genuine one, and the delay is real time."""
    sim.fail_next("POST", CREATE, delay=0.3)
    begun = time.monotonic()
    assert _call(connection, "POST", CREATE, {"prompt": "a"})[0] == 200
    assert time.monotonic() - begun >= 0.3


def test_a_slow_reply_does_not_hold_up_others(server: SimulatorServer, sim: Simulator) -> None:
    """An impatient client gives up, its task exists, and other clients were served meanwhile."""
    sim.fail_next("POST", CREATE, delay=30)
    impatient = HTTPConnection("localhost", server.port, timeout=0.3)
    with pytest.raises(TimeoutError):
        _call(impatient, "POST", CREATE, {"prompt": "a"})
    deadline = time.monotonic() + 20
    while not sim.tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    other = HTTPConnection("localhost", server.port, timeout=20)
    assert _call(other, "GET", f"/tasks?task_ids={sim.tasks[0].task_id}")[0] == 200
    impatient.close()
    other.close()


def test_a_hanging_connection_ends_without_a_reply(connection: HTTPConnection, sim: Simulator) -> None:
    """Held silently for its time, then closed; nothing was accepted."""
    sim.fail_next("POST", CREATE, hang=0.2)
    begun = time.monotonic()
    with pytest.raises(RemoteDisconnected):
        _call(connection, "POST", CREATE, {"prompt": "a"})
    assert time.monotonic() - begun >= 0.2
    assert sim.tasks == []


def test_a_cut_reply_announces_more_than_it_sends(connection: HTTPConnection, sim: Simulator) -> None:
    """The client can tell that bytes are missing."""
    sim.fail_next("POST", CREATE, truncate=10)
    connection.request("POST", CREATE, json.dumps({"prompt": "a"}), KEY)
    with pytest.raises(IncompleteRead) as cut:
        connection.getresponse().read()
    assert (cut.value.partial, len(sim.tasks)) == (b'{"code":0,', 1)


def test_a_status_that_no_standard_knows_is_sent(connection: HTTPConnection, sim: Simulator) -> None:
    """A gateway's own status number goes through."""
    sim.fail_next("GET", "/tasks", status=599, code=5000)
    status, body = _call(connection, "GET", "/tasks?task_ids=1")
    assert (status, body["code"]) == (599, 5000)


def test_chunked_request_bodies_are_read(server: SimulatorServer, sim: Simulator) -> None:
    """Streamed uploads come without a Content-Length."""
    request = b"POST " + CREATE.encode() + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n"
    request += b"Transfer-Encoding: chunked\r\n\r\n"
    request += b'C\r\n{"prompt": "\r\n5;note=1\r\nabcde\r\n2\r\n"}\r\n0\r\nTrailer: x\r\n\r\n'
    assert b"HTTP/1.1 200 OK" in _raw(server, request)
    assert (sim.tasks[0].order.prompt, sim.requests[0].body) == ("abcde", b'{"prompt": "abcde"}')


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: many\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 999999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
    ],
)
def test_broken_framing_ends_the_connection(framing: bytes, server: SimulatorServer, sim: Simulator) -> None:
    """A body whose length cannot be believed is 400, reaches no route, and the connection closes."""
    reply = _raw(server, b"POST " + CREATE.encode() + b" HTTP/1.1\r\n" + HEAD + framing)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert sim.requests == []


def test_a_client_that_leaves_mid_request_is_ignored(server: SimulatorServer, connection, sim: Simulator) -> None:
    """Half a body changes nothing and the server goes on."""
    with socket.create_connection(("localhost", server.port), timeout=20) as wire:
        wire.sendall(b"POST " + CREATE.encode() + b" HTTP/1.1\r\n" + HEAD + b'Content-Length: 50\r\n\r\n{"prompt"')
    assert _call(connection, "GET", "/tasks?task_ids=1")[0] == 200
    assert (sim.tasks, len(sim.requests)) == ([], 1)


def test_a_request_line_that_is_none_is_400(server: SimulatorServer, sim: Simulator) -> None:
    """What is not HTTP reaches no route."""
    assert b"400" in _raw(server, b"what is this?\r\n\r\n")
    assert sim.requests == []


def test_any_method_reaches_the_table(server: SimulatorServer) -> None:
    """Unknown methods are 404 / 1202 like the API says; HEAD gets no body."""
    line = b" /tasks HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert b'"code":1202' in _raw(server, b"BREW" + line)
    head, _, body = _raw(server, b"HEAD" + line).partition(b"\r\n\r\n")
    assert (head[:12], body) == (b"HTTP/1.1 404", b"")


def test_old_clients_are_served_and_released(server: SimulatorServer) -> None:
    """HTTP/1.0 closes after the reply."""
    reply = _raw(server, b"GET /tasks?task_ids=1 HTTP/1.0\r\n" + HEAD + b"\r\n")
    assert (reply[:15], b"Connection: close" in reply) == (b"HTTP/1.1 200 OK", True)


def test_nothing_is_written_to_the_terminal(connection: HTTPConnection, capfd) -> None:
    """Neither requests nor refusals nor broken connections show up."""
    _call(connection, "POST", CREATE, {"prompt": "a"})
    _call(connection, "GET", "/nowhere")
    assert tuple(capfd.readouterr()) == ("", "")


def test_stopping_ends_waiting_connections_at_once(sim: Simulator) -> None:
    """Neither a delayed reply nor an idle keep-alive connection holds up the end, and no thread is left."""
    before = set(threading.enumerate())
    server = serve(sim)
    idle = HTTPConnection("localhost", server.port, timeout=20)
    _call(idle, "GET", "/tasks?task_ids=1")
    sim.fail_next("GET", "/tasks", hang=60)
    waiting = HTTPConnection("localhost", server.port, timeout=20)
    waiting.request("GET", "/tasks?task_ids=1", headers=KEY)
    deadline = time.monotonic() + 40
    while len(sim.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 30
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
    idle.close()
    waiting.close()
    server.stop()


def test_a_server_knows_whether_it_runs(sim: Simulator) -> None:
    """Asking a stopped server for its address, starting twice and a taken port are said plainly."""
    server = SimulatorServer(sim)
    with pytest.raises(UsageError):
        _ = server.base_url
    with server:
        with pytest.raises(UsageError):
            server.start()
        with pytest.raises(UsageError):
            serve(sim, port=server.port)
        with pytest.raises(UsageError):
            serve(sim, port=70_000)
    with pytest.raises(UsageError):
        _ = server.port
    with server:
        assert server.port > 0


def test_waiting_lasts_until_the_stop(sim: Simulator) -> None:
    """`wait` returns when another thread stops the server."""
    entered = threading.Event()

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            entered.set()
            return super().wait(timeout)

    server = serve(sim)
    server._running().stopping = Stopping()

    def stop() -> None:
        entered.wait()
        server.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    server.wait()
    stopper.join()
    with pytest.raises(UsageError):
        server.wait()
