"""`ingest` and `ingest-token`: events of programs in other languages, over HTTP."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.operating import Metrics, operated
from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.cli.signals import exit_code, until_signalled
from klingai_audit.diagnostics import tell
from klingai_audit.errors import KlingAuditError, UsageError

if TYPE_CHECKING:
    from klingai_audit.ingest.endpoint import Served


def ingest(
    *,
    listen: Annotated[str, Parameter(help="HOST:PORT; port 0 takes any free one.")] = "127.0.0.1:8789",
    producers: Annotated[
        Path | None, Parameter(help="The file that says who may send events and what each may claim (TOML).")
    ] = None,
    max_body: Annotated[int, Parameter(help="Most bytes of a body, packed and unpacked.")] = 4 << 20,
    max_events: Annotated[int, Parameter(help="Most events of one request.")] = 1_000,
    max_waiting: Annotated[int, Parameter(help="Most events under way in all requests; at most 8000.")] = 8_000,
    max_waiting_bytes: Annotated[int, Parameter(help="Most bytes of bodies under way in all requests.")] = 64 << 20,
    certificate: Annotated[Path | None, Parameter(help="Serve over TLS with this certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, Parameter(help="Its private key (PEM).")] = None,
    metrics: Metrics = None,
    openapi: Annotated[bool, Parameter(help="Print the description of the endpoint (OpenAPI 3.1) and end.")] = False,
    session: SessionArgument,
) -> int:
    """Take events over HTTP until interrupted: JSON lines and CloudEvents, answered with receipts.

    A signal ends it in order: requests under way are answered, then the log is closed.
    """
    from klingai_audit.ingest.capacity import Limits

    if openapi:
        from klingai_audit.ingest.openapi import document

        session.emit(document())
        return 0
    if producers is None:
        raise UsageError("Nobody may send events.", do="Name a file with --producers; ingest-token NAME begins one.")
    limits = Limits(body_bytes=max_body, events=max_events, waiting_events=max_waiting, waiting_bytes=max_waiting_bytes)
    _check(limits)
    from klingai_audit.ingest.opening import opened
    from klingai_audit.ingest.server import ingest_app
    from klingai_audit.operation.listening import bind, url_of
    from klingai_audit.publish.server import run_app

    with (
        until_signalled() as ended,
        bind(listen) as listening,  # first: a start that finds its port taken leaves no entry
        open_log(session) as audit,
        operated(session, metrics) as board,
        opened(audit, producers, limits=limits, told=_tell, trouble=lambda error: _trouble(session, error)) as endpoint,
    ):
        app = ingest_app(endpoint, board)
        host = listening.getsockname()[0]
        url = url_of(listening, "http" if certificate is None else "https")
        names = endpoint.producers.current().names
        if session.as_json:
            session.emit({"url": url, "origin": audit.origin, "producers": names})
        else:
            session.say("Taking events for ", (audit.origin, "bold"), f" at {url}/v1/events")
            session.say((f"From {', '.join(names)}. Described at {url}/openapi.json. Stop with Ctrl-C.", "dim"))
        if certificate is None and not ipaddress.ip_address(host).is_loopback:
            session.remark("Without TLS tokens and events can be read on their way.", tls=False)
        session.flush()
        run_app(app, listening, certificate=certificate, private_key=private_key, ended=ended)
    return exit_code(ended)


def ingest_token(
    name: Annotated[str, Parameter(name="NAME", help="The producer's name: lower-case letters, digits, - and _.")],
    /,
    *,
    session: SessionArgument,
) -> None:
    """Make a token for a program that sends events. It is shown once; the file of producers holds its digest only."""
    from klingai_audit.ingest.producers import new_token, sample

    token, digest = new_token()
    table = sample(name, digest)
    if session.as_json:
        session.emit({"name": name, "token": token, "sha256": digest, "toml": table})
        return
    session.say(("The token, for the program; it is not shown again:", "dim"))
    session.say((token, "bold"))
    session.say(("\nFor the file of producers; edit what it may claim:\n", "dim"))
    for line in table.rstrip("\n").split("\n"):
        session.say(line)


def _check(limits: object) -> None:
    from klingai_audit.ledger.appender import MAX_QUEUE

    for name in ("body_bytes", "events", "waiting_events", "waiting_bytes"):
        if getattr(limits, name) < 1:
            raise UsageError("A limit is at least 1.", do="Leave it out to have the default.")
    if getattr(limits, "waiting_events") > MAX_QUEUE * 4 // 5:  # noqa: B009
        raise UsageError("No more than 8,000 events can be under way.", do="Give --max-waiting a smaller number.")


def _tell(served: Served) -> None:
    """Say of an answer what anybody may know: no content, no address, no token."""
    level = logging.DEBUG if served.status < 400 else logging.WARNING if served.status < 500 else logging.ERROR
    tell(
        level,
        "ingested" if served.status < 400 else "ingest_refused",
        "a request was answered with %d",
        served.status,
        status=served.status,
        kind=served.kind or None,
        producer=served.producer or None,
        events=served.events,
        repeated=served.repeated,
        milliseconds=round(served.seconds * 1000, 1),
    )


def _trouble(session: Session, error: KlingAuditError) -> None:
    session.remark(
        f"The producers of before stay in force: {error.message}", producers="unchanged", problem=error.message
    )
