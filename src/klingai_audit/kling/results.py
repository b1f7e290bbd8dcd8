"""What a task made, as callers hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from klingai_audit.kling.reply import Charge, Reply, Result, TaskRecord

__all__ = [
    "Answered",
    "Audio",
    "Charged",
    "Element",
    "Image",
    "Video",
    "Voice",
    "audios_of",
    "charged",
    "elements_of",
    "images_of",
    "videos_of",
    "voices_of",
]


@dataclass(frozen=True, slots=True)
class Video:
    """One result: `duration` in seconds as Kling states it, links good for at most 30 days."""

    id: str | None
    url: str | None = field(repr=False)
    watermark_url: str | None = field(default=None, repr=False)
    duration: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One image; Kling gives images no id. Links are good for at most 30 days."""

    id: str | None
    url: str | None = field(repr=False)
    watermark_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Audio:
    """One sound: `duration` in seconds; `wav_url` where Kling made both files."""

    id: str | None
    url: str | None = field(repr=False)
    wav_url: str | None = field(default=None, repr=False)
    duration: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of the library; `url` plays a trial. `owned_by` is `kling`, or the maker's id."""

    id: str | None
    name: str | None = field(repr=False)
    url: str | None = field(default=None, repr=False)
    owned_by: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the library: a person or thing that videos can show again."""

    id: str | None
    name: str | None = field(repr=False)
    owned_by: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Charged:
    """One deduction; units of different packages (`package_type`) are worth different money."""

    charge_type: str
    amount: Decimal
    package_type: str | None = None
    currency: str | None = None
    list_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a call that makes no task: `data` as Kling sent it, and what the call cost."""

    data: Any = field(repr=False)
    request_id: str | None = None
    charge: tuple[Charged, ...] = ()

    @classmethod
    def of(cls, reply: Reply, charges: tuple[Charge, ...] = ()) -> Answered:
        """From a reply that is no error."""
        return cls(reply.data, reply.request_id, tuple(charged(charge) for charge in charges))


def charged(charge: Charge) -> Charged:
    """One deduction with exact decimals."""
    price = Decimal(charge.list_price) if charge.list_price else None
    return Charged(charge.charge_type, Decimal(charge.amount), charge.package_type, charge.currency, price)


def videos_of(results: tuple[Result, ...]) -> tuple[Video, ...]:
    """The videos among the results."""
    return tuple(
        Video(result.id, result.url, result.watermark_url, _seconds(result))
        for result in results
        if result.kind == "video"
    )


def images_of(results: tuple[Result, ...]) -> tuple[Image, ...]:
    """The images among the results."""
    return tuple(Image(result.id, result.url, result.watermark_url) for result in results if result.kind == "image")


def audios_of(results: tuple[Result, ...]) -> tuple[Audio, ...]:
    """The sounds among the results."""
    return tuple(
        Audio(result.id, result.url, result.wav_url, _seconds(result)) for result in results if result.kind == "audio"
    )


def voices_of(record: TaskRecord) -> tuple[Voice, ...]:
    """The voices of a task record."""
    return tuple(
        Voice(result.id, result.name, result.url, result.owned_by, result.state)
        for result in record.results
        if result.kind == "voice"
    )


def elements_of(record: TaskRecord) -> tuple[Element, ...]:
    """The elements of a task record."""
    return tuple(
        Element(result.id, result.name, result.owned_by, result.state)
        for result in record.results
        if result.kind == "element"
    )


def _seconds(result: Result) -> Decimal | None:
    return Decimal(result.duration) if result.duration else None
