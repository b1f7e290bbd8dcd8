"""Addresses of what lies on a server: whole for the driver, without secrets for everybody else."""

from __future__ import annotations

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.stores.urls import RemoteUrl


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("postgresql://ann:pw@db.example.com:5432/audit", "postgresql://ann@db.example.com:5432/audit"),
        ("postgres://ann:p%40w@h/audit?sslmode=require", "postgres://ann@h/audit?sslmode=require"),
        ("postgresql://h/audit?user=a&password=pw&sslpassword=pw", "postgresql://h/audit?user=a"),
        ("postgresql://u:pw@h1:1,h2:2/audit", "postgresql://u@h1:1,h2:2/audit"),
        ("postgresql:///audit?host=/run/pg&passfile=/pw", "postgresql:///audit?host=/run/pg"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://pw:pw@bucket/prefix?aws_secret_access_key=pw&aws_session_token=pw", "s3://bucket/prefix"),
        ("az://container/prefix?sig=pw&account_key=pw", "az://container/prefix"),
    ],
)
def test_secrets_are_not_shown(whole: str, shown: str) -> None:
    """Neither text nor repr nor a formatted string holds a password; the driver gets all of it."""
    url = RemoteUrl(whole)
    assert (shown, shown, whole) == (url.shown, f"{url}", url.reveal())
    assert "pw" not in repr(url)


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    """What the parser complains of may be the password itself."""
    with pytest.raises(UsageError) as refused:
        RemoteUrl("postgresql://ann:[pw@h/audit")
    assert "pw" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "whole",
    [
        "postgresql://ann:12/hidden@h/audit",
        "postgresql://ann:no/hidden@h/audit",
        "postgresql://ann:no#hidden@h/audit",
        "postgresql://ann:no?hidden@h/audit",
        "postgresql://ann:no?hidden=1@h/audit",
        "postgresql://ann:no@t/hidden@h/audit",
        "s3://AKIA:no/hidden@bucket/prefix",
        "s3://AKIA:no#hidden@bucket/prefix",
        "s3://AKIA:no?hidden@bucket/prefix",
        "s3://bucket/prefix#hidden",
    ],
)
def test_a_password_that_is_not_escaped_is_not_taken_for_a_place(whole: str) -> None:
    """It would be shown, be part of file names, and stand in entries: refused, and told how it is written."""
    with pytest.raises(UsageError) as refused:
        RemoteUrl(whole)
    assert not any(word in str(refused.value) for word in ("hidden", "AKIA", "ann"))
    assert "%2F" in refused.value.do


@pytest.mark.parametrize(
    "whole",
    [
        "postgresql://ann:p%2Fw%23%3F%40@[::1]:5432,h:,%2Frun%2Fpg/audit?options=-c%20geqo=off",
        "postgresql:///audit?host=@abstract&user=ann@tenant",
        "s3://bucket/team@example.com/a+b",
    ],
)
def test_what_is_escaped_is_a_place(whole: str) -> None:
    """Every other form of the driver's is left to it."""
    assert whole == RemoteUrl(whole).reveal()


def test_one_place_has_one_name() -> None:
    """User, password and options change nothing; another host, database, bucket or prefix does."""
    same = [
        "postgresql://ann:pw@DB.example.com/audit",
        "postgres://ben@db.example.com/audit?sslmode=require",
        "postgresql://db.example.com/audit/",
        "postgresql://db.example.com/audit?schema=klingai_audit",
    ]
    assert 1 == len({RemoteUrl(url).name for url in same})
    other = [
        "postgresql://db.example.com/other",
        "postgresql://db.example.com:5433/audit",
        "postgresql://db.example.com/audit?schema=b",
        "postgresql:///?service=a",
        "postgresql:///?service=b",
        "s3://audit/a",
        "s3://audit/b",
        "s3://audit/a-b",
        "s3://audit/a/b",
        "gs://audit/a",
    ]
    assert len({RemoteUrl(url).name for url in [same[0], *other]}) == 1 + len(other)


def test_a_name_is_a_file_name() -> None:
    """It says what it is for, and has nothing that a file name cannot have."""
    assert "postgresql-db.example.com-5432-audit" == RemoteUrl("postgresql://u@db.example.com:5432/audit").name[:-13]
    assert "s3-bucket-a-b" == RemoteUrl("s3://bucket/a/b").name[:-13] == RemoteUrl("s3://u:pw@bucket/a/b").name[:-13]
    name = RemoteUrl("s3://bucket/" + "x/../" * 100 + "é").name
    assert name.isascii()
    assert "/" not in name
    assert len(name) <= 100


@pytest.mark.parametrize(
    ("whole", "place"),
    [
        ("postgres://ann:pw@db.example.com:5432/audit?sslmode=require", "postgresql://db.example.com:5432/audit"),
        ("postgresql://ann@h/audit?schema=b&user=ann", "postgresql://h/audit?schema=b"),
        ("postgresql:///audit?schema=klingai_audit", "postgresql:///audit"),
        ("s3://bucket/prefix?x=y", "s3://bucket/prefix"),
    ],
)
def test_an_entry_holds_nobodys_name(whole: str, place: str) -> None:
    """Where a log went is told without the login and without options; another schema is another place."""
    assert place == RemoteUrl(whole).place


@pytest.mark.parametrize(
    ("whole", "bucket"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("gs://bucket/a/b/", ("bucket", "a/b")),
        ("az://container/a b", ("container", "a b")),
        ("s3:///a", None),
        ("s3://key:pw@bucket/a", None),
        ("s3://bucket/a?b=c", None),
        ("s3://bucket/a//b", None),
        ("s3://bucket/../b", None),
        ("postgresql://host/a", None),
    ],
)
def test_bucket_and_prefix(whole: str, bucket: tuple[str, str] | None) -> None:
    """In a form that is the same for every client, or none."""
    assert bucket == RemoteUrl(whole).bucket
