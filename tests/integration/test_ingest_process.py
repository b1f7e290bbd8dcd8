"""`ingest` as a process of its own: what it acknowledged is in the log, however it ends; clients of other makers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.ingest.openapi import EVENTS_PATH
from klingai_audit.ingest.wire import CLOUDEVENT, CLOUDEVENTS, JSON, JSON_LINES
from klingai_audit.kling.simulator.tls import ServerCertificate
from klingai_audit.log import AuditLog
from klingai_audit.operation.listening import bind
from tests.support.ingesting import FARM, IDS, LOG, PRODUCERS, Client, digest, lines
from tests.support.receivers import wait_until

pytestmark = pytest.mark.slow

EVENT = {"event_type": "x_a", "actor_id": "someone@studio.example"}


class Process:
    """`klingai-audit ingest` over the log in a folder."""

    def __init__(self, folder: Path, *options: str, listen: str = "127.0.0.1:0") -> None:
        if not (folder / "audit").exists():
            AuditLog.open(folder / "audit").close()
            (folder / "producers.toml").write_text(PRODUCERS)
        argv = ["ingest", "--log", str(folder / "audit"), "--producers", str(folder / "producers.toml")]
        self._errors = (folder / "stderr").open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "klingai_audit.cli", *argv, "--listen", listen, "--json", *options],
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self.child.stdout is not None
        self.told = json.loads(self.child.stdout.readline())
        self.url: str = self.told["url"]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.child.send_signal(number)
        try:
            return self.child.wait(60)
        finally:
            self.child.kill()
            self.child.wait()
            assert self.child.stdout is not None
            self.child.stdout.close()
            self._errors.close()


@contextlib.contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    made = Process(folder, *options)
    try:
        yield made
    finally:
        if made.child.poll() is None:
            made.end()


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the entries under the checkpoint."""
    return [json.loads(line) for line in open_reader(Places.resolve(folder / "audit")).entries()]


class Sender(threading.Thread):
    """Sends batches, each again and again with its ids until it is acknowledged or nobody is to be reached any more."""

    def __init__(self, places: list[str], stop: threading.Event, *, stubborn: bool) -> None:
        super().__init__(daemon=True)
        self._places = places
        self._stop_it = stop
        self._stubborn = stubborn
        self.receipts: dict[str, int] = {}
        self.statuses: Counter[int] = Counter()
        self.lost = 0

    def run(self) -> None:
        with httpx2.Client(trust_env=False, timeout=30, verify=False) as http:
            while not self._stop_it.is_set():
                self._send(http, [str(uuid.uuid4()) for _ in range(20)])

    def _send(self, http: httpx2.Client, ids: list[str]) -> None:
        body = lines(*({**EVENT, "event_id": one, "metadata": {"prompt": f"a lake {one}"}} for one in ids))
        headers = {"authorization": f"Bearer {FARM}", "content-type": "application/x-ndjson"}
        while True:
            try:
                response = http.post(self._places[-1] + EVENTS_PATH, content=body, headers=headers)
            except httpx2.TransportError:
                self.lost += 1
                if not self._stubborn:
                    return
                time.sleep(0.05)
                continue
            self.statuses[response.status_code] += 1
            if response.status_code == 200:
                self.receipts |= {one["event_id"]: one["seq"] for one in response.json()["receipts"]}
                return
            time.sleep(0.05)


def senders(places: list[str], stop: threading.Event, *, stubborn: bool, count: int = 6) -> list[Sender]:
    made = [Sender(places, stop, stubborn=stubborn) for _ in range(count)]
    for one in made:
        one.start()
    return made


def acknowledged(made: list[Sender]) -> dict[str, int]:
    return {event_id: seq for one in made for event_id, seq in dict(one.receipts).items()}


def _at_work(clients: list[Sender]) -> None:
    """Return a while after the present server has acknowledged something."""
    before = len(acknowledged(clients))
    wait_until(lambda: len(acknowledged(clients)) > before + 40)
    time.sleep(1)


