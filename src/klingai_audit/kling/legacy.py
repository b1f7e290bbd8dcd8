"""The endpoint table's larger half: what costs something on legacy paths, and which of its fields may be kept.

Source: fact sheet sections 2.3 to 2.5 (vendor documentation 2026-09-20, older pages of February 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from klingai_audit.kling.rows import Fields, Product, Row

__all__ = ["LEGACY_CREATES", "LEGACY_SYNC"]

_PROMPTS: Final = {"prompt": "prompt", "negative_prompt": "negative_prompt"}
_SHOTS: Final = {"multi_prompt": "multi_prompt"}
_COMMON: Final = {"watermark": "watermark_info.enabled"}
_VIDEO: Final = {
    "mode": "mode", "sound": "sound", "cfg_scale": "cfg_scale", "aspect_ratio": "aspect_ratio", "duration": "duration",
    "camera": "camera_control.type", "camera_moves": "camera_control.config", "multi_shot": "multi_shot",
    "shot_type": "shot_type",
}  # fmt: skip
_IMAGE: Final = {"n": "n", "resolution": "resolution", "aspect_ratio": "aspect_ratio"}
_ELEMENTS: Final = {"elements": "element_list[].element_id"}
_VOICES: Final = {"voices": "voice_list[].voice_id"}
_SESSION: Final = {"session_id": "session_id"}


def _fields(
    committed: Mapping[str, str] = {},
    kept: Mapping[str, str] = {},
    media: tuple[str, ...] = (),
    *,
    model: bool = True,
    asynchronous: bool = True,
) -> Fields:
    return Fields(
        committed={**committed, "callback_url": "callback_url"} if asynchronous else committed,
        kept={**kept, **_COMMON} if asynchronous else kept,
        media=media,
        external_id=("external_task_id",) if asynchronous else (),
        model="model_name" if model else None,
    )


def _create(
    path: str, action: str, product: Product | None, fields: Fields, source: str, *, idempotent: bool = False
) -> Row:
    return Row(
        "POST", f"/v1/{path}", action, "paid_create", "task", product, "legacy",
        fields=fields, idempotent=idempotent, source=source,
    )  # fmt: skip


def _sync(path: str, action: str, product: Product | None, fields: Fields, source: str) -> Row:
    return Row("POST", f"/v1/{path}", action, "paid_sync", "any", product, "legacy", fields=fields, source=source)


_VIDEO_SOURCE: Final = {"video_id": "video_id"}
LEGACY_CREATES: Final[tuple[Row, ...]] = (
    _create(
        "videos/text2video", "text_to_video", "video", _fields({**_PROMPTS, **_SHOTS}, _VIDEO), "2.3", idempotent=True
    ),
    _create(
        "videos/image2video", "image_to_video", "video",
        _fields(
            {**_PROMPTS, **_SHOTS, "masks": "dynamic_masks"}, {**_VIDEO, **_ELEMENTS, **_VOICES},
            ("image", "image_tail", "static_mask"),
        ),
        "2.3",
    ),
    _create(
        "videos/multi-image2video", "multi_image_to_video", "video",
        _fields(_PROMPTS, _VIDEO, ("image_list[].image",)), "2.3",
    ),
    _create(
        "videos/omni-video", "omni_video", "video",
        _fields(
            {**_PROMPTS, **_SHOTS}, {**_VIDEO, **_ELEMENTS},
            ("image_list[].image_url", "video_list[].video_url"),
        ),
        "2.3",
    ),
    _create(
        "videos/motion-control", "motion_control", "video",
        _fields(
            _PROMPTS,
            {
                "mode": "mode", "orientation": "character_orientation", "keep_sound": "keep_original_sound",
                **_ELEMENTS,
            },
            ("image_url", "video_url"),
        ),
        "2.3",
    ),
    _create(
        "videos/video-extend", "extend_video", "video",
        _fields(_PROMPTS, {**_VIDEO_SOURCE, "cfg_scale": "cfg_scale"}, model=False), "2.3",
    ),
    _create(
        "videos/multi-elements", "multi_elements", "video",
        _fields(
            _PROMPTS, {**_SESSION, "edit_mode": "edit_mode", "mode": "mode", "duration": "duration"},
            ("image_list[].image",),
        ),
        "2.3",
    ),
    _create(
        "videos/advanced-lip-sync", "advanced_lip_sync", "video",
        _fields(
            {}, {**_SESSION, "faces": "face_choose[].face_id", "audios": "face_choose[].audio_id"},
            ("face_choose[].sound_file",), model=False,
        ),
        "2.3",
    ),
    _create(
        "videos/lip-sync", "lip_sync", "video",
        _fields(
            {"text": "input.text"},
            {
                "video_id": "input.video_id", "mode": "input.mode", "voice_id": "input.voice_id",
                "language": "input.voice_language", "speed": "input.voice_speed", "audio_type": "input.audio_type",
            },
            ("input.video_url", "input.audio_file", "input.audio_url"), model=False,
        ),
        "2.3",
    ),
    _create(
        "videos/avatar/image2video", "avatar", "video",
        _fields({"prompt": "prompt"}, {"mode": "mode", "audio_id": "audio_id"}, ("image", "sound_file"), model=False),
        "2.3",
    ),
    _create(
        "videos/effects", "video_effects", "video",
        replace(
            _fields(
                {},
                {"effect": "effect_scene", "duration": "input.duration", "mode": "input.mode"},
                ("input.image", "input.images[]"),
            ),
            model="input.model_name",
        ),
        "2.3",
    ),
    _create(
        "audio/text-to-audio", "text_to_audio", "audio",
        _fields({"prompt": "prompt"}, {"duration": "duration"}, model=False), "2.4",
    ),
    _create(
        "audio/video-to-audio", "video_to_audio", "audio",
        _fields(
            {"sound_effect_prompt": "sound_effect_prompt", "bgm_prompt": "bgm_prompt"},
            {**_VIDEO_SOURCE, "asmr_mode": "asmr_mode"}, ("video_url",), model=False,
        ),
        "2.4",
    ),
    _create(
        "general/custom-voices", "create_voice", "voice",
        _fields({"voice_name": "voice_name"}, _VIDEO_SOURCE, ("voice_url",), model=False), "2.4",
    ),
    _create(
        "general/advanced-custom-elements", "create_element", "element",
        _fields(
            {"element_name": "element_name", "element_description": "element_description"},
            {"reference_type": "reference_type", "voice_id": "element_voice_id", "tags": "tag_list[].tag_id"},
            (
                "element_image_list.frontal_image", "element_image_list.refer_images[].image_url",
                "element_video_list.refer_videos[].video_url",
            ),
            model=False,
        ),
        "2.4",
    ),
    _create("general/ai-multi-shot", "multi_shot_images", "image", _fields({}, {}, ("element_frontal_image",)), "2.4"),
    _create(
        "images/generations", "generate_image", "image",
        _fields(
            _PROMPTS,
            {
                **_IMAGE, **_ELEMENTS, "image_reference": "image_reference", "image_fidelity": "image_fidelity",
                "human_fidelity": "human_fidelity",
            },
            ("image",),
        ),
        "2.5",
    ),
    _create(
        "images/omni-image", "omni_image", "image",
        _fields(
            _PROMPTS, {**_IMAGE, **_ELEMENTS, "result_type": "result_type", "series": "series_amount"},
            ("image_list[].image",),
        ),
        "2.5",
    ),
    _create(
        "images/multi-image2image", "multi_image_to_image", "image",
        _fields(_PROMPTS, _IMAGE, ("subject_image_list[].subject_image", "scene_image", "style_image")), "2.5",
    ),
    _create(
        "images/editing/expand", "expand_image", "image",
        _fields(
            _PROMPTS,
            {
                "n": "n", "up": "up_expansion_ratio", "down": "down_expansion_ratio", "left": "left_expansion_ratio",
                "right": "right_expansion_ratio",
            },
            ("image",), model=False,
        ),
        "2.5",
    ),
    _create(
        "images/kolors-virtual-try-on", "virtual_try_on", "image", _fields({}, {}, ("human_image", "cloth_image")),
        "2.5",
    ),
)  # fmt: skip
"""Creates of tasks."""


def _selection(name: str, committed: Mapping[str, str] = {}, **kept: str) -> Row:
    fields = _fields(committed, {**_SESSION, **kept}, model=False, asynchronous=False)
    return _sync(f"videos/multi-elements/{name}-selection", f"{name}_selection", None, fields, "2.3")


LEGACY_SYNC: Final[tuple[Row, ...]] = (
    _sync(
        "videos/multi-elements/init-selection", "init_selection", None,
        _fields({}, _VIDEO_SOURCE, ("video_url",), model=False, asynchronous=False), "2.3",
    ),
    _selection("add", {"points": "points"}, frame="frame_index"),
    _selection("delete", {"points": "points"}, frame="frame_index"),
    _selection("clear"),
    _selection("preview"),
    _sync(
        "videos/identify-face", "identify_face", None,
        _fields({}, _VIDEO_SOURCE, ("video_url",), model=False, asynchronous=False), "2.3",
    ),
    _sync(
        "videos/image-recognize", "recognize_image", None,
        _fields({}, {}, ("image",), model=False, asynchronous=False), "2.3",
    ),
    _sync(
        "audio/tts", "text_to_speech", "audio",
        _fields(
            {"text": "text"}, {"voice_id": "voice_id", "language": "voice_language", "speed": "voice_speed"},
            model=False, asynchronous=False,
        ),
        "2.4",
    ),
    _sync(
        "general/custom-elements", "create_simple_element", "element",
        _fields(
            {"element_name": "element_name", "element_description": "element_description"},
            {"tags": "tag_list[].tag_id"},
            ("element_frontal_image", "element_refer_list[].image_url", "element_refer_list[].image"),
            model=False, asynchronous=False,
        ),
        "2.4",
    ),
)  # fmt: skip
"""Calls that cost something and answer at once."""
