"""Parts of the client with a name of their own: `kling.voices`, `kling.elements`, `kling.account`.

One definition serves both clients: the type parameters say what comes back, a value or an awaitable of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Unpack

from klingai_audit.errors import UsageError
from klingai_audit.kling import flows, options
from klingai_audit.kling.account import read_deductions
from klingai_audit.kling.endpoints import (
    BALANCE_LEDGER,
    DELETE_ELEMENT,
    DELETE_VOICE,
    LEGACY_LISTS,
    PACKAGE_LEDGER,
    PRESET_ELEMENTS,
    PRESET_VOICES,
    legacy_create,
)
from klingai_audit.kling.flows import Flow, Page
from klingai_audit.kling.media import link
from klingai_audit.kling.orders import Order
from klingai_audit.kling.products import product_order
from klingai_audit.kling.reply import read_tasks
from klingai_audit.kling.results import elements_of, voices_of
from klingai_audit.kling.rows import Row

__all__ = ["Account", "Elements", "Moment", "Voices", "Ways", "millis"]

_TaskT = TypeVar("_TaskT")
_AnswerT = TypeVar("_AnswerT")
_ItemsT = TypeVar("_ItemsT")
_PacksT = TypeVar("_PacksT")

Moment = dt.datetime | int
"""A time: an aware datetime, or ms since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What these parts need of the client: to order, to ask, to list, to carry out a flow."""

    ordered: Callable[[Callable[[], Order]], Any]
    answered: Callable[[Flow], Any]
    listed: Callable[[Page], Any]
    run: Callable[[Flow], Any]
    retries: flows.Retries


class Voices(Generic[_TaskT, _AnswerT, _ItemsT]):
    """Voices of the account's library. Sheet 2.4."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def create(
        self, name: str, *, url: str | None = None, video_id: str | None = None, callback_url: str | None = None
    ) -> _TaskT:
        """Order a voice called `name` (up to 20 characters) from a clip of 5 to 30 s with one speaker.

        `url`: mp3, wav, mp4 or mov. `video_id`: a video of this account with sound. The task's `voices` hold it.
        Raises: as `KlingAI.text_to_video`.
        """
        if (url is None) == (video_id is None):
            raise UsageError("Name the clip by url or by video_id.", do="Give exactly one of them.")

        def build() -> Order:
            clip = None if url is None else link(url, "clip")
            required = {"voice_name": name, "voice_url": clip, "video_id": video_id, "callback_url": callback_url}
            return product_order("create_voice", required)

        return self._ordered(build)

    def list(self, *, page_size: int = flows.DEFAULT_PAGE) -> _ItemsT:
        """Iterate over the account's own voices, page by page. Raises: KlingError."""
        path = legacy_create("create_voice").path
        return self._listed(LEGACY_LISTS[path], page_size)

    def presets(self, *, page_size: int = flows.DEFAULT_PAGE) -> _ItemsT:
        """Iterate over the voices that Kling offers. Raises: KlingError."""
        return self._listed(PRESET_VOICES, page_size)

    def delete(self, voice_id: str) -> _AnswerT:
        """Delete one of the account's own voices; recorded before and after. Raises: KlingError, AuditUnavailable."""
        gone: _AnswerT = _deleted(self._ways, DELETE_VOICE, voice_id)
        return gone

    def _ordered(self, build: Any) -> _TaskT:
        made: _TaskT = self._ways.ordered(build)
        return made

    def _listed(self, row: Row, page_size: int) -> _ItemsT:
        page = Page(row, row.path, lambda data: _items(data, voices_of), _checked(page_size))
        found: _ItemsT = self._ways.listed(page)
        return found


