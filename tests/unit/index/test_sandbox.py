"""SQL of users: what is answered, what is refused, and that nothing gets out, however it is asked for."""

from __future__ import annotations

import datetime as dt
import re
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from klingai_audit.errors import StorageError, UsageError
from klingai_audit.index import Index, Table, rules, sandbox
from klingai_audit.index.engine import connect
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from tests.unit.views.lines import NOW, line, pseudonym


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Three entries."""
    store = MemoryStore()
    charge = [{"charge_type": "unit", "amount": "1.5", "package_type": "video"}]
    store.entries = [
        line(0, team="a"),
        line(1, event_type="video_generation_completed", resource_id="831", team="b", metadata={"charge": charge}),
        line(2, team="b", outcome="failure"),
    ]
    with Index.open(LogReader(store), tmp_path_factory.mktemp("sql")) as made:
        yield made


def refused(log: Index, text: str, **limits: float) -> str:
    with pytest.raises(UsageError) as caught:
        log.sql(text, **limits)
    assert 2 == caught.value.exit_code
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- answers ------------------------------------------------------------------------------------------


def test_an_answer_has_names_types_and_values(log):
    """Columns, DuckDB types and rows of Python values; times in UTC, decimals exact."""
    text = (
        "SELECT team, count(*) AS n, sum(units) AS units, max(timestamp) AS last FROM events GROUP BY team ORDER BY 1"
    )
    rows = [("a", 1, None, NOW), ("b", 2, Decimal("1.5"), NOW)]
    expected = Table(("team", "n", "units", "last"), ("VARCHAR", "BIGINT", "DECIMAL(38,9)", "TIMESTAMP"), rows)
    assert expected == log.sql(text)


VALUES = [
    ("SELECT 170141183460469231731687303715884105727", 2**127 - 1),
    ("SELECT -9223372036854775808", -(2**63)),
    ("SELECT 0.1::DOUBLE", 0.1),
    ("SELECT DATE '2026-11-21'", dt.date(2026, 11, 21)),
    ("SELECT TIMESTAMP '2026-11-21 01:02:03.000004'", dt.datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=dt.UTC)),
    ("SELECT INTERVAL 36 HOUR", dt.timedelta(hours=36)),
    ("SELECT TIME '01:02:03'", "01:02:03"),
    ("SELECT '\\xAA'::BLOB", b"\xaa"),
    ("SELECT [1, NULL]", [1, None]),
    ("SELECT {'a': 1.5, 'b': [DATE '2026-11-21']}", {"a": Decimal("1.5"), "b": [dt.date(2026, 11, 21)]}),
    ("SELECT 'a\0b😀'", "a\0b😀"),
    ("SELECT TRUE", True),
    ("SELECT charges[1].amount FROM events WHERE charges IS NOT NULL", Decimal("1.5")),
    ("SELECT metadata->'$.charge[0].amount' FROM events WHERE seq = 1", '"1.5"'),
    ("SELECT count(*) FROM (SELECT * FROM events WHERE first)", 3),
    ("WITH busy AS (SELECT team FROM events) SELECT count(*) FROM busy b JOIN events e USING (team)", 5),
    ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT sum(i) FROM n", 10),
    ("SELECT count(*) FROM generate_series(1, 3), unnest([1, 2])", 6),
    ("FROM events SELECT count(*)", 3),
    ("VALUES (7)", 7),
    ("SELECT row_number() OVER (ORDER BY seq) FROM events LIMIT 1", 1),
    ("SELECT count(*) FROM events WHERE team ILIKE 'B' AND timestamp BETWEEN '2026-11-01' AND '2026-12-01'", 2),
    ("SELECT date_trunc('day', timestamp) FROM events LIMIT 1", dt.datetime(2026, 11, 21, tzinfo=dt.UTC)),
    ("SELECT strftime(timestamp, '%Y-%m') FROM events LIMIT 1; -- a remark", "2026-11"),
    ("SELECT CASE WHEN TRUE THEN coalesce(NULL, try_cast('x' AS INTEGER), 4) END", 4),
    ("SELECT string_agg(team, ',' ORDER BY seq) FROM events", "a,b,b"),
    ("SELECT list_transform([1, 2], lambda x: x * 2)[2]", 4),
    ("SELECT quantile_cont(seq, 0.5) FROM events", 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values_of_every_kind_come_back(log, text, value):
    """What people use is allowed, and comes back as the Python value that it is."""
    assert value == log.sql(text).rows[0][0]


def test_many_values_come_back_at_once(log):
    """The same, of what stands in one row."""
    chosen = [(text, value) for text, value in VALUES if text.startswith("SELECT") and " FROM " not in text]
    found = log.sql(f"SELECT {', '.join(text.removeprefix('SELECT ') for text, _ in chosen)}").rows
    assert [tuple(value for _, value in chosen)] == found


def test_people_are_pseudonyms(log):
    """No column holds a raw id."""
    assert {pseudonym(1)} == {row[0] for row in log.sql("SELECT actor_id FROM events").rows}


def test_the_row_limit_says_that_there_is_more(log):
    """As many rows as asked for, and whether others were left out."""
    assert [(2, True), (3, False)] == [
        (len(found.rows), found.more) for found in (log.sql("FROM events", limit=n) for n in (2, 3))
    ]


# --- refused ------------------------------------------------------------------------------------------

FILES = [
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'x.parquet'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/*')",
    "SELECT * FROM read_parquet('/tmp/*.parquet')",
    "SELECT * FROM parquet_scan('x')",
    "SELECT * FROM parquet_metadata('x')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "WITH x AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
    "SELECT * FROM events WHERE seq IN (SELECT 1 FROM glob('/*'))",
    "SELECT * FROM events, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "SELECT count(*) FILTER (WHERE EXISTS (FROM glob('/*'))) FROM events",
    "SELECT list_transform([1], lambda x: getenv('HOME'))",
    "SELECT * FROM events ORDER BY (SELECT 1 FROM glob('/*'))",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('events')",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT * FROM read_duckdb('x')",
    "SELECT * FROM 'https://example.com/x.parquet'",
]
SETTINGS = [
    "SELECT getenv('HOME')",
    "SELECT current_setting('allowed_paths')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM pragma_table_info('events')",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM memory.main.events",
    "SELECT current_database()",
    "SELECT getvariable('x')",
    "SELECT pg_get_viewdef(1)",
    "SELECT parse_duckdb_log_message('QueryLog', 'x')",
    "SELECT write_log('x')",
    "SELECT nextval('x')",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "DESCRIBE events",
    "SUMMARIZE events",
    "WITH sqlite_master AS (SELECT * FROM sqlite_master) SELECT * FROM sqlite_master",
    "WITH a AS (SELECT * FROM sqlite_master), sqlite_master AS (SELECT 1) SELECT * FROM a",
    "SELECT * FROM (WITH sqlite_master AS (SELECT 1) FROM sqlite_master), (FROM sqlite_master)",
    "SELECT * FROM (WITH duckdb_views AS (SELECT 1) FROM duckdb_views), (FROM duckdb_views)",
    "SELECT * FROM (WITH pg_views AS (SELECT 1) FROM pg_views), (FROM pg_views)",
    "WITH events AS (SELECT 1) SELECT * FROM events",
    'WITH "/etc/passwd" AS (SELECT 1) SELECT * FROM "/etc/passwd"',
]
STATEMENTS = [
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW events",
    "COPY events TO '/tmp/x.csv'",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "EXPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "PRAGMA enable_external_access = true",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET VARIABLE x = 1",
    "CREATE TABLE x AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "DROP VIEW events",
    "INSERT INTO events VALUES (1)",
    "UPDATE events SET seq = 1",
    "DELETE FROM events",
    "WITH x AS (DELETE FROM events RETURNING *) SELECT * FROM x",
    "CALL pragma_version()",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "VACUUM",
    "CHECKPOINT",
    "BEGIN",
    "USE memory",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "SELECT ?",
    "SELECT $1",
    "PIVOT events ON team",
]
BROKEN = [
    "SELEC 1",
    "SELECT nope FROM events",
    "SELECT * FROM nowhere",
    "SELECT no_such_function(1)",
    "SELECT sum(team) FROM events",
    "SELECT event_type::INTEGER FROM events",
    "SELECT DATE '2026-99-01'",
    "SELECT timestamp + 'x' FROM events",
    "SELECT * FROM events WHERE timestamp > '2026-99-01'",
    "SELECT (" * 3000 + "1" + ")" * 3000,
    "SELECT * FROM events GROUP BY",
    "SELECT 'unfinished",
    "\0",
    "SELECT 1 /* " + "x" * 100_000,
    "\ud800",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*FILES, *SETTINGS, *STATEMENTS, *BROKEN])
def test_everything_else_is_refused_in_a_sentence(log, text):
    """Files, settings, catalogues, other statements, nonsense: one sentence, exit 2, and nothing of what was sought."""
    told = refused(log, text)
    assert not re.search(r"root:|/home|allowed_|Traceback|memory\.main", told)


@pytest.mark.parametrize("text", [FILES[0], FILES[3], SETTINGS[1], STATEMENTS[3], STATEMENTS[5], BROKEN[1]])
def test_the_worst_is_refused(log, text):
    """One of each kind, in every run."""
    assert refused(log, text)


def test_an_unknown_column_names_its_neighbours(log):
    """A typing error is told with what might have been meant."""
    assert '"outcome"' in refused(log, "SELECT outcom FROM events")


def test_functions_of_the_list_exist_and_compute_only(log):
    """What is allowed is known to the engine, and none of it reads settings, files or the clockwork of the engine."""
    with connect() as engine:
        known = {row[0].lower() for row in engine.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    forms = {"and", "or", "not", "in", "is", "between", "cast", "try_cast", "case", "coalesce", "<>", "grouping",
             "grouping_id", "ifnull", "negate", "current_timestamp", "!", "->"}  # fmt: skip
    assert set() == set(rules.FUNCTIONS) - known - forms
    reach = re.compile(
        r"read_|glob|getenv|setting|secret|pragma|duckdb_|pg_|sql|query|variable|log$|sleep|nextval|which_"
    )
    allowed = {"damerau_levenshtein"}
    assert set() == {name for name in rules.FUNCTIONS if reach.search(name)} - allowed - {"log"}


# --- limits -------------------------------------------------------------------------------------------

ENDLESS = [
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
    "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = -1",
    "SELECT sum((SELECT sum(x.i) FROM range(10000000) x(i) WHERE x.i > t.i)) FROM range(100000) t(i)",
]
GREEDY = [
    "WITH RECURSIVE t(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
    "SELECT len(list(i)) FROM range(1000000000) t(i)",
    "SELECT list_sum(list_transform(range(1000000000), lambda x: x * 2))",
    "SELECT len(range(3000000000))",
    "SELECT string_agg(i::VARCHAR, ',') FROM range(1000000000) t(i)",
    "SELECT len("
    + "replace(" * 5
    + "'a', 'a', repeated), 'b', repeated), 'c', repeated), 'd', repeated), 'e', repeated)) FROM"
    " (SELECT string_agg('abcde', '') AS repeated FROM range(40))",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", ENDLESS)
def test_an_endless_query_ends(log, text, monkeypatch):
    """What never comes to an end is ended in its own process, within the time and a little."""
    monkeypatch.setattr(sandbox, "_START_S", 300.0)
    begun = time.monotonic()
    told = refused(log, text, seconds=1)
    assert ("ended" in told, time.monotonic() - begun < 60) == (True, True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the system does not limit address space")
@pytest.mark.parametrize("text", GREEDY)
def test_a_greedy_query_ends(log, text):
    """What wants more memory than it may have is ended, and this process does not notice."""
    assert "ended" in refused(log, text, seconds=20, memory=128 << 20)


@pytest.mark.slow
def test_a_huge_answer_is_refused(log):
    """An answer that would fill this process is not taken."""
    told = refused(log, "SELECT repeat_me FROM (SELECT string_agg(i::VARCHAR) AS repeat_me FROM range(9000000) t(i)),"
                   " range(100)", limit=100)  # fmt: skip
    assert "memory" in told


@pytest.mark.parametrize("limits", [{"limit": 0}, {"seconds": 0}, {"memory": 1}])
def test_limits_that_leave_nothing_are_refused(log, limits):
    """No row, no time, no memory: a sentence."""
    assert "limit" in refused(log, "SELECT 1", **limits)


def test_a_child_that_never_began_is_not_blamed_on_the_query(log, monkeypatch, tmp_path):
    """Where no process can answer, that is told as a failure of this machine."""
    (tmp_path / "child.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(sandbox, "_CHILD", tmp_path / "child.py")
    with pytest.raises(StorageError):
        log.sql("SELECT 1")
    monkeypatch.setattr(sandbox.sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError):
        log.sql("SELECT 1")


def test_the_child_sees_neither_secrets_nor_a_writable_disk(log, monkeypatch, tmp_path):
    """The process in which SQL runs gets no variable of ours, and may not make a file grow."""
    seen: dict[str, object] = {}
    real = sandbox.subprocess.run

    def spy(command, **options):
        seen.update(options)
        return real(command, **options)

    monkeypatch.setenv("KLINGAI_API_KEY", "not-to-be-seen")
    monkeypatch.setattr(sandbox.subprocess, "run", spy)
    assert [(3,)] == log.sql("SELECT count(*) FROM events").rows
    assert "KLINGAI_API_KEY" not in seen["env"]
    script = Path(sandbox.__file__).with_name("child.py").read_text()
    assert "(resource.RLIMIT_FSIZE, 0)" in script


def test_an_index_beyond_the_working_folder_is_read(log, monkeypatch, tmp_path):
    """The answer does not depend on where this process stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "duckdb.py").write_text("raise SystemExit('planted')")
    assert [(3,)] == log.sql("SELECT count(*) FROM events").rows
    assert str(tmp_path) == str(Path.cwd())
