"""A local Kling API with the documented routes, checks, prices and errors, for tests and the demo.

It shares nothing with the client of this package, so that a misreading shows. `Simulator` is
the account (state and script), `serve` puts it on a loopback port::

    clock = ManualClock()
    sim = Simulator(clock)
    with serve(sim) as server:
        ...  # talk to server.base_url with the API key "sim-api-key"
        clock.advance(30)  # now every task has ended
"""

from __future__ import annotations

from klingai_audit.kling.simulator.accounts import Accounts, Deduction, ResourcePack, Wallet
from klingai_audit.kling.simulator.auth import (
    DEFAULT_ACCESS_KEY,
    DEFAULT_API_KEY,
    DEFAULT_SECRET_KEY,
    Credentials,
    mint_token,
)
from klingai_audit.kling.simulator.callbacks import Callbacks, SentCallback
from klingai_audit.kling.simulator.clock import Clock, ManualClock, RealClock
from klingai_audit.kling.simulator.core import Received, Simulator
from klingai_audit.kling.simulator.faults import Delivery
from klingai_audit.kling.simulator.messages import Request, Response
from klingai_audit.kling.simulator.server import KLING_HOSTS, SimulatorServer, serve
from klingai_audit.kling.simulator.tasks import Order, Task

__all__ = [
    "DEFAULT_ACCESS_KEY",
    "DEFAULT_API_KEY",
    "DEFAULT_SECRET_KEY",
    "KLING_HOSTS",
    "Accounts",
    "Callbacks",
    "Clock",
    "Credentials",
    "Deduction",
    "Delivery",
    "ManualClock",
    "Order",
    "RealClock",
    "Received",
    "Request",
    "ResourcePack",
    "Response",
    "SentCallback",
    "Simulator",
    "SimulatorServer",
    "Task",
    "Wallet",
    "mint_token",
    "serve",
]
