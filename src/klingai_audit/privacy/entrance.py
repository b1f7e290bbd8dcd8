"""Metadata on its way in: credentials removed, content committed to, texts cleaned, everything plain JSON.

One walk per event. Nothing of a value reaches an error: errors name the JSON pointer, cleaned, and the type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.record import MAX_DEPTH, MAX_INTEGER, pointer_of
from klingai_audit.privacy.commitment import Sealing, ToCommit, commit, is_commitment, value_bytes
from klingai_audit.privacy.content import Content
from klingai_audit.privacy.secrets import REMOVED, generation, is_withheld, scrub_text
from klingai_audit.privacy.shapes import is_secret_name

__all__ = ["Entrance", "Walk"]

_PLAIN, _CONTENT, _SECRET = 0, 1, 2
_CACHED_KEYS: Final = 4096
_LABELS: Final = ("name", "key", "header", "field")
_JSON_OPENS: Final = frozenset('{["')
_MIN_ECHO: Final = 8
_LONG_ECHO: Final = 24


class Entrance:
    """What the walks of one policy share: the names and a bounded cache of what keys mean.

    Content under the names `sealed` of at most `max_sealed` bytes is to be sealed, too.
    """

    def __init__(self, content: Content, sealed: Content | None = None, max_sealed: int = 0) -> None:
        self.content = content
        self.sealed = sealed
        self.max_sealed = max_sealed
        self._keys: dict[str, tuple[str, int]] = {}
        self._plain_keys: set[str] = set()
        self._generation = generation()

    def key(self, key: str) -> tuple[str, int]:
        """Return the key as it may be kept, and what stands under it: plain, content or secret."""
        known = self._keys.get(key)
        if known is not None and self._generation == generation():
            return known
        if self._generation != generation() or len(self._keys) >= _CACHED_KEYS:
            self._generation = generation()
            self._keys, self._plain_keys = {}, set()
        role = _SECRET if is_secret_name(key) else _CONTENT if self.content.names(key) else _PLAIN
        self._keys[key] = known = (self.content.clean(key), role)
        if known == (key, _PLAIN):
            self._plain_keys.add(key)
        return known

    def plain(self, metadata: Mapping[str, Any], members: Iterable[str | None] = ()) -> dict[str, Any] | None:
        """Return a copy of metadata that needs no change, nor `members`, the event's other texts; None if a walk has
        to look closer. For the most common events; `walk` gives the same for them.
        """
        plain, known = self._plain_keys, self.content.known
        if self._generation != generation():
            return None
        out = dict(metadata)
        unknown = [text for text in members if text and text not in known]
        for key, item in out.items():
            kind = type(item)
            if key not in plain or type(key) is not str:
                return None
            if kind is str:
                if item not in known:
                    unknown.append(item)
            elif kind is int or kind is float:
                if not -MAX_INTEGER <= item <= MAX_INTEGER:  # nor is that true of NaN
                    return None
            elif not (kind is bool or item is None):
                return None
        return out if not unknown or self.content.pass_unchanged(unknown) else None

    def walk(
        self, metadata: Mapping[str, Any], subject_key: bytes, event_id: str, members: Iterable[str | None]
    ) -> Walk:
        """Walk `metadata` of one event; `members` are the event's other raw texts. Raises: InvalidEvent."""
        walk = Walk(self, subject_key, event_id, ())
        walk.run(metadata)
        if walk.hidden:
            texts = "\0".join([*walk.shown, *filter(None, members)])
            echoes = tuple(text for text in walk.hidden if text in texts)  # at worst a second walk for nothing
            if echoes:
                walk = Walk(self, subject_key, event_id, echoes)
                walk.run(metadata)
        return walk