class Elements(Generic[_TaskT, _AnswerT, _ItemsT]):
    """Elements of the account's library: people and things that videos can show again. Sheet 2.4."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def create(self, name: str, description: str, **given: Unpack[options.ElementOptions]) -> _TaskT:
        """Order an element: `name` up to 20, `description` up to 100 characters. Free. Options: `ElementOptions`.

        The task's `elements` hold it. Raises: as `KlingAI.text_to_video`.
        """
        required = {"element_name": name, "element_description": description}
        made: _TaskT = self._ways.ordered(lambda: product_order("create_element", required, given))
        return made

    def list(self, *, page_size: int = flows.DEFAULT_PAGE) -> _ItemsT:
        """Iterate over the account's own elements, page by page. Raises: KlingError."""
        path = legacy_create("create_element").path
        return self._listed(LEGACY_LISTS[path], page_size)

    def presets(self, *, page_size: int = flows.DEFAULT_PAGE) -> _ItemsT:
        """Iterate over the elements that Kling offers. Raises: KlingError."""
        return self._listed(PRESET_ELEMENTS, page_size)

    def delete(self, element_id: str) -> _AnswerT:
        """Delete one of the account's own elements; recorded before and after. Raises: KlingError, AuditUnavailable."""
        gone: _AnswerT = _deleted(self._ways, DELETE_ELEMENT, element_id)
        return gone

    def _listed(self, row: Row, page_size: int) -> _ItemsT:
        page = Page(row, row.path, lambda data: _items(data, elements_of), _checked(page_size))
        found: _ItemsT = self._ways.listed(page)
        return found


class Account(Generic[_PacksT, _ItemsT]):
    """The account: what is left of its packs, and what was deducted. Free; each look is an entry. Sheet 2.6."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def costs(self, *, since: Moment | None = None, until: Moment | None = None, pack: str | None = None) -> _PacksT:
        """Read the resource packs: a list of `ResourcePack`. What is left lags up to 12 hours.

        `since`, `until`: aware datetimes or ms since 1970 UTC; default the last 30 days. `pack`: a pack's name. Ask
        at most once a second. Raises: KlingError.
        """
        begin, end = _span(since, until)
        params = {"start_time": str(begin), "end_time": str(end)}
        params |= {} if pack is None else {"resource_pack_name": pack}
        found: _PacksT = self._ways.run(flows.fetch_packs(params, self._ways.retries))
        return found

    def package_ledger(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        api_key_name: str | None = None,
        product_type: str | None = None,
        package_id: str | None = None,
        page_size: int = flows.MAX_PAGE,
    ) -> _ItemsT:
        """Iterate over deductions from resource packs: `Deduction` with task, key, units before and after.

        `product_type`: `video`, `image`, `try-on`. Times as in `costs`. Raises: KlingError.
        """
        filters = {"api_key_name": api_key_name, "product_type": product_type, "package_id": package_id}
        return self._ledger(PACKAGE_LEDGER, since, until, filters, page_size)

    def balance_ledger(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        api_key_name: str | None = None,
        page_size: int = flows.MAX_PAGE,
    ) -> _ItemsT:
        """Iterate over deductions from the cash balance: `Deduction` with task, key, money. Raises: KlingError."""
        return self._ledger(BALANCE_LEDGER, since, until, {"api_key_name": api_key_name}, page_size)

    def _ledger(
        self, row: Row, since: Moment | None, until: Moment | None, filters: Mapping[str, str | None], page_size: int
    ) -> _ItemsT:
        begin, end = _span(since, until)
        search: dict[str, Any] = {"start_time": begin, "end_time": end}
        keys = [{"key": key, "values": [value]} for key, value in filters.items() if value is not None]
        search |= {"filters": keys} if keys else {}
        found: _ItemsT = self._ways.listed(Page(row, row.path, read_deductions, _checked(page_size), search=search))
        return found


def millis(moment: Moment) -> int:
    """A time as ms since 1970 UTC. Raises: UsageError for a datetime without time zone."""
    if isinstance(moment, dt.datetime):
        if moment.tzinfo is None:
            raise UsageError(
                "A time without time zone is ambiguous.", do="Use datetime.now(UTC), or ms since 1970 UTC."
            )
        return round(moment.timestamp() * 1000)
    return moment


def _span(since: Moment | None, until: Moment | None) -> tuple[int, int]:
    now = dt.datetime.now(dt.UTC)
    end = millis(now if until is None else until)
    return millis(now - dt.timedelta(days=30) if since is None else since), end


def _checked(page_size: int) -> int:
    if not 1 <= page_size <= flows.MAX_PAGE:
        raise UsageError(f"A page holds 1 to {flows.MAX_PAGE} items.")
    return page_size


def _items(data: Any, pick: Any) -> tuple[list[Any], None]:
    return [item for record in read_tasks(data) for item in pick(record)], None


def _deleted(ways: Ways, row: Row, thing: str) -> Any:
    order = Order(row, row.path, "legacy", None, {row.addresses or "id": thing})
    return ways.answered(flows.pay(order, ways.retries))
