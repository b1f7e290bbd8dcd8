"""`simulate`: the local Kling API."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from klingai_audit.cli.session import SessionArgument


def simulate(
    *,
    port: Annotated[int, Parameter(help="TCP port on this machine; 0 takes a free one.")] = 0,
    speed: Annotated[float, Parameter(help="How many seconds of rendering pass in one second.")] = 1.0,
    api_key: Annotated[str | None, Parameter(help="API key to accept. Default: sim-api-key")] = None,
    access_key: Annotated[str | None, Parameter(help="AccessKey to accept. Default: sim-access-key")] = None,
    secret_key: Annotated[str | None, Parameter(help="Its SecretKey.")] = None,
    session: SessionArgument,
) -> None:
    """Serve a local Kling API until interrupted: same routes, checks and life cycle, no account needed."""
    from klingai_audit.kling import simulator as sim

    key = api_key or sim.DEFAULT_API_KEY
    access, secret = access_key or sim.DEFAULT_ACCESS_KEY, secret_key or sim.DEFAULT_SECRET_KEY
    account = sim.Simulator(sim.RealClock(speed))
    account.credentials = sim.Credentials({key: "default"}, {access: secret})
    with _stoppable(), sim.serve(account, port=port) as server:
        if session.as_json:
            session.emit({"base_url": server.base_url, "api_key": key, "access_key": access, "secret_key": secret})
        else:
            session.say("Kling simulator on ", (server.base_url, "bold"), " (stop with Ctrl-C)")
            for name, value in (
                ("KLINGAI_BASE_URL", server.base_url),
                ("KLINGAI_API_KEY", key),
                ("KLINGAI_ACCESS_KEY", access),
                ("KLINGAI_SECRET_KEY", secret),
            ):
                session.say(f"export {name}={value}")
        session.flush()
        server.wait()


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
