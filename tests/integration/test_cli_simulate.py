"""`simulate` through the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from klingai_audit.cli.simulating import TRUST


def start(*argv):
    command = [sys.executable, "-m", "klingai_audit.cli", "simulate", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ask(base_url, key):
    """The business code that a query of one task gets."""
    request = urllib.request.Request(f"{base_url}/tasks?task_ids=1", headers={"authorization": f"Bearer {key}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as reply:
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
        out, err = process.communicate(timeout=120)
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
        process.communicate(timeout=120)


def test_a_port_in_use_is_one_sentence():
    """Exit 2 and what to do, no traceback."""
    first = start("--json")
    assert first.stdout is not None
    port = json.loads(first.stdout.readline())["base_url"].rpartition(":")[2]
    second = start("--json", "--port", port)
    out, err = second.communicate(timeout=120)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=120)
    assert (2, b"", "UsageError") == (second.returncode, out, json.loads(err)["error"]["kind"])


ASK = "/tasks?task_ids=1"
CLIENTS = {
    "KlingAI": """
from klingai_audit import AuditLog, acting
from klingai_audit.kling import KlingAI
with AuditLog.open("memory:") as audit, KlingAI(audit=audit) as kling, acting("user@example.com"):
    print(kling.text_to_video("a lake").status)
""",
    "httpx2": "import httpx2\nprint(httpx2.get(address).status_code)",
    "httpx": "import httpx\nprint(httpx.get(address).status_code)",
    "requests": "import requests\nprint(requests.get(address).status_code)",
    "aiohttp": """
import asyncio, aiohttp
async def ask():
    async with aiohttp.ClientSession() as http, http.get(address) as reply:
        return reply.status
print(asyncio.run(ask()))
""",
    "urllib": """
import urllib.request, urllib.error
try:
    urllib.request.urlopen(address)
except urllib.error.HTTPError as reply:
    print(reply.code)
""",
}


@pytest.fixture(scope="module")
def secure():
    """A simulator with --tls as people see it: the variables that it tells them to set."""
    process = start("--tls", "--speed", "1000")
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(10)]
    exports = [line.split()[1].split("=", 1) for line in lines if line.startswith("export ")]
    yield dict(exports)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (0, b"", b"") == (process.returncode, out, err)
    assert not Path(dict(exports)["SSL_CERT_FILE"]).exists()


def environment(exports):
    """This process's environment with these variables, and nothing that says whom else to trust or to go through."""
    named = {name for name, _ in TRUST}
    kept = {k: v for k, v in os.environ.items() if k not in named and not k.lower().endswith("_proxy")}
    return {**kept, **exports}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_trust_it_by_what_it_prints(secure, client):
    """Each Python client, as it is, in the environment that was pasted."""
    assert secure["KLINGAI_BASE_URL"].startswith("https://localhost:")
    script = f"import os; address = os.environ['KLINGAI_BASE_URL'] + {ASK!r}\n{CLIENTS[client]}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(secure),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    expected = "submitted\n" if client == "KlingAI" else "401\n"
    assert (expected, "") == (done.stdout, done.stderr)


@pytest.mark.parametrize(
    "program,argv",
    [
        ("node", ["-e", "fetch(process.env.KLINGAI_BASE_URL + process.argv[1]).then(r => console.log(r.status))", ASK]),
        ("curl", ["-s", "-o", os.devnull, "-w", "%{http_code}\n"]),
    ],
    ids=["node", "curl"],
)
def test_other_programs_trust_it_likewise(secure, program, argv):
    """Node.js and curl."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    address = [] if program == "node" else [secure["KLINGAI_BASE_URL"] + ASK]
    done = subprocess.run(
        [program, *argv, *address], env=environment(secure), capture_output=True, text=True, check=False, timeout=120
    )
    assert ("401\n", 0) == (done.stdout, done.returncode)


def test_nobody_else_trusts_it(secure):
    """Without the variables the certificate is refused: it is not signed by anyone known."""
    plain = {name: value for name, value in secure.items() if name not in {name for name, _ in TRUST}}
    script = f"import os, requests; requests.get(os.environ['KLINGAI_BASE_URL'] + {ASK!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(plain), capture_output=True, text=True, check=False, timeout=120
    )
    assert (1, True) == (done.returncode, "CERTIFICATE_VERIFY_FAILED" in done.stderr)


def test_programs_get_the_authority_as_a_file():
    """With --json the object has one member more, the path of a certificate."""
    process = start("--tls", "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    try:
        assert ["base_url", "api_key", "access_key", "secret_key", "ca_file"] == list(told)
        assert Path(told["ca_file"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert not Path(told["ca_file"]).exists()


def test_it_stands_in_for_kling():
    """With --stand-in clients that know only Kling's own address are answered here, in the pasted environment."""
    process = start("--stand-in")
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(11)]
    exports = dict(line.split()[1].split("=", 1) for line in lines if line.startswith("export "))
    script = """
import httpx, requests
address = "https://api-singapore.klingai.com/tasks?task_ids=1"
print(requests.get(address).status_code, httpx.get(address).status_code)
try:
    httpx.get("https://example.com")
except httpx.ProxyError as refused:
    print(refused)
"""
    try:
        assert exports["KLINGAI_BASE_URL"] == exports["HTTPS_PROXY"]
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment(exports), capture_output=True, text=True, check=False
        )
        assert ("401 401\n403 Forbidden\n", "") == (done.stdout, done.stderr)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def test_a_stand_in_names_its_proxy():
    """With --json it is a member; --tls besides is refused in a sentence."""
    process = start("--stand-in", "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert told["proxy_url"] == told["base_url"]
    assert told["ca_file"].endswith("ca.pem")
    out, err = start("--stand-in", "--tls", "--json").communicate(timeout=120)
    assert (b"", "UsageError") == (out, json.loads(err)["error"]["kind"])
