"""From the caller's words to a request body of either API generation. Pure, but for reading the files that are sent.

Only what contradicts the generation itself is refused here; lists of models and values stay open, since
the provider changes them without notice. Source: fact sheet sections 2.1 and 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.kling.catalogue import Generation, Row, is_legacy_model
from klingai_audit.kling.endpoints import legacy_create, new_create
from klingai_audit.kling.media import encode_image, link
from klingai_audit.kling.options import ImageToVideo, MotionControl, OmniVideo, TextToVideo

__all__ = [
    "DEFAULT_LEGACY_MODEL",
    "DEFAULT_MODEL",
    "Order",
    "TextToVideo",
    "check_options",
    "image_to_video_order",
    "motion_control_order",
    "named",
    "omni_video_order",
    "put",
    "text_to_video_order",
]

DEFAULT_MODEL: Final = "kling-3.0-turbo"
DEFAULT_LEGACY_MODEL: Final = "kling-v2-6"
"""What an AccessKey uses when no model is named: it cannot use the new design."""

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch


@dataclass(frozen=True, slots=True)
class Order:
    """One call that costs something, ready but for the external id."""

    row: Row
    path: str
    generation: Generation
    model: str | None
    body: Mapping[str, Any] = field(repr=False)

    @property
    def route(self) -> str | None:
        """Where its task is asked for: the path of the legacy create, None for `/tasks`."""
        return self.path if self.generation == "legacy" else None

    def with_external_id(self, external_id: str) -> dict[str, Any]:
        """The request body that carries `external_id` where this generation expects it."""
        body = dict(self.body)
        for path in self.row.fields.external_id:
            put(body, path, external_id)
        return body


@dataclass(frozen=True, slots=True)
class _Option:
    """Where an option stands in the bodies of both generations; None: that generation does not have it."""

    old: str | None
    new: str | None
    to_old: Callable[[Any], Any] = lambda value: value
    to_new: Callable[[Any], Any] = lambda value: value
    instead: str = ""


def _list_of(*names: str) -> Callable[[Any], Any]:
    return lambda values: [{names[0]: value} for _, value in named(values, "")]


def _plain_dicts(values: Any) -> list[dict[str, Any]]:
    return [dict(value) for value in values]


def _image(name: str) -> Callable[[Any], Any]:
    return lambda value: encode_image(value, name)


_OPTIONS: Final[Mapping[str, _Option]] = {
    "resolution": _Option(None, "settings.resolution", instead="Use mode."),
    "mode": _Option("mode", None, instead="Use resolution."),
    "aspect_ratio": _Option("aspect_ratio", "settings.aspect_ratio"),
    "duration": _Option("duration", "settings.duration", to_old=str),
    "multi_shot": _Option("multi_shot", "settings.multi_shot"),
    "audio": _Option(
        "sound", "settings.audio", lambda value: "on" if value else "off", lambda value: "native" if value else "off"
    ),
    "callback_url": _Option("callback_url", "options.callback_url"),
    "watermark": _Option("watermark_info.enabled", "options.watermark_info.enabled"),
    "negative_prompt": _Option("negative_prompt", None),
    "cfg_scale": _Option("cfg_scale", None),
    "camera_control": _Option("camera_control", None, dict),
    "shot_type": _Option("shot_type", None),
    "multi_prompt": _Option("multi_prompt", None, _plain_dicts),
    "static_mask": _Option("static_mask", None, _image("static_mask")),
    "dynamic_masks": _Option("dynamic_masks", None, _plain_dicts),
    "last_frame": _Option("image_tail", "", _image("last_frame")),
    "elements": _Option("element_list", "", _list_of("element_id")),
    "voices": _Option("voice_list", "", _list_of("voice_id")),
}
"""Options of the products that both generations have; an empty path is filled in by the product itself."""

_ELSEWHERE: Final = frozenset({"model", "legacy"})


def text_to_video_order(prompt: str, options: TextToVideo, *, new_design: bool) -> Order:
    """Build the create call. `new_design`: whether the credential works there.

    Raises: UsageError: an option of the other generation, or a model that the credential cannot use.
    """
    check_options("text_to_video", options, TextToVideo)
    model, legacy = _choose(options, DEFAULT_MODEL, DEFAULT_LEGACY_MODEL, new_design=new_design)
    body: dict[str, Any] = {"model_name": model, "prompt": prompt} if legacy else {"prompt": prompt}
    return _finish("text_to_video", model, body, options, legacy=legacy)


def image_to_video_order(image: Any, prompt: str, options: ImageToVideo, *, new_design: bool) -> Order:
    """Build the create call. Raises: as `text_to_video_order`, StorageError."""
    check_options("image_to_video", options, ImageToVideo)
    model, legacy = _choose(options, DEFAULT_MODEL, DEFAULT_LEGACY_MODEL, new_design=new_design)
    if legacy:
        body: dict[str, Any] = {"model_name": model, "image": encode_image(image)}
        body |= {"prompt": prompt} if prompt else {}
        return _finish("image_to_video", model, body, options, legacy=True)
    contents = [*_prompt_item(prompt), {"type": "first_frame", "url": encode_image(image, new_design=True)}]
    contents += _frame(options, "last_frame")
    contents += _library(options.get("elements"), "element")
    contents += _library(options.get("voices"), "voice")
    return _finish("image_to_video", model, {"contents": contents}, options, legacy=False)


def omni_video_order(prompt: str, options: OmniVideo, *, new_design: bool) -> Order:
    """Build the create call. Raises: as `text_to_video_order`, StorageError."""
    check_options("omni_video", options, OmniVideo)
    model, legacy = _choose(options, "kling-3.0-omni", "kling-video-o1", new_design=new_design)
    if options.get("feature_video") and options.get("base_video"):
        raise UsageError("There is either a feature_video or a base_video.", do="Leave one of them out.")
    contents: dict[str, Any] = {} if legacy else {"contents": _omni_contents(prompt, options)}
    body = _omni_legacy(model, prompt, options) if legacy else contents
    rest: Any = {name: value for name, value in options.items() if name not in ("audio", "last_frame")}
    audio = options.get("audio")
    if legacy and audio in (True, False):
        body["sound"] = "on" if audio else "off"
    elif not legacy and audio is not None:
        put(body, "settings.audio", audio if isinstance(audio, str) else "native" if audio else "off")
    return _finish("omni_video", model, body, rest, legacy=legacy)


def motion_control_order(
    image: Any, video: str, orientation: str, prompt: str, options: MotionControl, *, new_design: bool
) -> Order:
    """Build the create call. Raises: as `text_to_video_order`, StorageError."""
    check_options("motion_control", options, MotionControl)
    model, legacy = _choose(options, "kling-3.0", DEFAULT_LEGACY_MODEL, new_design=new_design)
    keep = options.get("keep_sound")
    if legacy:
        body: dict[str, Any] = {
            "model_name": model, "image_url": encode_image(image), "video_url": link(video),
            "character_orientation": orientation, "mode": options.get("mode") or "std",
        }  # fmt: skip
        body |= {"prompt": prompt} if prompt else {}
        body |= {} if keep is None else {"keep_original_sound": "yes" if keep else "no"}
        return _finish("motion_control", model, body, options, legacy=True)
    contents = [
        *_prompt_item(prompt),
        {"type": "image", "url": encode_image(image, new_design=True)},
        {"type": "video", "url": link(video)},
        *_library(options.get("elements"), "element"),
    ]
    settings = {"character_orientation": orientation}
    settings |= {} if keep is None else {"audio": "original" if keep else "off"}
    return _finish("motion_control", model, {"contents": contents, "settings": settings}, options, legacy=False)


def check_options(product: str, options: Mapping[str, Any], known: Any) -> None:
    """Refuse an option that the product does not have. Raises: UsageError."""
    unknown = sorted(set(options) - set(known.__annotations__))
    if unknown:
        raise UsageError(f"{product} knows no option {unknown[0]}.")


def named(values: Sequence[Any] | Mapping[str, Any] | None, stem: str) -> Iterator[tuple[str, Any]]:
    """Give each value its name: the caller's, or `stem_1`, `stem_2` …. Raises: UsageError for a lone text."""
    if isinstance(values, str | bytes):
        raise UsageError("This takes a list, also for one.", do="Write [value].")
    if isinstance(values, Mapping):
        yield from values.items()
    else:
        yield from ((f"{stem}_{number}", value) for number, value in enumerate(values or (), 1))


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path; objects on the way are copied, not changed."""
    *parents, last = path.split(".")
    for name in parents:
        body[name] = dict(body.get(name) or {})
        body = body[name]
    body[last] = value


def _choose(options: Mapping[str, Any], new: str, old: str, *, new_design: bool) -> tuple[str, bool]:
    """The model, and whether it is one of the legacy generation."""
    model: Any = options.get("model") or (new if new_design else old)
    if not isinstance(model, str) or _MODEL(model) is None:
        raise UsageError("A model's name has letters, digits, dots and hyphens only.")
    legacy = options["legacy"] if options.get("legacy") is not None else is_legacy_model(model)
    if not legacy and not new_design:
        raise UsageError(
            f"The model {model} takes API keys only, and this client has an AccessKey.",
            do="Create an API key in the console, or use a legacy model such as kling-v2-6.",
        )
    return model, bool(legacy)


def _finish(action: str, model: str, body: dict[str, Any], options: Mapping[str, Any], *, legacy: bool) -> Order:
    """Add the options that are told the same way for every product."""
    for name, value in options.items():
        option = _OPTIONS.get(name)
        if option is None or value is None or name in _ELSEWHERE:
            continue
        path = option.old if legacy else option.new
        if path is None:
            raise UsageError(
                f"The {'legacy' if legacy else 'new'} API of {model} has no {name}.",
                do=option.instead or "Leave it out, or use a legacy model.",
            )
        if path:
            put(body, path, option.to_old(value) if legacy else option.to_new(value))
    if legacy:
        row = legacy_create(action)
        return Order(row, row.path, "legacy", model, body)
    row = new_create(action)
    return Order(row, row.path.replace("{model}", model), "new", model, body)


def _prompt_item(prompt: str) -> list[dict[str, str]]:
    return [{"type": "prompt", "text": prompt}] if prompt else []


def _frame(options: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    image = options.get(name)
    return [] if image is None else [{"type": name, "url": encode_image(image, name, new_design=True)}]


def _library(values: Any, kind: str) -> list[dict[str, str]]:
    return [{"type": kind, f"{kind}_id": str(value), "id": name} for name, value in named(values, kind)]


def _omni_contents(prompt: str, options: OmniVideo) -> list[dict[str, str]]:
    contents = [*_prompt_item(prompt), *_frame(options, "first_frame"), *_frame(options, "last_frame")]
    for name, image in named(options.get("images"), "image"):
        contents.append({"type": "refer_image", "url": encode_image(image, name, new_design=True), "id": name})
    for kind in ("feature_video", "base_video"):
        video: Any = options.get(kind)
        if video is not None:
            contents.append({"type": kind, "url": link(video, kind), "id": "video_1"})
    return contents + _library(options.get("elements"), "element")


def _omni_legacy(model: str, prompt: str, options: OmniVideo) -> dict[str, Any]:
    images: list[dict[str, str]] = []
    for name, kind in (("first_frame", "first_frame"), ("last_frame", "end_frame")):
        frame: Any = options.get(name)
        if frame is not None:
            images.append({"image_url": encode_image(frame, name), "type": kind})
    images += [{"image_url": encode_image(image, name)} for name, image in named(options.get("images"), "image")]
    body: dict[str, Any] = {"model_name": model, "prompt": prompt}
    body |= {"image_list": images} if images else {}
    for kind, refer in (("feature_video", "feature"), ("base_video", "base")):
        video: Any = options.get(kind)
        if video is not None:
            keep = "yes" if options.get("audio") == "original" else "no"
            body["video_list"] = [{"video_url": link(video, kind), "refer_type": refer, "keep_original_sound": keep}]
    return body
