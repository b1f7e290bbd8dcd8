"""Client objects whose methods are the operations: a stand-in that records each call and is otherwise the object.

Methods may be functions, coroutine functions, generators of either kind, or block until the task is done. Where the
transport behind a method is captured too, the act is one record, with the transport's facts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from typing import Any, Final

from klingai_audit.capture.attempt import Attempt, Mark
from klingai_audit.capture.calls import Catalogue, bind, credential_of
from klingai_audit.capture.facts import Exchange
from klingai_audit.capture.recorder import Recorder
from klingai_audit.capture.results import Seen, raised, returned
from klingai_audit.diagnostics import tell
from klingai_audit.errors import UsageError
from klingai_audit.event.record import Draft

__all__ = ["wrap"]

_HARMLESS: Final = frozenset({"aclose", "close"})
_FORWARDED: Final = (
    "__aiter__", "__anext__", "__bool__", "__contains__", "__delitem__", "__getitem__", "__iter__", "__len__",
    "__next__", "__setitem__", "__str__",
)  # fmt: skip
_VIA: Final = "method"

_listed: Final[set[tuple[type, str]]] = set()
_listing: Final = threading.Lock()


def wrap(
    thing: Any, recorder: Recorder, rows: Iterable[Any], operations: Mapping[str, str | None] | None = None
) -> Any:
    """Return a stand-in for `thing` whose methods are recorded.

    Methods with the name of an operation of the catalogue are; `operations` adds others (`{"make": "text_to_video"}`,
    also `"videos.make"` for a method of an attribute, `"__call__"` for the object itself) or says None for what is no
    act. All other methods pass through and are named once in the log `klingai_audit`. Raises: UsageError.
    """
    if isinstance(thing, type):
        raise UsageError(f"{thing.__name__} is a class.", do="Wrap the object that you call.")
    return _stand_in(thing, _Catcher(recorder, Catalogue(rows, recorder), thing), dict(operations or {}))


def _stand_in(thing: Any, catcher: _Catcher, operations: dict[str, str | None]) -> Any:
    for name, operation in operations.items():
        if not hasattr(thing, name.partition(".")[0]):
            raise UsageError(f"{type(thing).__name__} has nothing of the name {name}.")
        if operation is not None:
            catcher.catalogue.check(operation)
    kind = type(thing)
    body: dict[str, Any] = {"__class__": property(lambda _: kind), "__doc__": kind.__doc__}
    body |= {name: _forwarding(name) for name in _FORWARDED if hasattr(kind, name)}
    body |= {name: method for name, method in _BLOCKS.items() if hasattr(kind, name)}
    if callable(thing):
        body["__call__"] = lambda self, *args, **kwargs: _lookup(self, "__call__")(*args, **kwargs)
    made = type(kind.__name__, (_StandIn,), body)()
    vars(made)["_klingai_audit"] = (thing, catcher, operations)
    _list(thing, _uncovered(thing, catcher, operations))
    return made


class _StandIn:
    """Everything but the recorded methods is the object's own."""

    def __getattr__(self, name: str) -> Any:
        return _lookup(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_thing(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_thing(self), name)

    def __dir__(self) -> Iterable[str]:
        return dir(_thing(self))

    def __repr__(self) -> str:
        return f"<audited {type(_thing(self)).__name__}>"


def _thing(stand_in: Any) -> Any:
    return vars(stand_in)["_klingai_audit"][0]


def _lookup(stand_in: Any, name: str) -> Any:
    thing, catcher, operations = vars(stand_in)["_klingai_audit"]
    value = thing if name == "__call__" else getattr(thing, name)
    below = {key[len(name) + 1 :]: operation for key, operation in operations.items() if key.startswith(f"{name}.")}
    if below:
        return _stand_in(value, catcher, below)
    operation = operations.get(name, name if name in catcher.catalogue else None)
    if not callable(value):
        return value
    if operation is not None:
        return catcher.catching(name, operation, value, lambda result: stand_in if result is thing else result)
    if name not in operations and name[:1] != "_" and name not in _HARMLESS:
        _list(thing, [name])
    return value


def _uncovered(thing: Any, catcher: _Catcher, operations: Mapping[str, Any]) -> list[str]:
    """Public methods that nothing is known of; properties are not asked."""
    heads = {name.partition(".")[0] for name in operations}
    names = [name for name in dir(thing) if name[:1] != "_" and name not in _HARMLESS and name not in catcher.catalogue]
    kinds = (staticmethod, classmethod)
    return [
        name
        for name in names
        if name not in heads
        and (callable(found := inspect.getattr_static(thing, name, None)) or isinstance(found, kinds))
        and not isinstance(found, type)
    ]


def _list(thing: Any, names: list[str]) -> None:
    kind = type(thing)
    with _listing:
        new = [name for name in names if (kind, name) not in _listed]
        _listed.update((kind, name) for name in new)
    if new:
        methods = ", ".join(f"{kind.__name__}.{name}" for name in new)
        tell(logging.WARNING, "not_audited", "not audited, because no operation is known for them: %s", methods)


def _forwarding(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(_thing(self), name)(*args)


def _enter(self: Any) -> Any:
    entered = _thing(self).__enter__()
    return self if entered is _thing(self) else entered


def _exit(self: Any, *about: Any) -> Any:
    return _thing(self).__exit__(*about)


async def _aenter(self: Any) -> Any:
    entered = await _thing(self).__aenter__()
    return self if entered is _thing(self) else entered


async def _aexit(self: Any, *about: Any) -> Any:
    return await _thing(self).__aexit__(*about)


_BLOCKS: Final = {"__enter__": _enter, "__exit__": _exit, "__aenter__": _aenter, "__aexit__": _aexit}


class _Act:
    """One call that is recorded: its attempt, what it was called with, and what it has shown."""

    def __init__(self, attempt: Attempt, arguments: Mapping[str, Any]) -> None:
        self.attempt = attempt
        self.seen = Seen()
        self._arguments = arguments

    def result(self, value: Any) -> Exchange:
        """The exchange behind what the method returned."""
        return returned(self.attempt, value, self._arguments)

    def end(self, value: Any = None) -> Exchange:
        """The exchange behind what a generator returned, or has shown."""
        return self.result(self.seen.result if value is None else value)


class _Catcher:
    """Makes methods into recorded ones."""

    def __init__(self, recorder: Recorder, catalogue: Catalogue, owner: Any) -> None:
        self.catalogue = catalogue
        self._recorder = recorder
        self._owner = owner

    def catching(
        self, name: str, operation: str, method: Callable[..., Any], known: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Return `method`, recorded as `operation`; `known` swaps the object itself for its stand-in."""
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def acall(*args: Any, **kwargs: Any) -> Any:
                told = self._told(name, operation, method, args, kwargs)
                act = None if told is None else _act(await self._recorder.abegin(*told[:3]), told[3])
                return known(await self._awaited(act, method(*args, **kwargs)))

            return acall
        if inspect.isasyncgenfunction(method):

            @functools.wraps(method)
            async def aiterate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
                told = self._told(name, operation, method, args, kwargs)
                act = None if told is None else _act(await self._recorder.abegin(*told[:3]), told[3])
                async with contextlib.aclosing(self._agenerated(act, method(*args, **kwargs))) as items:
                    async for item in items:
                        yield item

            return aiterate
        if inspect.isgeneratorfunction(method):

            @functools.wraps(method)
            def iterate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
                act = self._begin(name, operation, method, args, kwargs)
                return (yield from _generated(act, method(*args, **kwargs)))

            return iterate

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            act = self._begin(name, operation, method, args, kwargs)
            if act is None:
                return method(*args, **kwargs)
            try:
                with act.attempt.covering():
                    result = method(*args, **kwargs)
            except BaseException as exc:
                act.attempt.finished(raised(act.attempt, exc))
                raise
            return known(self._handed_on(act, result))

        return call

    def _told(self, name: str, operation: str, method: Any, args: Any, kwargs: Any) -> Any:
        """What the recorder wants to know before the call; None for arguments that do not fit."""
        arguments = bind(method, args, kwargs)
        if arguments is None:
            return None
        key = credential_of(self._owner, self._recorder)
        found, facts = self.catalogue.request(operation, arguments, key)
        return facts, found, Mark(extra={"via": _VIA, "method": name}), arguments

    def _begin(self, name: str, operation: str, method: Any, args: Any, kwargs: Any) -> _Act | None:
        told = self._told(name, operation, method, args, kwargs)
        return None if told is None else _act(self._recorder.begin(*told[:3]), told[3])

    def _handed_on(self, act: _Act, result: Any) -> Any:
        """What a plain function returned may be a promise of a result."""
        attempt = act.attempt
        if inspect.isgenerator(result):
            return _generated(act, result)
        if inspect.isasyncgen(result):
            return self._agenerated(act, result)
        if isinstance(result, concurrent.futures.Future) or asyncio.isfuture(result):
            attempt.left_open()
            result.add_done_callback(lambda done: self._recorder.desk.post(attempt.conclude(_of_future(act, done))))
            return result
        if inspect.isawaitable(result):
            attempt.left_open()
            return self._awaited(act, result)
        attempt.finished(act.result(result))
        return result

    async def _awaited(self, act: _Act | None, awaitable: Any) -> Any:
        if act is None:
            return await awaitable
        try:
            with act.attempt.covering():
                result = await awaitable
        except BaseException as exc:
            act.attempt.finished(raised(act.attempt, exc))
            raise
        act.attempt.finished(act.result(result))
        return result

    async def _agenerated(self, act: _Act | None, source: Any) -> AsyncGenerator[Any, None]:
        if act is None:
            async for item in source:
                yield item
            return
        attempt = act.attempt
        attempt.left_open()
        try:
            while True:
                with attempt.covering():
                    item = await anext(source, _END)
                if item is _END:
                    break
                act.seen.add(item)
                yield item
        except GeneratorExit:
            await source.aclose()
            attempt.finished(_left_early(act))
            raise
        except BaseException as exc:
            attempt.finished(raised(attempt, exc))
            raise
        attempt.finished(act.end())


_END: Final = object()


def _act(attempt: Attempt | None, arguments: Mapping[str, Any]) -> _Act | None:
    if attempt is None:
        return None
    attempt.declared, attempt.retell = True, _retell
    return _Act(attempt, arguments)


def _retell(draft: Draft) -> Draft:
    """The end of an act that only a method has told of: there was no status that anyone saw."""
    told = {name: value for name, value in draft.metadata.items() if name != "http_status"}
    return draft.replace(metadata={**told, "via": _VIA})


def _generated(act: _Act | None, source: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    if act is None:
        return (yield from source)
    attempt = act.attempt
    attempt.left_open()
    step: Callable[[], Any] = functools.partial(next, source)
    while True:
        try:
            with attempt.covering():
                item = step()
        except StopIteration as stop:
            attempt.finished(act.end(stop.value))
            return stop.value
        except BaseException as exc:
            attempt.finished(raised(attempt, exc))
            raise
        act.seen.add(item)
        try:
            step = functools.partial(source.send, (yield item))
        except GeneratorExit:
            source.close()
            attempt.finished(_left_early(act))
            raise
        except BaseException as exc:  # noqa: BLE001  what a consumer throws in is the generator's to see
            step = functools.partial(source.throw, exc)


def _left_early(act: _Act) -> Exchange:
    """A generator that is not read to its end: what it has shown counts, if it has shown anything."""
    if act.seen.result is None:
        return act.attempt.reply(200, {}, error="ClosedEarly")
    return act.end()


def _of_future(act: _Act, done: Any) -> Exchange:
    if done.cancelled():
        return act.attempt.failure(concurrent.futures.CancelledError())
    error = done.exception()
    return act.result(done.result()) if error is None else raised(act.attempt, error)
