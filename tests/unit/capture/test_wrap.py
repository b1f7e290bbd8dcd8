"""Client objects of every making, wrapped: what their methods are called with, return, raise and yield."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import dataclasses
import datetime as dt
import enum
import hashlib
import io
import logging
import pathlib
import types
from typing import NamedTuple

import httpx2
import msgspec
import pytest

from klingai_audit.capture import wrap as module
from klingai_audit.capture.httpx import attach_client
from klingai_audit.capture.wrap import wrap
from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.kling.endpoints import ROWS
from klingai_audit.privacy import secrets
from tests.unit.capture.doubles import make_recorder

TASK = "700000000000000001"
SAID = ("prompt_submitted", "success")
STARTED = ("video_generation_started", "success")
DONE = ("video_generation_completed", "success")


@pytest.fixture(autouse=True)
def _fresh_lists():
    module._listed.clear()
    yield
    module._listed.clear()


def wrapped(thing, **operations):
    """Wrap an object over a fresh recorder; returns the stand-in and the sink."""
    recorder, sink = make_recorder()
    return wrap(thing, recorder, ROWS, operations), sink


def client(method, **more):
    """Return an object with one method of the name `text_to_video`."""
    return type("Client", (), {"text_to_video": method, **more})()


def story(sink):
    """Return event types and outcomes, without the uses of keys."""
    return [told for told in sink.story if told[0] != "api_key_used"]


# --- arguments ----------------------------------------------------------------------------------------


def test_arguments_become_the_intent():
    """Positional, named, default and extra arguments are the fields of the order; prompts are committed to."""

    def method(self, prompt, negative=None, *, model="kling-v2-6", duration=5, **more):
        return {"task_id": TASK}

    kling, sink = wrapped(client(method))
    assert kling.text_to_video("a lake", aspect_ratio="16:9", seed=7) == {"task_id": TASK}
    intent = sink.drafts[0]
    assert intent.metadata["prompt"].value == "a lake"
    assert intent.metadata["model"] == "kling-v2-6"
    assert intent.metadata["settings"] == {"aspect_ratio": "16:9", "duration": 5}
    assert intent.metadata["other_fields"] == ["seed"]
    assert (intent.metadata["via"], intent.metadata["method"]) == ("method", "text_to_video")
    assert {"generation", "host"} & set(intent.metadata) == set()
    assert story(sink) == [SAID, STARTED]
    assert sink.drafts[-1].resource_id == TASK
    assert "http_status" not in sink.drafts[-1].metadata


@dataclasses.dataclass
class Order:
    """A request as a dataclass."""

    prompt: str
    duration: int = 5


class Struct(msgspec.Struct):
    """A request as a struct."""

    prompt: str
    duration: int = 5


class Model:
    """A request as a model of pydantic's kind."""

    model_fields = ("prompt", "duration")
    prompt, duration = "a lake", 5


PLAIN = types.SimpleNamespace(prompt="a lake", duration=5, _hidden=1)


class Tuple(NamedTuple):
    """A request as a named tuple."""

    prompt: str = "a lake"
    duration: int = 5


@pytest.mark.parametrize(
    "payload",
    [{"prompt": "a lake", "duration": 5}, Order("a lake"), Struct("a lake"), Model(), PLAIN, Tuple()],
    ids=["dict", "dataclass", "struct", "model", "object", "tuple"],
)
@pytest.mark.parametrize("name", ["payload", "anything"])
def test_payloads(payload, name):
    """A request object is the order, as a parameter of that meaning or the only one."""
    kling, sink = wrapped(client(lambda self, **given: {"id": TASK}))
    kling.text_to_video(**{name: payload})
    assert sink.drafts[0].metadata["prompt"].value == "a lake"
    assert sink.drafts[0].metadata["settings"] == {"duration": 5}


class Mode(enum.Enum):
    """A setting as people write them."""

    PRO = "pro"


