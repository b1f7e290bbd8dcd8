"""Image-to-video in both generations, and from several images. Source: fact sheet sections 2.1 and 2.3."""

from __future__ import annotations

from functools import partial

from klingai_audit.kling.simulator.fields import Field, pick
from klingai_audit.kling.simulator.legacy_common import (
    ANY_MODE,
    ASPECT_RATIO,
    CAMERA,
    CFG_SCALE,
    ELEMENT_LIST,
    FIVE_OR_TEN,
    IMAGE_MODELS,
    LEGACY_COMMON,
    LEGACY_RESOLUTIONS,
    PROMPTS,
    SHOTS,
    SOUND,
    STD_OR_PRO,
    camera_limits,
    legacy_order,
    model_limits,
    seconds_field,
    shots_limits,
    unknown_model,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.new_common import (
    THREE_TO_FIFTEEN,
    NewModel,
    contents_field,
    new_order,
    read_contents,
)
from klingai_audit.kling.simulator.prices import video_units
from klingai_audit.kling.simulator.product import Body, legacy, new_design
from klingai_audit.kling.simulator.tasks import Order

LEGACY_FIELDS = (
    Field("model_name", "string"),
    Field("image", "string", media="image"),
    Field("image_tail", "string", media="image"),
    *PROMPTS,
    SOUND,
    CFG_SCALE,
    ANY_MODE,
    Field("voice_list", "array", most=2, items=(Field("voice_id", "id", required=True),)),
    Field("static_mask", "string", media="image"),
    Field(
        "dynamic_masks",
        "array",
        most=6,
        items=(
            Field("mask", "string", required=True, media="image"),
            Field(
                "trajectories",
                "array",
                required=True,
                least=2,
                most=77,
                items=(Field("x", "integer", required=True), Field("y", "integer", required=True)),
            ),
        ),
    ),
    *CAMERA,
    seconds_field(3, 15),
    *SHOTS,
    ELEMENT_LIST,
    *LEGACY_COMMON,
)


def _legacy_image_to_video(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v1")
    model = IMAGE_MODELS.get(name)
    if model is None:
        return unknown_model(name)
    seconds, sound = int(pick(body, "duration", "5")), pick(body, "sound", "off") == "on"
    refusal = (
        model_limits(body, name, model)
        or camera_limits(body)
        or shots_limits(body, seconds, prompt_needed=False)
        or _frames(body)
    )
    if refusal is not None:
        return refusal
    voices = bool(pick(body, "voice_list"))
    if voices and not (sound and model.voices):
        return Refusal(1201, "voice_list needs sound on and a model that takes voices")
    if pick(body, "element_list") and not model.multi_shot:
        return Refusal(1201, f"element_list is not supported by the model '{name}'")
    resolution = LEGACY_RESOLUTIONS[pick(body, "mode", "std")]
    if model.version == "2.6" and sound:
        resolution = "1080p"  # sheet 2.1: native audio forces 1080p
    return legacy_order(
        body,
        model=name,
        version=model.version,
        seconds=seconds,
        resolution=resolution,
        audio=sound,
        voice_control=voices,
        units=video_units(
            model.version, resolution, seconds=seconds, way="voice" if voices else "audio" if sound else "silent"
        ),
    )


def _frames(body: Body) -> Refusal | None:
    """A frame is needed; a last frame, masks and the camera exclude each other."""
    if pick(body, "image") is None and pick(body, "image_tail") is None:
        return Refusal(1200, "image or image_tail is required")
    masks = pick(body, "static_mask") or pick(body, "dynamic_masks")
    groups = [pick(body, "image_tail"), masks, pick(body, "camera_control")]
    if sum(bool(group) for group in groups) > 1:
        return Refusal(1201, "image_tail, masks and camera_control cannot be used simultaneously")
    return None


MULTI_IMAGE_FIELDS = (
    Field("model_name", "string"),
    Field(
        "image_list",
        "array",
        required=True,
        least=1,
        most=4,
        items=(Field("image", "string", required=True, media="image"),),
    ),
    Field("prompt", "string", required=True, max_chars=2500),
    Field("negative_prompt", "string", max_chars=2500),
    STD_OR_PRO,
    FIVE_OR_TEN,
    ASPECT_RATIO,
    *LEGACY_COMMON,
)


def _multi_image_to_video(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v1-6")
    if name != "kling-v1-6":
        return unknown_model(name)
    seconds, resolution = int(pick(body, "duration", "5")), LEGACY_RESOLUTIONS[pick(body, "mode", "std")]
    return legacy_order(
        body,
        model=name,
        version="1.6",
        seconds=seconds,
        resolution=resolution,
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        units=video_units("1.6", resolution, seconds=seconds),
    )


NEW_IMAGE_TO_VIDEO = (
    NewModel(
        "kling-3.0-turbo", "3.0-turbo", ("first_frame",), 3072, ("720p", "1080p"), THREE_TO_FIFTEEN, "always"
    ),
    NewModel(
        "kling-3.0",
        "3.0",
        ("first_frame", "last_frame", "element"),
        3072,
        ("720p", "1080p", "4k"),
        THREE_TO_FIFTEEN,
        "setting",
        multi_shot=True,
    ),
    NewModel(
        "kling-2.6", "2.6", ("first_frame", "last_frame", "voice"), 2500, ("720p", "1080p"), (5, 10), "setting"
    ),
    NewModel(
        "kling-2.5-turbo", "2.5-turbo", ("first_frame", "last_frame"), 2500, ("720p", "1080p"), (5, 10), "never"
    ),
)  # fmt: skip


def _new_image_to_video(model: NewModel, body: Body) -> Order | Refusal:
    contents = read_contents(body, element=3, voice=2)
    if isinstance(contents, Refusal):
        return contents
    if not contents.count("first_frame"):
        return Refusal(1200, "contents needs a first_frame")
    seconds, prompt = pick(body, "settings.duration", 5), contents.prompt
    refusal = model.check_shots(body, prompt, seconds)
    if refusal is not None:
        return refusal
    audio = model.sounds(body)
    voices = contents.count("voice") > 0
    if voices and not audio:
        return Refusal(1201, "a voice needs settings.audio other than off")
    resolution = pick(body, "settings.resolution", "720p")
    if model.version.startswith("2.") and (contents.count("last_frame") or audio):
        resolution = "1080p"  # sheet 2.1: both frames, or native audio, force 1080p
    return new_order(
        body,
        model=model.name,
        version=model.version,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        audio=audio,
        voice_control=voices,
        units=video_units(
            model.version, resolution, seconds=seconds, way="voice" if voices else "audio" if audio else "silent"
        ),
    )


IMAGE_TO_VIDEO = (
    legacy("/v1/videos/image2video", LEGACY_FIELDS, _legacy_image_to_video, "Image to Video"),
    legacy("/v1/videos/multi-image2video", MULTI_IMAGE_FIELDS, _multi_image_to_video, "Multi-Image to Video"),
    *(
        new_design(
            f"/image-to-video/{model.name}",
            (contents_field(*model.types, prompt_chars=model.prompt_chars), *model.settings()),
            partial(_new_image_to_video, model),
            "Image to Video",
        )
        for model in NEW_IMAGE_TO_VIDEO
    ),
)
"""Rows of the product table."""
