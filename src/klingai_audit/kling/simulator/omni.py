"""Omni video and motion control in both generations. Source: fact sheet sections 2.1 and 2.3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator.fields import Field, pick
from klingai_audit.kling.simulator.inputs import assumed_seconds
from klingai_audit.kling.simulator.legacy_common import (
    ANY_MODE,
    ASPECT_RATIO,
    ASPECT_RATIOS,
    ELEMENT_LIST,
    LEGACY_COMMON,
    LEGACY_RESOLUTIONS,
    SHOTS,
    SOUND,
    legacy_order,
    seconds_field,
    shots_limits,
    unknown_model,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.new_common import (
    THREE_TO_FIFTEEN,
    Contents,
    contents_field,
    new_order,
    read_contents,
    settings_fields,
    shots_in_prompt,
)
from klingai_audit.kling.simulator.prices import video_units
from klingai_audit.kling.simulator.product import Body, legacy, new_design
from klingai_audit.kling.simulator.tasks import Order

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

VIDEO_CHARACTER, MULTI_IMAGE = "video_character_elements", "multi_image_elements"
MAX_IMAGES, MAX_IMAGES_WITH_FILM = 7, 4
MAX_CHARACTERS, MAX_CHARACTERS_WITH_FILM = 3, 1
MOTION_SECONDS = {"video": (3, 30), "image": (3, 10)}
OMNI_TYPES = ("first_frame", "last_frame", "refer_image", "feature_video", "base_video", "element")


@dataclass(frozen=True, slots=True)
class OmniModel:
    """What one omni model can do; `legacy` is its `model_name` on the legacy path."""

    name: str
    legacy: str
    version: str
    prompt_chars: int
    resolutions: tuple[str, ...]
    seconds: tuple[int, ...]
    audio: tuple[str, ...]
    multi_shot: bool = False


OMNI_3 = OmniModel(
    "kling-3.0-omni", "kling-v3-omni", "3.0-omni", 3072, ("720p", "1080p", "4k"), THREE_TO_FIFTEEN,
    ("off", "native", "original"), multi_shot=True,
)  # fmt: skip
OMNI_O1 = OmniModel(
    "kling-o1", "kling-video-o1", "o1", 2500, ("720p", "1080p"), tuple(range(3, 11)), ("off", "original")
)  # fmt: skip


def _new_omni(model: OmniModel, body: Body) -> Order | Refusal:
    contents = read_contents(body, refer_image=MAX_IMAGES, element=MAX_IMAGES)
    if isinstance(contents, Refusal):
        return contents
    seconds, audio = pick(body, "settings.duration", 5), pick(body, "settings.audio", "off")
    refusal = _omni_rules(model, contents, body)
    if refusal is not None:
        return refusal
    film = contents.count("feature_video", "base_video") > 0
    if model.multi_shot and not contents.count("base_video") and pick(body, "settings.multi_shot") is not False:
        refusal = shots_in_prompt(contents.prompt, seconds)
        if refusal is not None:
            return refusal
    resolution, native = pick(body, "settings.resolution", "720p"), audio == "native"
    return new_order(
        body,
        model=model.name,
        version=model.version,
        prompt=contents.prompt,
        seconds=seconds,
        resolution=resolution,
        audio=native,
        refer_video=film,
        sound="original" if audio == "original" and film else "",
        units=video_units(
            model.version, resolution, seconds=seconds, way="video" if film else "audio" if native else "silent"
        ),
    )


def _omni_rules(model: OmniModel, contents: Contents, body: Body) -> Refusal | None:
    audio, frames = pick(body, "settings.audio", "off"), contents.count("first_frame", "last_frame")
    if not contents.prompt:
        return Refusal(1200, "contents needs a prompt")
    if contents.count("feature_video", "base_video") > 1:
        return Refusal(1201, "contents holds more than one reference video")
    if contents.count("last_frame") and not contents.count("first_frame"):
        return Refusal(1201, "a last_frame alone is not supported")
    if contents.count("feature_video") and audio != "off":
        return Refusal(1201, "settings.audio must be off with a feature_video")
    if contents.count("base_video"):
        if frames:
            return Refusal(1201, "base_video and frames cannot be used simultaneously")
        if audio == "native":
            return Refusal(1201, "settings.audio must not be native with a base_video")
        if pick(body, "settings.multi_shot") is True:
            return Refusal(1201, "settings.multi_shot must not be true with a base_video")
    alone = frames == 1 and sum(len(items) for items in contents.items.values()) == 1 + contents.count("prompt")
    if model is OMNI_O1 and alone and pick(body, "settings.duration", 5) not in (5, 10):
        return Refusal(1201, "settings.duration must be 5 or 10 with a first_frame alone")
    return None


def _bind_new_omni(model: OmniModel, body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    contents = read_contents(body, refer_image=MAX_IMAGES, element=MAX_IMAGES)
    if isinstance(contents, Refusal):
        return contents
    elements = contents.items.get("element", [])
    images, frames = contents.count("refer_image"), contents.count("first_frame") > 0
    return _count_limits(model, elements, images, sim, film=order.refer_video, frames=frames) or order


def _count_limits(
    model: OmniModel, elements: list[Mapping[str, Any]], images: int, sim: Simulator, *, film: bool, frames: bool
) -> Refusal | None:
    """How many images and elements go together; elements that are not of this account count as multi-image."""
    characters = sum(_is_character(str(element["element_id"]), sim) for element in elements)
    if characters and model is OMNI_O1:
        return Refusal(1201, "only multi-image elements are supported by this model")
    if frames and len(elements) > MAX_CHARACTERS:
        return Refusal(1201, f"at most {MAX_CHARACTERS} elements together with frames")
    most = MAX_IMAGES_WITH_FILM if film or characters else MAX_IMAGES
    if images + len(elements) - characters > most:
        return Refusal(1201, f"at most {most} images and multi-image elements here")
    most = MAX_CHARACTERS_WITH_FILM if film else MAX_CHARACTERS
    return Refusal(1201, f"at most {most} video character elements here") if characters > most else None


def _is_character(element_id: str, sim: Simulator) -> bool:
    found = sim.book.output("element", element_id, sim.now_ms())
    return found is not None and found[1].facts.get("element_type") == VIDEO_CHARACTER


LEGACY_OMNI_FIELDS = (
    Field("model_name", "string"),
    Field("prompt", "string", max_chars=2500),
    Field(
        "image_list",
        "array",
        most=MAX_IMAGES,
        items=(
            Field("image_url", "string", required=True, media="image"),
            Field("type", "string", choices=("first_frame", "end_frame")),
        ),
    ),
    ELEMENT_LIST,
    Field(
        "video_list",
        "array",
        most=1,
        items=(
            Field("video_url", "string", required=True, media="video"),
            Field("refer_type", "string", choices=("feature", "base")),
            Field("keep_original_sound", "string", choices=("yes", "no")),
        ),
    ),
    SOUND,
    ANY_MODE,
    ASPECT_RATIO,
    seconds_field(3, 15),
    *SHOTS,
    *LEGACY_COMMON,
)


def _legacy_omni(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", OMNI_O1.legacy)
    model = next((model for model in (OMNI_3, OMNI_O1) if model.legacy == name), None)
    if model is None:
        return unknown_model(name)
    seconds, resolution = int(pick(body, "duration", "5")), LEGACY_RESOLUTIONS[pick(body, "mode", "pro")]
    if seconds not in model.seconds:
        return Refusal(1201, f"duration is invalid for the model '{name}'")
    if resolution not in model.resolutions:
        return Refusal(1201, f"mode is invalid for the model '{name}'")
    if pick(body, "multi_shot") and not model.multi_shot:
        return Refusal(1201, f"multi_shot is not supported by the model '{name}'")
    films, native = pick(body, "video_list", []), pick(body, "sound", "off") == "on"
    refusal = shots_limits(body, seconds) or _legacy_omni_rules(body, model, films, native=native)
    if refusal is not None:
        return refusal
    keeps = bool(films) and pick(films[0], "keep_original_sound") == "yes"
    return legacy_order(
        body,
        model=name,
        version=model.version,
        seconds=seconds,
        resolution=resolution,
        audio=native,
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        refer_video=bool(films),
        sound="original" if keeps else "",
        units=video_units(
            model.version, resolution, seconds=seconds, way="video" if films else "audio" if native else "silent"
        ),
    )


def _legacy_omni_rules(body: Body, model: OmniModel, films: list[Body], *, native: bool) -> Refusal | None:
    types = [pick(image, "type") for image in pick(body, "image_list", [])]
    if types.count("first_frame") > 1 or types.count("end_frame") > 1:
        return Refusal(1201, "image_list holds the same frame twice")
    if "end_frame" in types and "first_frame" not in types:
        return Refusal(1201, "an end_frame alone is not supported")
    if native and (films or "native" not in model.audio):
        return Refusal(1201, "sound must be off here")
    edited = bool(films) and pick(films[0], "refer_type", "base") == "base"
    if edited and any(types):
        return Refusal(1201, "frames and a video to edit cannot be used simultaneously")
    if pick(body, "aspect_ratio") is None and "first_frame" not in types and not edited:
        return Refusal(1200, "aspect_ratio is required without a first frame or a video to edit")
    return None


def _bind_legacy_omni(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    model = OMNI_3 if order.version == OMNI_3.version else OMNI_O1
    types = [pick(image, "type") for image in pick(body, "image_list", [])]
    elements = pick(body, "element_list", [])
    refusal = _count_limits(
        model, elements, types.count(None), sim, film=order.refer_video, frames="first_frame" in types
    )  # fmt: skip
    return refusal or order


MOTION_MODELS = {"kling-3.0": "3.0", "kling-2.6": "2.6"}
LEGACY_MOTION_MODELS = {"kling-v3": "3.0", "kling-v2-6": "2.6"}
ORIENTATIONS = ("image", "video")


def _motion_length(orientation: str, address: str) -> int | Refusal:
    low, high = MOTION_SECONDS[orientation]
    seconds = assumed_seconds(address)
    if not low <= seconds <= high:
        return Refusal(1201, f"the motion video must be {low} to {high} seconds long")
    return int(seconds)


def _new_motion(name: str, body: Body) -> Order | Refusal:
    contents, version = read_contents(body), MOTION_MODELS[name]
    if isinstance(contents, Refusal):
        return contents
    if not contents.count("image") or not contents.count("video"):
        return Refusal(1200, "contents needs an image and a video")
    seconds = _motion_length(pick(body, "settings.character_orientation"), contents.items["video"][0]["url"])
    if isinstance(seconds, Refusal):
        return seconds
    resolution = pick(body, "settings.resolution", "720p")
    return new_order(
        body,
        model=name,
        version=version,
        prompt=contents.prompt,
        seconds=seconds,
        resolution=resolution,
        audio=False,
        refer_video=True,
        sound="original" if pick(body, "settings.audio", "original") == "original" else "",
        units=video_units(version, resolution, seconds=seconds, way="motion"),
    )


LEGACY_MOTION_FIELDS = (
    Field("model_name", "string"),
    Field("image_url", "string", required=True, media="image"),
    Field("video_url", "string", required=True, media="video"),
    Field("character_orientation", "string", required=True, choices=ORIENTATIONS),
    Field("mode", "string", required=True, choices=("std", "pro")),
    Field("prompt", "string", max_chars=2500),
    Field("keep_original_sound", "string", choices=("yes", "no")),
    ELEMENT_LIST,
    *LEGACY_COMMON,
)


def _legacy_motion(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v2-6")
    version = LEGACY_MOTION_MODELS.get(name)
    if version is None:
        return unknown_model(name)
    if pick(body, "element_list") and version != "3.0":
        return Refusal(1201, f"element_list is not supported by the model '{name}'")
    seconds = _motion_length(body["character_orientation"], body["video_url"])
    if isinstance(seconds, Refusal):
        return seconds
    resolution = LEGACY_RESOLUTIONS[body["mode"]]
    return legacy_order(
        body,
        model=name,
        version=version,
        seconds=seconds,
        resolution=resolution,
        refer_video=True,
        sound="original" if pick(body, "keep_original_sound", "yes") == "yes" else "",
        units=video_units(version, resolution, seconds=seconds, way="motion"),
    )


OMNI = (
    legacy("/v1/videos/omni-video", LEGACY_OMNI_FIELDS, _legacy_omni, "Omni Video", _bind_legacy_omni),
    legacy("/v1/videos/motion-control", LEGACY_MOTION_FIELDS, _legacy_motion, "Motion Control"),
    *(
        new_design(
            f"/omni-video/{model.name}",
            (
                contents_field(*OMNI_TYPES, prompt_chars=model.prompt_chars),
                *settings_fields(
                    resolutions=model.resolutions,
                    seconds=model.seconds,
                    ratios=ASPECT_RATIOS,
                    audio=model.audio,
                    multi_shot=model.multi_shot,
                ),
            ),
            partial(_new_omni, model),
            "Omni Video",
            partial(_bind_new_omni, model),
        )
        for model in (OMNI_3, OMNI_O1)
    ),
    *(
        new_design(
            f"/motion-control/{name}",
            (
                contents_field(*types, prompt_chars=2500),
                Field("settings", "object"),
                Field("settings.character_orientation", "string", required=True, choices=ORIENTATIONS),
                *settings_fields(resolutions=("720p", "1080p"), audio=("original", "off")),
            ),
            partial(_new_motion, name),
            "Motion Control",
        )
        for name, types in (("kling-3.0", ("image", "video", "element")), ("kling-2.6", ("image", "video")))
    ),
)
"""Rows of the product table."""
