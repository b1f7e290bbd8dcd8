"""The settings of policy.toml, from the structs that read it, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from klingai_audit.capture.facts import FAILURE_CLASS
from klingai_audit.privacy.policy import (
    EVENT_CLASSES,
    AccessPolicy,
    FailurePolicy,
    Policy,
    PrivacyPolicy,
    RetentionPolicy,
    SpoolPolicy,
    TimestampPolicy,
    VaultPolicy,
    VerifyPolicy,
    WatchPolicy,
    WitnessRules,
)
from tools.docs_pages import table

__all__ = ["CALLS", "OTHERS", "TABLES", "classes", "default_file", "settings"]

TABLES = {
    "privacy": PrivacyPolicy,
    "vault": VaultPolicy,
    "access": AccessPolicy,
    "failure": FailurePolicy,
    "spool": SpoolPolicy,
    "verify": VerifyPolicy,
    "timestamp": TimestampPolicy,
    "witness": WitnessRules,
    "watch": WatchPolicy,
    "retention": RetentionPolicy,
}
"""Table of the file -> the struct that reads it."""

CALLS = {
    "paid_create": "orders of videos, and whatever else may change something at a Kling host",
    "paid_sync": "calls that are paid and answered at once",
    "read": "queries of tasks, lists, any other read of a Kling host",
    "destructive": "calls that delete something",
    "download": "fetching a result",
}
"""Kind of call in the catalogue -> what people call it."""

OTHERS = {
    "credentials": "`api-key rotate` and `Administration.rotate_api_key`",
    "admin": "`users`, `budget` and `policy`, and the other methods of `Administration`",
    "export": "exports and reports, where they are to be recorded: with `--record`, or by `privacy.reads`",
    "unseal": "opening sealed content, on the command line and in `upkeep.unseal`",
    "log": "nothing: an event of your own that cannot be written always raises, and its caller decides",
}
"""Classes that no call to Kling belongs to -> what they decide about."""


def default_file() -> str:
    """Return what `init` writes."""
    return f"```toml\n{Policy.DEFAULT_TEXT.strip()}\n```"


def settings() -> str:
    """Return every setting with its values and default."""
    return table(("setting", "values", "default"), _settings())


def classes() -> str:
    """Return what each class of the failure policy decides about. Raises: ValueError: a class about nothing."""
    default = Policy.default().failure
    calls = {name: [CALLS[kind] for kind, cls in FAILURE_CLASS.items() if cls == name] for name in EVENT_CLASSES}
    told = {name: "; ".join(calls[name]) or OTHERS.get(name, "") for name in EVENT_CLASSES}
    if not all(told.values()):
        raise ValueError(f"nobody says what these decide about: {[name for name in told if not told[name]]}")
    rows = ((f"`{name}`", words, f"`{default.for_class(name)}`") for name, words in told.items())
    return table(("class", "what it decides about", "default"), rows)


def _settings() -> Iterator[tuple[str, str, str]]:
    default = Policy.default()
    for name, struct in TABLES.items():
        hints = get_type_hints(struct)
        for key in struct.__struct_fields__:
            value = getattr(getattr(default, name), key)
            shown = "see the file below" if isinstance(value, tuple) and value else f"`{_toml(value)}`"
            yield f"`{name}.{key}`", _values(hints[key]), shown


def _values(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in get_args(hint))
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:
        return f"a list of {_values(get_args(hint)[0])}"
    return {bool: "`true`, `false`", str: "a text", int: "a number"}.get(hint, "a list of names")


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'
