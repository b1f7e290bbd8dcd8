"""Ingest into a log on a server: two hosts with an endpoint each, and a server that goes away and comes back."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.log import AuditLog
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.proofs import check_entry_proof
from tests.support.ingesting import IDS, Client, endpoint_of, lines
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow

EVENT = {"event_type": "x_a", "actor_id": "someone@studio.example"}


@pytest.fixture(params=["postgres_url", "bucket_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def places(folder: Path, url: str) -> dict[str, Any]:
    """Return places of one host; people are in one table for all."""
    people = url if url.startswith("postgres") else folder.parent / "people.sqlite"
    return {"keys": folder / "keys", "state": folder / "state", "subjects": people}


def ids_in(audit: AuditLog) -> list[str]:
    audit.flush("published")
    return [json.loads(line)["event_id"] for line in audit.reader.entries() if b'"x_a"' in line]


def test_two_hosts_record_an_event_once(url: str, tmp_path: Path) -> None:
    """What one endpoint took the other knows from the log; proofs hold; the log verifies."""
    here, there = tmp_path / "here", tmp_path / "there"
    with AuditLog.open(url, **places(here, url)) as first:
        shutil.copytree(here / "keys", there / "keys")
        with (
            AuditLog.open(url, **places(there, url)) as second,
            endpoint_of(first, here) as (_one, near),
            endpoint_of(second, there) as (_other, far),
        ):
            events = [{**EVENT, "event_id": one, "metadata": {"prompt": "a lake"}} for one in IDS[:3]]
            receipts = Client(near).send(*events, query="?wait=published")["receipts"]
            for receipt in receipts:
                check_entry_proof(receipt["proof"].encode(), [VerifierKey.parse(first.vkey)])
            time.sleep(0.5)
            again = Client(far).send(*events[::-1])["receipts"]
            assert [(one["event_id"], one["seq"], True) for one in receipts[::-1]] == [
                (one["event_id"], one["seq"], one["repeated"]) for one in again
            ]
            Client(far).send({**events[0], "metadata": {"prompt": "a sea"}}, status=409)
        assert IDS[:3] == ids_in(first)
        assert 0 == first.verify().exit_code


def test_a_server_that_is_away_is_503(tmp_path: Path) -> None:
    """Nothing is acknowledged meanwhile; afterwards the same request is taken, once, by the same process."""
    with PostgresServer.running() as server:
        url = server.database()
        with AuditLog.open(url, **places(tmp_path, url)) as audit, endpoint_of(audit, tmp_path) as (_endpoint, address):
            client = Client(address)
            events = [{**EVENT, "event_id": one} for one in IDS[:4]]
            client.send(*events[:2])
            server.kill()
            assert "log_unavailable" == client.send(*events, status=503)["kind"]
            server.restart()
            deadline = time.monotonic() + 60
            while (response := client.post(lines(*events))).status_code == 503 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert 200 == response.status_code, response.text
            assert IDS[:4] == [one["event_id"] for one in response.json()["receipts"]]
            assert IDS[:4] == ids_in(audit)
