"""Images: making, editing, trying on, recognising. Source: fact sheet sections 2.3 to 2.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator.fields import Field, pick
from klingai_audit.kling.simulator.legacy_common import (
    ELEMENT_LIST,
    LEGACY_COMMON,
    LEGACY_TASK,
    legacy_order,
    unknown_model,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import (
    IMAGE,
    IMAGE_4K,
    IMAGE_EXPAND,
    IMAGE_FROM_MANY,
    IMAGE_FROM_TEXT_2_1,
    IMAGE_RECOGNITION,
    MULTI_SHOT,
    TRY_ON,
)
from klingai_audit.kling.simulator.product import Body, Product, synchronous
from klingai_audit.kling.simulator.tasks import Order, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator
    from klingai_audit.kling.simulator.records import View

RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
MAX_INPUTS = 10
MAX_AREA = 3
AUTO_SERIES = 4
"""How many images a series of `auto` has here (choice)."""
SEGMENTS = ("object_seg", "head_seg", "face_seg", "cloth_seg")
COUNT = Field("n", "integer", low=1, high=9)
PROMPT = Field("prompt", "string", required=True, max_chars=2500)


@dataclass(frozen=True, slots=True)
class ImageModel:
    """Units of one image without and with an input image."""

    version: str
    from_text: Decimal
    from_image: Decimal


GENERATION_MODELS = {
    "kling-v1": ImageModel("image-1.0", IMAGE_FROM_TEXT_2_1, IMAGE),
    "kling-v1-5": ImageModel("image-1.5", IMAGE_FROM_TEXT_2_1, IMAGE),
    "kling-v2": ImageModel("image-2.0", IMAGE_FROM_TEXT_2_1, IMAGE),
    "kling-v2-new": ImageModel("image-2.0", IMAGE_FROM_TEXT_2_1, IMAGE),
    "kling-v2-1": ImageModel("image-2.1", IMAGE_FROM_TEXT_2_1, IMAGE),
    "kling-v3": ImageModel("image-3.0", IMAGE, IMAGE),
}

GENERATION_FIELDS = (
    Field("model_name", "string"),
    PROMPT,
    Field("negative_prompt", "string", max_chars=2500),
    Field("image", "string", media="image"),
    Field("image_reference", "string", choices=("subject", "face")),
    Field("image_fidelity", "number", low=0, high=1),
    Field("human_fidelity", "number", low=0, high=1),
    ELEMENT_LIST,
    Field("resolution", "string", choices=("1k", "2k")),
    COUNT,
    Field("aspect_ratio", "string", choices=RATIOS),
    *LEGACY_COMMON,
)


def _images(count: int, *, series: bool = False) -> tuple[Output, ...]:
    return tuple(Output("image", index=index, group="series" if series else "") for index in range(count))


def _generation(body: Body) -> Order | Refusal:
    name, given = pick(body, "model_name", "kling-v3"), pick(body, "image") is not None
    model = GENERATION_MODELS.get(name)
    if model is None:
        return unknown_model(name)
    if given and pick(body, "negative_prompt") is not None:
        return Refusal(1201, "negative_prompt is not supported together with image")
    if pick(body, "image_reference") is not None and not given:
        return Refusal(1200, "image is required with image_reference")
    count = pick(body, "n", 1)
    return legacy_order(
        body,
        model=name,
        version=model.version,
        resolution=pick(body, "resolution", "1k"),
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        units=(model.from_image if given else model.from_text) * count,
        slots=count,
        makes=_images(count),
    )


OMNI_FIELDS = (
    Field("model_name", "string"),
    PROMPT,
    Field("image_list", "array", items=(Field("image", "string", required=True, media="image"),)),
    ELEMENT_LIST,
    Field("resolution", "string", choices=("1k", "2k", "4k")),
    Field("result_type", "string", choices=("single", "series")),
    Field("series_amount", "id", choices=(*range(2, 10), *map(str, range(2, 10)), "auto")),
    COUNT,
    Field("aspect_ratio", "string", choices=(*RATIOS, "auto")),
    *LEGACY_COMMON,
)
OMNI_MODELS = {"kling-image-o1": "image-o1", "kling-v3-omni": "image-3.0-omni"}


def _omni(body: Body) -> Order | Refusal:
    name, resolution = pick(body, "model_name", "kling-image-o1"), pick(body, "resolution", "1k")
    version = OMNI_MODELS.get(name)
    if version is None:
        return unknown_model(name)
    if resolution == "4k" and version == "image-o1":
        return Refusal(1201, f"resolution is invalid for the model '{name}'")
    if len(pick(body, "image_list", [])) + len(pick(body, "element_list", [])) > MAX_INPUTS:
        return Refusal(1201, f"image_list and element_list hold more than {MAX_INPUTS} together")
    series = pick(body, "result_type", "single") == "series"
    amount = pick(body, "series_amount", "auto")
    count = (AUTO_SERIES if amount == "auto" else int(amount)) if series else pick(body, "n", 1)
    ratio = pick(body, "aspect_ratio", "auto")
    return legacy_order(
        body,
        model=name,
        version=version,
        resolution=resolution,
        aspect_ratio="16:9" if ratio == "auto" else ratio,
        units=(IMAGE_4K if resolution == "4k" else IMAGE) * count,
        slots=count,
        makes=_images(count, series=series),
        series=series,
    )


MULTI_IMAGE_FIELDS = (
    Field("model_name", "string"),
    Field(
        "subject_image_list",
        "array",
        required=True,
        least=1,
        most=4,
        items=(Field("subject_image", "string", required=True, media="image"),),
    ),
    Field("scene_image", "string", media="image"),
    Field("style_image", "string", media="image"),
    Field("prompt", "string", max_chars=2500),
    COUNT,
    Field("aspect_ratio", "string", choices=RATIOS),
    *LEGACY_COMMON,
)


def _multi_image(body: Body) -> Order | Refusal:
    name, count = pick(body, "model_name", "kling-v2-1"), pick(body, "n", 1)
    if name not in {"kling-v2", "kling-v2-1"}:
        return unknown_model(name)
    return legacy_order(
        body,
        model=name,
        version=GENERATION_MODELS[name].version,
        resolution="1k",
        aspect_ratio=pick(body, "aspect_ratio", "16:9"),
        units=IMAGE_FROM_MANY * count,
        slots=count,
        makes=_images(count),
    )


SIDES = ("up", "down", "left", "right")
EXPAND_FIELDS = (
    Field("image", "string", required=True, media="image"),
    *(Field(f"{side}_expansion_ratio", "number", low=0, high=2) for side in SIDES),
    Field("prompt", "string", max_chars=2500),
    COUNT,
    *LEGACY_COMMON,
)


def _expand(body: Body) -> Order | Refusal:
    up, down, left, right = (pick(body, f"{side}_expansion_ratio", 0) for side in SIDES)
    if (1 + up + down) * (1 + left + right) > MAX_AREA:
        return Refusal(1201, f"the new area is more than {MAX_AREA} times the old one")
    count = pick(body, "n", 1)
    return legacy_order(
        body,
        model="image-expand",
        version="image-expand",
        resolution="1k",
        units=IMAGE_EXPAND * count,
        slots=count,
        makes=_images(count),
    )


TRY_ON_FIELDS = (
    Field("model_name", "string"),
    Field("human_image", "string", required=True, media="image"),
    Field("cloth_image", "string", required=True, media="image"),
    *LEGACY_COMMON,
)
TRY_ON_MODELS = ("kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5")


def _try_on(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", TRY_ON_MODELS[0])
    if name not in TRY_ON_MODELS:
        return unknown_model(name)
    return legacy_order(body, model=name, version=name, resolution="1k", units=TRY_ON, makes=_images(1))


MULTI_SHOT_FIELDS = (Field("element_frontal_image", "string", required=True, media="image"), *LEGACY_TASK)


def _multi_shot(body: Body) -> Order | Refusal:
    three = Output("image", facts={"views": 3})
    return legacy_order(
        body, model="ai-multi-shot", version="ai-multi-shot", resolution="1k", units=MULTI_SHOT, makes=(three,)
    )


def _recognise(body: Body) -> Order | Refusal:
    makes = _images(len(SEGMENTS))
    return legacy_order(
        body, model="image-recognize", version="image-recognize", units=IMAGE_RECOGNITION, makes=makes
    )  # fmt: skip


def _recognised(_sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    found = [
        {"type": kind, "is_contain": True, "url": view.url(task, output)}
        for kind, output in zip(SEGMENTS, task.outputs, strict=True)
    ]
    return {"task_result": {"images": found}, **view.cost(task)}


def _image_row(
    path: str, fields: tuple[Field, ...], order: Callable[[Body], Order | Refusal], function: str
) -> Product:
    return Product(path, "legacy", "image", "image", fields, order, function)


IMAGES = (
    _image_row("/v1/images/generations", GENERATION_FIELDS, _generation, "Image Generation"),
    _image_row("/v1/images/omni-image", OMNI_FIELDS, _omni, "Omni Image"),
    _image_row("/v1/images/multi-image2image", MULTI_IMAGE_FIELDS, _multi_image, "Multi-Image to Image"),
    _image_row("/v1/images/editing/expand", EXPAND_FIELDS, _expand, "Outpainting"),
    _image_row("/v1/general/ai-multi-shot", MULTI_SHOT_FIELDS, _multi_shot, "AI Multi-Shot"),
    Product("/v1/images/kolors-virtual-try-on", "legacy", "try-on", "try_on", TRY_ON_FIELDS, _try_on, "Virtual Try-On"),
    synchronous(
        "/v1/videos/image-recognize",
        (Field("image", "string", required=True, media="image"),),
        _recognise,
        _recognised,
        "Image Recognition",
    ),
)
"""Rows of the product table."""