def test_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    """Requests under way are answered; the rest are refused by the socket; the log is closed; nothing is lost."""
    with process(tmp_path) as made:
        stop = threading.Event()
        clients = senders([made.url], stop, stubborn=False)
        wait_until(lambda: len(acknowledged(clients)) > 100)
        time.sleep(1)
        code = made.end(signal.SIGTERM)
        stop.set()
        for one in clients:
            one.join(30)
    assert 0 == code
    assert {200} == set().union(*(one.statuses for one in clients))
    entries = stored(tmp_path)
    seqs = {one["event_id"]: one["seq"] for one in entries}
    receipts = acknowledged(clients)
    assert len(receipts) > 100
    assert receipts == {event_id: seqs.get(event_id) for event_id in receipts}
    assert "log_closed" == entries[-1]["event_type"]
    assert 0 == run(["verify", "--log", str(tmp_path / "audit"), "--json"])


def test_a_signal_while_it_opens_ends_it_too(tmp_path: Path) -> None:
    """The log is open, nobody is served yet: SIGTERM is not forgotten, and the log is closed."""
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "producers.toml").write_text(PRODUCERS)
    argv = ["ingest", "--log", str(tmp_path / "audit"), "--producers", str(tmp_path / "producers.toml")]
    with (
        (tmp_path / "stdout").open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "klingai_audit.cli", *argv, "--listen", "127.0.0.1:0", "--log-level", "info"],
            stdout=out,
            stderr=subprocess.PIPE,
        ) as child,
    ):
        try:
            assert child.stderr is not None
            while b"log_opened" not in child.stderr.readline():
                assert child.poll() is None
            child.send_signal(signal.SIGTERM)
            assert 0 == child.wait(60)
        finally:
            child.kill()
    assert "log_closed" == stored(tmp_path)[-1]["event_type"]


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed four times under load and started anew; clients send again what was not answered: each event once."""
    stop = threading.Event()
    first = Process(tmp_path)
    places = [first.url]
    clients = senders(places, stop, stubborn=True)
    current = first
    for _ in range(4):
        _at_work(clients)
        current.child.kill()
        current.end()
        current = Process(tmp_path)
        places.append(current.url)
    _at_work(clients)
    stop.set()
    for one in clients:
        one.join(60)
    assert 0 == current.end()
    entries = stored(tmp_path)
    counts = Counter(one["event_id"] for one in entries)
    seqs = {one["event_id"]: one["seq"] for one in entries}
    receipts = acknowledged(clients)
    assert sum(one.lost for one in clients) > 0
    assert len(receipts) > 200
    assert receipts == {event_id: seqs.get(event_id) for event_id in receipts}
    assert {1} == {counts[event_id] for event_id in receipts}
    sent = [one for one in entries if one["event_type"] == "x_a"]
    assert len(sent) == len({one["event_id"] for one in sent})
    assert 0 == run(["verify", "--log", str(tmp_path / "audit"), "--json"])


def test_nothing_is_told_of_what_was_sent(tmp_path: Path) -> None:
    """Standard error has statuses and names of producers, at the most talkative level, and no content or token."""
    planted = "wombat-7731"
    with process(tmp_path, "--log-level", "debug") as made:
        client = Client(made.url)
        event = {**EVENT, "event_id": IDS[0], "metadata": {"prompt": planted, "note": planted}}
        client.send(event)
        client.send({**event, "team": planted}, status=409)
        client.send({**event, "event_type": planted}, status=403)
        client.send({**event, planted: 1}, status=422)
        client.post(planted.encode(), "application/json")
        client.post(b"", path=EVENTS_PATH + "?wait=" + planted)
        Client(made.url, planted).post(lines(event))
        client.http.get(f"/{planted}")
        assert 0 == made.end()
    told = (tmp_path / "stderr").read_text()
    assert "ingest_refused" in told
    assert "status=409 kind=event_id_reused producer=render-farm" in told
    assert [] == [word for word in (planted, FARM, "studio.example", "127.0.0.1") if word in told]


def test_only_one_at_a_time(tmp_path: Path) -> None:
    """A second endpoint with the same state folder ends with exit code 3; usage mistakes with 2."""
    with process(tmp_path):
        argv = ["ingest", "--log", str(tmp_path / "audit"), "--producers", str(tmp_path / "producers.toml")]
        assert 3 == run([*argv, "--listen", "127.0.0.1:0"])
    assert 2 == run(argv[:3])
    assert 2 == run([*argv, "--max-events", "0"])
    assert 2 == run([*argv, "--max-waiting", "10000"])
    assert 2 == run([*argv[:3], "--producers", str(tmp_path / "none.toml"), "--listen", "127.0.0.1:0"])
    assert 2 == run([*argv, "--listen", "here"])
    assert 3 == run(["ingest", "--log", str(tmp_path / "none"), *argv[3:], "--listen", "127.0.0.1:0"])


def test_a_port_that_is_taken_leaves_no_entry(tmp_path: Path) -> None:
    """A service manager tries again every few seconds; the log is not opened for that."""
    AuditLog.open(tmp_path / "audit").close()
    before = stored(tmp_path)
    argv = ["ingest", "--log", str(tmp_path / "audit"), "--producers", str(tmp_path / "producers.toml")]
    with bind("127.0.0.1:0") as taken:
        assert 3 == run([*argv, "--listen", "{}:{}".format(*taken.getsockname())])
    assert before == stored(tmp_path)


def test_metrics_count_requests(tmp_path: Path) -> None:
    """By route and status, beside the numbers of the writer."""
    with process(tmp_path, "--metrics", "127.0.0.1:0", "--log-level", "info") as made:
        Client(made.url).send(EVENT)
        Client(made.url, None).post(b"")
        words = (tmp_path / "stderr").read_text().split()
        (place,) = {json.loads(word)["metrics"] for word in words if word.startswith('{"metrics"')}
        counted = 'klingai_audit_http_requests_total{{route="/v1/events",status="{}"}} 1.0'.format
        for status in (200, 401):  # counted once it is answered
            wait_until(lambda status=status: counted(status) in httpx2.get(place, trust_env=False).text, 20)


def test_a_token_made_by_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`ingest-token` prints it once with the table for the file; names that would not do are refused."""
    assert 0 == run(["ingest-token", "storyboard", "--json"])
    made = json.loads(capfd.readouterr().out)
    assert digest(made["token"]) == made["sha256"]
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "producers.toml").write_text(made["toml"])
    with process(tmp_path) as server:
        assert ["storyboard"] == server.told["producers"]
        Client(server.url, made["token"]).send({"event_type": "x_a"})
    assert 0 == run(["ingest-token", "storyboard"])
    assert "[producers.storyboard]" in capfd.readouterr().out
    assert 2 == run(["ingest-token", "Not A Name"])


