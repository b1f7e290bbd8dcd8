"""The simulator as the proxy of clients whose address cannot be set: it plays Kling's hosts and no others."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from http.client import HTTPConnection, HTTPSConnection

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import KLING_HOSTS, Simulator, SimulatorServer, serve

CREATE = "/text-to-video/kling-3.0"
KEY = {"Authorization": "Bearer sim-api-key"}


def tunnel(server: SimulatorServer, host: str, port: int | None = None) -> HTTPSConnection:
    """Return a client of `host` that goes through the simulator."""
    client = HTTPSConnection("localhost", server.port, timeout=20, context=server.client_context())
    client.set_tunnel(host, port)
    return client


def ask(client: HTTPSConnection, method: str, path: str, body: object = None) -> dict:
    """Return the reply's JSON."""
    client.request(method, path, json.dumps(body) if body else None, KEY)
    return json.loads(client.getresponse().read())


@pytest.mark.parametrize("host", [*KLING_HOSTS, "API.KlingAI.com", "films.example"])
def test_it_plays_a_host_over_one_connection(sim: Simulator, clock, host: str) -> None:
    """Certificate, API and results are those of the host that was asked for; the connection is kept."""
    with serve(sim, stand_in=True, names=["films.example"]) as server:
        client = tunnel(server, host)
        task_id = ask(client, "POST", CREATE, {"prompt": "a"})["data"]["id"]
        clock.advance(30)
        (record,) = ask(client, "GET", f"/tasks?task_ids={task_id}")["data"]
        origin = f"https://{host.lower()}"
        assert record["outputs"][0]["url"].startswith(f"{origin}/media/")
        client.request("GET", record["outputs"][0]["url"].removeprefix(origin))
        assert client.getresponse().read()[4:8] == b"ftyp"
        client.close()
        assert server.proxy_url == f"http://localhost:{server.port}"


def test_results_may_be_elsewhere(sim: Simulator, clock) -> None:
    """`media_origin` names the host of results, as Kling's own are on hosts of their own."""
    sim.media_origin = "https://films.example"
    with serve(sim, stand_in=True) as server:
        client = tunnel(server, KLING_HOSTS[0])
        task_id = ask(client, "POST", CREATE, {"prompt": "a"})["data"]["id"]
        clock.advance(30)
        (record,) = ask(client, "GET", f"/tasks?task_ids={task_id}")["data"]
        client.close()
    assert record["outputs"][0]["url"].startswith("https://films.example/media/")


@pytest.mark.parametrize("target", ["example.com", "localhost", "xapi.klingai.com"])
def test_it_is_no_proxy_to_others(sim: Simulator, target: str) -> None:
    """A tunnel to any other host is refused, and nothing goes out."""
    with serve(sim, stand_in=True) as server:
        with pytest.raises(OSError, match="403"):
            tunnel(server, target).connect()
        with pytest.raises(OSError, match="403"):
            tunnel(server, KLING_HOSTS[0], 80).connect()
    assert [] == sim.requests


def test_it_still_answers_directly(sim: Simulator) -> None:
    """Clients whose address can be set use the same port without a tunnel; other servers open none."""
    with serve(sim, stand_in=True) as server:
        client = HTTPConnection("localhost", server.port, timeout=20)
        client.request("POST", CREATE, json.dumps({"prompt": "a"}), KEY)
        assert client.getresponse().status == 200
        client.close()
    with serve(sim) as server:
        with pytest.raises(OSError):
            plain = HTTPSConnection("localhost", server.port, timeout=20)
            plain.set_tunnel(KLING_HOSTS[0])
            plain.connect()
        with pytest.raises(UsageError):
            _ = server.proxy_url


def test_tls_and_stand_in_exclude_each_other(sim: Simulator) -> None:
    """A proxy that is itself under https is not offered."""
    with pytest.raises(UsageError):
        serve(sim, tls=True, stand_in=True)


def test_a_stop_before_the_handshake_leaves_nothing_open(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel that is ended when it was only promised is closed like any other."""
    seen: list[ssl.SSLSocket] = []
    asked, stopped, real = threading.Event(), threading.Event(), ssl.SSLSocket.do_handshake

    def late(wire: ssl.SSLSocket, block: bool = False) -> None:
        seen.append(wire)
        asked.set()
        stopped.wait()
        real(wire, block)

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", late)
    with serve(sim, stand_in=True) as server:
        with socket.create_connection(("localhost", server.port), timeout=20) as silent:
            silent.sendall(f"CONNECT {KLING_HOSTS[0]}:443 HTTP/1.1\r\n\r\n".encode())
            asked.wait()
            server.stop()
            stopped.set()
            deadline = time.monotonic() + 20
            while seen[0].fileno() != -1 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert seen[0].fileno() == -1


def test_failed_handshakes_and_open_tunnels_end(sim: Simulator) -> None:
    """A client that does not trust it harms nobody, and stopping ends tunnels that idle."""
    with serve(sim, stand_in=True) as server:
        mistrusting = HTTPSConnection("localhost", server.port, timeout=20, context=ssl.create_default_context())
        mistrusting.set_tunnel(KLING_HOSTS[0])
        with pytest.raises(ssl.SSLCertVerificationError):
            mistrusting.connect()
        with socket.create_connection(("localhost", server.port), timeout=20) as silent:
            silent.sendall(f"CONNECT {KLING_HOSTS[0]}:443 HTTP/1.1\r\n\r\n".encode())
            assert silent.recv(100).startswith(b"HTTP/1.1 200")
            idle = tunnel(server, KLING_HOSTS[0])
            assert ask(idle, "GET", "/tasks?task_ids=1")["code"] == 0
            begun = time.monotonic()
            server.stop()
            assert idle.sock.recv(1) == b""
            assert silent.recv(1) == b""
            idle.close()
    assert time.monotonic() - begun < 30
