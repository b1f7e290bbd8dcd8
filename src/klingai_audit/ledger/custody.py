"""Where a log's private keys lie, as far as the keys folder on this machine tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from klingai_audit.ledger.external import SIGNER_FILE

__all__ = ["Custody", "KeyPlace", "custody_of"]

KeyPlace = Literal["file", "external", "absent", "unknown"]
"""`file`: in the keys folder, beside the writer. `external`: a program elsewhere signs with it. `absent`: there is a
keys folder, or none, without it. `unknown`: the keys folder cannot be read."""

_EPOCH: Final = re.compile(r"epoch-[0-9]+\.key")
_LOG_KEY: Final[dict[KeyPlace, str]] = {
    "file": "a file in the keys folder, beside the writer",
    "external": "elsewhere: a command signs with it, and the keys folder holds only its public half",
    "absent": "not on this machine",
    "unknown": "the keys folder cannot be read here",
}
_EPOCH_KEY: Final[dict[KeyPlace, str]] = {
    "file": "a file in the keys folder; those of ended epochs were destroyed, so today's signs nothing of theirs",
    "external": "elsewhere",
    "absent": "not on this machine",
    "unknown": "the keys folder cannot be read here",
}


@dataclass(frozen=True, slots=True)
class Custody:
    """Where the log key, the current epoch's key and the ML-DSA-44 key lie; that is None if the log has none."""

    log_key: KeyPlace
    epoch_key: KeyPlace
    mldsa_key: KeyPlace | None = None

    def as_json(self) -> dict[str, str]:
        """The member `custody` of `verify --json`."""
        third = {} if self.mldsa_key is None else {"mldsa_key": str(self.mldsa_key)}
        return {"log_key": self.log_key, "epoch_key": self.epoch_key, **third}

    def words(self) -> tuple[tuple[str, str], ...]:
        """Return (key, where it lies) for people, the log key first."""
        third = [] if self.mldsa_key is None else [("ML-DSA-44 key", _LOG_KEY[self.mldsa_key])]
        return ("log key", _LOG_KEY[self.log_key]), ("epoch key", _EPOCH_KEY[self.epoch_key]), *third


def custody_of(keys: Path) -> Custody:
    """Look into a keys folder; only names are read. Never raises."""
    try:
        names = {path.name for path in keys.iterdir()}
    except FileNotFoundError:
        names = set()
    except OSError:
        return Custody("unknown", "unknown")
    epoch: KeyPlace = "file" if any(_EPOCH.fullmatch(name) for name in names) else "absent"
    mldsa: KeyPlace | None = "file" if "mldsa.key" in names else "absent" if "mldsa.pub" in names else None
    if SIGNER_FILE in names:
        return Custody("external", epoch, mldsa)
    return Custody("file" if "log.key" in names else "absent", epoch, mldsa)
