"""`simulate` through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest


def start(*argv):
    command = [sys.executable, "-m", "klingai_audit.cli", "simulate", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ask(base_url, key):
    """The business code that a query of one task gets."""
    request = urllib.request.Request(f"{base_url}/tasks?task_ids=1", headers={"authorization": f"Bearer {key}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as reply:
            return json.load(reply)["code"]
    except urllib.error.HTTPError as exc:
        with exc:
            return json.load(exc)["code"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(how):
    """Base URL and documented credentials as one object, then service, then a quiet end."""
    process = start("--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    try:
        assert {
            "base_url": told["base_url"],
            "api_key": "sim-api-key",
            "access_key": "sim-access-key",
            "secret_key": "sim-secret-key-0123456789abcdef0123",
        } == told
        assert told["base_url"].startswith("http://localhost:")
        assert (0, 1002) == (ask(told["base_url"], "sim-api-key"), ask(told["base_url"], "wrong"))
    finally:
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert (0, b"", b"") == (process.returncode, out, err)


def test_people_get_lines_to_paste():
    """Given credentials are accepted, and the environment is printed as exports."""
    process = start("--api-key", "mine", "--speed", "100")
    assert process.stdout is not None
    process.stdout.readline()
    exports = dict(process.stdout.readline().decode().split()[1].split("=", 1) for _ in range(4))
    try:
        assert "mine" == exports["KLINGAI_API_KEY"]
        assert (0, 1002) == (ask(exports["KLINGAI_BASE_URL"], "mine"), ask(exports["KLINGAI_BASE_URL"], "sim-api-key"))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_port_in_use_is_one_sentence():
    """Exit 2 and what to do, no traceback."""
    first = start("--json")
    assert first.stdout is not None
    port = json.loads(first.stdout.readline())["base_url"].rpartition(":")[2]
    second = start("--json", "--port", port)
    out, err = second.communicate(timeout=30)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert (2, b"", "UsageError") == (second.returncode, out, json.loads(err)["error"]["kind"])
