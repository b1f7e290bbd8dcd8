"""Text-to-video in both generations: models, field rules. Source: fact sheet sections 2.1 and 2.3."""

from __future__ import annotations

from functools import partial

from klingai_audit.kling.simulator.fields import Field, pick
from klingai_audit.kling.simulator.legacy_common import (
    ANY_MODE,
    ASPECT_RATIO,
    ASPECT_RATIOS,
    CAMERA,
    CFG_SCALE,
    LEGACY_COMMON,
    LEGACY_RESOLUTIONS,
    PROMPTS,
    SHOTS,
    SOUND,
    TEXT_MODELS,
    camera_limits,
    legacy_order,
    model_limits,
    seconds_field,
    shots_limits,
    unknown_model,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.new_common import THREE_TO_FIFTEEN, NewModel, new_order
from klingai_audit.kling.simulator.prices import video_units
from klingai_audit.kling.simulator.product import Body, legacy, new_design
from klingai_audit.kling.simulator.tasks import Order

LEGACY_FIELDS = (
    Field("model_name", "string"),
    *PROMPTS,
    SOUND,
    CFG_SCALE,
    ANY_MODE,
    *CAMERA,
    ASPECT_RATIO,
    seconds_field(3, 15),
    *SHOTS,
    *LEGACY_COMMON,
)


def _legacy_text_to_video(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v1")
    model = TEXT_MODELS.get(name)
    if model is None:
        return unknown_model(name)
    seconds = int(pick(body, "duration", "5"))
    mode, sound = pick(body, "mode", "std"), pick(body, "sound", "off") == "on"
    refusal = model_limits(body, name, model) or camera_limits(body) or shots_limits(body, seconds)
    if refusal is not None:
        return refusal
    resolution = LEGACY_RESOLUTIONS[mode]
    if model.version == "2.6" and sound:
        resolution = "1080p"  # sheet 2.1: native audio forces 1080p
    return legacy_order(
        body,
        model=name,
        version=model.version,
        seconds=seconds,
        resolution=resolution,
        audio=sound,
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        units=video_units(model.version, resolution, audio=sound, seconds=seconds),
    )


NEW_TEXT_TO_VIDEO = (
    NewModel("kling-3.0-turbo", "3.0-turbo", (), 3072, ("720p", "1080p"), THREE_TO_FIFTEEN, "always"),
    NewModel("kling-3.0", "3.0", (), 3072, ("720p", "1080p", "4k"), THREE_TO_FIFTEEN, "setting", multi_shot=True),
    NewModel("kling-2.6", "2.6", (), 2500, ("720p", "1080p"), (5, 10), "setting"),
    NewModel("kling-2.5-turbo", "2.5-turbo", (), 2500, ("720p", "1080p"), (5, 10), "never"),
)


def _new_fields(model: NewModel) -> tuple[Field, ...]:
    prompt = Field("prompt", "string", required=True, max_chars=model.prompt_chars)
    return prompt, *model.settings(ASPECT_RATIOS)


def _new_text_to_video(model: NewModel, body: Body) -> Order | Refusal:
    seconds = pick(body, "settings.duration", 5)
    prompt = pick(body, "prompt")
    refusal = model.check_shots(body, prompt, seconds)
    if refusal is not None:
        return refusal
    audio = model.sounds(body)
    resolution = pick(body, "settings.resolution", "720p")
    if model.version == "2.6" and audio:
        resolution = "1080p"  # sheet 2.1: native audio forces 1080p
    return new_order(
        body,
        model=model.name,
        version=model.version,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        audio=audio,
        units=video_units(model.version, resolution, audio=audio, seconds=seconds),
    )


TEXT_TO_VIDEO = (
    legacy("/v1/videos/text2video", LEGACY_FIELDS, _legacy_text_to_video, "Text to Video"),
    *(
        new_design(
            f"/text-to-video/{model.name}", _new_fields(model), partial(_new_text_to_video, model), "Text to Video"
        )
        for model in NEW_TEXT_TO_VIDEO
    ),
)
"""Rows of the product table."""
