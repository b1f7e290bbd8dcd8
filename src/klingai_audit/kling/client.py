"""The client: `KlingAI` for threads, `AsyncKlingAI` for coroutines, one set of flows below both.

Every request goes through an audited transport: that of the client, of every mount and of every proxy, the
environment's (`HTTPS_PROXY`) included. Nothing is sent that could not be recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypedDict, Unpack

import httpx2

from klingai_audit.capture.httpx import MARK, attach_client
from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import UsageError
from klingai_audit.kling import auth, flows
from klingai_audit.kling.flows import Answer, Fetch, Flow, Page, Pause, Retries, Send
from klingai_audit.kling.orders import TextToVideo, text_to_video_order
from klingai_audit.kling.reply import Reply, TaskRecord
from klingai_audit.kling.tasks import AsyncTask, Task

__all__ = ["AsyncKlingAI", "Audited", "ClientOptions", "KlingAI"]

DEFAULT_TIMEOUT: Final = 60.0
CONNECT_TIMEOUT: Final = 15.0
_CHUNK: Final = 256 * 1024
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


class _Base:
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

    def _request(self, step: Send) -> dict[str, Any]:
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
    def _file_request(step: Fetch) -> dict[str, Any]:
        """The arguments for one download: no credential, and bytes as they are stored."""
        return {
            "method": "GET",
            "url": step.url,
            "headers": {"accept-encoding": "identity"},
            "extensions": {MARK: step.mark},
            "follow_redirects": True,
        }

    def _legacy(self, given: bool | None) -> bool:  # noqa: FBT001  passed on as it came
        return not self._credentials.new_design if given is None else given

    def _create_flow(self, prompt: str, options: TextToVideo) -> tuple[Flow, bool]:
        order = text_to_video_order(prompt, options, new_design=self._credentials.new_design)
        return flows.create_task(order, self.retries), order.generation == "legacy"

    @staticmethod
    def _first_page(*, legacy: bool, page_size: int, search: Mapping[str, Any]) -> Page:
        if not 1 <= page_size <= flows.MAX_PAGE:
            raise UsageError(f"A page holds 1 to {flows.MAX_PAGE} tasks.")
        return Page(legacy, page_size, search=search)


def _search(status: str | None, since: int | None, until: int | None) -> dict[str, Any]:
    """The body of a task search; times in ms since 1970 UTC."""
    search: dict[str, Any] = {}
    if since is not None:
        search["start_time"] = since
    if until is not None:
        search["end_time"] = until
    if status is not None:
        search["filters"] = [{"key": "status", "values": [status]}]
    return search


class KlingAI(_Base):
    """A Kling client whose every call is recorded in `audit` before it is made. Threads may share one.

    Credentials: `api_key`, or `access_key` and `secret_key` (legacy models only), else the environment:
    KLINGAI_API_KEY, KLINGAI_ACCESS_KEY, KLINGAI_SECRET_KEY. Further options: `ClientOptions`.
    Raises: UsageError.
    """

    def __init__(
        self,
        *,
        audit: Audited,
        api_key: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(audit, api_key, access_key, secret_key, options)
        self._http = httpx2.Client(**self._http_options)
        attach_client(self._http, self._recorder)

    def text_to_video(self, prompt: str, **options: Unpack[TextToVideo]) -> Task:
        """Order a video; returns once Kling has accepted the task. Options: `orders.TextToVideo`.

        Raises: AuditUnavailable (nothing was sent), KlingError by code, KlingOutcomeUnknown, UsageError.
        """
        flow, legacy = self._create_flow(prompt, options)
        return Task(self, self.run(flow), legacy=legacy)

    def task(self, task_id: str, *, legacy: bool | None = None) -> Task:
        """Read a task by Kling's id. `legacy` None: by the route that the credential can use. Raises: KlingError."""
        old = self._legacy(legacy)
        return Task(self, self.run(flows.fetch_task(task_id, legacy=old, retries=self.retries)), legacy=old)

    def find(self, external_task_id: str, *, legacy: bool | None = None) -> Task | None:
        """Find a task by our id (the intent's event id); None if Kling has none. Raises: KlingError."""
        old = self._legacy(legacy)
        found = self.run(flows.find_task(external_task_id, legacy=old, retries=self.retries))
        return None if found is None else Task(self, found, legacy=old)

    def tasks(
        self,
        *,
        status: str | None = None,
        since: int | None = None,
        until: int | None = None,
        legacy: bool | None = None,
        page_size: int = flows.DEFAULT_PAGE,
    ) -> Iterator[Task]:
        """Iterate over the account's tasks, newest first, page by page.

        `since` and `until` are ms since 1970 UTC (default: the last 30 days); they and `status` need an API key.
        Raises: KlingError, UsageError.
        """
        old = self._legacy(legacy)
        page: Page | None = self._first_page(legacy=old, page_size=page_size, search=_search(status, since, until))
        while page is not None:
            found, page = self.run(flows.list_page(page, self.retries))
            for record in found:
                yield Task(self, record, legacy=old)

    def run(self, flow: Flow) -> Any:
        """Carry out a flow's steps; returns what it returns."""
        answer: Answer | None = None
        try:
            while True:
                step = flow.send(answer)
                match step:
                    case Pause():
                        time.sleep(step.seconds)
                        answer = None
                    case Send():
                        answer = self._send(step)
                    case Fetch():
                        answer = self._fetch(step)
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    def _send(self, step: Send) -> Answer:
        try:
            response = self._http.request(**self._request(step))
        except httpx2.RequestError as exc:
            return Answer.failed(exc)
        return Answer.of(response.status_code, response.content)

    def _fetch(self, step: Fetch) -> Answer:
        try:
            with self._http.stream(**self._file_request(step)) as response:
                if response.status_code != 200:
                    return Answer(Reply("refused", http_status=response.status_code))
                for chunk in response.iter_bytes(_CHUNK):
                    step.target.write(chunk)
        except (httpx2.RequestError, httpx2.InvalidURL) as exc:
            return Answer.failed(exc)
        return Answer(Reply("ok", http_status=200))

    def close(self) -> None:
        """Close the connections; the log stays open."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncKlingAI(_Base):
    """`KlingAI` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        *,
        audit: Audited,
        api_key: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(audit, api_key, access_key, secret_key, options)
        self._http = httpx2.AsyncClient(**self._http_options)
        attach_client(self._http, self._recorder)

    async def text_to_video(self, prompt: str, **options: Unpack[TextToVideo]) -> AsyncTask:
        """Do as `KlingAI.text_to_video`."""
        flow, legacy = self._create_flow(prompt, options)
        return AsyncTask(self, await self.run(flow), legacy=legacy)

    async def task(self, task_id: str, *, legacy: bool | None = None) -> AsyncTask:
        """Do as `KlingAI.task`."""
        old = self._legacy(legacy)
        record: TaskRecord = await self.run(flows.fetch_task(task_id, legacy=old, retries=self.retries))
        return AsyncTask(self, record, legacy=old)

    async def find(self, external_task_id: str, *, legacy: bool | None = None) -> AsyncTask | None:
        """Do as `KlingAI.find`."""
        old = self._legacy(legacy)
        found = await self.run(flows.find_task(external_task_id, legacy=old, retries=self.retries))
        return None if found is None else AsyncTask(self, found, legacy=old)

    async def tasks(
        self,
        *,
        status: str | None = None,
        since: int | None = None,
        until: int | None = None,
        legacy: bool | None = None,
        page_size: int = flows.DEFAULT_PAGE,
    ) -> AsyncIterator[AsyncTask]:
        """Do as `KlingAI.tasks`, with `async for`."""
        old = self._legacy(legacy)
        page: Page | None = self._first_page(legacy=old, page_size=page_size, search=_search(status, since, until))
        while page is not None:
            found, page = await self.run(flows.list_page(page, self.retries))
            for record in found:
                yield AsyncTask(self, record, legacy=old)

    async def run(self, flow: Flow) -> Any:
        """Carry out a flow's steps; returns what it returns."""
        answer: Answer | None = None
        try:
            while True:
                step = flow.send(answer)
                match step:
                    case Pause():
                        await asyncio.sleep(step.seconds)
                        answer = None
                    case Send():
                        answer = await self._send(step)
                    case Fetch():
                        answer = await self._fetch(step)
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do something that blocks without blocking the loop."""
        return await asyncio.to_thread(work)

    async def _send(self, step: Send) -> Answer:
        try:
            response = await self._http.request(**self._request(step))
        except httpx2.RequestError as exc:
            return Answer.failed(exc)
        return Answer.of(response.status_code, response.content)

    async def _fetch(self, step: Fetch) -> Answer:
        try:
            async with self._http.stream(**self._file_request(step)) as response:
                if response.status_code != 200:
                    return Answer(Reply("refused", http_status=response.status_code))
                async for chunk in response.aiter_bytes(_CHUNK):
                    await asyncio.to_thread(step.target.write, chunk)
        except (httpx2.RequestError, httpx2.InvalidURL) as exc:
            return Answer.failed(exc)
        return Answer(Reply("ok", http_status=200))

    async def close(self) -> None:
        """Close the connections; the log stays open."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
