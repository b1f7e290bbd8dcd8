"""Whatever happens to a log in eight years, it verifies, proofs hold, holds hold, and what is gone stays gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.remote import URL, serve
from tests.support.years import Years


def live(years: Years, most_days: int) -> Years:
    try:
        while not years.over:
            years.step(most_days)
    except BaseException as exc:
        exc.add_note(", ".join(years.done[-12:]))
        raise
    finally:
        years.close()
    return years


def test_eight_years_in_great_steps(tmp_path):
    """Eight years in some fifteen steps."""
    years = live(Years(tmp_path, 32), 450)
    assert years.model.purged
    assert years.model.erased


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_eight_years(tmp_path, seed):
    """Eight years in some seventy steps."""
    years = live(Years(tmp_path, seed), 90)
    assert years.model.purged
    assert years.model.erased
    assert years.proofs


# --- on servers ------------------------------------------------------------------------------------------------------


def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[], dict]]:
    store = serve(monkeypatch)
    return URL, lambda: {"entries": b"\n".join(store.entries)}


def in_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[], dict]]:
    """All rows of all tables as text; the clock is the test's."""
    from klingai_audit.stores.postgres_commit import PostgresTransaction

    url, server = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres")
    monkeypatch.setattr(PostgresTransaction, "now_ns", lambda self: None)

    def stored() -> Mapping[str, bytes]:
        with server.connect(url) as connection:
            (schema,) = connection.execute(
                "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'purging'"
            ).fetchone()
            lines = connection.execute(f"SELECT line FROM {schema}.entries UNION ALL SELECT line FROM {schema}.purging")
            return {"entries": b"\n".join(bytes(line) for (line,) in lines)}

    return url, stored


def in_objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[], dict]]:
    """All objects below the prefix."""
    from klingai_audit.stores.objects import ObjectStore

    url = request.getfixturevalue("bucket_url")
    bucket = ObjectStore(url).bucket

    def stored() -> Mapping[str, bytes]:
        paths = [listed.path for listed in bucket.listed()]
        return {path: found.data for path in paths if (found := bucket.get(path)) is not None}

    return url, stored


@pytest.mark.slow
@pytest.mark.parametrize("where", [in_memory, in_postgres, in_objects])
def test_eight_years_on_a_server(tmp_path: Path, monkeypatch, request, where):
    """The same of a log that lies on a server: what is purged and erased is gone from there, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    url, stored = where(request, monkeypatch)
    years = live(Years(tmp_path, 32, url, stored), 300)
    assert years.model.purged
    assert years.model.erased
    assert years.proofs
