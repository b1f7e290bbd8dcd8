"""The simulator under https: a certificate of its own that real clients accept once they trust it."""

from __future__ import annotations

import json
import socket
import ssl
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import Simulator, serve

CREATE = "/text-to-video/kling-3.0"
KEY = {"Authorization": "Bearer sim-api-key"}


def _create(port: int, context: ssl.SSLContext, host: str = "localhost") -> int:
    client = HTTPSConnection(host, port, timeout=20, context=context)
    client.request("POST", CREATE, json.dumps({"prompt": "a"}), KEY)
    status = client.getresponse().status
    client.close()
    return status


def test_a_client_that_trusts_the_file_is_served(sim: Simulator, clock) -> None:
    """By name and by address, with results under https as well; the files go with the server."""
    with serve(sim, tls=True) as server:
        assert server.base_url == f"https://localhost:{server.port}"
        context = ssl.create_default_context(cafile=server.ca_file)
        assert [_create(server.port, context, host) for host in ("localhost", "127.0.0.1")] == [200, 200]
        assert _create(server.port, server.client_context()) == 200
        clock.advance(30)
        client = HTTPSConnection("localhost", server.port, timeout=20, context=context)
        client.request("GET", f"/tasks?task_ids={sim.tasks[0].task_id}", headers=KEY)
        (record,) = json.loads(client.getresponse().read())["data"]
        assert record["outputs"][0]["url"].startswith(server.origin)
        client.close()
        folder = Path(server.ca_file).parent
        assert (folder.stat().st_mode & 0o777, server.origin[:8]) == (0o700, "https://")
    assert not folder.exists()


def test_other_names_can_be_certified(sim: Simulator) -> None:
    """A client that is led here under the provider's name finds that name in the certificate."""
    with serve(sim, tls=True, names=["api-singapore.klingai.com"]) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            name = "api-singapore.klingai.com"
            with server.client_context().wrap_socket(raw, server_hostname=name) as wire:
                names = {value for _, value in wire.getpeercert()["subjectAltName"]}
    assert {"localhost", "127.0.0.1", "api-singapore.klingai.com"} <= names


def test_a_client_that_does_not_trust_it_refuses(sim: Simulator) -> None:
    """The system's authorities do not vouch for the simulator, nor does its authority for other names."""
    with serve(sim, tls=True) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            _create(server.port, ssl.create_default_context())
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            with pytest.raises(ssl.SSLCertVerificationError):
                server.client_context().wrap_socket(raw, server_hostname="example.com")
        assert _create(server.port, server.client_context()) == 200
    assert [seen.path for seen in sim.requests] == [CREATE]


def test_a_silent_or_plain_client_does_not_hold_up_others(sim: Simulator) -> None:
    """Somebody who connects and says nothing, or speaks plain HTTP, is no reason to wait."""
    with serve(sim, tls=True) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20):
            plain = HTTPConnection("localhost", server.port, timeout=20)
            with pytest.raises((OSError, HTTPException)):  # closed, or told in the words of TLS
                plain.request("GET", "/tasks")
                plain.getresponse()
            plain.close()
            assert _create(server.port, server.client_context()) == 200
            begun = time.monotonic()
            server.stop()
    assert time.monotonic() - begun < 30


def test_each_server_has_its_own_authority(sim: Simulator) -> None:
    """Trusting one simulator is not trusting the next."""
    with serve(sim, tls=True) as one, serve(sim, tls=True) as other:
        with pytest.raises(ssl.SSLCertVerificationError):
            _create(one.port, other.client_context())


def test_callbacks_go_to_https_receivers(sim: Simulator, ask) -> None:
    """A receiver under a private authority is trusted when its file is named."""
    sim.callbacks.retry_after = ()
    receiver = Simulator(sim.clock)
    with serve(receiver, tls=True) as server:
        for ca_file in (None, server.ca_file):
            sim.callbacks.ca_file = ca_file
            ask("POST", CREATE, {"prompt": "a", "options": {"callback_url": f"{server.base_url}/hook"}})
            sim.callbacks.deliver()
    assert [sent.status for sent in sim.callbacks.sent] == [None, 404]


def test_a_plain_server_has_no_authority(sim: Simulator) -> None:
    """Without TLS there is nothing to trust, and after the end nothing to hand out."""
    with serve(sim) as server:
        with pytest.raises(UsageError):
            _ = server.ca_file
    stopped = serve(sim, tls=True)
    stopped.stop()
    with pytest.raises(UsageError):
        stopped.client_context()