def test_curl_over_tls(tmp_path: Path) -> None:
    """curl trusts the authority, sends packed lines and gets receipts; without the authority it sends nothing."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    certificate = ServerCertificate()
    pem = Path(certificate.ca_file).with_name("server.pem")
    try:
        with process(tmp_path, "--certificate", str(pem), "--private-key", str(pem)) as made:
            assert made.url.startswith("https://")
            (tmp_path / "events").write_bytes(lines({**EVENT, "event_id": IDS[0]}, EVENT))
            subprocess.run(["gzip", tmp_path / "events"], check=True)
            head = ["-H", f"Authorization: Bearer {FARM}", "-H", "Content-Type: application/x-ndjson"]
            argv = ["curl", "-sf", *head, "-H", "Content-Encoding: gzip", "--data-binary", f"@{tmp_path}/events.gz"]
            done = subprocess.run(
                [*argv, "--cacert", certificate.ca_file, made.url + EVENTS_PATH], capture_output=True, check=True
            )
            assert 60 == subprocess.run([*argv, made.url + EVENTS_PATH], check=False).returncode
    finally:
        certificate.close()
    assert [IDS[0]] == [one["event_id"] for one in json.loads(done.stdout)["receipts"]][:1]
    assert 2 == sum(one["event_type"] == "x_a" for one in stored(tmp_path))


NODE = """
const [url, token] = process.argv.slice(2);
const ids = Array.from({ length: 50 }, (_, n) => `0199b2c4-5d6e-7f80-9a1c-${n.toString(16).padStart(12, "0")}`);
const post = (events) => fetch(`${url}/v1/events?wait=published`, {
  method: "POST",
  headers: { authorization: `Bearer ${token}`, "content-type": "application/x-ndjson" },
  body: events.map((event) => JSON.stringify(event) + "\\n").join(""),
});
const metadata = { "é": "ü 映像" };
const event = (event_id) => ({ event_type: "x_render_done", event_id, actor_id: "render-7", metadata });
const answers = await Promise.all([...Array(10).keys()].map((n) => post(ids.slice(n * 5, n * 5 + 10).map(event))));
const receipts = (await Promise.all(answers.map((answer) => answer.json()))).flatMap((answer) => answer.receipts);
const bad = await post([{ event_type: "user_added", actor_id: "boss" }]);
console.log(JSON.stringify({
  statuses: [...new Set(answers.map((answer) => answer.status))],
  events: new Set(receipts.map((one) => `${one.event_id} ${one.seq}`)).size,
  proofs: receipts.every((one) => one.proof.startsWith("c2sp.org/tlog-proof@v1\\n")),
  bad: [bad.status, bad.headers.get("content-type"), (await bad.json()).kind],
}));
"""


def test_a_program_in_node(tmp_path: Path) -> None:
    """`fetch` with overlapping batches at once: fifty events, one place for each."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (tmp_path / "send.mjs").write_text(NODE)
    with process(tmp_path) as made:
        argv = ["node", tmp_path / "send.mjs", made.url, FARM]
        done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
    bad = [403, "application/problem+json", "claim_not_allowed"]
    assert {"statuses": [200], "events": 50, "proofs": True, "bad": bad} == json.loads(done.stdout)
    assert 50 == sum(one["event_type"] == "x_render_done" for one in stored(tmp_path))


