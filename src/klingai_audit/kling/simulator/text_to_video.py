"""Text-to-video in both generations: models, field rules. Source: fact sheet sections 2.1 and 2.3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from klingai_audit.kling.simulator.fields import Field, check_fields, pick
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import video_units
from klingai_audit.kling.simulator.product import Body, Product
from klingai_audit.kling.simulator.tasks import Order

ASPECT_RATIOS = ("16:9", "9:16", "1:1")
LEGACY_RESOLUTIONS: Mapping[str, str] = {"std": "720p", "pro": "1080p", "4k": "4k"}
MAX_SHOTS = 6
MAX_SHOT_CHARS = 512


@dataclass(frozen=True, slots=True)
class LegacyModel:
    """What one `model_name` of text2video can do."""

    version: str
    seconds: tuple[int, ...] = (5, 10)
    modes: tuple[str, ...] = ("std", "pro")
    sound: bool = False
    cfg_scale: bool = False
    multi_shot: bool = False


LEGACY_TEXT_TO_VIDEO: Mapping[str, LegacyModel] = {
    "kling-v1": LegacyModel("1.0", cfg_scale=True),
    "kling-v1-6": LegacyModel("1.6", cfg_scale=True),
    "kling-v2-master": LegacyModel("2.0-master"),
    "kling-v2-1-master": LegacyModel("2.1-master"),
    "kling-v2-5-turbo": LegacyModel("2.5-turbo"),
    "kling-v2-6": LegacyModel("2.6", sound=True),
    "kling-v3": LegacyModel(
        "3.0", tuple(range(3, 16)), ("std", "pro", "4k"), sound=True, cfg_scale=True, multi_shot=True
    ),
}

LEGACY_COMMON = (
    Field("callback_url", "string"),
    Field("external_task_id", "string"),
    Field("watermark_info", "object"),
    Field("watermark_info.enabled", "boolean"),
)

CAMERA_MOVES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")

LEGACY_TEXT_TO_VIDEO_FIELDS = (
    Field("model_name", "string"),
    Field("prompt", "string", max_chars=2500),
    Field("negative_prompt", "string", max_chars=2500),
    Field("sound", "string", choices=("on", "off")),
    Field("cfg_scale", "number", low=0, high=1),
    Field("mode", "string", choices=("std", "pro", "4k")),
    Field("camera_control", "object"),
    Field(
        "camera_control.type",
        "string",
        choices=("simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"),
    ),
    Field("camera_control.config", "object"),
    *(Field(f"camera_control.config.{move}", "number", low=-10, high=10) for move in CAMERA_MOVES),
    Field("aspect_ratio", "string", choices=ASPECT_RATIOS),
    Field("duration", "string", choices=tuple(str(n) for n in range(3, 16)), as_string=True),
    Field("multi_shot", "boolean"),
    Field("shot_type", "string", choices=("customize", "intelligence")),
    Field("multi_prompt", "array"),
    *LEGACY_COMMON,
)


def _legacy_text_to_video(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v1")
    model = LEGACY_TEXT_TO_VIDEO.get(name)
    if model is None:
        return Refusal(1203, f"The model '{name}' does not exist")
    seconds = int(pick(body, "duration", "5"))
    mode, sound = pick(body, "mode", "std"), pick(body, "sound", "off") == "on"
    refusal = _legacy_model_limits(body, name, model) or _camera(body) or _legacy_shots(body, seconds)
    if refusal is not None:
        return refusal
    resolution = LEGACY_RESOLUTIONS[mode]
    if model.version == "2.6" and sound:
        resolution = "1080p"  # sheet 2.1: native audio forces 1080p
    return Order(
        model=name,
        version=model.version,
        prompt=_all_prompts(body),
        seconds=seconds,
        resolution=resolution,
        audio=sound,
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        units=video_units(model.version, resolution, audio=sound, seconds=seconds),
        external_id=pick(body, "external_task_id", ""),
        callback_url=pick(body, "callback_url", ""),
        watermark=pick(body, "watermark_info.enabled") is True,
    )


def _legacy_model_limits(body: Body, name: str, model: LegacyModel) -> Refusal | None:
    if int(pick(body, "duration", "5")) not in model.seconds:
        return Refusal(1201, f"duration is invalid for the model '{name}'")
    if pick(body, "mode", "std") not in model.modes:
        return Refusal(1201, f"mode is invalid for the model '{name}'")
    if pick(body, "sound") == "on" and not model.sound:
        return Refusal(1201, f"sound is not supported by the model '{name}'")
    if pick(body, "cfg_scale") is not None and not model.cfg_scale:
        return Refusal(1201, f"cfg_scale is not supported by the model '{name}'")
    if pick(body, "multi_shot") and not model.multi_shot:
        return Refusal(1201, f"multi_shot is not supported by the model '{name}'")
    return None


def _camera(body: Body) -> Refusal | None:
    control = pick(body, "camera_control")
    if not control:
        return None
    kind, config = pick(control, "type"), pick(control, "config", {})
    if kind != "simple":
        return Refusal(1201, "camera_control.config must be empty unless type is simple") if config else None
    moves = [move for move in CAMERA_MOVES if config.get(move)]
    return None if len(moves) == 1 else Refusal(1201, "camera_control.config needs exactly one non-zero value")


def _legacy_shots(body: Body, seconds: int) -> Refusal | None:
    custom = pick(body, "multi_shot") and pick(body, "shot_type") == "customize"
    if not custom:
        return None if pick(body, "prompt") else Refusal(1200, "prompt is required")
    shots = pick(body, "multi_prompt", [])
    if not 1 <= len(shots) <= MAX_SHOTS:
        return Refusal(1201, f"multi_prompt must hold 1 to {MAX_SHOTS} shots")
    total = 0
    rows = (
        Field("index", "integer"),
        Field("prompt", "string", required=True, max_chars=MAX_SHOT_CHARS),
        Field("duration", "string", choices=tuple(str(n) for n in range(1, 16)), required=True, as_string=True),
    )
    for shot in shots:
        if not isinstance(shot, Mapping):
            return Refusal(1200, "multi_prompt must hold objects")
        refusal = check_fields(shot, rows)
        if refusal is not None:
            return refusal
        total += int(shot["duration"])
    return None if total == seconds else Refusal(1201, "multi_prompt durations must sum to duration")


def _all_prompts(body: Body) -> str:
    """Every prompt text of a legacy body, for the content policy."""
    shots = pick(body, "multi_prompt", [])
    texts = [pick(body, "prompt", "")] + [pick(shot, "prompt", "") for shot in shots if isinstance(shot, Mapping)]
    return "\n".join(text for text in texts if text)


@dataclass(frozen=True, slots=True)
class NewModel:
    """What one model of the new design's text-to-video can do."""

    name: str
    version: str
    prompt_chars: int
    resolutions: tuple[str, ...]
    seconds: tuple[int, ...]
    audio: Literal["always", "setting", "never"]
    multi_shot: bool = False


