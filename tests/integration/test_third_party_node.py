"""An npm client of others, unmodified, against the simulator: it works, and what the log learns of it from outside."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.kling import KlingAI
from klingai_audit.kling.simulator import DEFAULT_API_KEY
from tests.support.others import FILMS, PROMPT, make_stage, need_node, told

pytestmark = pytest.mark.slow

CREATE = "POST /v1/videos/text2video"
FILM = ["video", "text2video", "--prompt", PROMPT, "--model", "kling-v2-6", "--wait"]
ENDED = ("video_generation_completed", "success")


@pytest.fixture
def stage(tmp_path):
    """Give a simulator that stands in for Kling; the client asks every 3 s."""
    need_node()
    with make_stage(tmp_path, speed=20) as made:
        yield made


def made(stage, form):
    """Return the files that the client has saved."""
    return sorted((stage.folder / "out").glob(f"*/*.{form}"))


def charged(entries):
    """Return what the log says was charged, by task."""
    return {
        entry["resource_id"]: Decimal(charge["amount"])
        for entry in entries
        for charge in entry["metadata"].get("charge", ())
    }


@contextmanager
def receiver(audit, client):
    """Answer callbacks as an application does that hands them to the log; gives address and verdicts."""
    verdicts = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            with acting("callbacks", actor_type="service"):
                callback = audit.webhook(self.headers, body, client=client)
            verdicts.append((callback.verdict, callback.status))
            self.send_response(callback.http_status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/kling", verdicts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_kling_api_makes_a_film(stage):
    """Order, polls and the film from another host, all over https as Kling itself, and every reply understood."""
    done = stage.kling(*FILM)
    assert (0, True) == (done.returncode, "Video generation completed!" in done.stdout)
    (task,) = stage.sim.tasks
    poll = f"GET /v1/videos/text2video/{task.task_id}"
    polls = stage.asked().count(poll)
    assert polls in (1, 2)  # one, if the machine slept through the rendering
    assert [CREATE, *[poll] * polls] == stage.asked()[: polls + 1]
    films = [asked.route.rpartition("/")[0] for asked in stage.sim.requests[polls + 1 :]]
    assert [f"/media/{task.task_id}"] == films
    assert {200} == {asked.status for asked in stage.sim.requests}
    assert {"api-singapore.klingai.com", FILMS} == {asked.headers["host"] for asked in stage.sim.requests}
    (film,) = made(stage, "mp4")
    assert b"ftyp" == film.read_bytes()[4:8]


def test_kling_api_makes_pictures(stage):
    """Two images of one order, which it checks to be images, and the quota."""
    done = stage.kling("image", "generate", "--prompt", PROMPT, "--model", "kling-v2-1", "--count", "2", "--wait")
    assert (0, 2) == (done.returncode, len(made(stage, "png")))
    quota = stage.kling("account", "info")
    assert (0, True) == (quota.returncode, "Package: " in quota.stdout)


def test_kling_api_understands_refusals(stage):
    """The provider's words reach its user: a refused prompt, a film that fails, a key that is wrong."""
    refused = stage.kling("video", "text2video", "--prompt", "forbidden", "--wait")
    assert (1, True) == (refused.returncode, "risk control" in refused.stdout + refused.stderr)
    failed = stage.kling("video", "text2video", "--prompt", "doomed", "--wait")
    assert (1, 1) == (failed.returncode, len(stage.sim.tasks))
    stage.sim.credentials.access_keys.clear()
    assert 1 == stage.kling("account", "info").returncode
    assert 401 == stage.sim.requests[-1].status


def test_callbacks_tell_of_it(stage):
    """Nothing of it is captured, but the callbacks it asks for are: its end and its charge are in the log, once."""
    with (
        AuditLog.open(stage.log) as audit,
        KlingAI(audit=audit, api_key=DEFAULT_API_KEY, base_url=stage.server.base_url) as kling,
        receiver(audit, kling) as (address, verdicts),
    ):
        assert 0 == stage.kling(*FILM, "--callback-url", address).returncode
    assert [("claim", "processing"), ("confirmed", "succeeded")] == verdicts
    entries = stage.entries()
    (task,) = stage.sim.tasks
    assert [ENDED] == [one for one in told(entries) if one[0] != "task_status_changed"]
    assert {task.task_id: task.charge} == charged(entries)
    assert [] == stage.leaks()


def test_an_order_sent_twice_is_found_by_listing(stage):
    """It sends an order again whose 502 came after acceptance: two films are charged, and a list shows both."""
    stage.sim.fail_next("POST", "/v1/videos/*", status=502, after_accept=True)
    assert 0 == stage.kling(*FILM).returncode
    assert [CREATE] * 2 == stage.asked()[:2]
    assert (2, 1) == (len(stage.sim.tasks), len(made(stage, "mp4")))
    with (
        AuditLog.open(stage.log) as audit,
        KlingAI(audit=audit, api_key=DEFAULT_API_KEY, base_url=stage.server.base_url) as kling,
        acting("reader", actor_type="service"),
    ):
        assert 2 == len(list(kling.tasks()))
    entries = stage.entries()
    assert {task.task_id: task.charge for task in stage.sim.tasks} == charged(entries)
    assert [] == [entry for entry in entries if entry["event_type"] == "prompt_submitted"]
    assert [] == [json.dumps(entry) for entry in entries if "Wombat" in json.dumps(entry)]
