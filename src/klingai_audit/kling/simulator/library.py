"""Voices and elements: making, listing, deleting. Source: fact sheet section 2.4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from klingai_audit.kling.simulator.calls import Call, page, read_body, view_of
from klingai_audit.kling.simulator.fields import Field, check_fields, one_of, pick
from klingai_audit.kling.simulator.legacy_common import LEGACY_TASK, legacy_order
from klingai_audit.kling.simulator.messages import Refusal, Response, success
from klingai_audit.kling.simulator.omni import MULTI_IMAGE, VIDEO_CHARACTER
from klingai_audit.kling.simulator.prices import CUSTOM_VOICE, ELEMENT
from klingai_audit.kling.simulator.product import Body, Product, legacy
from klingai_audit.kling.simulator.records import View, legacy_record
from klingai_audit.kling.simulator.talking import bind_parent
from klingai_audit.kling.simulator.tasks import Order, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

CREATOR = "100000001"
"""The account's own number in `owned_by`; Kling's own voices and elements say `kling`."""
TAGS: Mapping[str, str] = {
    "o_101": "Hottest",
    "o_102": "Character",
    "o_103": "Animal",
    "o_104": "Item",
    "o_105": "Costume",
    "o_106": "Scene",
    "o_107": "Effect",
    "o_108": "Others",
}
TAG_LIST = Field("tag_list", "array", items=(Field("tag_id", "string", required=True, choices=tuple(TAGS)),))
OLD_ELEMENTS = "/v1/general/custom-elements"

VOICE_FIELDS = (
    Field("voice_name", "string", required=True, max_chars=20),
    Field("voice_url", "string", media="video"),
    Field("video_id", "string"),
    *LEGACY_TASK,
)


def _voice(body: Body) -> Order | Refusal:
    made = Output("voice", facts={"name": body["voice_name"], "owned_by": CREATOR})
    return one_of(body, "voice_url", "video_id") or legacy_order(
        body, model="custom-voice", version="custom-voice", units=CUSTOM_VOICE, audio=True, makes=(made,)
    )


def _bind_voice(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    """An earlier video must exist; what it sounds like is not looked at."""
    if pick(body, "video_id") is None:
        return order
    bound = bind_parent({"video_id": body["video_id"]}, order, sim)
    return bound if isinstance(bound, Refusal) else order


ELEMENT_FIELDS = (
    Field("element_name", "string", required=True, max_chars=20),
    Field("element_description", "string", required=True, max_chars=100),
    Field("reference_type", "string", required=True, choices=("image_refer", "video_refer")),
    Field("element_image_list", "object"),
    Field("element_image_list.frontal_image", "string", media="image"),
    Field(
        "element_image_list.refer_images",
        "array",
        least=1,
        most=3,
        items=(Field("image_url", "string", required=True, media="image"),),
    ),
    Field("element_video_list", "object"),
    Field(
        "element_video_list.refer_videos",
        "array",
        least=1,
        most=1,
        items=(Field("video_url", "string", required=True, media="video"),),
    ),
    Field("element_voice_id", "id"),
    TAG_LIST,
    *LEGACY_TASK,
)


def _element(body: Body) -> Order | Refusal:
    films = [film["video_url"] for film in pick(body, "element_video_list.refer_videos", [])]
    frontal = pick(body, "element_image_list.frontal_image")
    refers = [image["image_url"] for image in pick(body, "element_image_list.refer_images", [])]
    from_film = body["reference_type"] == "video_refer"
    if from_film and not films:
        return Refusal(1200, "element_video_list is required when reference_type is video_refer")
    if not from_film and (frontal is None or not refers):
        return Refusal(1200, "element_image_list is required when reference_type is image_refer")
    return _element_order(body, films if from_film else [frontal, *refers], body["reference_type"])


def _element_order(body: Body, sources: list[str], reference_type: str) -> Order:
    made = Output(
        "element",
        facts={
            "name": body["element_name"],
            "description": body["element_description"],
            "reference_type": reference_type,
            "element_type": VIDEO_CHARACTER if reference_type == "video_refer" else MULTI_IMAGE,
            "sources": sources,
            "voice_id": str(pick(body, "element_voice_id", "")),
            "tags": [(tag["tag_id"], TAGS[tag["tag_id"]]) for tag in pick(body, "tag_list", [])],
            "owned_by": CREATOR,
        },
    )
    return legacy_order(
        body, model="element", version="element", units=ELEMENT, prompt=body["element_description"], makes=(made,)
    )


OLD_ELEMENT_FIELDS = (
    Field("element_name", "string", required=True, max_chars=20),
    Field("element_description", "string", required=True, max_chars=100),
    Field("element_frontal_image", "string", required=True, media="image"),
    Field(
        "element_refer_list",
        "array",
        required=True,
        least=1,
        most=3,
        items=(Field("image_url", "string", required=True, media="image"),),
    ),
    TAG_LIST,
)


def _old_element(body: Body) -> Order | Refusal:
    refers = [image["image_url"] for image in body["element_refer_list"]]
    return _element_order(body, [body["element_frontal_image"], *refers], "image_refer")


def _old_record(task: Task, view: View) -> dict[str, Any]:
    (output,) = task.outputs
    facts = output.facts
    urls = [view.url(task, output, part=str(number)) for number, _ in enumerate(facts["sources"])]
    return {
        "element_id": output.output_id,
        "element_name": facts["name"],
        "element_description": facts["description"],
        "element_frontal_image": urls[0],
        "element_refer_list": [{"image_url": url} for url in urls[1:]],
        "tag_list": [{"id": tag, "name": name, "description": name} for tag, name in facts["tags"]],
        "owned_by": facts["owned_by"],
    }


def _old_made(_sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    return _old_record(task, view)


LIBRARY = (
    replace(legacy("/v1/general/custom-voices", VOICE_FIELDS, _voice, "Custom Voice", _bind_voice), max_page_size=1000),
    legacy("/v1/general/advanced-custom-elements", ELEMENT_FIELDS, _element, "Element"),
    Product(
        OLD_ELEMENTS, "legacy", "video", "video", OLD_ELEMENT_FIELDS, _old_element, "Element", None, _old_made,
        singles=False, lists=False,
    ),
)  # fmt: skip
"""Rows of the product table."""


def list_old_elements(call: Call) -> Response | Refusal:
    """`GET /v1/general/custom-elements`: elements rather than tasks."""
    kept = [
        task for task in call.sim.book.unlisted(OLD_ELEMENTS) if task.outputs[0].output_id not in call.sim.deleted
    ]  # fmt: skip
    found = page(call, kept)
    return found if isinstance(found, Refusal) else success([_old_record(task, view_of(call)) for task in found])


PRESET_COUNT = 3
_PRESET_MS = 1_722_769_557_708
_PRESETS: Mapping[str, tuple[Literal["voice", "element"], int]] = {
    "/v1/general/presets-voices": ("voice", 800_000_000_000_000_100),
    "/v1/general/advanced-presets-elements": ("element", 800_000_000_000_000_200),
    "/v1/general/presets-elements": ("element", 800_000_000_000_000_300),
}
PRESET_PATHS = tuple(_PRESETS)


def _presets(path: str) -> list[Task]:
    """Kling's own voices or elements, as tasks of long ago."""
    kind, first = _PRESETS[path]
    tasks = []
    for number in range(1, PRESET_COUNT + 1):
        facts: dict[str, Any] = {"name": f"{kind.title()} {number}", "owned_by": "kling"}
        if kind == "element":
            facts |= {
                "description": f"Element {number} of Kling",
                "reference_type": "image_refer",
                "element_type": MULTI_IMAGE,
                "sources": ["", ""],
                "voice_id": "",
                "tags": [("o_102", TAGS["o_102"])],
            }
        order = Order("preset", "preset", "", 5, "720p", audio=False, aspect_ratio="1:1", units=Decimal(0))
        made = Output(kind, str(first + number), facts=facts)
        tasks.append(
            Task(
                str(first + 10 + number), path, "video", "video", order, "kling", _PRESET_MS, _PRESET_MS, _PRESET_MS,
                (made,),
            )
        )  # fmt: skip
    return tasks


