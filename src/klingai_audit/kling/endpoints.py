"""The endpoint table: what each method and path of Kling is for, what it costs, and which fields may be kept.

A further endpoint is a further row. Source: fact sheet sections 2 and 7.1 (vendor documentation 2026-09-20).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from klingai_audit.kling.legacy import LEGACY_CREATES, LEGACY_SYNC
from klingai_audit.kling.rows import Fields, Product, Reply, Row

__all__ = [
    "BALANCE_LEDGER",
    "CALLBACK",
    "CLAIM",
    "COSTS",
    "DELETE_ELEMENT",
    "DELETE_FILE",
    "DELETE_VOICE",
    "DOWNLOAD",
    "LEGACY_LISTS",
    "LEGACY_ONES",
    "NEW_TEXT_TO_VIDEO",
    "PACKAGE_LEDGER",
    "PRESET_ELEMENTS",
    "PRESET_VOICES",
    "ROWS",
    "SEARCH_TASKS",
    "TASKS_BY_ID",
    "UNKNOWN_DELETE",
    "UNKNOWN_READ",
    "UNKNOWN_WRITE",
    "legacy_create",
    "new_create",
]

# --- the new design (fact sheet 2.1, 2.2): the model is the last segment of the path, its list is open -------------

_NEW_SETTINGS: Final = {
    "resolution": "settings.resolution", "aspect_ratio": "settings.aspect_ratio", "duration": "settings.duration",
    "sound": "settings.audio", "multi_shot": "settings.multi_shot",
    "orientation": "settings.character_orientation", "watermark": "options.watermark_info.enabled",
}  # fmt: skip
_NEW_FIELDS: Final = Fields(
    committed={"prompt": "prompt", "callback_url": "options.callback_url"},
    kept=_NEW_SETTINGS,
    contents=True,
    external_id=("options.external_task_id",),
)


def _new(path: str, action: str, *, idempotent: bool = False) -> Row:
    return Row(
        "POST", f"/{path}/{{model}}", action, "paid_create", "task", "video", "new",
        fields=_NEW_FIELDS, idempotent=idempotent, source="2.1",
    )  # fmt: skip


NEW_TEXT_TO_VIDEO: Final = _new("text-to-video", "text_to_video", idempotent=True)
"""Text to video of the new design. Idempotency of the external id: sheet 3.4, seen once, here only."""

_NEW: Final = (
    NEW_TEXT_TO_VIDEO,
    _new("image-to-video", "image_to_video"),
    _new("omni-video", "omni_video"),
    _new("motion-control", "motion_control"),
)

TASKS_BY_ID: Final = Row(
    "GET", "/tasks", "query_tasks", "read", "tasks", None, "new", distinct=False, source="2.2"
)  # fmt: skip
SEARCH_TASKS: Final = Row(
    "POST", "/tasks", "search_tasks", "read", "page", None, "new", distinct=False, source="2.2"
)  # fmt: skip

LEGACY_ONES: Final[Mapping[str, Row]] = {
    row.path: Row("GET", f"{row.path}/{{id}}", "query_task", "read", "task", row.product, "legacy", source=row.source)
    for row in LEGACY_CREATES
}
"""Path of a legacy create -> the query of one task, by Kling's id or the caller's."""

LEGACY_LISTS: Final[Mapping[str, Row]] = {
    row.path: Row("GET", row.path, "list_tasks", "read", "tasks", row.product, "legacy", source=row.source)
    for row in LEGACY_CREATES
}
"""Path of a legacy create -> the list of its tasks."""

# --- voices and elements, the account (2.4, 2.6) --------------------------------------------------------------------


def _delete(path: str, action: str, product: Product, addresses: str) -> Row:
    fields = Fields(kept={"id": addresses}, external_id=())
    return Row(
        "POST", f"/v1/general/{path}", action, "destructive", "any", product, "legacy",
        fields=fields, addresses=addresses, source="2.4",
    )  # fmt: skip


def _presets(path: str, action: str, product: Product) -> Row:
    return Row("GET", f"/v1/general/{path}", action, "read", "any", product, "legacy", source="2.4")


def _account(method: str, path: str, action: str, reply: Reply) -> Row:
    return Row(method, f"/account/{path}", action, "read", reply, "account", distinct=False, source="2.6")


DELETE_VOICE: Final = _delete("delete-voices", "delete_voice", "voice", "voice_id")
DELETE_ELEMENT: Final = _delete("delete-advanced-elements", "delete_element", "element", "element_id")
PRESET_VOICES: Final = _presets("presets-voices", "list_preset_voices", "voice")
PRESET_ELEMENTS: Final = _presets("advanced-presets-elements", "list_preset_elements", "element")
COSTS: Final = _account("GET", "costs", "read_costs", "packs")
PACKAGE_LEDGER: Final = _account("POST", "billing/package", "read_package_ledger", "ledger")
BALANCE_LEDGER: Final = _account("POST", "billing/balance", "read_balance_ledger", "ledger")

ROWS: Final[tuple[Row, ...]] = (
    *_NEW,
    TASKS_BY_ID,
    SEARCH_TASKS,
    *LEGACY_CREATES,
    *LEGACY_ONES.values(),
    *LEGACY_LISTS.values(),
    *LEGACY_SYNC,
    DELETE_VOICE,
    DELETE_ELEMENT,
    _delete("delete-elements", "delete_element", "element", "element_id"),
    PRESET_VOICES,
    PRESET_ELEMENTS,
    _presets("presets-elements", "list_preset_elements", "element"),
    _presets("custom-elements", "list_simple_elements", "element"),
    COSTS,
    PACKAGE_LEDGER,
    BALANCE_LEDGER,
)
"""Every endpoint of the fact sheet's sections 2.1 to 2.6; everything else of a Kling host is a generic row."""

