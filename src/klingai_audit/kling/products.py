"""Orders of the products that only the legacy API has. Pure, but for reading the files that are sent.

Source: fact sheet sections 2.3 to 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.kling import options as told
from klingai_audit.kling.endpoints import legacy_create
from klingai_audit.kling.media import encode_image, encode_sound, link
from klingai_audit.kling.orders import Order, check_options, named, put

__all__ = ["effect_input", "image_items", "product_order", "video_source"]

_Convert = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _image(value: Any) -> Any:
    return encode_image(value)


def _images(name: str) -> _Convert:
    return lambda values: image_items(values, name)


def _ids(name: str) -> _Convert:
    return lambda values: [{name: value} for _, value in named(values, "id")]


_COMMON: Final[Mapping[str, tuple[str, _Convert]]] = {
    "model": ("model_name", _same), "callback_url": ("callback_url", _same),
    "watermark": ("watermark_info.enabled", _same), "negative_prompt": ("negative_prompt", _same),
    "prompt": ("prompt", _same), "mode": ("mode", _same), "duration": ("duration", str),
    "aspect_ratio": ("aspect_ratio", _same), "n": ("n", _same), "resolution": ("resolution", _same),
    "elements": ("element_list", _ids("element_id")), "audio_id": ("audio_id", _same),
    "sound": ("sound_file", encode_sound), "video_id": ("video_id", _same), "video_url": ("video_url", link),
    "image": ("image", _image),
}  # fmt: skip
"""Option -> where it stands in a legacy body, and in which form."""

_OWN: Final[Mapping[str, Mapping[str, tuple[str, _Convert]]]] = {
    "multi_elements": {"images": ("image_list", _images("image"))},
    "omni_image": {
        "images": ("image_list", _images("image")), "result_type": ("result_type", _same),
        "series": ("series_amount", _same),
    },
    "multi_image_to_image": {"scene": ("scene_image", _image), "style": ("style_image", _image)},
    "expand_image": {
        side: (f"{side}_expansion_ratio", _same) for side in ("up", "down", "left", "right")
    },
    "generate_image": {
        name: (name, _same) for name in ("image_reference", "image_fidelity", "human_fidelity")
    },
    "video_effects": {
        "model": ("input.model_name", _same), "mode": ("input.mode", _same), "duration": ("input.duration", str),
    },
    "advanced_lip_sync": {
        name: (f"face_choose.{path}", encode_sound if name == "sound" else _same)
        for name, path in (
            ("audio_id", "audio_id"), ("sound", "sound_file"), ("start", "sound_start_time"),
            ("end", "sound_end_time"), ("insert", "sound_insert_time"), ("volume", "sound_volume"),
            ("original_volume", "original_audio_volume"),
        )
    },
    "lip_sync": {
        "video_id": ("input.video_id", _same), "video_url": ("input.video_url", link), "text": ("input.text", _same),
        "voice_id": ("input.voice_id", _same), "language": ("input.voice_language", _same),
        "speed": ("input.voice_speed", _same), "sound": ("input.sound", encode_sound),
    },
    "text_to_speech": {"language": ("voice_language", _same), "speed": ("voice_speed", _same)},
    "video_to_audio": {
        "sound_effect_prompt": ("sound_effect_prompt", _same), "bgm_prompt": ("bgm_prompt", _same),
        "asmr": ("asmr_mode", _same),
    },
    "create_element": {
        "frontal_image": ("element_image_list.frontal_image", _image),
        "refer_images": ("element_image_list.refer_images", _images("image_url")),
        "video": ("element_video_list.refer_videos", lambda url: [{"video_url": link(url)}]),
        "voice_id": ("element_voice_id", _same), "tags": ("tag_list", _ids("tag_id")),
    },
}  # fmt: skip

_KNOWN: Final[Mapping[str, Any]] = {
    "multi_image_to_video": told.MultiImageToVideo,
    "multi_elements": told.MultiElements,
    "advanced_lip_sync": told.AdvancedLipSync,
    "lip_sync": told.LipSync,
    "avatar": told.Avatar,
    "video_effects": told.VideoEffects,
    "text_to_speech": told.Speech,
    "video_to_audio": told.VideoToAudio,
    "generate_image": told.GenerateImage,
    "omni_image": told.OmniImage,
    "multi_image_to_image": told.MultiImageToImage,
    "expand_image": told.ExpandImage,
    "create_element": told.ElementOptions,
}


def product_order(action: str, required: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Order:
    """Build a legacy call. `required` is body path → value in its final form; None is left out.

    Raises: UsageError: an option that the product does not have, or a file that Kling would refuse. StorageError.
    """
    row = legacy_create(action)
    given = options or {}
    check_options(action, given, _KNOWN.get(action, told.Common))
    body: dict[str, Any] = {}
    for path, value in required.items():
        if value is not None:
            put(body, path, value)
    for name, value in given.items():
        if value is not None:
            path, convert = _OWN.get(action, {}).get(name) or _COMMON[name]
            put(body, path, convert(value))
    _complete(action, body)
    model = body.get("model_name")
    return Order(row, row.path, "legacy", model if isinstance(model, str) else None, body)


def video_source(video_id: str | None, video_url: str | None) -> dict[str, Any]:
    """The video that a call works on: Kling's id of it, or a link. Raises: UsageError: none or both."""
    if (video_id is None) == (video_url is None):
        raise UsageError("Name the video by video_id or by video_url.", do="Give exactly one of them.")
    return {"video_id": video_id} if video_url is None else {"video_url": link(video_url)}


def _complete(action: str, body: dict[str, Any]) -> None:
    """What depends on several options of a product."""
    if action == "advanced_lip_sync":
        face = body["face_choose"]
        if "sound_end_time" not in face:
            raise UsageError("Where does the sound end?", do="Give end=…, in ms from the sound's beginning.")
        if ("audio_id" in face) == ("sound_file" in face):
            raise UsageError("Name the sound by audio_id or as sound.", do="Give exactly one of them.")
        body["face_choose"] = [{"sound_start_time": 0, "sound_insert_time": 0, **face}]
    elif action == "lip_sync":
        given = body["input"]
        sound = given.pop("sound", None)
        if (sound is None) == ("text" not in given):
            raise UsageError("A lip-sync speaks a text or plays a sound.", do="Give exactly one of them.")
        if sound is None:
            given["mode"] = "text2video"
        else:
            linked = "://" in sound[:32]
            given |= {"mode": "audio2video", "audio_type": "url" if linked else "file"}
            given["audio_url" if linked else "audio_file"] = sound
    elif action == "create_element":
        body["reference_type"] = "video_refer" if "element_video_list" in body else "image_refer"
        if "element_video_list" not in body and "element_image_list" not in body:
            raise UsageError("An element is made from images or from a video.", do="Give frontal_image, or video.")


def image_items(images: Sequence[Any], name: str) -> list[dict[str, str]]:
    """A list of images as legacy bodies hold it: each an object with one member `name`."""
    return [{name: encode_image(image, label)} for label, image in named(images, "image")]


def effect_input(images: Sequence[Any]) -> dict[str, Any]:
    """The input of an effect: one image, or two for effects with two people."""
    sent = [encode_image(image) for image in images]
    return {"input.image": sent[0]} if len(sent) == 1 else {"input.images": sent}
