"""Who is acting."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from klingai_audit.errors import ActorConflict, InvalidEvent
from klingai_audit.event.context import Actor, acting, current, normalise_id, resolve
from klingai_audit.event.record import Draft


def name_of_current() -> str | None:
    """Return the id that is bound here."""
    actor = current()
    return None if actor is None else actor.actor_id


def test_nobody_is_bound_at_first() -> None:
    """Without a block nobody is bound, and the actor is `unknown` of type `system`."""
    assert current() is None
    resolved = resolve(Draft(event_type="x_test"))
    assert ("unknown", "system") == (resolved.actor_id, resolved.actor_type)


def test_block_fills_what_the_draft_leaves_open() -> None:
    """Everything bound arrives in the draft under its member's name; what the draft says wins."""
    with acting(
        "user@example.com", actor_type="admin", ip="192.168.1.100", user_agent="python-httpx/0.28.1", team="studio-a",
        project="lake", on_behalf_of="client@example.com", correlation_id="c-1",
    ) as actor:  # fmt: skip
        assert actor == current()
        resolved = resolve(Draft(event_type="x_test", team="studio-b", metadata={"a": 1}))
    expected = Draft(
        event_type="x_test", actor_id="user@example.com", actor_type="admin", ip_address="192.168.1.100",
        user_agent="python-httpx/0.28.1", team="studio-b", project="lake", on_behalf_of="client@example.com",
        correlation_id="c-1", metadata={"a": 1},
    )  # fmt: skip
    assert expected == resolved


def test_actor_without_a_block_is_taken_as_given() -> None:
    """A draft that names its actor alone stays as it is; its type, if open, is left to the door."""
    for draft in (
        Draft(event_type="x_test", actor_id="user@example.com"),
        Draft(event_type="x_test", actor_id="farm", actor_type="service"),
    ):
        assert resolve(draft) is draft


def test_same_actor_nested_adds() -> None:
    """An inner block of the same actor, in another spelling, adds to the outer one and wins; exit restores."""
    with acting("User@Example.com", actor_type="admin", team="studio-a", ip="192.168.1.100"):
        with acting(" user@example.com ", team="studio-b", correlation_id="c-1"):
            expected = Actor(
                "User@Example.com", "admin", ip_address="192.168.1.100", team="studio-b", correlation_id="c-1"
            )
            assert expected == current()
        assert Actor("User@Example.com", "admin", ip_address="192.168.1.100", team="studio-a") == current()
    assert current() is None


def test_other_actor_nested_replaces_everything() -> None:
    """An inner block of another actor inherits nothing: not the address, not the team."""
    with acting("user@example.com", ip="192.168.1.100", team="studio-a"), acting("farm", actor_type="service"):
        assert Actor("farm", "service") == current()


def test_exit_restores_after_an_exception() -> None:
    """A block that is left by an exception restores what was bound before."""
    with acting("outer"):
        with pytest.raises(RuntimeError), acting("inner"):
            raise RuntimeError
        assert "outer" == name_of_current()


@pytest.mark.parametrize("given", ["other@example.com", "unknown", "USER"])
def test_conflicting_actor_is_an_error_without_ids(given: str) -> None:
    """A call that names another actor than the bound one is refused; the error shows neither id."""
    with acting("user@example.com"), pytest.raises(ActorConflict) as caught:
        resolve(Draft(event_type="x_test", actor_id=given))
    assert "example.com" not in str(caught.value)
    assert caught.value.do


def test_same_actor_in_the_call_is_no_conflict() -> None:
    """The bound id in another spelling is the same actor; the bound spelling is taken."""
    with acting("user@example.com", team="studio-a"):
        resolved = resolve(Draft(event_type="x_test", actor_id="USER@example.com"))
    assert ("user@example.com", "studio-a") == (resolved.actor_id, resolved.team)


def test_what_the_log_does_takes_nothing_from_the_block() -> None:
    """An act of the log itself inside a user's block stays the log's own."""
    with acting("user@example.com", ip="192.168.1.100"):
        resolved = resolve(Draft(event_type="log_verified", actor_id="klingai-audit"))
    assert ("klingai-audit", None, None) == (resolved.actor_id, resolved.actor_type, resolved.ip_address)