def test_check_accepts_the_proofs(tmp_path: Path) -> None:
    """A receipt's proof as a file, with the log's public key: exit 0; with a changed byte: 4."""
    with process(tmp_path) as made:
        (receipt,) = Client(made.url).send(EVENT, query="?wait=published")["receipts"]
    path, key = tmp_path / "entry.tlog-proof", str(tmp_path / "audit.keys" / "log.pub")
    path.write_text(receipt["proof"])
    assert 0 == run(["check", str(path), "--key", key])
    path.write_text(receipt["proof"].replace(f"index {receipt['seq']}", f"index {receipt['seq'] - 1}"))
    assert 4 == run(["check", str(path), "--key", key])


def test_the_endpoint_is_as_described(tmp_path: Path, repository: Path) -> None:
    """schemathesis makes hundreds of requests from the served document and compares every answer with it.

    One of its checks is left out: that what fits the document is taken. JSON Schema cannot say all there is to say,
    such as that two ids are the same. It makes the same requests each time.
    """
    pytest.importorskip("schemathesis", reason="make test-all installs schemathesis")
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "producers.toml").write_text(PRODUCERS + 'actor = "fuzz"\n')
    with process(tmp_path) as made:
        argv = [sys.executable, "-m", "schemathesis.cli", "run", made.url + "/openapi.json"]
        options = ["--header", f"Authorization: Bearer {LOG}", "--generation-deterministic", "--max-examples", "100"]
        options += [
            "--exclude-checks",
            "positive_data_acceptance",
            "--report",
            "har",
            "--report-dir",
            tmp_path / "told",
        ]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(repository)}
        done = subprocess.run(
            [*argv, *options], env={**os.environ, **hooks}, cwd=tmp_path, capture_output=True, timeout=540, check=False
        )
    assert 0 == done.returncode, done.stdout.decode()
    (report,) = (tmp_path / "told").glob("har-*.json")
    tried: Counter[tuple[str, int]] = Counter()
    for one in json.loads(report.read_text())["log"]["entries"]:
        kinds = [head["value"] for head in one["request"]["headers"] if head["name"].lower() == "content-type"]
        tried[kinds[0] if kinds else "", one["response"]["status"]] += 1
    for kind in (JSON_LINES, JSON, CLOUDEVENT, CLOUDEVENTS):
        assert {200, 422} <= {status for media, status in tried if media == kind}, kind
    assert all(status < 500 for _media, status in tried)
    assert 0 == run(["verify", "--log", str(tmp_path / "audit"), "--json"])
