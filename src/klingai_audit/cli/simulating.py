"""`simulate`: the local Kling API."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from typing import Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.session import Session, SessionArgument

TRUST: Final = (
    ("SSL_CERT_FILE", "KlingAI, httpx, aiohttp, urllib, Go"),
    ("REQUESTS_CA_BUNDLE", "requests"),
    ("CURL_CA_BUNDLE", "curl"),
    ("NODE_EXTRA_CA_CERTS", "Node.js, besides the authorities that it has"),
)
"""Environment variables that name an authority to trust, and to whom."""


def simulate(
    *,
    port: Annotated[int, Parameter(help="TCP port on this machine; 0 takes a free one.")] = 0,
    tls: Annotated[bool, Parameter(help="Speak https, under a certificate made for this run.")] = False,
    stand_in: Annotated[bool, Parameter(help="Be a proxy that plays Kling's own hosts.")] = False,
    speed: Annotated[float, Parameter(help="How many seconds of rendering pass in one second.")] = 1.0,
    api_key: Annotated[str | None, Parameter(help="API key to accept. Default: sim-api-key")] = None,
    access_key: Annotated[str | None, Parameter(help="AccessKey to accept. Default: sim-access-key")] = None,
    secret_key: Annotated[str | None, Parameter(help="Its SecretKey.")] = None,
    session: SessionArgument,
) -> None:
    """Serve a local Kling API until interrupted: same routes, checks and life cycle, no account needed.

    With --tls it also prints the file of the authority that clients have to trust, and the variables that name it to
    them. The file is gone when the simulator stops. --stand-in does the same for clients whose address cannot be set:
    as their proxy it answers in the place of api-singapore.klingai.com and its kin, and opens no way to other hosts.
    """
    from klingai_audit.kling import simulator as sim

    key = api_key or sim.DEFAULT_API_KEY
    access, secret = access_key or sim.DEFAULT_ACCESS_KEY, secret_key or sim.DEFAULT_SECRET_KEY
    account = sim.Simulator(sim.RealClock(speed))
    account.credentials = sim.Credentials({key: "default"}, {access: secret})
    with _stoppable(), sim.serve(account, port=port, tls=tls, stand_in=stand_in) as server:
        told = {"base_url": server.base_url, "api_key": key, "access_key": access, "secret_key": secret}
        if tls or stand_in:
            told["ca_file"] = server.ca_file
        if stand_in:
            told["proxy_url"] = server.proxy_url
        if session.as_json:
            session.emit(told)
        else:
            _draw(session, told)
        session.flush()
        server.wait()


def _draw(session: Session, told: dict[str, str]) -> None:
    """Print what the simulator is and what to paste into the terminal of a client."""
    session.say("Kling simulator on ", (told["base_url"], "bold"), " (stop with Ctrl-C)")
    for name in ("base_url", "api_key", "access_key", "secret_key"):
        session.say(f"export KLINGAI_{name.upper()}={shlex.quote(told[name])}")
    if "ca_file" in told:
        session.say(
            "Clients trust it by these. Set them in their terminals only: most replace the authorities known there."
        )
        for name, who in TRUST:
            session.say(f"export {name}={shlex.quote(told['ca_file'])}", (f"  # {who}", "dim"))
    if "proxy_url" in told:
        session.say(f"export HTTPS_PROXY={shlex.quote(told['proxy_url'])}", ("  # to Kling's own hosts only", "dim"))


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Make an interrupt and a termination the normal end of the block."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)
