"""How long entries are kept: the policy's table `retention`, resolved per event type.

The minimum is the longest of the type's own and of the chosen profiles; the maximum is declared. A minimum above the
maximum is refused when the policy is loaded, not when something is to be purged.
Sources of the profiles' figures: docs/policy.md, "Retention profiles".
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.event.types import CATEGORIES, EVENT_TYPES, canonical_type, category_of

__all__ = ["PROFILES", "ClassRetention", "Period", "RetentionPolicy", "parse_days"]

PROFILES: Final = {
    "pci_dss": 365,
    "hipaa": 2190,
    "sec_17a4": 2192,
    "eu_ai_act": 183,
    "china_labelling": 183,
    "soc2": 400,
}
"""Name of a rule book -> the days for which it wants records kept at least."""

_CLASSES: Final = (*CATEGORIES, "custom")
_FOREVER: Final = "forever"
_LOG: Final = "log"
_MOST: Final = 36_500


class Period(NamedTuple):
    """How long entries of one type are kept: at least `minimum` days, at most `maximum` (None: for ever).

    `why` names the rules that decide.
    """

    minimum: int
    maximum: int | None
    why: str


class ClassRetention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one class of entries has otherwise than all."""

    minimum: str | None = None
    maximum: str | None = None


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long entries are kept, and from when on their days are sealed.

    `profiles` are names of `PROFILES`; `classes` maps event types and categories (a type goes first) to what they
    have otherwise. Entries about the log itself are kept for ever, whatever stands here.
    """

    profiles: tuple[str, ...] = ()
    minimum: str = "365d"
    maximum: str = "2557d"
    seal_after: str = "7d"
    classes: dict[str, ClassRetention] = {}

    def period(self, event_type: str) -> Period:
        """Return the period of an event type. Raises: UsageError, as `check`."""
        category = category_of(event_type)
        if category == _LOG:
            return Period(0, None, "entries about the log are never purged")
        name = event_type if event_type in self.classes else category if category in self.classes else ""
        own = self.classes.get(name, ClassRetention())
        label = f"classes.{name}" if name else "retention"
        minima = {label: parse_days(own.minimum or self.minimum, f"{label}.minimum") or 0}
        minima |= {profile: PROFILES[profile] for profile in self.profiles}
        longest = max(minima, key=lambda rule: minima[rule])
        most = parse_days(own.maximum or self.maximum, f"{label}.maximum")
        until = _FOREVER if most is None else f"{most}d"
        return Period(minima[longest], most, f"at least {minima[longest]}d ({longest}), at most {until} ({label})")

    @property
    def sealed_after(self) -> int | None:
        """Age in days from which a day is sealed; None: never."""
        return parse_days(self.seal_after, "retention.seal_after")

    def check(self) -> None:
        """Raises: UsageError for names and spans that there are not, and a minimum above its maximum."""
        for profile in self.profiles:
            if profile not in PROFILES:
                raise UsageError(f"retention.profiles: {profile!r} is unknown.", do=f"One of: {', '.join(PROFILES)}.")
        for name in self.classes:
            if name == _LOG:
                raise UsageError("retention.classes: entries about the log itself are never purged.")
            if name not in _CLASSES:
                canonical_type(name)
        parse_days(self.seal_after, "retention.seal_after")
        for name in (*_CLASSES, *self.classes):
            period = self.period(name if name in self.classes and name not in _CLASSES else _some_type(name))
            if period.maximum is not None and period.minimum > period.maximum:
                raise UsageError(
                    f"retention: {name}: the minimum of {period.minimum} days is above the maximum of "
                    f"{period.maximum} days ({period.why}).",
                    do="Raise the maximum, or drop the profile that asks for more.",
                )


def _some_type(category: str) -> str:
    return next((name for name, info in EVENT_TYPES.items() if info.category == category), "x_any")


def parse_days(text: str, name: str) -> int | None:
    """Read a number of days such as `365d` or `52w`; `forever` is None. Raises: UsageError."""
    unit = {"d": 1, "w": 7}.get(text[-1:])
    digits = text[:-1]
    if text == _FOREVER:
        return None
    if unit is None or not (digits.isascii() and digits.isdigit()) or not 0 < int(digits) * unit <= _MOST:
        raise UsageError(f"{name} is no number of days.", do="Use days or weeks such as 365d or 52w, or forever.")
    return int(digits) * unit
