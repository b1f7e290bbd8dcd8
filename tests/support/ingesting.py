"""An ingest endpoint on a real socket, and a client that compares every answer with its OpenAPI document."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from jsonschema import Draft202012Validator

from klingai_audit.ingest.capacity import Limits
from klingai_audit.ingest.endpoint import Endpoint, Served
from klingai_audit.ingest.openapi import EVENTS_PATH, document
from klingai_audit.ingest.opening import opened
from klingai_audit.ingest.server import ingest_app
from klingai_audit.log import AuditLog
from klingai_audit.operation.listening import bind, url_of

FARM, LOG = "token-of-the-farm", "token-of-another-log"
LINES = "application/x-ndjson"
IDS = [f"0199b2c4-5d6e-7f80-9a1b-{number:012x}" for number in range(100)]


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


PRODUCERS = f"""
[producers.render-farm]
tokens = ["{digest(FARM)}"]
actors = ["*@studio.example", "render-*"]
event_types = ["video_*", "image_*", "x_*", "resource_*", "generation_*", "prompt_submitted"]
on_behalf_of = ["customer-*"]
actor = "render-farm"

[producers.other-log]
tokens = ["{digest(LOG)}"]
actors = ["*"]
event_types = ["*"]
"""


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


class Client:
    """Posts events; every answer has to be one that the document describes."""

    def __init__(self, url: str, token: str | None = FARM) -> None:
        self.url = url
        self.http = httpx2.Client(
            base_url=url, trust_env=False, timeout=120, verify=False, headers={"connection": "close"}
        )
        self._token = token
        self._validators: dict[str, Any] = {}

    def post(self, body: bytes, kind: str | None = LINES, *, path: str = EVENTS_PATH, **headers: str) -> Any:
        """Post a body and return the response, checked; names of headers with _ for -."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if kind is not None:
            told.setdefault("content-type", kind)
        if self._token is not None:
            told.setdefault("authorization", f"Bearer {self._token}")
        response = self.http.post(path, content=body, headers=told)
        self.check(response)
        return response

    def send(self, *events: dict[str, Any], status: int = 200, query: str = "", **headers: str) -> dict[str, Any]:
        """Post events as JSON lines and return the answer's members."""
        response = self.post(lines(*events), path=EVENTS_PATH + query, **headers)
        assert status == response.status_code, response.text
        found: dict[str, Any] = response.json()
        return found

    def check(self, response: Any) -> None:
        """Compare an answer with the document."""
        described = document()["paths"][EVENTS_PATH]["post"]["responses"]
        assert str(response.status_code) in described, response.text
        content = described[str(response.status_code)]["content"]
        media = response.headers["content-type"]
        assert {media} == set(content)
        assert "no-store" == response.headers["cache-control"]
        validator_of(content[media]["schema"]).validate(response.json())
        if response.status_code in (429, 503):
            assert response.headers["retry-after"].isdigit()


def validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator of one schema of the document."""
    return Draft202012Validator({**schema, "components": document()["components"]})


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application in a thread of this process; gives its address."""
    listening = bind("127.0.0.1:0")
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


@contextlib.contextmanager
def endpoint_of(
    audit: AuditLog, folder: Path, *, limits: Limits | None = None, told: list[Served] | None = None
) -> Iterator[tuple[Endpoint, str]]:
    """Serve a log; gives the endpoint and its address."""
    file = folder / "producers.toml"
    if not file.exists():
        file.write_text(PRODUCERS)
    seen: list[Served] = [] if told is None else told
    with opened(audit, file, limits=limits, told=seen.append) as endpoint, running(ingest_app(endpoint)) as url:
        yield endpoint, url
