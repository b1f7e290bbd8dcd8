"""What both clients share: who they are, where they go, what a step of a flow is as a call of the HTTP library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypedDict

import httpx2

from klingai_audit.capture.facts import RequestFacts
from klingai_audit.capture.httpx import MARK
from klingai_audit.capture.recorder import Recorder
from klingai_audit.durable import OPS
from klingai_audit.errors import UsageError
from klingai_audit.kling import auth, flows
from klingai_audit.kling.endpoints import legacy_create
from klingai_audit.kling.flows import Fetch, Flow, Page, Remove, Retries, Send
from klingai_audit.kling.orders import Order
from klingai_audit.kling.reply import Reply, read_done
from klingai_audit.kling.results import Answered

__all__ = ["Audited", "ClientBase", "ClientOptions", "answered_of", "remove_file", "search_body"]

DEFAULT_TIMEOUT: Final = 60.0
CONNECT_TIMEOUT: Final = 15.0
_USER_AGENT: Final = "klingai-audit/1"


class Audited(Protocol):
    """What the client asks of an `AuditLog`."""

    @property
    def recorder(self) -> Recorder:
        """The recorder that writes to the log."""
        ...


class ClientOptions(TypedDict, total=False):
    """How to reach Kling; all optional.

    base_url: default KLINGAI_BASE_URL, else https://api-singapore.klingai.com. timeout: seconds for each read
    and write, default 60. retries: how often a call is tried in all, default 5. proxy, verify, trust_env, mounts,
    transport: as in httpx2.
    """

    base_url: str | None
    timeout: float | None
    retries: int | Retries
    proxy: Any
    verify: Any
    trust_env: bool
    mounts: Mapping[str, Any] | None
    transport: Any


class ClientBase:
    """What both clients share: who they are, where they go, what they build and read."""

    def __init__(
        self,
        audit: Audited,
        api_key: str | None,
        access_key: str | None,
        secret_key: str | None,
        options: ClientOptions,
    ) -> None:
        unknown = sorted(set(options) - set(ClientOptions.__annotations__))
        if unknown:
            raise UsageError(f"The client knows no option {unknown[0]}.")
        if not isinstance(getattr(audit, "recorder", None), Recorder):
            raise UsageError("The client needs a log to record to.", do='Pass audit=AuditLog.open("audit").')
        self._credentials = auth.credentials_from(api_key=api_key, access_key=access_key, secret_key=secret_key)
        self._base_url = auth.base_url_from(options.get("base_url"))
        retries = options.get("retries", 5)
        self.retries = retries if isinstance(retries, Retries) else Retries(attempts=retries)
        self.new_design = self._credentials.new_design
        self._recorder = audit.recorder
        self._http_options: dict[str, Any] = {
            "timeout": httpx2.Timeout(options.get("timeout", DEFAULT_TIMEOUT), connect=CONNECT_TIMEOUT),
            "headers": {"user-agent": _USER_AGENT},
            "follow_redirects": False,
        }
        for name in ("proxy", "verify", "trust_env", "mounts", "transport"):
            if name in options:
                self._http_options[name] = options[name]

    @property
    def base_url(self) -> str:
        """Where the client sends its calls; no slash at the end."""
        return self._base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._base_url!r})"

    def _call(self, step: Send) -> dict[str, Any]:
        """The arguments of the HTTP library for one API call."""
        arguments: dict[str, Any] = {
            "method": step.method,
            "url": self._base_url + step.path,
            "headers": {"authorization": self._credentials.authorization(), "content-type": "application/json"},
            "extensions": {MARK: step.mark},
        }
        if step.params:
            arguments["params"] = dict(step.params)
        if step.body is not None:
            arguments["json"] = step.body
        return arguments

    @staticmethod
    def _file_call(step: Fetch) -> dict[str, Any]:
        """The arguments for one download: no credential, and bytes as they are stored."""
        return {
            "method": "GET",
            "url": step.url,
            "headers": {"accept-encoding": "identity"},
            "extensions": {MARK: step.mark},
            "follow_redirects": True,
        }

    def _route(self, legacy: bool | None, product: str | None) -> str | None:  # noqa: FBT001  passed on as it came
        """Where tasks are asked for: the path of a legacy create, None for `/tasks`."""
        if legacy is None:
            legacy = not self.new_design
        try:
            return legacy_create(product or "text_to_video").path if legacy else None
        except KeyError as exc:
            raise UsageError(f"There is no product {product}.", do="Use a method's name: generate_image …") from exc

    def _create_flow(self, order: Order) -> Flow:
        """The flow of an order, by whether Kling answers it at once."""
        if order.row.kind == "paid_sync":
            return flows.pay_for_task(order, self.retries)
        return flows.create_task(order, self.retries)

    @staticmethod
    def _first_page(route: str | None, page_size: int, search: Mapping[str, Any]) -> Page:
        """The first page of a list of tasks. Raises: UsageError."""
        if not 1 <= page_size <= flows.MAX_PAGE:
            raise UsageError(f"A page holds 1 to {flows.MAX_PAGE} tasks.")
        return flows.task_page(route, size=page_size, search=search)

    @staticmethod
    def _removal(step: Remove) -> RequestFacts:
        """The facts of a deletion on this machine, as of a request."""
        return RequestFacts(method="DELETE", url=step.path.absolute().as_uri())


def answered_of(reply: Reply) -> Answered:
    """What a caller gets of a reply that makes no task."""
    done = read_done(reply.data)
    return Answered.of(reply, done.charges if done else ())


def remove_file(step: Remove) -> None:
    """Delete a file, durable on return. Raises: OSError."""
    OPS.unlink(step.path)
    OPS.sync_folder(step.path.absolute().parent)


def search_body(status: str | None, since: int | None, until: int | None) -> dict[str, Any]:
    """The body of a task search; times in ms since 1970 UTC."""
    search: dict[str, Any] = {}
    if since is not None:
        search["start_time"] = since
    if until is not None:
        search["end_time"] = until
    if status is not None:
        search["filters"] = [{"key": "status", "values": [status]}]
    return search
