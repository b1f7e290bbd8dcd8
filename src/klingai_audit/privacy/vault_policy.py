"""What is kept sealed beside the log: the policy's table `vault`. By default nothing is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.privacy.shapes import squash

__all__ = ["MAX_SEALED_BYTES", "VaultPolicy"]

MAX_SEALED_BYTES: Final = 16_000_000
"""Largest limit, in bytes, that a policy may set for one sealed content."""

_NAME: Final = re.compile(r"\*?[a-z0-9_]{2,64}").fullmatch


class VaultPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which content is also kept sealed, so that those entitled can open it.

    `seal` are names as in `privacy.commit`, and only such as it withholds; content longer than `max_bytes` stays a
    commitment only. With `addresses` the whole IP address of an act is committed to and sealed, too.
    """

    seal: tuple[str, ...] = ()
    max_bytes: int = 262_144
    addresses: bool = False

    @property
    def seals(self) -> bool:
        """Whether anything is to be sealed at all."""
        return bool(self.seal) or self.addresses

    def check(self, commit: Sequence[str]) -> None:
        """Raises: UsageError for a limit out of range, or a name under which `commit` lets content into the log."""
        if not 0 < self.max_bytes <= MAX_SEALED_BYTES:
            raise UsageError(f"vault.max_bytes: a number from 1 to {MAX_SEALED_BYTES:,}.")
        for name in self.seal:
            if _NAME(name) is None:
                raise UsageError("vault.seal: names are lowercase letters, digits and _, `*` in front.")
            if not any(_covers(rule, name) for rule in commit):
                raise UsageError(
                    f"vault.seal: {name} is not among the names of privacy.commit.",
                    do="Only what the log does not hold in plain is sealed: add the name there, too.",
                )


def _covers(rule: str, name: str) -> bool:
    """Tell whether the names that `name` stands for are among those that `rule` stands for."""
    if rule.startswith("*"):
        return squash(name.removeprefix("*")).endswith(squash(rule[1:]))
    return not name.startswith("*") and squash(rule) == squash(name)
