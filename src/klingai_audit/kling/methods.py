"""The client's methods by product, defined once for both clients: the type parameters say what comes back.

`TaskT` is `Task`, or an awaitable of `AsyncTask`; `AnswerT` is `Answered`, or an awaitable of it. Each method returns
once Kling has accepted the task, or has answered. What they raise: AuditUnavailable (nothing was sent), KlingError by
code, KlingOutcomeUnknown, UsageError; StorageError for a file that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from klingai_audit.kling import flows, options
from klingai_audit.kling.flows import Flow
from klingai_audit.kling.media import Media, encode_image
from klingai_audit.kling.orders import (
    Order,
    image_to_video_order,
    motion_control_order,
    omni_video_order,
    text_to_video_order,
)
from klingai_audit.kling.products import effect_input, image_items, product_order, video_source

__all__ = ["Products"]

_TaskT = TypeVar("_TaskT")
_AnswerT = TypeVar("_AnswerT")


class Products(Generic[_TaskT, _AnswerT]):
    """Named methods for every product of Kling."""

    new_design: bool
    """Whether the credential works with the new design."""

    retries: flows.Retries

    def _ordered(self, build: Callable[[], Order]) -> _TaskT:
        """Create a task."""
        raise TypeError

    def _answered(self, flow: Flow) -> _AnswerT:
        """Make a call whose answer is all there is."""
        raise TypeError

    # --- videos -----------------------------------------------------------------------------------

    def text_to_video(self, prompt: str, **given: Unpack[options.TextToVideo]) -> _TaskT:
        """Order a video; returns once Kling has accepted the task. Options: `orders.TextToVideo`.

        Raises: AuditUnavailable (nothing was sent), KlingError by code, KlingOutcomeUnknown, UsageError.
        """
        return self._ordered(lambda: text_to_video_order(prompt, given, new_design=self.new_design))

    def image_to_video(self, image: Media, prompt: str = "", **given: Unpack[options.ImageToVideo]) -> _TaskT:
        """Order a video that begins with `image`: a link, a `Path` or bytes; jpg or png, 300 pixels or more a side.

        Up to 50 MB (legacy models: 10). Options: `ImageToVideo`. Sheet 2.1, 2.3.
        """
        return self._ordered(lambda: image_to_video_order(image, prompt, given, new_design=self.new_design))

    def omni_video(self, prompt: str, **given: Unpack[options.OmniVideo]) -> _TaskT:
        """Order a video from words, images, elements and a reference video. Options: `OmniVideo`. Sheet 2.1, 2.3."""
        return self._ordered(lambda: omni_video_order(prompt, given, new_design=self.new_design))

    def motion_control(
        self, image: Media, video: str, orientation: str, prompt: str = "", **given: Unpack[options.MotionControl]
    ) -> _TaskT:
        """Order a video in which the person of `image` moves as in `video` (a link; 3 to 30 s, up to 100 MB).

        `orientation`: `image` (output up to 10 s) or `video` (up to 30 s), whose direction the person faces.
        Options: `MotionControl`. Sheet 2.1, 2.3.
        """
        return self._ordered(
            lambda: motion_control_order(image, video, orientation, prompt, given, new_design=self.new_design)
        )

    def multi_image_to_video(
        self, images: Sequence[Media], prompt: str, **given: Unpack[options.MultiImageToVideo]
    ) -> _TaskT:
        """Order a video from 1 to 4 images. Options: `MultiImageToVideo`. Sheet 2.3."""
        return self._legacy(
            "multi_image_to_video", lambda: {"image_list": image_items(images, "image"), "prompt": prompt}, given
        )

    def extend_video(
        self, video_id: str, prompt: str | None = None, *, negative_prompt: str | None = None,
        cfg_scale: float | None = None, callback_url: str | None = None,
    ) -> _TaskT:  # fmt: skip
        """Order 4 to 5 s more of a video of models V1 to V1.6, up to 180 s in all, at most 30 days old. Sheet 2.3."""
        required = {
            "video_id": video_id, "prompt": prompt, "negative_prompt": negative_prompt, "cfg_scale": cfg_scale,
            "callback_url": callback_url,
        }  # fmt: skip
        return self._legacy("extend_video", lambda: required)

    def avatar(self, image: Media, **given: Unpack[options.Avatar]) -> _TaskT:
        """Order a video in which the person of `image` speaks a sound. Options: `Avatar`. Sheet 2.3."""
        return self._legacy("avatar", lambda: {"image": encode_image(image)}, given)

    def video_effects(self, effect: str, images: Sequence[Media], **given: Unpack[options.VideoEffects]) -> _TaskT:
        """Order a video with the effect of that name, from one image, or two where it shows two people. Sheet 2.3."""
        return self._legacy("video_effects", lambda: {"effect_scene": effect, **effect_input(images)}, given)

    def lip_sync(self, **given: Unpack[options.LipSync]) -> _TaskT:
        """Order a video whose mouths follow a text or a sound, the older form. Options: `LipSync`. Sheet 2.3."""
        source = {name: given.get(name) for name in ("video_id", "video_url")}

        def required() -> Mapping[str, Any]:
            video_source(source["video_id"], source["video_url"])  # type: ignore[arg-type]
            return {}

        return self._legacy("lip_sync", required, given)

    def identify_face(self, *, video_id: str | None = None, video_url: str | None = None) -> _AnswerT:
        """Find the faces in a video (mp4 or mov, up to 100 MB, 2 to 60 s); `data` has `session_id` and `face_data`.

        Costs 0.05 units. Sheet 2.3.
        """
        return self._at_once("identify_face", lambda: video_source(video_id, video_url))

    def advanced_lip_sync(self, session_id: str, face_id: str, **given: Unpack[options.AdvancedLipSync]) -> _TaskT:
        """Order a video in which one face of `identify_face` speaks. Options: `AdvancedLipSync`. Sheet 2.3."""
        required = {"session_id": session_id, "face_choose.face_id": face_id}
        return self._legacy("advanced_lip_sync", lambda: required, given)

    def init_selection(self, *, video_id: str | None = None, video_url: str | None = None) -> _AnswerT:
        """Begin to edit what is in a video; `data` has the `session_id`, good for 24 hours. Sheet 2.3."""
        return self._at_once("init_selection", lambda: video_source(video_id, video_url))

    def add_selection(self, session_id: str, frame_index: int, points: Sequence[Mapping[str, float]]) -> _AnswerT:
        """Mark something in a frame by up to 10 points `{x, y}`, 0 to 1; up to 10 frames. Sheet 2.3."""
        return self._selection("add_selection", session_id, frame_index, points)

    def delete_selection(self, session_id: str, frame_index: int, points: Sequence[Mapping[str, float]]) -> _AnswerT:
        """Take marks back. Sheet 2.3."""
        return self._selection("delete_selection", session_id, frame_index, points)

    def clear_selection(self, session_id: str) -> _AnswerT:
        """Take all marks back. Sheet 2.3."""
        return self._at_once("clear_selection", lambda: {"session_id": session_id})

    def preview_selection(self, session_id: str) -> _AnswerT:
        """See what is marked: `data` has a preview video. Sheet 2.3."""
        return self._at_once("preview_selection", lambda: {"session_id": session_id})

    def multi_elements(self, session_id: str, edit_mode: str, **given: Unpack[options.MultiElements]) -> _TaskT:
        """Order the edited video: `edit_mode` `addition`, `swap` or `removal`. Options: `MultiElements`. Sheet 2.3."""
        return self._legacy("multi_elements", lambda: {"session_id": session_id, "edit_mode": edit_mode}, given)

    # --- sounds -----------------------------------------------------------------------------------

    def text_to_speech(self, text: str, voice_id: str, **given: Unpack[options.Speech]) -> _TaskT:
        """Speak a text of up to 1,000 characters; the task has ended when this returns. Costs 0.05 units.

        Voice ids are a list of their own (`oversea_male1` …), not those of `voices`. Options: `Speech`. Sheet 2.4.
        """
        required = {"text": text, "voice_id": voice_id, "voice_language": given.get("language") or "zh"}
        return self._legacy("text_to_speech", lambda: required, given)

    def text_to_audio(self, prompt: str, duration: float, **given: Unpack[options.Common]) -> _TaskT:
        """Order a sound of 3.0 to 10.0 s from words (up to 200 characters). Costs 0.25 units. Sheet 2.4."""
        return self._legacy("text_to_audio", lambda: {"prompt": prompt, "duration": duration}, given)

    def video_to_audio(self, **given: Unpack[options.VideoToAudio]) -> _TaskT:
        """Order sound for a video of 3 to 20 s, by id or link. Costs 0.25 units. Options: `VideoToAudio`. Sheet 2.4."""

        def required() -> Mapping[str, Any]:
            video_source(given.get("video_id"), given.get("video_url"))
            return {}

        return self._legacy("video_to_audio", required, given)

    # --- images -----------------------------------------------------------------------------------

    def generate_image(self, prompt: str, **given: Unpack[options.GenerateImage]) -> _TaskT:
        """Order 1 to 9 images. Options: `GenerateImage`. Sheet 2.5."""
        return self._legacy("generate_image", lambda: {"prompt": prompt}, given)

    def omni_image(self, prompt: str, **given: Unpack[options.OmniImage]) -> _TaskT:
        """Order images from words, images and elements, also as a series. Options: `OmniImage`. Sheet 2.5."""
        return self._legacy("omni_image", lambda: {"prompt": prompt}, given)

    def multi_image_to_image(self, subjects: Sequence[Media], **given: Unpack[options.MultiImageToImage]) -> _TaskT:
        """Order images of 1 to 4 subjects, in a scene and a style. Options: `MultiImageToImage`. Sheet 2.5."""
        return self._legacy(
            "multi_image_to_image", lambda: {"subject_image_list": image_items(subjects, "subject_image")}, given
        )

    def expand_image(self, image: Media, **given: Unpack[options.ExpandImage]) -> _TaskT:
        """Order a larger image around this one. Options: `ExpandImage`. Sheet 2.5."""
        required = {f"{side}_expansion_ratio": 0 for side in ("up", "down", "left", "right")}
        return self._legacy("expand_image", lambda: {"image": encode_image(image), **required}, given)

    def virtual_try_on(
        self, human: Media, cloth: Media | None = None, *, model: str | None = None, **given: Unpack[options.Common]
    ) -> _TaskT:
        """Order an image of a person in that piece of clothing. Sheet 2.5."""
        return self._legacy(
            "virtual_try_on",
            lambda: {
                "human_image": encode_image(human), "cloth_image": None if cloth is None else encode_image(cloth),
                "model_name": model,
            },
            given,
        )  # fmt: skip

    def multi_shot_images(self, image: Media, **given: Unpack[options.Common]) -> _TaskT:
        """Order three further views of what `image` shows. Sheet 2.4."""
        return self._legacy("multi_shot_images", lambda: {"element_frontal_image": encode_image(image)}, given)

    def recognize_image(self, image: Media) -> _TaskT:
        """Cut persons, heads, faces and clothes out of an image; the task has ended when this returns.

        `raw` says which picture is which. Costs 0.1 units. Sheet 2.3.
        """
        return self._legacy("recognize_image", lambda: {"image": encode_image(image)})

    # --- anything else ----------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None, *, params: Mapping[str, str] | None = None) -> _AnswerT:
        """Make any call: what is new at Kling before it is new here. Recorded like all others.

        `path` begins with a slash, without the base URL; `body` is sent as JSON. Calls that may change something are
        sent once, and their intent is durable before; reads are repeated while that helps.
        """
        return self._answered(flows.ask(method, path, body, params or {}, self.retries))

    def _legacy(
        self, action: str, required: Callable[[], Mapping[str, Any]], given: Mapping[str, Any] | None = None
    ) -> _TaskT:
        return self._ordered(lambda: product_order(action, required(), given))

    def _at_once(self, action: str, required: Callable[[], Mapping[str, Any]]) -> _AnswerT:
        return self._answered(flows.pay(product_order(action, required()), self.retries))

    def _selection(
        self, action: str, session_id: str, frame_index: int, points: Sequence[Mapping[str, float]]
    ) -> _AnswerT:
        marked = [dict(point) for point in points]
        return self._at_once(
            action, lambda: {"session_id": session_id, "frame_index": frame_index, "points": marked}
        )  # fmt: skip