# --- rows without a path of their own ------------------------------------------------------------------------------

DOWNLOAD: Final = Row("GET", "", "download", "download", "file", "video", source="6")
"""A result's file, wherever its link points."""

DELETE_FILE: Final = Row("DELETE", "", "delete_file", "destructive", "file", source="")
"""A downloaded file, on this machine."""

CALLBACK: Final = Row("POST", "", "callback", "read", "task", source="5")
"""What Kling reported by itself and signed; told like a poll."""

CLAIM: Final = Row("POST", "", "callback", "read", "task", source="5")
"""What somebody reported without proof that it was Kling."""

UNKNOWN_WRITE: Final = Row(
    "*", "", "", "paid_create", "any",
    fields=Fields(
        committed={
            "prompt": "prompt", "negative_prompt": "negative_prompt", "multi_prompt": "multi_prompt", "text": "text",
            "callback_url": "callback_url",
        },
        media=("image", "image_url", "image_tail", "video_url", "audio_url", "sound_file", "image_list[].image"),
        contents=True,
        external_id=("external_task_id", "options.external_task_id"),
        model="model_name",
    ),
)  # fmt: skip
"""Any call of a Kling host that may change something and that is no DELETE and that no row names: taken as paid."""

UNKNOWN_DELETE: Final = Row("DELETE", "", "", "destructive", "any")
"""Any DELETE of a Kling host that no row names: it costs nothing and takes something away."""

UNKNOWN_READ: Final = Row("*", "", "", "read", "any")
"""Any GET, HEAD or OPTIONS of a Kling host that no row names."""

_NEW_BY_ACTION: Final = {row.action: row for row in _NEW}
_LEGACY_BY_ACTION: Final = {row.action: row for row in (*LEGACY_CREATES, *LEGACY_SYNC)}


def new_create(action: str) -> Row:
    """The new design's row of an action, for example `omni_video`."""
    return _NEW_BY_ACTION[action]


def legacy_create(action: str) -> Row:
    """The legacy row of an action that costs something, for example `omni_video` or `text_to_speech`."""
    return _LEGACY_BY_ACTION[action]