def test_values_of_every_kind(tmp_path):
    """Bytes and files become base64, as they are sent; enums, paths, dates and objects their text; nothing a repr."""
    image = b"\x89PNG\r\n\x1a\n" + b"0" * 40
    file = io.BytesIO(b"xx" + image)
    file.seek(2)
    odd = {
        "mode": Mode.PRO, "image": image, "image_tail": file, "cfg_scale": float("nan"), "when": dt.date(2026, 1, 1),
        "big": 2**70, "path": pathlib.Path("a"), "set": {1}, "thing": object(), "pipe": types.SimpleNamespace(read=1),
        "nested": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}, "text": io.StringIO("t"),
        "no": None,
    }  # fmt: skip
    kling, sink = wrapped(types.SimpleNamespace(image_to_video=lambda prompt, **more: {"id": TASK}))
    kling.image_to_video("a lake", **odd)
    told = sink.drafts[0].metadata
    assert told["settings"] == {"mode": "pro"}
    assert [(one["field"], one["media"].value, one["media"].type) for one in told["inputs"]] == [
        ("image", image, "image/png"), ("image_tail", image, "image/png")
    ]  # fmt: skip
    assert file.tell() == 2
    assert "object at" not in str(told)


def test_a_method_without_a_signature():
    """A method of another language shows no names: what it is given by name is known."""

    class Opaque:
        __signature__ = "none"

        def __call__(self, *args, **kwargs):
            return TASK

    kling, sink = wrapped(types.SimpleNamespace(text_to_video=Opaque()))
    kling.text_to_video("positional", prompt="a lake")
    assert sink.drafts[0].metadata["prompt"].value == "a lake"
    assert sink.drafts[0].metadata["other_fields"] == ["args"]
    assert story(sink) == [SAID, STARTED]


@pytest.mark.parametrize("kind", ["plain", "async", "generator", "async generator"])
def test_arguments_that_do_not_fit(kind):
    """A call that fails before it begins is not an act."""
    kling, sink = wrapped(client(METHODS[kind]))
    with pytest.raises(TypeError):
        consume(kling.text_to_video("a lake", "too", "many"))
    assert sink.drafts == []


# --- credentials --------------------------------------------------------------------------------------


class Veiled:
    """A secret that shows itself only when asked."""

    def get_secret_value(self):
        return "key-of-alice"


@pytest.mark.parametrize(
    "place,kind",
    [
        ({"config": types.SimpleNamespace(access_key="key-of-alice", secret_key="hidden-secret-1")}, "access_key"),
        ({"_config": {"access_key": "key-of-alice", "secret_key": "hidden-secret-1"}}, "access_key"),
        ({"api_key": "key-of-alice"}, "api_key"),
        ({"_api_key": "key-of-alice"}, "api_key"),
        ({"settings": types.SimpleNamespace(api_key=Veiled())}, "api_key"),
        ({"token": "key-of-alice"}, "other"),
    ],
)
def test_credentials_are_fingerprinted(place, kind):
    """The key that an object holds is named by its fingerprint, never in the clear, and cannot enter by other ways."""
    kling, sink = wrapped(client(lambda self, prompt: {"id": TASK, "message": "for key-of-alice"}, **place))
    kling.text_to_video("a lake")
    assert sink.types == ["prompt_submitted", "api_key_used", "video_generation_started"]
    intent = sink.drafts[0].metadata
    assert (intent["key_kind"], intent["key_fingerprint"]) == (kind, hashlib.sha256(b"key-of-alice").hexdigest()[:16])
    assert "key-of-alice" not in secrets.scrub_text("said key-of-alice")
    if "config" in str(place):
        assert "hidden-secret-1" not in secrets.scrub_text("said hidden-secret-1")


def test_properties_that_raise():
    """An object whose attributes fail is wrapped all the same."""

    def fails(self):
        raise RuntimeError

    kling, sink = wrapped(client(lambda self, prompt: TASK, config=property(fails), api_key=property(fails)))
    kling.text_to_video("a lake")
    assert story(sink) == [SAID, STARTED]


# --- results ------------------------------------------------------------------------------------------

TOO_FAST = b'{"code":1302,"message":"x","request_id":"r"}'
FINISHED = {"task_id": TASK, "status": "completed", "video_url": "https://cdn.example/a.mp4"}
KLINGS = {"code": 0, "message": "SUCCEED", "request_id": "r-1", "data": {"task_id": TASK, "task_status": "submitted"}}
NEW = {"id": TASK, "status": "succeeded", "outputs": [{"type": "video", "url": "https://cdn.example/a.mp4"}]}


def objects(**fields):
    """Return the fields as an object."""
    return types.SimpleNamespace(**fields)


