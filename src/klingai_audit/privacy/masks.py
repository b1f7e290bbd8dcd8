"""Masks for e-mail and IP address shapes: enough to recognise one's own, too little to name anyone.

`us***@example.com`, `192.168.xxx.xxx`, `2001:db8::/32`. Masking a masked text changes nothing. Every function
takes time linear in its input. Source: docs/format.md, "Masks".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["canonical_ip", "is_masked_ip", "mask_email", "mask_id", "mask_ip", "mask_text"]

_AT: Final = r"(?:@|%40|\\u0040)"
# The look-behind lets a run of letters be tried once, at its start: no quadratic search.
_LOCAL: Final = r"(?<![\w.+!#$&*?^{|}~'-])[\w.+!#$&*?^{|}~'-]++"
_DOMAIN: Final = r"[\w-]++(?:\.[\w-]++)*+"
# The domain is only looked at: in `a@b@example.com` it is the local part of the next address.
_EMAIL: Final = re.compile(rf"({_LOCAL})({_AT})(?=({_DOMAIN}))")
_TOP_LEVEL: Final = re.compile(r"[^\W\d_]{2,63}|xn--[\w-]{1,59}").fullmatch
_MASKED_LOCAL: Final = re.compile(r".{0,2}\*\*\*", re.DOTALL).fullmatch
_PIXEL_RATIO: Final = re.compile(r"[1-9]x\.\w{2,5}").fullmatch

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|[01]?\d?\d)"
# Not inside a longer dotted number (an object identifier), not `v1.2.3.4`.
_IPV4: Final = re.compile(rf"(?<![0-9vV])(?<![0-9]\.)({_OCTET}\.{_OCTET})\.{_OCTET}\.{_OCTET}(?!\.?[0-9])", re.ASCII)
# A run that may hold an IPv6 address, with zone and prefix length; `_mask_found_ipv6` looks closer.
_IPV6: Final = re.compile(r"(?<![\w:.])(?=[\w.]*+:[\w.]*+:)([\w:.]++)((?:%[\w.-]{1,32})?(?:/\d{1,3}(?!\w))?)", re.ASCII)
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


def mask_text(text: str) -> str:
    """Return `text` with every e-mail and IP address shape in it masked; other text is left alone."""
    # A mask can complete the domain of an address before it, so addresses go first, and once more if need be.
    for _ in range(_MAX_PASSES):
        fresh = _one_pass(text)
        if fresh == text:
            break
        text = fresh
    return text


def _one_pass(text: str) -> str:
    if text.count(":") > 1:
        text = _IPV6.sub(_mask_found_ipv6, text)
    if text.count(".") > 2:
        text = _IPV4.sub(r"\1.xxx.xxx", text)
    if "@" in text or "%40" in text or "u0040" in text:
        text = _EMAIL.sub(_mask_found_email, text)
    return text


def _mask_found_email(found: re.Match[str]) -> str:
    local, at, domain = found.groups()
    _, dot, top = domain.rstrip("-").rpartition(".")
    if not dot or not _TOP_LEVEL(top) or _PIXEL_RATIO(domain):
        return found.group()
    return _cut(local) + at


def _mask_found_ipv6(found: re.Match[str]) -> str:
    run, suffix = found.groups()
    body = run.rstrip(".")
    labels = body.split(":")
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
                return ":".join(labels) + run[len(body) :] + ("" if at_end else suffix)
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
