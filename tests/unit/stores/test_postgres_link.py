"""What of the PostgreSQL store needs no server: URLs, values on the wire, words for what a server says."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, UsageError

psycopg = pytest.importorskip("psycopg", reason="needs klingai-audit[postgres]")


@pytest.mark.parametrize(
    ("url", "schema", "given"),
    [
        ("postgresql://u:p@h:1/d?schema=one", "one", {"user": "u", "host": "h", "port": "1", "dbname": "d"}),
        ("postgres:///d", "klingai_audit", {"dbname": "d"}),
        ("postgresql://h1,h2/d?target_session_attrs=any", "klingai_audit", {"target_session_attrs": "any"}),
        ("postgresql://h/d?schema=a&connect_timeout=3", "a", {"connect_timeout": "3", "host": "h"}),
        ("postgresql://u%40x:p%25@h/d", "klingai_audit", {"user": "u@x", "password": "p%"}),
        ("postgresql://h/d?options=-c%20geqo%3Doff&schema=a", "a", {"options": "-c geqo=off"}),
        ("postgresql://h/d?schema=a&password=p+w%2Bx", "a", {"password": "p+w+x"}),
    ],
)
def test_urls_are_those_of_libpq_with_a_schema(url: str, schema: str, given: dict[str, str]) -> None:
    """The schema is ours, everything else the driver's."""
    from klingai_audit.stores.postgres_link import Link

    link = Link(url)
    assert schema == link.schema
    assert given == {name: link._given[name] for name in given}
    assert "schema" not in link._given


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "postgresql://u:hunter2@h/d?nonsense=1", "postgresql://u:hunter2@h/d?schema=A;B"]
)
def test_urls_that_are_none_are_refused_without_their_password(url: str) -> None:
    """The driver's own words would hold it."""
    from klingai_audit.stores.postgres_link import Link

    with pytest.raises(UsageError) as caught:
        Link(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_objects_show_no_password() -> None:
    """Neither store nor link, in no form."""
    from klingai_audit.stores.postgres import PostgresStore

    store = PostgresStore("postgresql://u:hunter2@h/d?sslpassword=hunter2&password=hunter2")
    assert "hunter2" not in repr(store) + store.url + repr(store._link) + str(store)


def dumped(value: Any, wanted: type) -> bytes:
    """What psycopg sends for a value."""
    from psycopg.adapt import PyFormat, Transformer

    dumper = Transformer().get_dumper(value, PyFormat.BINARY)
    assert isinstance(value, wanted)
    return bytes(dumper.dump(value))


def test_values_have_the_forms_that_the_driver_gives_them() -> None:
    """Numbers, days and arrays, byte for byte, and back."""
    from klingai_audit.stores import postgres_wire as wire

    for day in (dt.date(1999, 12, 31), dt.date(2000, 1, 1), dt.date(2026, 11, 22)):
        assert dumped(day, dt.date) == wire.date(day)
        assert day == wire.from_date(wire.date(day))
    assert wire.from_date(None) is None
    for number in (0, 1, 1 << 40, -1):
        assert number == wire.from_int8(wire.int8(number))
    assert b"\0\7" == wire.int2(7)
    lines = [b"", b"a", b"\0\xff" * 300]
    assert dumped(lines, list) == wire.bytea_array(lines)
    assert dumped([1 << 40, 1 << 41], list) == wire.int8_array([1 << 40, 1 << 41])
    assert [b"\xc3\xa4"] == [wire.text_array(["\u00e4"])[-2:]]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("DiskFull", "no space left"),
        ("TooManyConnections", "no more connections"),
        ("ReadOnlySqlTransaction", "standby"),
        ("AdminShutdown", "being shut down"),
        ("LockNotAvailable", "did not give a lock"),
        ("QueryCanceled", "took too long"),
        ("InsufficientPrivilege", "does not let this role"),
        ("DivisionByZero", "SQLSTATE 22012"),
    ],
)
def test_what_a_server_says_is_told_in_our_words(error: str, words: str) -> None:
    """State and advice, nothing of the message, which may quote a row."""
    from klingai_audit.stores.postgres_link import translated

    told = translated(getattr(psycopg.errors, error)("secret of a row"), "postgresql://h/d")
    assert isinstance(told, AuditUnavailable)
    assert words in told.message
    assert "secret" not in str(told)
    assert told.do


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('connection to server at "10.0.0.1", port 5432 failed: Connection refused', "refuses connections"),
        ('FATAL:  password authentication failed for user "u"', "refuses the password"),
        ('FATAL:  role "u" does not exist', "refuses this role"),
        ('FATAL:  database "d" does not exist', "no such database"),
        ('root certificate file "/secret/root.crt" does not exist', "a certificate"),
        ("FATAL:  sorry, too many clients already", "no more connections"),
        ("FATAL:  the database system is starting up", "starting"),
        ('could not translate host name "secret" to address', "leads nowhere"),
        ("something secret", "cannot be reached"),
    ],
)
def test_why_no_connection_came_about(text: str, words: str) -> None:
    """libpq gives no state for that; its words are sorted, not repeated."""
    from klingai_audit.stores.postgres_link import translated

    told = translated(psycopg.OperationalError(text), "postgresql://h/d")
    assert words in told.message
    assert "secret" not in str(told)
    assert "10.0.0.1" not in str(told)