@pytest.mark.parametrize(
    "result,expected",
    [
        (KLINGS, [STARTED]),
        (objects(**{**KLINGS, "data": objects(**KLINGS["data"])}), [STARTED]),
        (TASK, [STARTED]),
        (int(TASK), [STARTED]),
        ({"id": TASK}, [STARTED]),
        ({"data": {"task_id": TASK, "status": "queued"}}, [STARTED]),
        (objects(task=objects(id=TASK, state="IN_PROGRESS")), [STARTED]),
        (objects(id=TASK, status=enum.Enum("S", {"A": "Status.RUNNING"}).A), [STARTED]),
        (FINISHED, [STARTED, DONE]),
        (objects(**FINISHED), [STARTED, DONE]),
        (NEW, [STARTED, DONE]),
        ({"id": TASK, "videos": ["https://cdn.example/a.mp4"]}, [STARTED, DONE]),
        (objects(id=TASK, status="success", videos=[objects(url="https://c.example/a", id="9")]), [STARTED, DONE]),
        ({"id": TASK, "urls": ["https://c.example/a.mp4"], "status": "done"}, [STARTED, DONE]),
        ({"id": TASK, "status": "failed", "error_message": "bad"}, [STARTED, ("video_generation_failed", "failure")]),
        ({"code": 1303, "message": "busy", "request_id": "r"}, [("rate_limit_exceeded", "blocked")]),
        (objects(status_code=200, content=msgspec.json.encode(KLINGS)), [STARTED]),
        (httpx2.Response(429, content=TOO_FAST), [("rate_limit_exceeded", "blocked")]),
        (httpx2.Response(200, stream=httpx2.ByteStream(b"")), [("video_generation_started", "unknown")]),
        (None, [("video_generation_started", "unknown")]),
        (True, [("video_generation_started", "unknown")]),
        ([], [("video_generation_started", "unknown")]),
        (object(), [("video_generation_started", "unknown")]),
    ],
)  # fmt: skip
def test_results(result, expected):
    """Ids, states and results are found in dictionaries and attributes; what says nothing leaves an unknown outcome."""
    kling, sink = wrapped(client(lambda self, prompt: result))
    assert kling.text_to_video("a lake") is result
    assert story(sink) == [SAID, *expected]


def test_a_result_whose_attributes_fail():
    """An object that raises when it is looked at reaches the caller, and the outcome is unknown."""

    class Spiteful:
        def __getattr__(self, name):
            raise RuntimeError(name)

    kling, sink = wrapped(client(lambda self, prompt: Spiteful()))
    assert type(kling.text_to_video("a lake")) is Spiteful
    assert story(sink) == [SAID, ("video_generation_started", "unknown")]


def test_results_keep_their_charge_and_links():
    """What a task cost and where its film is are known from Kling's own record, and the download is told to it."""
    record = {
        "task_id": TASK, "task_status": "succeed", "final_unit_deduction": "3.5",
        "task_result": {"videos": [{"id": "9", "url": "https://films.example/a.mp4", "duration": "5"}]},
    }  # fmt: skip
    thing = types.SimpleNamespace(text_to_video=lambda prompt: record, download=lambda url: b"film")
    kling, sink = wrapped(thing)
    kling.text_to_video("a lake")
    kling.download("https://films.example/a.mp4")
    assert story(sink) == [SAID, STARTED, DONE, ("video_downloaded", "unknown"), ("video_downloaded", "success")]
    assert "3.5" in str(sink.drafts[2].metadata)
    assert sink.drafts[-1].resource_id == TASK
    assert sink.drafts[-1].metadata["sha256"] == hashlib.sha256(b"film").hexdigest()


@pytest.mark.parametrize("form", ["bytes", "path", "argument", "reply", "refused", "nothing"])
def test_downloads(form, tmp_path):
    """Bytes, replies and written files have their digest; a method that shows nothing leaves an unknown outcome."""
    place = tmp_path / "a.mp4"

    def method(task_id, path=None):
        place.write_bytes(b"film")
        return {
            "bytes": b"film", "path": place, "argument": None, "reply": httpx2.Response(200, content=b"film"),
            "refused": httpx2.Response(404), "nothing": None,
        }[form]  # fmt: skip

    kling, sink = wrapped(types.SimpleNamespace(fetch=method), fetch="download")
    kling.fetch(TASK, str(place) if form == "argument" else None)
    done = sink.drafts[-1]
    outcome = {"refused": "failure", "nothing": "failure"}.get(form, "success")
    assert (done.event_type, done.outcome, done.resource_id) == ("video_downloaded", outcome, TASK)
    assert done.metadata.get("sha256") == (hashlib.sha256(b"film").hexdigest() if outcome == "success" else None)