NEW_TEXT_TO_VIDEO = (
    NewModel("kling-3.0-turbo", "3.0-turbo", 3072, ("720p", "1080p"), tuple(range(3, 16)), "always"),
    NewModel("kling-3.0", "3.0", 3072, ("720p", "1080p", "4k"), tuple(range(3, 16)), "setting", multi_shot=True),
    NewModel("kling-2.6", "2.6", 2500, ("720p", "1080p"), (5, 10), "setting"),
    NewModel("kling-2.5-turbo", "2.5-turbo", 2500, ("720p", "1080p"), (5, 10), "never"),
)

NEW_COMMON = (
    Field("settings", "object"),
    Field("options", "object"),
    Field("options.callback_url", "string"),
    Field("options.external_task_id", "string"),
    Field("options.watermark_info", "object"),
    Field("options.watermark_info.enabled", "boolean"),
)


def _new_fields(model: NewModel) -> tuple[Field, ...]:
    settings = [
        Field("settings.resolution", "string", choices=model.resolutions),
        Field("settings.aspect_ratio", "string", choices=ASPECT_RATIOS),
        Field("settings.duration", "integer", choices=model.seconds),
    ]
    if model.audio == "setting":
        settings.append(Field("settings.audio", "string", choices=("off", "native")))
    if model.multi_shot:
        settings.append(Field("settings.multi_shot", "boolean"))
    prompt = Field("prompt", "string", required=True, max_chars=model.prompt_chars)
    return (prompt, *NEW_COMMON, *settings)


def _new_text_to_video(model: NewModel, body: Body) -> Order | Refusal:
    seconds = pick(body, "settings.duration", 5)
    prompt = pick(body, "prompt")
    if model.multi_shot and pick(body, "settings.multi_shot") is not False:
        refusal = _shots_in_prompt(prompt, seconds)
        if refusal is not None:
            return refusal
    audio = model.audio == "always" or (model.audio == "setting" and pick(body, "settings.audio", "off") == "native")
    resolution = pick(body, "settings.resolution", "720p")
    if model.version == "2.6" and audio:
        resolution = "1080p"  # sheet 2.1: native audio forces 1080p
    return Order(
        model=model.name,
        version=model.version,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        audio=audio,
        aspect_ratio=pick(body, "settings.aspect_ratio", "16:9"),
        units=video_units(model.version, resolution, audio=audio, seconds=seconds),
        external_id=pick(body, "options.external_task_id", ""),
        callback_url=pick(body, "options.callback_url", ""),
        watermark=pick(body, "options.watermark_info.enabled") is True,
    )


_SHOT = re.compile(r"\s*shot\s+([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)


def _shots_in_prompt(prompt: str, seconds: int) -> Refusal | None:
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


TEXT_TO_VIDEO = (
    Product(
        path="/v1/videos/text2video",
        generation="legacy",
        pack="video",
        product_type="video",
        fields=LEGACY_TEXT_TO_VIDEO_FIELDS,
        order=_legacy_text_to_video,
    ),
    *(
        Product(
            path=f"/text-to-video/{model.name}",
            generation="new",
            pack="video",
            product_type="video",
            fields=_new_fields(model),
            order=partial(_new_text_to_video, model),
        )
        for model in NEW_TEXT_TO_VIDEO
    ),
)
"""Rows of the product table."""
