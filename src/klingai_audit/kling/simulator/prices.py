"""The price list, in units of the video pack. Source: fact sheet section 6."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

PER_SECOND: Mapping[str, Mapping[tuple[str, bool], str]] = {
    "3.0-turbo": {("720p", True): "0.8", ("1080p", True): "1.0"},
    "3.0": {
        ("720p", False): "0.6",
        ("1080p", False): "0.8",
        ("4k", False): "3.0",
        ("720p", True): "0.9",
        ("1080p", True): "1.2",
        ("4k", True): "3.0",
    },
    "2.6": {("720p", False): "0.3", ("1080p", False): "0.5", ("1080p", True): "1.0"},
    "2.5-turbo": {("720p", False): "0.3", ("1080p", False): "0.5"},
}
"""Model version -> (resolution, with native audio) -> units per second."""

PER_CLIP: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "1.0": {"720p": ("1", "2"), "1080p": ("3.5", "7")},
    "1.6": {"720p": ("2", "4"), "1080p": ("3.5", "7")},
    "2.0-master": {"720p": ("10", "20"), "1080p": ("10", "20")},
    "2.1-master": {"720p": ("10", "20"), "1080p": ("10", "20")},
}
"""Model version -> resolution -> units for a clip of 5 and of 10 seconds."""


def video_units(version: str, resolution: str, *, audio: bool, seconds: int) -> Decimal:
    """Units for one video of `seconds` ordered seconds. Requires: the list has a price for it."""
    if version in PER_CLIP:
        short, long = PER_CLIP[version][resolution]
        return Decimal(short if seconds == 5 else long)
    return Decimal(PER_SECOND[version][resolution, audio]) * seconds


def format_units(units: Decimal) -> str:
    """Plain decimal text without trailing zeros: `2.4`, `10`, `0`."""
    text = f"{units:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