# --- exceptions ---------------------------------------------------------------------------------------


class Coded(Exception):
    """An exception of a home-grown client."""

    def __init__(self, **fields):
        super().__init__("a lake")
        vars(self).update(fields)


def caused(exc, cause):
    """Return `exc` as raised from `cause`."""
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    "exc,expected",
    [
        (Coded(code=1303), ("rate_limit_exceeded", "blocked")),
        (Coded(error_code="1301", message="no"), ("policy_violation", "blocked")),
        (Coded(code=1002, status_code=401), ("access_denied", "blocked")),
        (Coded(status_code=404), ("video_generation_failed", "failure")),
        (Coded(status=503), ("video_generation_started", "unknown")),
        (Coded(code=7), ("video_generation_started", "unknown")),
        (Coded(response=httpx2.Response(429, content=TOO_FAST)), ("rate_limit_exceeded", "blocked")),
        (caused(Coded(), Coded(code=1303)), ("rate_limit_exceeded", "blocked")),
        (caused(Coded(), httpx2.ConnectError("x")), ("video_generation_failed", "failure")),
        (TimeoutError(), ("video_generation_started", "unknown")),
        (KeyboardInterrupt(), ("video_generation_started", "unknown")),
    ],
)  # fmt: skip
def test_exceptions(exc, expected):
    """A code or a status is a refusal; without either the outcome is unknown, unless nothing can have left."""

    def method(self, prompt):
        raise exc

    kling, sink = wrapped(client(method))
    with pytest.raises(type(exc)) as caught:
        kling.text_to_video("a lake")
    assert caught.value is exc
    assert story(sink) == [SAID, expected]
    assert "a lake" not in str(sink.drafts[-1].metadata)


def test_an_exception_whose_attributes_fail():
    """An exception that raises when it is looked at is still the one that the caller gets."""

    class Spiteful(Exception):
        @property
        def response(self):
            raise RuntimeError

    def method(self, prompt):
        raise Spiteful

    kling, sink = wrapped(client(method))
    with pytest.raises(Spiteful):
        kling.text_to_video("a lake")
    assert story(sink) == [SAID, ("video_generation_started", "unknown")]


def test_a_refused_act_is_not_called():
    """AuditUnavailable reaches the caller and the method is not run."""
    called = []
    kling, sink = wrapped(client(lambda self, prompt: called.append(prompt)))
    sink.break_down()
    with pytest.raises(AuditUnavailable):
        kling.text_to_video("a lake")
    assert called == []


# --- kinds of methods ---------------------------------------------------------------------------------


async def amethod(self, prompt):
    await asyncio.sleep(0)
    return FINISHED


def generator(self, prompt):
    yield {"id": TASK}
    yield "processing"
    yield {"status": "completed", "video_url": "https://cdn.example/a.mp4"}


async def agenerator(self, prompt):
    for item in generator(self, prompt):
        yield item


def of_awaitable(self, prompt):
    return amethod(self, prompt)


def of_task(self, prompt):
    return asyncio.ensure_future(amethod(self, prompt))


def of_future(self, prompt):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(lambda: FINISHED)


def of_generator(self, prompt):
    return generator(self, prompt)


def of_agenerator(self, prompt):
    return agenerator(self, prompt)


METHODS = {
    "plain": lambda self, prompt: FINISHED, "async": amethod, "generator": generator, "async generator": agenerator,
    "awaitable": of_awaitable, "task": of_task, "future": of_future, "made generator": of_generator,
    "made async generator": of_agenerator,
}  # fmt: skip


def consume(value):
    """Wait for whatever a method returned and return its last word."""
    if isinstance(value, concurrent.futures.Future):
        return value.result()
    if hasattr(value, "__await__"):
        return asyncio.run(_await(value))
    if hasattr(value, "__anext__"):
        return asyncio.run(_last(value))
    return list(value)[-1] if hasattr(value, "__next__") else value


async def _await(value):
    return await value


async def _last(value):
    return [item async for item in value][-1]


