"""OTLP logs over HTTP with protobuf, through the OpenTelemetry exporter (extra `otlp`).

The exporter is called directly: no batch processor of the SDK stands in between, which would drop what it cannot keep.
A batch counts as sent when the receiver answered 2xx and refused none of its records; the exporter by itself takes
redirects, and partial refusals, for success.
Attribute names `audit.…` are those of the draft audit signal of OpenTelemetry; `klingai.…` are ours.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from klingai_audit.errors import MissingExtra, StorageError, UsageError
from klingai_audit.event.types import category_of
from klingai_audit.exports.ocsf import product_version
from klingai_audit.exports.ocsf_rules import severity_of
from klingai_audit.exports.record import Position, Record, TreeHead
from klingai_audit.exports.sink import SinkLost
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = ["ATTRIBUTES", "SEVERITY", "OtlpSink", "attributes"]

SEVERITY: Final[Mapping[int, int]] = MappingProxyType({1: 9, 2: 10, 3: 13, 4: 17, 5: 21})
"""Severity as OCSF counts it -> as OpenTelemetry does: INFO, INFO2, WARN, ERROR, FATAL."""

ANSWER_SECONDS: Final = 30.0
"""How long one request may take, the exporter's own retries included."""

_TRY_AGAIN: Final = frozenset({408, 429})
_TOO_LARGE: Final = 413
_REASON: Final = 200
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _details(name: str) -> Callable[[Record], Any]:
    def value(record: Record) -> str | None:
        found = record.entry.metadata.get(name)
        return found if isinstance(found, str) else None

    return value


ATTRIBUTES: Final[Mapping[str, tuple[str, Callable[[Record], Any]]]] = MappingProxyType(
    {
        "audit.record.id": ("`event_id`", lambda record: record.entry.event_id),
        "audit.actor.id": ("`actor_id`, a pseudonym", lambda record: record.entry.actor_id),
        "audit.actor.type": ("`actor_type`", lambda record: record.entry.actor_type),
        "audit.action": ("`action`, else `event_type`", lambda record: record.entry.action or record.entry.event_type),
        "audit.outcome": ("`outcome`", lambda record: record.entry.outcome),
        "audit.target.id": ("`resource_id`", lambda record: record.entry.resource_id),
        "audit.target.type": ("`resource_type`", lambda record: record.entry.resource_type),
        "audit.source.address": ("`ip_address`, masked", lambda record: record.entry.ip_address),
        "audit.sequence.number": ("`seq`", lambda record: record.seq),
        "audit.integrity.value": ("leaf hash, hex", lambda record: record.leaf_hash),
        "audit.schema.version": ("version of the entry's format", lambda _record: "1"),
        "klingai.tree.size": ("size of the signed tree", lambda record: record.head.size),
        "klingai.tree.root": ("root of that tree, base64", lambda record: record.head.root_text),
        "klingai.category": ("category of the event type", lambda record: category_of(record.entry.event_type)),
        "klingai.team": ("`team`", lambda record: record.entry.team),
        "klingai.project": ("`project`", lambda record: record.entry.project),
        "klingai.correlation_id": ("`correlation_id`", lambda record: record.entry.correlation_id),
        "klingai.request_id": ("`request_id`", lambda record: record.entry.request_id),
        "gen_ai.request.model": ("`model` of metadata", _details("model")),
    }
)
"""Attribute of a log record -> what it holds, and where that comes from."""


def attributes(record: Record) -> dict[str, Any]:
    """Return the attributes of one record, those without a value left out."""
    values = ((name, value_of(record)) for name, (_meaning, value_of) in ATTRIBUTES.items())
    return {name: value for name, value in values if value is not None}


