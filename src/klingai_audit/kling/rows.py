"""What a row of the endpoint table is, and paths into request bodies. The table itself: `kling.endpoints`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from klingai_audit.capture.facts import Kind

__all__ = ["MEDIA", "RESOURCES", "UNKNOWN_PACK", "Fields", "Generation", "Product", "Reply", "Row", "pick", "pick_all"]

Generation = Literal["legacy", "new"]

Product = Literal["video", "image", "audio", "voice", "element", "account"]
"""What a call is about: a medium, a resource that lives in the account's library, or the account itself."""

MEDIA: Final = frozenset({"video", "image", "audio"})
RESOURCES: Final = frozenset({"voice", "element"})

UNKNOWN_PACK: Final = "unknown pack"
"""Stands for the pack type of units whose record names none and whose product is not known; never added to others."""

Reply = Literal["task", "tasks", "page", "file", "packs", "ledger", "any"]
"""What a successful reply holds.

One task record; a list of them; a page of them with a cursor; a file's bytes; resource packs; lines of a billing
ledger; or what no entry is interested in.
"""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a request body an entry may hold; paths are dotted, `[]` stands for each item of a list.

    `committed` and `kept` map names in the entry to paths: commitments, and settings in the clear. `media` are
    paths of images, sounds and links, each a commitment of its own. `contents`: the body has the new design's typed
    list of that name. Fields in none of them are named, not held.
    """

    committed: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    media: tuple[str, ...] = ()
    contents: bool = False
    external_id: tuple[str, ...] = ("external_task_id",)
    model: str | None = None

    @property
    def paths(self) -> frozenset[str]:
        """All paths."""
        own = (*self.committed.values(), *self.kept.values(), *self.media, *self.external_id)
        return frozenset((*own, *filter(None, [self.model, "contents" if self.contents else None])))


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One endpoint. `{name}` at the end of `path` stands for one segment.

    `product` is None where the reply must tell. `idempotent`: a second create with the same external id was observed
    to be refused, so that an ambiguous create may be sent again. `distinct`: the path alone says that it is
    Kling's; others count only with a Kling envelope in the reply. `addresses` is the body path of what a
    destructive call deletes. `source` names the section of the fact sheet.
    """

    method: str
    path: str
    action: str
    kind: Kind
    reply: Reply
    product: Product | None = None
    generation: Generation | None = None
    fields: Fields = Fields()
    idempotent: bool = False
    distinct: bool = True
    addresses: str | None = None
    source: str = ""

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's parts between slashes."""
        return tuple(self.path.strip("/").split("/"))


def pick(body: Any, path: str | None) -> Any:
    """The value at a dotted path without `[]`; None if there is none."""
    for part in path.split(".") if path else ():
        body = body.get(part) if isinstance(body, dict) else None
    return body if path else None


def pick_all(body: Any, path: str) -> Iterator[Any]:
    """All values at a path whose `[]` stand for each item of a list."""
    head, lists, rest = path.partition("[]")
    value = pick(body, head)
    if not lists:
        if value is not None:
            yield value
        return
    for item in value if isinstance(value, list) else ():
        if not rest:
            yield item
        else:
            yield from pick_all(item, rest.removeprefix("."))
