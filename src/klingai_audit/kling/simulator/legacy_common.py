"""What legacy bodies share: models, field rows, camera, shots. Source: fact sheet section 2.3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator.fields import Field, check_fields, one_of, pick
from klingai_audit.kling.simulator.inputs import assumed_seconds
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.tasks import Order, Parent

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

Body = Mapping[str, Any]

ASPECT_RATIOS = ("16:9", "9:16", "1:1")
LEGACY_RESOLUTIONS: Mapping[str, str] = {"std": "720p", "pro": "1080p", "4k": "4k"}
MAX_SHOTS = 6
MAX_SHOT_CHARS = 512
CAMERA_MOVES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")


@dataclass(frozen=True, slots=True)
class LegacyModel:
    """What one `model_name` of the legacy video paths can do."""

    version: str
    seconds: tuple[int, ...] = (5, 10)
    modes: tuple[str, ...] = ("std", "pro")
    sound: bool = False
    cfg_scale: bool = False
    multi_shot: bool = False
    voices: bool = False


TEXT_MODELS: Mapping[str, LegacyModel] = {
    "kling-v1": LegacyModel("1.0", cfg_scale=True),
    "kling-v1-6": LegacyModel("1.6", cfg_scale=True),
    "kling-v2-master": LegacyModel("2.0-master"),
    "kling-v2-1-master": LegacyModel("2.1-master"),
    "kling-v2-5-turbo": LegacyModel("2.5-turbo"),
    "kling-v2-6": LegacyModel("2.6", sound=True, voices=True),
    "kling-v3": LegacyModel(
        "3.0", tuple(range(3, 16)), ("std", "pro", "4k"), sound=True, cfg_scale=True, multi_shot=True
    ),
}
IMAGE_MODELS: Mapping[str, LegacyModel] = {
    **TEXT_MODELS,
    "kling-v1-5": LegacyModel("1.5", cfg_scale=True),
    "kling-v2-1": LegacyModel("2.1"),
}

LEGACY_TASK = (
    Field("callback_url", "string"),
    Field("external_task_id", "string"),
)
LEGACY_COMMON = (
    *LEGACY_TASK,
    Field("watermark_info", "object"),
    Field("watermark_info.enabled", "boolean"),
)
PROMPTS = (
    Field("prompt", "string", max_chars=2500),
    Field("negative_prompt", "string", max_chars=2500),
)
CAMERA = (
    Field("camera_control", "object"),
    Field(
        "camera_control.type",
        "string",
        choices=("simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"),
    ),
    Field("camera_control.config", "object"),
    *(Field(f"camera_control.config.{move}", "number", low=-10, high=10) for move in CAMERA_MOVES),
)
SHOTS = (
    Field("multi_shot", "boolean"),
    Field("shot_type", "string", choices=("customize", "intelligence")),
    Field("multi_prompt", "array"),
)
SOUND = Field("sound", "string", choices=("on", "off"))
CFG_SCALE = Field("cfg_scale", "number", low=0, high=1)
STD_OR_PRO = Field("mode", "string", choices=("std", "pro"))
FIVE_OR_TEN = Field("duration", "string", choices=("5", "10"), as_string=True)
ANY_MODE = Field("mode", "string", choices=("std", "pro", "4k"))
ASPECT_RATIO = Field("aspect_ratio", "string", choices=ASPECT_RATIOS)
ELEMENT_LIST = Field("element_list", "array", items=(Field("element_id", "id", required=True),))


def seconds_field(low: int, high: int) -> Field:
    """The row of `duration`: a decimal string of whole seconds."""
    return Field("duration", "string", choices=tuple(str(n) for n in range(low, high + 1)), as_string=True)


def legacy_order(
    body: Body, *, model: str, version: str, units: Decimal, seconds: int = 5, prompt: str | None = None, **more: Any
) -> Order:
    """An order with the fields that every legacy create shares; `more` are further members of `Order`."""
    given: dict[str, Any] = {"resolution": "720p", "audio": False, "aspect_ratio": "16:9", **more}
    return Order(
        model=model,
        version=version,
        prompt=all_prompts(body) if prompt is None else prompt,
        seconds=seconds,
        units=units,
        external_id=pick(body, "external_task_id", ""),
        callback_url=pick(body, "callback_url", ""),
        watermark=pick(body, "watermark_info.enabled") is True,
        **given,
    )


def unknown_model(name: str) -> Refusal:
    """What an unknown `model_name` gets."""
    return Refusal(1203, f"The model '{name}' does not exist")


def model_limits(body: Body, name: str, model: LegacyModel) -> Refusal | None:
    """Refuse what this model of a video path cannot do."""
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


def camera_limits(body: Body) -> Refusal | None:
    """`config` belongs to `simple`, with exactly one non-zero value."""
    control = pick(body, "camera_control")
    if not control:
        return None
    kind, config = pick(control, "type"), pick(control, "config", {})
    if kind != "simple":
        return Refusal(1201, "camera_control.config must be empty unless type is simple") if config else None
    moves = [move for move in CAMERA_MOVES if config.get(move)]
    return None if len(moves) == 1 else Refusal(1201, "camera_control.config needs exactly one non-zero value")


def shots_limits(body: Body, seconds: int, *, prompt_needed: bool = True) -> Refusal | None:
    """Either a prompt or, for a customised multi-shot, 1 to 6 shots that sum to the length."""
    custom = pick(body, "multi_shot") and pick(body, "shot_type") == "customize"
    if not custom:
        return None if pick(body, "prompt") or not prompt_needed else Refusal(1200, "prompt is required")
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


def all_prompts(body: Body) -> str:
    """Every prompt text of a legacy body, for the content policy."""
    shots = pick(body, "multi_prompt", [])
    texts = [pick(body, "prompt", "")] + [pick(shot, "prompt", "") for shot in shots if isinstance(shot, Mapping)]
    return "\n".join(text for text in texts if text)


def parent_video(body: Body, sim: Simulator) -> Parent | Refusal:
    """The video that `video_id` or `video_url` names; exactly one of them."""
    refusal = one_of(body, "video_id", "video_url")
    if refusal is not None:
        return refusal
    address = pick(body, "video_url")
    if address is not None:
        return Parent(assumed_seconds(address), address)
    video_id = pick(body, "video_id")
    found = sim.book.output("video", video_id, sim.now_ms())
    if found is None:
        return Refusal(1201, f"Video not found by id: {video_id}")
    return Parent(float(found[0].order.seconds), task=found[0], output=found[1])