@pytest.mark.parametrize("kind", METHODS)
def test_methods_of_every_kind(kind):
    """However a method gives its result, the story is the same, and the caller gets what the method gave."""
    kling, sink = wrapped(client(METHODS[kind]))

    async def play():
        value = kling.text_to_video("a lake")
        result = await value
        await asyncio.sleep(0)
        return result

    last = asyncio.run(play()) if kind == "task" else consume(kling.text_to_video("a lake"))
    assert last["status"] == "completed"
    assert story(sink) == [SAID, STARTED, DONE]
    assert sink.drafts[-1].resource_id == TASK


@pytest.mark.parametrize("kind", ["async", "generator", "async generator", "awaitable", "task", "future"])
def test_methods_of_every_kind_that_raise(kind):
    """A refusal inside a promise or a generator is recorded like any other."""

    async def arefuse(self, prompt):
        raise Coded(code=1303)

    def grefuse(self, prompt):
        yield {"progress": 1}
        raise Coded(code=1303)

    async def agrefuse(self, prompt):
        yield {"progress": 1}
        raise Coded(code=1303)

    def frefuse(self, prompt):
        future = concurrent.futures.Future()
        future.set_exception(Coded(code=1303))
        return future

    methods = {
        "async": arefuse, "generator": grefuse, "async generator": agrefuse,
        "awaitable": lambda self, prompt: asyncio.wait_for(arefuse(self, prompt), 9),
        "task": lambda self, prompt: asyncio.ensure_future(arefuse(self, prompt)), "future": frefuse,
    }  # fmt: skip
    kling, sink = wrapped(client(methods[kind]))

    async def play():
        try:
            await kling.text_to_video("a lake")
        finally:
            await asyncio.sleep(0)

    with pytest.raises(Coded):
        asyncio.run(play()) if kind == "task" else consume(kling.text_to_video("a lake"))
    assert story(sink) == [SAID, ("rate_limit_exceeded", "blocked")]


def test_a_promise_that_nobody_awaits():
    """What is never awaited is written when the log closes."""
    recorder, sink = make_recorder()
    promise = wrap(client(of_awaitable), recorder, ROWS).text_to_video("a lake")
    assert story(sink) == [SAID]
    recorder.close()
    assert story(sink) == [SAID, ("video_generation_started", "unknown")]
    asyncio.run(_await(promise))
    assert len(story(sink)) == 2


def test_a_future_that_is_cancelled():
    """A promise that is withdrawn leaves an unknown outcome."""
    future = concurrent.futures.Future()
    kling, sink = wrapped(client(lambda self, prompt: future))
    assert kling.text_to_video("a lake") is future
    future.cancel()
    assert story(sink) == [SAID, ("video_generation_started", "unknown")]


@pytest.mark.parametrize("shown,outcome", [(0, "unknown"), (1, "success")])
def test_generators_that_are_left_early(shown, outcome):
    """Who stops reading ends the act with what has been shown so far; an unread generator never began one."""
    kling, sink = wrapped(client(generator))
    updates = kling.text_to_video("a lake")
    assert sink.drafts == []
    if shown:
        next(updates)
        updates.close()
        assert story(sink) == [SAID, ("video_generation_started", outcome)]

    async def play():
        updates = kling.text_to_video("a lake")
        if shown:
            await anext(updates)
        await updates.aclose()

    kling, sink = wrapped(client(agenerator))
    asyncio.run(play())
    assert story(sink) == ([SAID, ("video_generation_started", outcome)] if shown else [])


def test_a_generator_that_shows_nothing_and_is_left():
    """Left before it showed anything, its outcome is unknown."""

    def method(self, prompt):
        yield None

    kling, sink = wrapped(client(method))
    updates = kling.text_to_video("a lake")
    next(updates)
    updates.close()
    assert story(sink) == [SAID, ("video_generation_started", "unknown")]
    assert sink.drafts[-1].metadata["error"] == "ClosedEarly"


def test_generators_stay_generators():
    """What is sent and thrown in arrives, and the generator's own value is returned."""

    def method(self, prompt):
        got = yield {"id": TASK}
        try:
            yield got
        except KeyError:
            yield "caught"
        return {"id": TASK, "status": "failed"}

    kling, sink = wrapped(client(method))

    def outer():
        returned.append((yield from kling.text_to_video("a lake")))

    returned = []
    updates = outer()
    assert next(updates) == {"id": TASK}
    assert updates.send("hello") == "hello"
    assert updates.throw(KeyError()) == "caught"
    assert list(updates) == []
    assert returned == [{"id": TASK, "status": "failed"}]
    assert story(sink) == [SAID, STARTED, ("video_generation_failed", "failure")]


