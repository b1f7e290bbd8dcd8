"""Who may do what is dangerous: the policy's table `access`. By default everybody who holds the keys, alone."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

__all__ = ["ACTS", "ROLES", "ROLE_OF", "AccessPolicy", "Act", "Role"]

Act = Literal["unseal", "erase", "purge", "rotate", "govern"]

ACTS: Final[tuple[Act, ...]] = ("unseal", "erase", "purge", "rotate", "govern")
"""Acts that the policy can keep from one person alone; `govern` changes who may: users, and this table."""

Role = Literal["viewer", "auditor", "privacy_officer", "admin"]

ROLES: Final[tuple[Role, ...]] = ("viewer", "auditor", "privacy_officer", "admin")
"""Roles with a meaning here; `users add --role` takes other words, too, and these open nothing."""

ROLE_OF: Final[dict[Act, Role]] = {
    "unseal": "privacy_officer",
    "erase": "privacy_officer",
    "purge": "admin",
    "rotate": "admin",
    "govern": "admin",
}
"""Act -> the role that does it, where `access.roles` is `enforced`."""


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which acts need a second person, who may be that, and whether roles are enforced.

    `max_age` is how long an approval is good, a span of time. With 1 in `signatures` somebody else than who acts
    approves; with 2 two people do, and who acts may be one of them.
    """

    two_person: tuple[Act, ...] = ()
    approvers: tuple[Role, ...] = ("privacy_officer", "admin")
    signatures: Literal[1, 2] = 1
    max_age: str = "24h"
    roles: Literal["recorded", "enforced"] = "recorded"