@pytest.mark.parametrize("bad", ["", "  ", None, 5])
def test_empty_actor_is_refused(bad: object) -> None:
    """Nobody cannot be bound."""
    with pytest.raises(InvalidEvent):
        acting(bad)  # type: ignore[arg-type]


def test_other_members_are_text() -> None:
    """A bound member that is no text is refused by name, without its value."""
    with pytest.raises(InvalidEvent, match="acting: team is of type int"):
        acting("user@example.com", team=5)  # type: ignore[arg-type]


def test_threads_start_without_an_actor_and_can_restore_one() -> None:
    """A new thread has nobody bound; `capture` and `restore` carry the actor over, and undo it after."""
    found: list[str | None] = []

    def work(token: Actor | None) -> None:
        found.append(name_of_current())
        with acting.restore(token):
            found.append(name_of_current())
        found.append(name_of_current())

    with acting("user@example.com"):
        thread = threading.Thread(target=work, args=(acting.capture(),))
        thread.start()
        thread.join()
    assert [None, "user@example.com", None] == found


def test_restore_of_nobody_hides_the_actor() -> None:
    """Restoring what was captured outside any block binds nobody for a while."""
    nobody = acting.capture()
    with acting("user@example.com"):
        with acting.restore(nobody):
            assert current() is None
        assert "user@example.com" == name_of_current()


def test_one_block_object_serves_many_threads() -> None:
    """A block object that several threads enter at once keeps their states apart."""
    shared = acting("shared")
    barrier = threading.Barrier(4)

    def work(name: str) -> list[str | None]:
        with acting(name):
            barrier.wait()
            with shared:
                barrier.wait()
                inside = name_of_current()
                barrier.wait()
            return [inside, name_of_current()]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, ["a", "b", "c", "d"]))
    assert [["shared", name] for name in "abcd"] == results


def test_block_object_may_be_entered_again() -> None:
    """One object entered inside itself restores level by level."""
    block = acting("a")
    with block:
        with block:
            assert "a" == name_of_current()
        assert "a" == name_of_current()
    assert current() is None


def test_async_tasks_inherit_and_stay_apart() -> None:
    """A task sees the actor of its creation; blocks in concurrent tasks do not meet."""

    async def work(name: str) -> tuple[str | None, str | None, str | None]:
        before = name_of_current()
        async with acting(name):
            await asyncio.sleep(0.01)
            inside = name_of_current()
        return before, inside, name_of_current()

    async def main() -> list[tuple[str | None, str | None, str | None]]:
        with acting("outer"):
            return list(await asyncio.gather(*(work(name) for name in "abc")))

    assert [("outer", name, "outer") for name in "abc"] == asyncio.run(main())


def test_generator_left_in_another_context_harms_nobody() -> None:
    """A block whose end runs in another context leaves alone what is bound there."""

    def fixture() -> Iterator[None]:
        with acting("inner"):
            yield

    running = fixture()
    contextvars.copy_context().run(next, running)
    with acting("other"):
        with pytest.raises(StopIteration):
            next(running)
        assert "other" == name_of_current()


def test_reprs_show_no_values() -> None:
    """Neither the block nor the actor prints an id or an address."""
    block = acting("user@example.com", ip="192.168.1.100")
    with block as actor:
        shown = repr((block, actor, current()))
    assert "example" not in shown
    assert "192" not in shown
    assert "actor_id" in shown


def test_fields_are_what_is_bound() -> None:
    """`fields` holds the bound members by name and no others."""
    with acting("user@example.com", team="studio-a") as actor:
        assert {"actor_id": "user@example.com", "actor_type": "user", "team": "studio-a"} == actor.fields


@pytest.mark.parametrize(
    "given, expected",
    [
        (" User@Example.COM ", "user@example.com"),
        ("Farm-1", "Farm-1"),
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("e\u0301@example.com", "\u00e9@example.com"),
        ("\u00c5ngstrom", "\u00c5ngstrom"),
        ("A\u030angstrom", "\u00c5ngstrom"),
        ("\u3000farm\u00a0", "farm"),
    ],
)
def test_ids_are_compared_normalised(given: str, expected: str) -> None:
    """Ids are NFC, stripped, casefolded only if they hold `@`; normalising twice changes nothing."""
    assert expected == normalise_id(given)
    assert expected == normalise_id(normalise_id(given))