class Walk:
    """One event's way in. After `run`: `result` is plain JSON, `hidden` and `shown` the texts withheld and kept.

    `to_seal` is content that policy also wants sealed.
    """

    __slots__ = ("_echoes", "_entrance", "_event_id", "_path", "_subject_key", "hidden", "result", "shown", "to_seal")

    def __init__(self, entrance: Entrance, subject_key: bytes, event_id: str, echoes: tuple[str, ...]) -> None:
        self._entrance = entrance
        self._subject_key = subject_key
        self._event_id = event_id
        self._echoes = tuple(sorted(echoes, key=len, reverse=True))
        self._path: list[str | int] = []
        self.hidden: list[str] = []
        self.shown: list[str] = []
        self.to_seal: list[Sealing] = []
        self.result: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Walk(<{len(self.result)} keys>)"

    def run(self, metadata: Mapping[str, Any]) -> None:
        """Fill `result`. Raises: InvalidEvent."""
        self.result = self._object(metadata, 1)

    def text(self, text: str) -> str:
        """Return a text as it may be kept: without echoes of what this event withholds, and cleaned."""
        for echo in self._echoes:
            text = text.replace(echo, REMOVED)
        return self._entrance.content.clean(text)

    def _object(self, value: Mapping[Any, Any], level: int) -> dict[str, Any]:
        if level > MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels")
        out: dict[str, Any] = {}
        path, entrance = self._path, self._entrance
        label = _label(value) if "value" in value else None
        for key, item in value.items():
            if type(key) is not str:
                if not isinstance(key, str):
                    raise self._refused(f"a key of type {type(key).__name__}, keys are str")
                key = str.__str__(key)  # noqa: PLW2901  # an enumeration's member becomes its text
            clean, role = entrance.key(key)
            if label is not None and key == "value" and role == _PLAIN:
                role = entrance.key(label)[1]
                name = label
            else:
                name = key
            if len(key) >= _MIN_ECHO:
                self.shown.append(key)
                for echo in self._echoes:
                    clean = clean.replace(echo, REMOVED)
            while clean in out:
                clean += "~"
            path.append(clean)
            out[clean] = self._under(name, role, item, level)
            path.pop()
        return out

    def _under(self, name: str, role: int, item: object, level: int) -> Any:
        if role == _PLAIN:
            return self._value(item, level)
        if isinstance(item, ToCommit) and item.value is None:
            return None
        if item is None or item is True or item is False:
            return item
        if role == _SECRET:
            return REMOVED if is_withheld(name, item) else self._value(item, level)
        return item if is_commitment(item) else self._commit(item, name)

    def _value(self, value: Any, level: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._kept(value)
        if kind is int or kind is bool or value is None or kind is float:
            return value
        if kind is dict:
            return value if len(value) < 4 and is_commitment(value) else self._object(value, level + 1)
        if isinstance(value, list | tuple):
            return self._array(value, level + 1)
        if isinstance(value, ToCommit):
            return None if value.value is None else self._commit(value)
        if isinstance(value, Mapping):
            return self._object(value, level + 1)
        # Members of enumerations and the like become what they are by value.
        if isinstance(value, str):
            return self._kept(str.__str__(value))
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        raise self._refused(f"a value of type {kind.__name__} is not JSON")

    def _array(self, value: list[Any] | tuple[Any, ...], level: int) -> list[Any]:
        if level > MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH} levels")
        role, name = _PLAIN, ""
        if len(value) == 2 and isinstance(value[0], str):  # a header as a pair
            name = value[0]
            role = self._entrance.key(name)[1]
        out = []
        for index, item in enumerate(value):
            self._path.append(index)
            out.append(self._under(name, role if index else _PLAIN, item, level))
            self._path.pop()
        return out

    def _kept(self, text: str) -> Any:
        if text[:1] in _JSON_OPENS and self._entrance.content.in_json(text):
            return self._commit(text)
        if len(text) >= _MIN_ECHO:
            self.shown.append(text)
        return self.text(text)

    def _commit(self, value: object, name: str | None = None) -> dict[str, Any]:
        kind = None
        if isinstance(value, ToCommit):
            kind, value = value.type, value.value
        if not isinstance(value, str | bytes | bytearray | memoryview):
            value = _unwrapped(value, 0)
        self._hide(value, 0)
        pointer = "/metadata" + pointer_of(self._path)
        stored = commit(self._subject_key, self._event_id, pointer, ToCommit(value, kind))
        entrance = self._entrance
        if entrance.sealed is not None and stored["bytes"] <= entrance.max_sealed:
            if name is None:
                name = next((part for part in reversed(self._path) if isinstance(part, str)), "")
            if entrance.sealed.names(name):
                raw = value_bytes(value, pointer)
                text = raw.decode(errors="replace")
                if scrub_text(text) == text:  # a credential is kept nowhere, not even sealed
                    self.to_seal.append(Sealing(pointer, stored["commitment"], raw))
        return stored

    def _hide(self, value: object, level: int) -> None:
        if isinstance(value, str):
            if len(value) >= _LONG_ECHO or (len(value) >= _MIN_ECHO and (" " in value or not value.isascii())):
                self.hidden.append(value)
        elif level > MAX_DEPTH:
            return
        elif isinstance(value, Mapping):
            for item in value.values():
                self._hide(item, level + 1)
        elif isinstance(value, list):
            for item in value:
                self._hide(item, level + 1)

    def _refused(self, reason: str) -> InvalidEvent:
        return InvalidEvent(f"/metadata{pointer_of(self._path, shorten=True)}: {reason}")


def _label(value: Mapping[Any, Any]) -> str | None:
    """Return the name in an object that holds a name and a value: a header or form field spelled out."""
    return next((value[name] for name in _LABELS if isinstance(value.get(name), str)), None)


def _unwrapped(value: Any, level: int) -> Any:
    """Return a value to commit to as JSON values: wrappers off, tuples as arrays."""
    if level > MAX_DEPTH:
        return value
    if isinstance(value, ToCommit):
        return _unwrapped(value.value, level + 1)
    if isinstance(value, Mapping):
        return {key: _unwrapped(item, level + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unwrapped(item, level + 1) for item in value]
    return value
