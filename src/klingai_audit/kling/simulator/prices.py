"""The price list, in units of the pack that is drawn on. Source: fact sheet section 6.

Video and image units are different currencies and are never added. Rows marked `choice` are
not in the sheet's list.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

PER_SECOND: Mapping[str, Mapping[tuple[str, str], str]] = {
    "3.0-turbo": {("720p", "audio"): "0.8", ("1080p", "audio"): "1.0"},
    "3.0": {
        ("720p", "silent"): "0.6",
        ("1080p", "silent"): "0.8",
        ("4k", "silent"): "3.0",
        ("720p", "audio"): "0.9",
        ("1080p", "audio"): "1.2",
        ("4k", "audio"): "3.0",
        ("720p", "motion"): "0.9",
        ("1080p", "motion"): "1.2",
    },
    "3.0-omni": {
        ("720p", "silent"): "0.6",
        ("1080p", "silent"): "0.8",
        ("4k", "silent"): "3.0",
        ("720p", "audio"): "0.8",
        ("1080p", "audio"): "1.0",
        ("4k", "audio"): "3.0",
        ("720p", "video"): "0.9",
        ("1080p", "video"): "1.2",
        ("4k", "video"): "3.0",
    },
    "o1": {
        ("720p", "silent"): "0.6",
        ("1080p", "silent"): "0.8",
        ("720p", "video"): "0.9",
        ("1080p", "video"): "1.2",
    },
    "2.6": {
        ("720p", "silent"): "0.3",
        ("1080p", "silent"): "0.5",
        ("1080p", "audio"): "1.0",
        ("1080p", "voice"): "1.2",
        ("720p", "motion"): "0.5",
        ("1080p", "motion"): "0.8",
    },
    "2.5-turbo": {("720p", "silent"): "0.3", ("1080p", "silent"): "0.5"},
    "avatar": {("720p", "audio"): "0.4", ("1080p", "audio"): "0.8"},
}
"""Model version -> (resolution, way of making) -> units per second."""

PER_CLIP: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "1.0": {"720p": ("1", "2"), "1080p": ("3.5", "7")},
    "1.5": {"720p": ("2", "4"), "1080p": ("3.5", "7")},
    "1.6": {"720p": ("2", "4"), "1080p": ("3.5", "7")},
    "2.0-master": {"720p": ("10", "20"), "1080p": ("10", "20")},
    "2.1": {"720p": ("2", "4"), "1080p": ("3.5", "7")},
    "2.1-master": {"720p": ("10", "20"), "1080p": ("10", "20")},
}
"""Model version -> resolution -> units for a clip of 5 and of 10 seconds."""

LIP_SYNC_PER_5_SECONDS = Decimal("0.5")
FACE_RECOGNITION = Decimal("0.05")
SPEECH = Decimal("0.05")
CUSTOM_VOICE = Decimal("0.05")
SOUND = Decimal("0.25")
"""Text-to-audio and video-to-audio."""
IMAGE_RECOGNITION = Decimal("0.1")
SELECTION_START = Decimal("0.05")
"""Choice: as face recognition; the further selection calls are free."""
ELEMENT = Decimal(0)
EFFECT_VERSION = "1.6"
"""Choice: effects and multi-element editing cost what a v1-6 clip costs."""

IMAGE = Decimal(8)
IMAGE_4K = Decimal(16)
IMAGE_FROM_TEXT_2_1 = Decimal(4)
"""kling-v2-1 without an input image; choice: so do the older image models."""
IMAGE_FROM_MANY = Decimal(16)
IMAGE_EXPAND = Decimal(8)
MULTI_SHOT = Decimal(20)
TRY_ON = Decimal(1)
"""Choice, in units of the try-on pack."""

DOLLARS_PER_UNIT: Mapping[str, Decimal] = {
    "video": Decimal("0.14"),
    "image": Decimal("0.0035"),
    "try-on": Decimal("0.07"),
}
"""Pack type -> list price of one unit for cash accounts (sheet section 6; try-on: choice)."""


def video_units(version: str, resolution: str, *, audio: bool = False, seconds: int, way: str = "") -> Decimal:
    """Units for one video of `seconds` ordered seconds; `way` defaults to `audio` or `silent`.

    Requires: the list has a price for it.
    """
    if version in PER_CLIP:
        short, long = PER_CLIP[version][resolution]
        return Decimal(short if seconds == 5 else long)
    return Decimal(PER_SECOND[version][resolution, way or ("audio" if audio else "silent")]) * seconds


def format_units(units: Decimal) -> str:
    """Plain decimal text without trailing zeros: `2.4`, `10`, `0`."""
    text = f"{units:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
