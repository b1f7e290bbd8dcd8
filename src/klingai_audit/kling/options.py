"""Options of the client's methods; what is left out is the provider's default. Limits: fact sheet section 2.

Lists of models and values stay open: Kling changes them without notice, and refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from klingai_audit.kling.media import Media

__all__ = [
    "AdvancedLipSync",
    "Avatar",
    "Common",
    "ElementOptions",
    "ExpandImage",
    "GenerateImage",
    "ImageToVideo",
    "LipSync",
    "MotionControl",
    "MultiElements",
    "MultiImageToImage",
    "MultiImageToVideo",
    "OmniImage",
    "OmniVideo",
    "Speech",
    "TextToVideo",
    "VideoEffects",
    "VideoToAudio",
]


class Common(TypedDict, total=False):
    """Options of everything that makes a task.

    callback_url: where Kling reports status changes. watermark: also deliver a marked version.
    """

    callback_url: str
    watermark: bool


class TextToVideo(TypedDict, total=False):
    """Options of `text_to_video`; what is left out is the provider's default.

    model: `kling-3.0-turbo`, `kling-3.0`, `kling-2.6` … (new design) or `kling-v2-6`, `kling-v3` … (legacy).
    duration: seconds, 3 to 15, or 5 or 10, by model. aspect_ratio: `16:9`, `9:16`, `1:1`.
    resolution: `720p`, `1080p`, `4k` (new design). mode: `std`, `pro`, `4k` (legacy). audio: sound in the video.
    multi_shot: several shots in one video. watermark: also deliver a marked version. callback_url: where the
    provider reports status changes. Legacy only: negative_prompt (up to 2,500 characters), cfg_scale (0 to 1),
    camera_control, shot_type, multi_prompt. legacy: which generation, if the model's name does not tell.
    """

    model: str
    duration: int
    aspect_ratio: str
    resolution: str
    mode: str
    audio: bool
    multi_shot: bool
    watermark: bool
    callback_url: str
    negative_prompt: str
    cfg_scale: float
    camera_control: Mapping[str, Any]
    shot_type: str
    multi_prompt: Sequence[Mapping[str, Any]]
    legacy: bool


class ImageToVideo(Common, total=False):
    """Options of `image_to_video`. Sheet 2.1, 2.3.

    last_frame: the image to end with; the first and last frame force 1080p on some models. elements: ids, up to 3;
    voices: ids, up to 2, with audio. Both also as name → id, where the name is what the prompt says after `@` (new
    design); else they are `element_1`, `voice_1` …. Legacy only: static_mask, dynamic_masks (up to 6), and what is
    legacy in `TextToVideo`; last_frame, masks and camera_control exclude each other.
    """

    model: str
    last_frame: Media
    elements: Sequence[str] | Mapping[str, str]
    voices: Sequence[str] | Mapping[str, str]
    duration: int
    resolution: str
    mode: str
    audio: bool
    multi_shot: bool
    negative_prompt: str
    cfg_scale: float
    camera_control: Mapping[str, Any]
    static_mask: Media
    dynamic_masks: Sequence[Mapping[str, Any]]
    shot_type: str
    multi_prompt: Sequence[Mapping[str, Any]]
    legacy: bool


class OmniVideo(Common, total=False):
    """Options of `omni_video`. Sheet 2.1, 2.3.

    images: references, which the prompt names `@image_1` … (new design; `<<<image_1>>>` in legacy models), or name →
    image. first_frame, last_frame: images. feature_video: a link whose style or motion is referred to; base_video: a
    link to what is edited; one of both at most, 3 to 15.5 s, mp4 or mov, up to 200 MB. elements: ids, or name → id.
    audio: True for native sound, False for none, `"original"` to keep that of the reference video.
    aspect_ratio: needed where there is neither first frame nor video. duration: seconds, 3 to 15 (O1: 3 to 10).
    """

    model: str
    images: Sequence[Media] | Mapping[str, Media]
    first_frame: Media
    last_frame: Media
    feature_video: str
    base_video: str
    elements: Sequence[str] | Mapping[str, str]
    audio: bool | str
    aspect_ratio: str
    duration: int
    resolution: str
    mode: str
    multi_shot: bool
    shot_type: str
    multi_prompt: Sequence[Mapping[str, Any]]
    legacy: bool


class MotionControl(Common, total=False):
    """Options of `motion_control`. Sheet 2.1, 2.3.

    keep_sound: keep the motion video's sound (default yes). elements: one id at most, or name → id.
    resolution: `720p`, `1080p` (new design). mode: `std`, `pro` (legacy; `std` if left out).
    """

    model: str
    keep_sound: bool
    elements: Sequence[str] | Mapping[str, str]
    resolution: str
    mode: str
    legacy: bool


class MultiImageToVideo(Common, total=False):
    """Options of `multi_image_to_video`. mode: `std`, `pro`. duration: 5 or 10 s. Sheet 2.3."""

    model: str
    negative_prompt: str
    mode: str
    duration: int
    aspect_ratio: str


class MultiElements(Common, total=False):
    """Options of `multi_elements`. images: what to add or to swap in. mode: `std`, `pro`. duration: 5 or 10 s."""

    model: str
    images: Sequence[Media]
    prompt: str
    negative_prompt: str
    mode: str
    duration: int


class AdvancedLipSync(Common, total=False):
    """Options of `advanced_lip_sync`. Sheet 2.3.

    audio_id (of a generated sound) or sound (a file up to 5 MB, or a link): one of both, 2 to 60 s. Times in ms:
    start and end cut the sound, insert is where in the video it begins. volume and original_volume: 0 to 2.
    """

    audio_id: str
    sound: Media
    start: int
    end: int
    insert: int
    volume: float
    original_volume: float


class LipSync(Common, total=False):
    """Options of `lip_sync`, the older form. Sheet 2.3.

    Either text (up to 120 characters) with voice_id, language (`zh`, `en`) and speed (0.8 to 2.0), or sound.
    """

    video_id: str
    video_url: str
    text: str
    voice_id: str
    language: str
    speed: float
    sound: Media


class Avatar(Common, total=False):
    """Options of `avatar`. audio_id or sound (up to 5 MB, 2 to 300 s). mode: `std`, `pro`. Sheet 2.3."""

    audio_id: str
    sound: Media
    prompt: str
    mode: str


class VideoEffects(Common, total=False):
    """Options of `video_effects`; model, mode and duration belong to the older effects. Sheet 2.3."""

    model: str
    mode: str
    duration: int


class Speech(TypedDict, total=False):
    """Options of `text_to_speech`. language: `zh`, `en`. speed: 0.8 to 2.0, default 1.0. Sheet 2.4."""

    language: str
    speed: float


class VideoToAudio(Common, total=False):
    """Options of `video_to_audio`: prompts up to 200 characters each. asmr: more detail. Sheet 2.4."""

    video_id: str
    video_url: str
    sound_effect_prompt: str
    bgm_prompt: str
    asmr: bool


class GenerateImage(Common, total=False):
    """Options of `generate_image`. Sheet 2.5.

    image: a reference (no negative_prompt then); image_reference: `subject`, `face`; image_fidelity and
    human_fidelity: 0 to 1. elements: ids. resolution: `1k`, `2k`. n: 1 to 9 images. aspect_ratio: `16:9` … `21:9`.
    """

    model: str
    negative_prompt: str
    image: Media
    image_reference: str
    image_fidelity: float
    human_fidelity: float
    elements: Sequence[str]
    resolution: str
    n: int
    aspect_ratio: str


class OmniImage(Common, total=False):
    """Options of `omni_image`. Sheet 2.5.

    images and elements: up to 10 in all; the prompt names them `<<<image_1>>>`. resolution: `1k`, `2k`, `4k`.
    result_type: `single`, `series`; series: 2 to 9, or `"auto"`. n: 1 to 9.
    """

    model: str
    images: Sequence[Media]
    elements: Sequence[str]
    resolution: str
    result_type: str
    series: int | str
    n: int
    aspect_ratio: str


class MultiImageToImage(Common, total=False):
    """Options of `multi_image_to_image`. scene, style: images. n: 1 to 9. Sheet 2.5."""

    model: str
    prompt: str
    scene: Media
    style: Media
    n: int
    aspect_ratio: str


class ExpandImage(Common, total=False):
    """Options of `expand_image`. up, down, left, right: 0 to 2 each, the new area up to 3 times the old. n: 1 to 9."""

    up: float
    down: float
    left: float
    right: float
    prompt: str
    n: int


class ElementOptions(Common, total=False):
    """Options of `elements.create`. Sheet 2.4.

    frontal_image with refer_images (1 to 3), or video: a link, 3 to 8 s. voice_id: a voice of its own.
    tags: `o_101` … `o_108`.
    """

    frontal_image: Media
    refer_images: Sequence[Media]
    video: str
    voice_id: str
    tags: Sequence[str]
