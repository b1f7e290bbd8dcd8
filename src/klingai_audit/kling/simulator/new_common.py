"""What bodies of the new design share: settings, options, `contents[]`, shots. Source: fact sheet section 2.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from klingai_audit.kling.simulator.fields import Field, pick
from klingai_audit.kling.simulator.inputs import MEGABYTE
from klingai_audit.kling.simulator.legacy_common import MAX_SHOT_CHARS, MAX_SHOTS
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.tasks import Order

Body = Mapping[str, Any]

NEW_COMMON = (
    Field("settings", "object"),
    Field("options", "object"),
    Field("options.callback_url", "string"),
    Field("options.external_task_id", "string"),
    Field("options.watermark_info", "object"),
    Field("options.watermark_info.enabled", "boolean"),
)
THREE_TO_FIFTEEN = tuple(range(3, 16))

_HANDLE = Field("id", "string")
_PICTURE = (Field("url", "string", required=True, media="image", max_bytes=50 * MEGABYTE), _HANDLE)
_FILM = (Field("url", "string", required=True, media="video"), _HANDLE)
_ITEMS: Mapping[str, tuple[Field, ...]] = {
    "first_frame": _PICTURE,
    "last_frame": _PICTURE,
    "refer_image": _PICTURE,
    "image": _PICTURE,
    "feature_video": _FILM,
    "base_video": _FILM,
    "video": _FILM,
    "element": (Field("element_id", "id", required=True), Field("id", "string", required=True)),
    "voice": (Field("voice_id", "id", required=True), Field("id", "string", required=True)),
}
"""Type of a `contents[]` item -> its field table."""


def settings_fields(
    *,
    resolutions: tuple[str, ...],
    seconds: tuple[int, ...] = (),
    ratios: tuple[str, ...] = (),
    audio: tuple[str, ...] = (),
    multi_shot: bool = False,
) -> tuple[Field, ...]:
    """The rows of `settings` and `options`; what is left out is not a setting of the model."""
    rows = [*NEW_COMMON, Field("settings.resolution", "string", choices=resolutions)]
    if seconds:
        rows.append(Field("settings.duration", "integer", choices=seconds))
    if ratios:
        rows.append(Field("settings.aspect_ratio", "string", choices=ratios))
    if audio:
        rows.append(Field("settings.audio", "string", choices=audio))
    if multi_shot:
        rows.append(Field("settings.multi_shot", "boolean"))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class NewModel:
    """What one model can do that makes a video of a prompt, or of a prompt and pictures.

    `types` are those of `contents[]` besides the prompt; empty where there are no contents.
    """

    name: str
    version: str
    types: tuple[str, ...]
    prompt_chars: int
    resolutions: tuple[str, ...]
    seconds: tuple[int, ...]
    audio: Literal["always", "setting", "never"]
    multi_shot: bool = False

    def settings(self, ratios: tuple[str, ...] = ()) -> tuple[Field, ...]:
        """The rows of `settings` and `options`."""
        return settings_fields(
            resolutions=self.resolutions,
            ratios=ratios,
            seconds=self.seconds,
            audio=("off", "native") if self.audio == "setting" else (),
            multi_shot=self.multi_shot,
        )

    def sounds(self, body: Body) -> bool:
        """Whether the video that `body` orders has sound."""
        return self.audio == "always" or (self.audio == "setting" and pick(body, "settings.audio", "off") == "native")

    def check_shots(self, body: Body, prompt: str, seconds: int) -> Refusal | None:
        """Check the shots that a prompt holds, if several are wanted."""
        if self.multi_shot and pick(body, "settings.multi_shot") is not False:
            return shots_in_prompt(prompt, seconds)
        return None


def new_order(
    body: Body,
    *,
    model: str,
    version: str,
    prompt: str,
    seconds: int,
    units: Decimal,
    resolution: str,
    audio: bool,
    **more: Any,
) -> Order:
    """An order with the fields that every create of the new design shares."""
    return Order(
        model=model,
        version=version,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        audio=audio,
        aspect_ratio=pick(body, "settings.aspect_ratio", "16:9"),
        units=units,
        external_id=pick(body, "options.external_task_id", ""),
        callback_url=pick(body, "options.callback_url", ""),
        watermark=pick(body, "options.watermark_info.enabled") is True,
        **more,
    )


@dataclass(frozen=True, slots=True)
class Contents:
    """A checked `contents[]`, by type."""

    items: Mapping[str, list[Mapping[str, Any]]] = field(repr=False)

    def count(self, *types: str) -> int:
        """How many items are of these types."""
        return sum(len(self.items.get(name, ())) for name in types)

    @property
    def prompt(self) -> str:
        """The text of the prompt item, or empty."""
        return str(self.items["prompt"][0]["text"]) if self.count("prompt") else ""


def contents_field(*types: str, prompt_chars: int) -> Field:
    """The row of `contents[]` with these types besides `prompt`."""
    tables = {"prompt": (Field("text", "string", required=True, max_chars=prompt_chars),)}
    return Field(
        "contents", "array", required=True, least=1, by_type=tables | {name: _ITEMS[name] for name in types}
    )  # fmt: skip


def read_contents(body: Body, **most: int) -> Contents | Refusal:
    """Sort `contents[]` by type: at most one of each unless `most` says more, and no handle twice."""
    items: dict[str, list[Mapping[str, Any]]] = {}
    for item in pick(body, "contents", []):
        items.setdefault(item["type"], []).append(item)
    for kind, found in items.items():
        if len(found) > most.get(kind, 1):
            return Refusal(1201, f"contents holds more than {most.get(kind, 1)} of type {kind}")
    handles = [item["id"] for found in items.values() for item in found if item.get("id")]
    if len(handles) != len(set(handles)):
        return Refusal(1201, "contents holds the same id twice")
    return Contents(items)


_SHOT = re.compile(r"\s*shot\s+([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)


def shots_in_prompt(prompt: str, seconds: int) -> Refusal | None:
    """Check the form `shot n, seconds, words;`; a prompt that does not begin so is one shot."""
    if not _SHOT.fullmatch(prompt):
        return None
    shots = [_SHOT.fullmatch(part) for part in prompt.split(";") if part.strip()]
    total = 0
    for number, shot in enumerate(shots, start=1):
        if shot is None or number > MAX_SHOTS or int(shot[1]) != number or int(shot[2]) < 1:
            return Refusal(1201, f"prompt is invalid: shots are numbered 1 to {MAX_SHOTS}, each at least 1 second")
        if len(shot[3].strip()) > MAX_SHOT_CHARS:
            return Refusal(1201, f"prompt is invalid: a shot exceeds {MAX_SHOT_CHARS} characters")
        total += int(shot[2])
    return None if total == seconds else Refusal(1201, "prompt is invalid: its shots must sum to settings.duration")
