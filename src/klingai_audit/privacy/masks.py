"""Masks for e-mail and IP address shapes: enough to recognise one's own, too little to name anyone.

`us***@example.com`, `192.168.xxx.xxx`, `2001:db8::/32`. Masking a masked text changes nothing. Every function
takes time linear in its input. Source: docs/format.md, "Masks".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from klingai_audit.privacy.folding import fold

__all__ = ["canonical_ip", "has_dashed", "is_masked_ip", "mask_email", "mask_id", "mask_ip", "mask_text"]

_AT: Final = r"(?:@|%40|\\u0040)"
# Words of any script with their combining marks; not the signs, spaces and punctuation of Unicode.
_FOREIGN: Final = (
    "\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u1680\u2000-\u2bff\u3000-\u3004\u3008-\u3020"
    "\ufe10-\ufe1f\ufe30-\ufe6f\uff01-\uff20"
)
_NOT_LOCAL: Final = rf"\s\x00-\x20\x7f\"%(),/:;<=>@\[\\\]`{_FOREIGN}"
_NOT_DOMAIN: Final = rf"{_NOT_LOCAL}.+!#$&*?^{{|}}~'"
# The look-behind lets a run of letters be tried once, at its start: no quadratic search.
_LOCAL: Final = rf"(?<![^{_NOT_LOCAL}])[^{_NOT_LOCAL}]++"
_DOMAIN: Final = rf"[^{_NOT_DOMAIN}]++(?:\.[^{_NOT_DOMAIN}]++)*+"
_LITERAL: Final = r"\[(?:IPv6:)?[0-9A-Fa-fx:]{1,40}[.:][0-9A-Fa-fx.:/]{1,40}\]"
# The domain is only looked at: in `a@b@example.com` it is the local part of the next address.
_EMAIL: Final = re.compile(rf"({_LOCAL})({_AT})(?=({_LITERAL}|{_DOMAIN}))")
# `a=b/x@…`: the part before the slash belongs to the address as well.
_SLASHED: Final = re.compile(
    rf"((?<![^{_NOT_LOCAL}])(?<![=/])[^{_NOT_LOCAL}]++=(?:=|[^{_NOT_LOCAL}])*+/(?:[=/]|[^{_NOT_LOCAL}])*+)({_AT})"
    rf"(?=({_LITERAL}|{_DOMAIN}))"
)
_QUOTED: Final = re.compile(rf"(?<=\")(\w[^\"\\\n]{{0,63}})(\\{{0,7}}\"{_AT})(?=({_LITERAL}|{_DOMAIN}))")
_TOP_LEVEL: Final = re.compile(r"(?:[^\W\d_](?:[^\W\d_]|[^\x00-\x7f]){1,62})|xn--[\w-]{1,59}").fullmatch
_DOTLESS: Final = frozenset({"localhost", "localdomain", "intranet"})
# What stands behind an `@` in names of versions and branches.
_VERSIONS: Final = frozenset(
    {"latest", "next", "main", "master", "beta", "alpha", "canary", "head", "stable", "dev", "nightly", "edge", "lts"}
)
_MASKED_LOCAL: Final = re.compile(r".{0,2}\*\*\*", re.DOTALL).fullmatch
_PIXEL_RATIO: Final = re.compile(r"[1-9]x\.\w{2,5}").fullmatch

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|[01]?\d?\d)"
# A whole dotted number of any script's digits; `_mask_found_ipv4` looks closer.
_DOTTED: Final = re.compile(r"(?<!\d)(?<!\d\.)\d++(?:\.\d++){3,}+")
_DASHED: Final = re.compile(
    rf"((?<![A-Za-z0-9])(?:ip|ipv4|ec2|host|addr|dhcp|static|dyn|pool|client)[-_]?)({_OCTET})([-_])({_OCTET})\3{_OCTET}\3{_OCTET}(?![-_]?\d)",
    re.ASCII | re.IGNORECASE,
)
_OCTETS: Final = 4
_MAX_OCTET: Final = 255
_MAX_OCTET_DIGITS: Final = 3
_LIKELY_DIGITS: Final = 7
_TWO_DIGITS: Final = 10
_SHORT_RUN: Final = 6
# A run that may hold an IPv6 address, with zone and prefix length; `_mask_found_ipv6` looks closer.
_IPV6: Final = re.compile(r"(?<![\w:.])(?=[\w.]*+:[\w.]*+:)([\w:.]++)((?:%[\w.-]{1,32})?(?:/\d{1,3}(?!\w))?)", re.ASCII)
_GLUED: Final = re.compile(r"\w*[^\W\d_](\d[0-9a-f]{2,3}|f[cde][0-9a-f]{2})", re.ASCII | re.IGNORECASE).fullmatch
_IPV6_LABEL: Final = re.compile(r"[0-9A-Fa-f]{0,4}|(?:\d{1,3}\.){3}\d{1,3}", re.ASCII).fullmatch
_MAX_IPV6_LABELS: Final = 10  # eight groups, and a colon too many at either end
_MASKED_IP: Final = re.compile(r"\d{1,3}\.\d{1,3}\.xxx\.xxx|[0-9a-f:]{2,12}/32", re.ASCII).fullmatch
_MAX_PASSES: Final = 8
_MIN_IPV6_DIGITS: Final = 4  # `a::b` is more often code than an address


def mask_email(text: str) -> str:
    """Return an e-mail address with its local part cut to two characters: `us***@example.com`."""
    local, at, domain = text.rpartition("@")
    if not at:
        return text[:2] + "***"
    return _cut(local) + "@" + domain


def _cut(local: str) -> str:
    return local if _MASKED_LOCAL(local) else local[:2] + "***"


def canonical_ip(text: str) -> str | None:
    """Return one spelling of an IP address, or None if `text` holds none.

    Port, brackets, zone, and all but the first of a forwarding list are dropped; an IPv4 address mapped into
    IPv6 is that IPv4 address.
    """
    first = text.split(",", 1)[0].strip()
    if first.startswith("["):
        first = first[1:].partition("]")[0]
    elif first.count(":") == 1:
        first = first.partition(":")[0]
    try:
        address = ipaddress.ip_address(first.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def is_masked_ip(text: str) -> bool:
    """Tell whether `text` is what `mask_ip` returns for an address."""
    return _MASKED_IP(text) is not None


def mask_ip(text: str) -> str:
    """Return the coarse form of an IP address: `192.168.xxx.xxx`, IPv6 as its /32; `[removed]` for anything else."""
    if is_masked_ip(text):
        return text
    address = canonical_ip(text)
    return "[removed]" if address is None else _coarse(address)


def _coarse(address: str) -> str:
    if ":" in address:
        return str(ipaddress.ip_network((address, 32), strict=False))
    first, second, _, _ = address.split(".")
    return f"{first}.{second}.xxx.xxx"


def mask_id(text: str) -> str:
    """Return how an id of a person is shown: masked e-mail or address, else its first two characters and `***`."""
    if "@" in text:
        return mask_email(text)
    if canonical_ip(text) is not None:
        return mask_ip(text)
    return text[:2] + "***"


def has_dashed(text: str) -> bool:
    """Tell whether `text` holds an IPv4 address as names of hosts spell it: `ip-192-168-1-100`."""
    return (text.count("-") > 2 or text.count("_") > 2) and _DASHED.search(text) is not None


def mask_text(text: str) -> str:
    """Return `text` with every e-mail and IP address shape in it masked; other text is left alone.

    Where an encoding or hidden characters conceal one, the characters of addresses are kept in their plain spelling.
    """
    # A mask can complete the domain of an address before it, so addresses go first, and once more if need be.
    for _ in range(_MAX_PASSES):
        fresh = _one_pass(text)
        if fresh == text:
            if fresh.isascii() and "%" not in fresh and "&" not in fresh and "\\u" not in fresh:
                return fresh
            plain = fold(fresh)
            fresh = _one_pass(plain)
            if fresh == plain:
                return text
        text = fresh
    return text


def _one_pass(text: str) -> str:
    if text.count(":") > 1:
        text = _IPV6.sub(_mask_found_ipv6, text)
    if text.count(".") > 2:
        text = _DOTTED.sub(_mask_found_ipv4, text)
    if text.count("-") > 2 or text.count("_") > 2:
        text = _DASHED.sub(r"\1\2\3\4\3xxx\3xxx", text)
    if "@" in text or "%40" in text or "u0040" in text:
        text = _QUOTED.sub(_mask_found_email, text)
        if "=" in text and "/" in text:
            text = _SLASHED.sub(_mask_found_email, text)
        text = _EMAIL.sub(_mask_found_email, text)
    return text


def _mask_found_email(found: re.Match[str]) -> str:
    local, at, domain = found.groups()
    return _cut(local) + at if _is_domain(local, domain) else found.group()


def _is_domain(local: str, domain: str) -> bool:
    if domain[0] == "[":
        return True
    domain = domain.rstrip("-")
    _, dot, top = domain.rpartition(".")
    if dot:
        return _TOP_LEVEL(top) is not None and not _PIXEL_RATIO(domain)
    name = domain.lower()
    # Without a dot it is an address if it says so, or if it is a person's: first.last@host.
    return name in _DOTLESS or ("." in local.strip(".") and name not in _VERSIONS and _TOP_LEVEL(name) is not None)


def _mask_found_ipv4(found: re.Match[str]) -> str:
    labels = found.group().split(".")
    exact = len(labels) == _OCTETS
    version = found.string[max(0, found.start() - 1) : found.start()] in ("v", "V")
    for begin in range(len(labels) - _OCTETS + 1):
        window = labels[begin : begin + _OCTETS]
        if not all(len(label) <= _MAX_OCTET_DIGITS and int(label) <= _MAX_OCTET for label in window):
            continue
        # Versions and object identifiers consist of small numbers.
        likely = sum(map(len, window)) >= _LIKELY_DIGITS or (
            len(labels) <= _SHORT_RUN and int(window[0]) >= _TWO_DIGITS
        )
        if exact and found.string.startswith(".in-addr.", found.end()):
            return ".".join(["xxx", "xxx", *labels[2:]])
        if likely or (exact and not version):
            kept = labels[: begin + 2]
            return ".".join([*kept, *("xxx" for _ in labels[begin + 2 :])])
    return found.group()


def _mask_found_ipv6(found: re.Match[str]) -> str:
    run, suffix = found.groups()
    body = run.rstrip(".")
    labels = body.split(":")
    word = ""
    if (glued := _GLUED(labels[0])) is not None:  # `addr2001:db8::1`
        word, labels[0] = labels[0][: glued.start(1)], glued[1]
    begin = 0
    while begin < len(labels):
        end = begin
        while end < len(labels) and _IPV6_LABEL(labels[end]):
            end += 1
        for first, last in ((begin, end), (begin, end - 1), (begin + 1, end)):
            masked = _coarse_ipv6(labels[first:last])
            if masked is not None:
                labels[first:last] = [masked]
                at_end = first == len(labels) - 1
                return word + ":".join(labels) + run[len(body) :] + ("" if at_end else suffix)
        begin = end + 1
    return found.group()


def _coarse_ipv6(labels: list[str]) -> str | None:
    """Return the coarse form if the labels between colons are an address and more than a scrap of code."""
    if not 2 < len(labels) <= _MAX_IPV6_LABELS:
        return None
    text = ":".join(labels)
    if len(text) - text.count(":") < _MIN_IPV6_DIGITS:
        return None
    address = canonical_ip(text)
    return None if address is None else _coarse(address)
