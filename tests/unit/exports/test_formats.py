"""Names of formats, and URLs of receivers."""

from __future__ import annotations

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.exports.formats import FORMATS, Destination, find_format, parse_destination


@pytest.mark.parametrize(
    "format,url,expected",
    [
        ("syslog", "tls://siem.example.com", "tls://siem.example.com:6514"),
        ("cef", "tls://siem.example.com:514/", "tls://siem.example.com:514"),
        ("syslog", "tcp://localhost", "tcp://localhost:601"),
        ("syslog", "tcp://[::1]:1514", "tcp://[::1]:1514"),
        ("syslog", "tcp://127.0.0.2:1514", "tcp://127.0.0.2:1514"),
        ("otlp", "https://otel.example.com", "https://otel.example.com:443/v1/logs"),
        ("otlp", "https://otel.example.com:4318/", "https://otel.example.com:4318/v1/logs"),
        ("otlp", "http://localhost:4318/own/path", "http://localhost:4318/own/path"),
    ],
)
def test_urls_are_completed(format: str, url: str, expected: str) -> None:
    """Ports and the path of OTLP are those that are registered, unless the URL names others."""
    assert expected == parse_destination(find_format(format), url).url


def test_other_machines_need_encryption_or_a_word() -> None:
    """`plain` is that word."""
    with pytest.raises(UsageError):
        parse_destination(find_format("syslog"), "tcp://siem.example.com:601")
    found = parse_destination(find_format("syslog"), "tcp://siem.example.com:601", plain=True)
    assert Destination("tcp", "siem.example.com", 601, "") == found
    assert not found.encrypted


def test_every_format_goes_somewhere_and_says_what_it_keeps() -> None:
    """Each is written to a file or sent, and the documentation has words for what survives."""
    assert ["ocsf", "cef", "cloudevents", "syslog", "otlp", "csv", "parquet", "jsonl"] == list(FORMATS)
    for name, format_ in FORMATS.items():
        assert name == format_.name
        assert format_.to_file or format_.schemes
        assert format_.carries
        assert format_.drops
        assert (format_.message is not None) == ("tls" in format_.schemes)