def preset_tasks() -> dict[str, Task]:
    """All presets by task id; their sounds and pictures can be fetched like any result."""
    return {task.task_id: task for path in PRESET_PATHS for task in _presets(path)}


def list_presets(path: str, call: Call) -> Response | Refusal:
    """The presets of one path, in pages; free of charge, so no deduction is shown."""
    most = 1000 if path.endswith("-voices") else 500
    found = page(call, _presets(path), most)
    if isinstance(found, Refusal):
        return found
    view = view_of(call)
    if path == "/v1/general/presets-elements":
        return success([{**_old_record(task, view), "final_unit_deduction": "0"} for task in found])
    hidden = ("final_unit_deduction", "watermark_info")
    records = [legacy_record(task, view) for task in found]
    return success([{name: value for name, value in record.items() if name not in hidden} for record in records])


DELETES: Mapping[str, tuple[Literal["voice", "element"], str]] = {
    "/v1/general/delete-voices": ("voice", "voice_id"),
    "/v1/general/delete-elements": ("element", "element_id"),
    "/v1/general/delete-advanced-elements": ("element", "element_id"),
}
"""Path -> what it deletes, and the field that names it. Both element paths act on one library (choice)."""


def delete(path: str, call: Call) -> Response | Refusal:
    """Delete a voice or element of this account, at once and free of charge."""
    kind, name = DELETES[path]
    body = read_body(call)
    if isinstance(body, Refusal):
        return body
    refusal = check_fields(body, (Field(name, "id", required=True),))
    if refusal is not None:
        return refusal
    sim, wanted = call.sim, str(body[name])
    found = sim.book.output(kind, wanted, sim.now_ms())
    if found is None or wanted in sim.deleted:
        return Refusal(1201, f"{kind.title()} id not found")
    sim.deleted.add(wanted)
    return success({"task_id": sim.book.new_id(sim.now_ms()), "task_status": "succeed"})