class OtlpSink:
    """A receiver of OTLP logs at `url` (path included, as a rule `/v1/logs`).

    `ca`, `certificate` and `key` are PEM files as for syslog. Headers, such as a key of the receiver, come from the
    variable OTEL_EXPORTER_OTLP_HEADERS (or …_LOGS_HEADERS), which the exporter reads.
    Raises: MissingExtra.
    """

    def __init__(
        self, url: str, *, ca: str | None = None, certificate: str | None = None, key: str | None = None
    ) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        except ImportError as exc:
            raise MissingExtra(
                "Exporting to OTLP needs the OpenTelemetry exporter.", do="pip install 'klingai-audit[otlp]'"
            ) from exc
        for name in (ca, certificate, key):
            _check_readable(name)
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())  # our errors say what it would print
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        self._answers = _Answers()
        self._exporter = OTLPLogExporter(
            url,
            certificate_file=ca,
            client_certificate_file=certificate,
            client_key_file=key,
            timeout=ANSWER_SECONDS,
            session=_session(self._answers),
        )
        self.settled = Position(0, None)

    def open(self, position: Position) -> bool:
        self.settled = position
        return False

    def send(self, records: Sequence[Record], position: Position) -> None:
        if records:
            self._export(records)
        self.settled = position

    def check(self, head: TreeHead) -> None:
        """Every request is a connection of its own, as far as anybody can tell."""

    def finish(self, head: TreeHead) -> None:
        """Nothing is under way: every batch was answered."""

    def abandon(self) -> None:
        """Connections are made anew by themselves."""

    def _export(self, records: Sequence[Record]) -> None:
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        self._answers.forget()
        taken = False
        with contextlib.suppress(_Unreached):
            taken = self._exporter.export([_to_otel(record) for record in records]) is LogRecordExportResult.SUCCESS
        status, refused, reason = self._answers.status, self._answers.refused, self._answers.reason
        span = f"entries {records[0].seq} to {records[-1].seq}"
        if status is None and self._answers.distrusted:
            raise StorageError(
                f"The certificate of {self._where} is not to be trusted.",
                do="Name the authority that issued it: --ca FILE",
            )
        if status is None:
            raise SinkLost(f"{self._where} cannot be reached.", do="Is the receiver running, and the address right?")
        if status in _TRY_AGAIN or status >= 500:
            raise SinkLost(f"{self._where} answered {status} for {span}.")
        if status == _TOO_LARGE and len(records) > 1:
            half = len(records) // 2
            self._export(records[:half])
            self._export(records[half:])
            return
        if not 200 <= status < 300 or not taken:
            raise StorageError(
                f"{self._where} refused {span} with status {status}.",
                do="Check the URL's path and OTEL_EXPORTER_OTLP_HEADERS; the export goes on from there.",
            )
        if not self._answers.understood:
            raise StorageError(f"{self._where} does not answer as a receiver of OTLP does.", do="Check the URL.")
        if refused:
            raise StorageError(
                f"{self._where} refused {refused} of {span}: {inert(reason)[:_REASON]}",
                do="Find out what it refuses; the export goes on from there, or with --from-seq after it.",
            )


class _Answers:
    """What the receiver answered last: HTTP status (None: nothing), and how many records it refused, and why.

    `distrusted`: its certificate is not one to trust.
    `understood` is false where the answer is none of a receiver of OTLP, such as a page of a proxy.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget it, before the next request."""
        self.status: int | None = None
        self.understood = True
        self.distrusted = False
        self.refused = 0
        self.reason = ""

    def note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Keep what this answer says."""
        from google.protobuf.json_format import Parse, ParseError
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        self.forget()
        self.status = response.status_code
        if not response.ok or not response.content:
            return
        answer = ExportLogsServiceResponse()
        try:
            if response.headers.get("Content-Type", "").startswith("application/json"):
                Parse(response.content, answer, ignore_unknown_fields=True)
            else:
                answer.ParseFromString(response.content)
        except (DecodeError, ParseError):
            self.understood = False
        self.refused = answer.partial_success.rejected_log_records
        self.reason = answer.partial_success.error_message


class _Unreached(Exception):
    """No answer came; of a kind that the exporter does not wait out by itself, because our caller does."""


def _session(answers: _Answers) -> requests.Session:
    """Return a session that tells `answers` everything, and for which a given authority wins over the environment's."""
    import requests

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            try:
                return super().request(*args, **kwargs)
            except requests.RequestException as exc:
                answers.distrusted = "CERTIFICATE_VERIFY_FAILED" in str(exc)
                raise _Unreached from None

        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            verify = self.verify if verify is None else verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    session = Session()
    session.hooks["response"].append(answers.note)
    return session


def _check_readable(name: str | None) -> None:
    try:
        if name is not None:
            with open(name, "rb"):  # noqa: PTH123  (a path as the exporter takes it)
                pass
    except OSError as exc:
        raise UsageError(
            f"{name} cannot be read: {exc.strerror}.", do="--ca, --cert and --cert-key name PEM files."
        ) from exc


def _nanoseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


def _to_otel(record: Record) -> ReadableLogRecord:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadableLogRecord

    entry = record.entry
    severity = SeverityNumber(SEVERITY[severity_of(entry)])
    return ReadableLogRecord(
        log_record=LogRecord(
            timestamp=_nanoseconds(entry.timestamp),
            observed_timestamp=_nanoseconds(entry.logged_at),
            context=Context(),
            severity_number=severity,
            severity_text=severity.name,
            body=entry.raw.decode("utf-8"),
            attributes=attributes(record),
            event_name=f"klingai-audit.{entry.event_type}",
        ),
        resource=_resource(record.head.origin),
        instrumentation_scope=_scope(),
    )


@functools.cache
def _resource(origin: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    return Resource(
        {
            "service.name": "klingai-audit",
            "service.version": product_version(),
            "klingai.log.origin": origin,
            "host.name": socket.gethostname(),
        }
    )


@functools.cache
def _scope() -> InstrumentationScope:
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    return InstrumentationScope("klingai_audit.exports", product_version())