# --- other operations ---------------------------------------------------------------------------------


def test_reads_are_polls():
    """A query by any name changes the task's story, and only news make entries; the end comes once."""
    states = iter(["processing", "processing", "succeed", "succeed"])

    class Client:
        def text_to_video(self, prompt):
            return {"task_id": TASK, "task_status": "submitted"}

        def get_task(self, task_id):
            return {"task_id": task_id, "task_status": next(states)}

    kling, sink = wrapped(Client(), get_task="query_task")
    kling.text_to_video("a lake")
    for _ in range(4):
        kling.get_task(TASK)
    assert story(sink) == [SAID, STARTED, ("task_status_changed", "success"), DONE]
    assert sink.drafts[-1].metadata["polls"] == 1
    assert len({draft.correlation_id for draft in sink.drafts}) == 1


def test_every_operation_of_the_catalogue():
    """Each name of the catalogue can be wrapped, called with anything and without an answer, and leaves an entry."""
    names = {row.action for row in ROWS} | {"download"}
    for name in sorted(names):
        kling, sink = wrapped(types.SimpleNamespace(**{name: lambda **given: None}))
        getattr(kling, name)(prompt="a lake", video_id="7", voice_id="7", element_id="7", model="kling-v2-6")
        assert sink.drafts, name
        assert {draft.action for draft in sink.drafts if draft.event_type != "api_key_used"} <= {
            name, {"query_task": "query_tasks", "list_tasks": "search_tasks"}.get(name)
        }  # fmt: skip


def test_lists_and_account():
    """A list shows each of its tasks; a look at the quota is an entry."""
    tasks = [{"id": "1", "status": "failed"}, objects(id="2", status="completed", images=["https://c.example/a.png"])]
    thing = types.SimpleNamespace(list_tasks=lambda: tasks, read_costs=lambda: {"resource_pack_subscribe_infos": []})
    kling, sink = wrapped(thing)
    kling.list_tasks()
    kling.read_costs()
    assert [("task_completed", "failure"), ("image_generation_completed", "success")] == story(sink)[:2]
    assert story(sink)[-1] == ("quota_checked", "success")


def test_a_synchronous_paid_call():
    """A call that answers at once ends at once."""
    kling, sink = wrapped(
        types.SimpleNamespace(text_to_speech=lambda text: {"task_id": TASK, "task_status": "succeed"})
    )
    kling.text_to_speech("hello")
    assert sink.drafts[0].metadata["text"].value == "hello"
    assert story(sink)[-1] == ("audio_generation_completed", "success")


# --- the stand-in -------------------------------------------------------------------------------------


class Rich:
    """An object with everything that people put into one."""

    setting = 1

    def __init__(self):
        self.videos = types.SimpleNamespace(create=lambda prompt: {"id": TASK}, url="u")
        self.entered = []

    def __enter__(self):
        return self

    def __exit__(self, *about):
        self.entered.append("left")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *about):
        self.entered.append("aleft")

    def __len__(self):
        return 3

    def __iter__(self):
        return iter("abc")

    def __getitem__(self, key):
        return key

    def with_timeout(self, seconds):
        return self

    def text_to_video(self, prompt):
        return self

    @property
    def broken(self):
        raise RuntimeError

    def strange(self):
        return "strange"

    @staticmethod
    def stranger():
        return "stranger"

    def close(self):
        """Nothing to close."""

    Kind = dict


def test_the_stand_in_is_the_object():
    """Attributes, blocks, iteration and identity of kind are the object's own."""
    thing = Rich()
    kling, _ = wrapped(thing)
    assert isinstance(kling, Rich)
    kling.setting = 2
    assert thing.setting == 2
    del kling.setting
    assert (kling.setting, len(kling), list(kling), kling["k"], kling.Kind) == (1, 3, ["a", "b", "c"], "k", dict)
    assert "strange" in dir(kling)
    assert repr(kling) == "<audited Rich>"
    with kling as entered:
        assert entered is kling

    async def play():
        async with kling as inner:
            assert inner is kling

    asyncio.run(play())
    assert thing.entered == ["left", "aleft"]
    assert kling.text_to_video("a lake") is kling
    assert kling.text_to_video.__name__ == "text_to_video"
    with pytest.raises(AttributeError):
        kling.missing  # noqa: B018  asking is the test


