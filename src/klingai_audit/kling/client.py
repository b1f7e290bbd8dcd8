"""The client: `KlingAI` for threads, `AsyncKlingAI` for coroutines; one set of methods above both, of flows below.

Every request goes through an audited transport: that of the client, of every mount and of every proxy, the
environment's (`HTTPS_PROXY`) included. Nothing is sent that could not be recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, Self, Unpack

import httpx2

from klingai_audit.capture.facts import Exchange
from klingai_audit.capture.httpx import attach_client
from klingai_audit.kling import flows
from klingai_audit.kling.account import Deduction, ResourcePack
from klingai_audit.kling.base import Audited, ClientBase, ClientOptions, answered_of, remove_file, search_body
from klingai_audit.kling.flows import Answer, Fetch, Flow, Page, Pause, Remove, Send
from klingai_audit.kling.library import Account, Elements, Voices, Ways
from klingai_audit.kling.methods import Products
from klingai_audit.kling.orders import Order
from klingai_audit.kling.reply import Reply, TaskRecord
from klingai_audit.kling.results import Answered, Element, Voice
from klingai_audit.kling.tasks import AsyncTask, Task

__all__ = ["AsyncKlingAI", "Audited", "ClientOptions", "KlingAI"]

_CHUNK: Final = 256 * 1024


class KlingAI(ClientBase, Products[Task, Answered]):
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

    @property
    def voices(self) -> Voices[Task, Answered, Iterator[Voice]]:
        """Voices of the account's library."""
        return Voices(self._ways())

    @property
    def elements(self) -> Elements[Task, Answered, Iterator[Element]]:
        """Elements of the account's library."""
        return Elements(self._ways())

    @property
    def account(self) -> Account[list[ResourcePack], Iterator[Deduction]]:
        """Resource packs and billing ledgers."""
        return Account(self._ways())

    def _ways(self) -> Ways:
        return Ways(self._ordered, self._answered, self._listed, self.run, self.retries)

    def task(self, task_id: str, *, legacy: bool | None = None, product: str | None = None) -> Task:
        """Read a task by Kling's id. `legacy` None: by the route that the credential can use.

        `product` is the method's name that a legacy task was ordered with, by default `text_to_video`.
        Raises: KlingError, UsageError.
        """
        route = self._route(legacy, product)
        return Task(self, self.run(flows.fetch_task(task_id, route=route, retries=self.retries)), route=route)

    def find(self, external_task_id: str, *, legacy: bool | None = None, product: str | None = None) -> Task | None:
        """Find a task by our id (the intent's event id); None if Kling has none. Raises: KlingError."""
        route = self._route(legacy, product)
        found = self.run(flows.find_task(external_task_id, route=route, retries=self.retries))
        return None if found is None else Task(self, found, route=route)

    def tasks(
        self,
        *,
        status: str | None = None,
        since: int | None = None,
        until: int | None = None,
        legacy: bool | None = None,
        product: str | None = None,
        page_size: int = flows.DEFAULT_PAGE,
    ) -> Iterator[Task]:
        """Iterate over the account's tasks, newest first, page by page; legacy: over those of one `product`.

        `since` and `until` are ms since 1970 UTC (default: the last 30 days); they and `status` need an API key.
        Raises: KlingError, UsageError.
        """
        route = self._route(legacy, product)
        for record in self._listed(self._first_page(route, page_size, search_body(status, since, until))):
            yield Task(self, record, route=route)

    def _ordered(self, build: Callable[[], Order]) -> Task:
        """Create a task."""
        order = build()
        return Task(self, self.run(self._create_flow(order)), route=order.route)

    def _answered(self, flow: Flow) -> Answered:
        """Make a call whose answer is all there is."""
        return answered_of(self.run(flow))

    def _listed(self, page: Page | None) -> Iterator[Any]:
        """Iterate over pages."""
        while page is not None:
            found, page = self.run(flows.list_page(page, self.retries))
            yield from found

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
                    case Remove():
                        answer = self._remove(step)
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    def _send(self, step: Send) -> Answer:
        try:
            response = self._http.request(**self._call(step))
        except httpx2.RequestError as exc:
            return Answer.failed(exc)
        return Answer.of(response.status_code, response.content)

    def _fetch(self, step: Fetch) -> Answer:
        try:
            with self._http.stream(**self._file_call(step)) as response:
                if response.status_code != 200:
                    return Answer(Reply("refused", http_status=response.status_code))
                for chunk in response.iter_bytes(_CHUNK):
                    step.target.write(chunk)
        except (httpx2.RequestError, httpx2.InvalidURL) as exc:
            return Answer.failed(exc)
        return Answer(Reply("ok", http_status=200))

    def _remove(self, step: Remove) -> Answer:
        attempt = self._recorder.begin(self._removal(step), step.mark.operation, step.mark)
        try:
            remove_file(step)
        except OSError as exc:
            if attempt is not None:
                attempt.failed(exc)
            return Answer.failed(exc)
        if attempt is not None:
            attempt.finished(Exchange(request=attempt.request))
        return Answer(Reply("ok"))

    def close(self) -> None:
        """Close the connections; the log stays open."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncKlingAI(ClientBase, Products[Coroutine[Any, Any, AsyncTask], Coroutine[Any, Any, Answered]]):
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

    @property
    def voices(self) -> Voices[Coroutine[Any, Any, AsyncTask], Coroutine[Any, Any, Answered], AsyncIterator[Voice]]:
        """Voices of the account's library."""
        return Voices(self._ways())

    @property
    def elements(
        self,
    ) -> Elements[Coroutine[Any, Any, AsyncTask], Coroutine[Any, Any, Answered], AsyncIterator[Element]]:
        """Elements of the account's library."""
        return Elements(self._ways())

    @property
    def account(self) -> Account[Coroutine[Any, Any, list[ResourcePack]], AsyncIterator[Deduction]]:
        """Resource packs and billing ledgers."""
        return Account(self._ways())

    def _ways(self) -> Ways:
        return Ways(self._ordered, self._answered, self._listed, self.run, self.retries)

    async def task(self, task_id: str, *, legacy: bool | None = None, product: str | None = None) -> AsyncTask:
        """Do as `KlingAI.task`."""
        route = self._route(legacy, product)
        record: TaskRecord = await self.run(flows.fetch_task(task_id, route=route, retries=self.retries))
        return AsyncTask(self, record, route=route)

    async def find(
        self, external_task_id: str, *, legacy: bool | None = None, product: str | None = None
    ) -> AsyncTask | None:
        """Do as `KlingAI.find`."""
        route = self._route(legacy, product)
        found = await self.run(flows.find_task(external_task_id, route=route, retries=self.retries))
        return None if found is None else AsyncTask(self, found, route=route)

    async def tasks(
        self,
        *,
        status: str | None = None,
        since: int | None = None,
        until: int | None = None,
        legacy: bool | None = None,
        product: str | None = None,
        page_size: int = flows.DEFAULT_PAGE,
    ) -> AsyncIterator[AsyncTask]:
        """Do as `KlingAI.tasks`, with `async for`."""
        route = self._route(legacy, product)
        async for record in self._listed(self._first_page(route, page_size, search_body(status, since, until))):
            yield AsyncTask(self, record, route=route)

    async def _ordered(self, build: Callable[[], Order]) -> AsyncTask:
        """Create a task; files are read and encoded beside the loop."""
        order = await asyncio.to_thread(build)
        return AsyncTask(self, await self.run(self._create_flow(order)), route=order.route)

    async def _answered(self, flow: Flow) -> Answered:
        """Make a call whose answer is all there is."""
        return answered_of(await self.run(flow))

    async def _listed(self, page: Page | None) -> AsyncIterator[Any]:
        """Iterate over pages."""
        while page is not None:
            found, page = await self.run(flows.list_page(page, self.retries))
            for item in found:
                yield item

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
                    case Remove():
                        answer = await self._remove(step)
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do something that blocks without blocking the loop."""
        return await asyncio.to_thread(work)

    async def _send(self, step: Send) -> Answer:
        try:
            response = await self._http.request(**self._call(step))
        except httpx2.RequestError as exc:
            return Answer.failed(exc)
        return Answer.of(response.status_code, response.content)

    async def _fetch(self, step: Fetch) -> Answer:
        try:
            async with self._http.stream(**self._file_call(step)) as response:
                if response.status_code != 200:
                    return Answer(Reply("refused", http_status=response.status_code))
                async for chunk in response.aiter_bytes(_CHUNK):
                    await asyncio.to_thread(step.target.write, chunk)
        except (httpx2.RequestError, httpx2.InvalidURL) as exc:
            return Answer.failed(exc)
        return Answer(Reply("ok", http_status=200))

    async def _remove(self, step: Remove) -> Answer:
        attempt = await self._recorder.abegin(self._removal(step), step.mark.operation, step.mark)
        try:
            await asyncio.to_thread(remove_file, step)
        except OSError as exc:
            if attempt is not None:
                attempt.failed(exc)
            return Answer.failed(exc)
        if attempt is not None:
            attempt.finished(Exchange(request=attempt.request))
        return Answer(Reply("ok"))

    async def close(self) -> None:
        """Close the connections; the log stays open."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
