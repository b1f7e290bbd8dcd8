"""From the caller's words to a request body of either API generation. Pure.

Only what contradicts the generation itself is refused here; lists of models and values stay open, since
the provider changes them without notice. Source: fact sheet sections 2.1 and 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from klingai_audit.errors import UsageError
from klingai_audit.kling.catalogue import LEGACY_TEXT_TO_VIDEO, NEW_TEXT_TO_VIDEO, Generation, Row, is_legacy_model

__all__ = ["DEFAULT_LEGACY_MODEL", "DEFAULT_MODEL", "Order", "TextToVideo", "text_to_video_order"]

DEFAULT_MODEL: Final = "kling-3.0-turbo"
DEFAULT_LEGACY_MODEL: Final = "kling-v2-6"
"""What an AccessKey uses when no model is named: it cannot use the new design."""


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


_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_LEGACY_ONLY: Final = ("mode", "negative_prompt", "cfg_scale", "camera_control", "shot_type", "multi_prompt")
_NEW_ONLY: Final = ("resolution",)
_INSTEAD: Final = {"mode": "resolution", "resolution": "mode"}


@dataclass(frozen=True, slots=True)
class Order:
    """One create call, ready but for the external id."""

    row: Row
    path: str
    generation: Generation
    model: str
    body: Mapping[str, Any] = field(repr=False)

    def with_external_id(self, external_id: str) -> dict[str, Any]:
        """The request body that carries `external_id` where this generation expects it."""
        if self.generation == "legacy":
            return {**self.body, "external_task_id": external_id}
        return {**self.body, "options": {**self.body.get("options", {}), "external_task_id": external_id}}


def text_to_video_order(prompt: str, options: TextToVideo, *, new_design: bool) -> Order:
    """Build the create call. `new_design`: whether the credential works there.

    Raises: UsageError: an option of the other generation, or a model that the credential cannot use.
    """
    unknown = sorted(set(options) - set(TextToVideo.__annotations__))
    if unknown:
        raise UsageError(f"text_to_video knows no option {unknown[0]}.")
    model: Any = options.get("model") or (DEFAULT_MODEL if new_design else DEFAULT_LEGACY_MODEL)
    if not isinstance(model, str) or _MODEL(model) is None:
        raise UsageError("A model's name has letters, digits, dots and hyphens only.")
    legacy = options["legacy"] if options.get("legacy") is not None else is_legacy_model(model)
    if not legacy and not new_design:
        raise UsageError(
            f"The model {model} takes API keys only, and this client has an AccessKey.",
            do="Create an API key in the console, or use a legacy model such as kling-v2-6.",
        )
    for name in _NEW_ONLY if legacy else _LEGACY_ONLY:
        if options.get(name) is not None:
            instead = f"Use {_INSTEAD[name]}." if name in _INSTEAD else "Leave it out, or use a legacy model."
            raise UsageError(f"The {'legacy' if legacy else 'new'} API of {model} has no {name}.", do=instead)
    if legacy:
        path = LEGACY_TEXT_TO_VIDEO.path
        return Order(LEGACY_TEXT_TO_VIDEO, path, "legacy", model, _legacy_body(prompt, model, options))
    path = NEW_TEXT_TO_VIDEO.path.replace("{model}", model)
    return Order(NEW_TEXT_TO_VIDEO, path, "new", model, _new_body(prompt, options))


def _legacy_body(prompt: str, model: str, options: TextToVideo) -> dict[str, Any]:
    body: dict[str, Any] = {"model_name": model, "prompt": prompt}
    same = ("negative_prompt", "mode", "cfg_scale", "aspect_ratio", "multi_shot", "shot_type", "callback_url")
    body |= {name: options[name] for name in same if options.get(name) is not None}  # type: ignore[literal-required]
    if options.get("duration") is not None:
        body["duration"] = str(options["duration"])
    if options.get("audio") is not None:
        body["sound"] = "on" if options["audio"] else "off"
    if options.get("camera_control") is not None:
        body["camera_control"] = dict(options["camera_control"])
    if options.get("multi_prompt") is not None:
        body["multi_prompt"] = [dict(shot) for shot in options["multi_prompt"]]
    if options.get("watermark") is not None:
        body["watermark_info"] = {"enabled": options["watermark"]}
    return body


def _new_body(prompt: str, options: TextToVideo) -> dict[str, Any]:
    names = ("resolution", "aspect_ratio", "duration", "multi_shot")
    settings = {name: options[name] for name in names if options.get(name) is not None}  # type: ignore[literal-required]
    if options.get("audio") is not None:
        settings["audio"] = "native" if options["audio"] else "off"
    extra: dict[str, Any] = {}
    if options.get("callback_url") is not None:
        extra["callback_url"] = options["callback_url"]
    if options.get("watermark") is not None:
        extra["watermark_info"] = {"enabled": options["watermark"]}
    body: dict[str, Any] = {"prompt": prompt}
    if settings:
        body["settings"] = settings
    if extra:
        body["options"] = extra
    return body