def test_methods_of_attributes_and_of_the_object_itself():
    """Dotted names reach into attributes, `__call__` is the object; other attributes stay what they are."""
    kling, sink = wrapped(Rich(), **{"videos.create": "text_to_video"})
    assert kling.videos.create(prompt="a lake") == {"id": TASK}
    assert kling.videos.url == "u"
    assert story(sink) == [SAID, STARTED]

    def make(prompt):
        return TASK

    kling, sink = wrapped(make, __call__="text_to_video")
    assert kling("a lake") == TASK
    assert story(sink) == [SAID, STARTED]


def test_unknown_methods_are_listed_once(caplog):
    """What no operation is known for passes through and is named once; harmless and declared ones are not."""
    with caplog.at_level(logging.WARNING, "klingai_audit"):
        for _ in range(2):
            kling, sink = wrapped(Rich(), with_timeout=None)
            assert (kling.strange(), kling.stranger()) == ("strange", "stranger")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("klingai_audit")] == [
        "not audited, because no operation is known for them: Rich.strange, Rich.stranger"
    ]
    assert sink.drafts == []


def test_methods_that_appear_late_are_listed(caplog):
    """A method that an object makes up when asked is named when it is asked for."""

    class Magic:
        def __getattr__(self, name):
            if name == "conjured":
                return lambda: "done"
            raise AttributeError(name)

    kling, _ = wrapped(Magic())
    with caplog.at_level(logging.WARNING, "klingai_audit"):
        assert (kling.conjured(), kling.conjured()) == ("done", "done")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("klingai_audit")]
    assert ["Magic.conjured" in text for text in said] == [True]


def test_what_cannot_be_wrapped():
    """A class, an operation and a method that there is not are refused, with what is near."""
    for thing, operations, words in [
        (Rich, {}, "is a class"),
        (Rich(), {"strange": "text_to_vidoe"}, "text_to_video"),
        (Rich(), {"strange": "qqqq"}, "docs/events.md"),
        (Rich(), {"nothing_here": "text_to_video"}, "nothing_here"),
    ]:
        with pytest.raises(UsageError) as caught:
            wrapped(thing, **operations)
        assert words in str(caught.value)


# --- nested -------------------------------------------------------------------------------------------


class Composed:
    """A client over httpx2 whose transport is captured, too; `operation` is what its wire sees."""

    def __init__(self, recorder, path="/v1/videos/text2video"):
        self.path, self.polls = path, 0
        self.http = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        attach_client(self.http, recorder)

    def _answer(self, request):
        status = "succeed" if request.method == "GET" else "submitted"
        return httpx2.Response(
            200, json={"code": 0, "request_id": "r-9", "data": {"task_id": TASK, "task_status": status}}
        )

    def text_to_video(self, prompt):
        host = "https://api-singapore.klingai.com"
        task = self.http.post(host + self.path, json={"prompt": prompt}).json()["data"]["task_id"]
        return self.http.get(f"{host}{self.path}/{task}").json()


@pytest.mark.parametrize("path", ["/v1/videos/text2video", "/v1/videos/image2video"])
def test_a_captured_transport_wins(path):
    """One act seen twice is one record: the transport's facts, in the order of their happening; polls are their own."""
    recorder, sink = make_recorder()
    kling = wrap(Composed(recorder, path), recorder, ROWS)
    kling.text_to_video("a lake")
    assert story(sink) == [SAID, STARTED, DONE]
    assert len({draft.correlation_id for draft in sink.drafts}) == 1
    started = sink.drafts[1]
    assert (started.request_id, started.metadata["http_status"]) == ("r-9", 200)
    assert "via" not in started.metadata


def test_base64_is_what_is_sent():
    """The helper's base64 is the standard one, without breaks."""
    kling, sink = wrapped(types.SimpleNamespace(image_to_video=lambda **given: TASK))
    kling.image_to_video(image=b"\xff" * 60)
    assert sink.drafts[0].metadata["inputs"][0]["media"].value in (
        b"\xff" * 60,
        base64.b64encode(b"\xff" * 60).decode(),
    )
