"""The demo's people: a prompt that is kept sealed is opened on the record, and one person is erased."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.cli.demo_stage import INTERN, LEAD, MAKER, Person, Stage
from klingai_audit.cli.session import Session, open_log
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.event.context import acting
from klingai_audit.privacy.masks import mask_id

if TYPE_CHECKING:
    from klingai_audit.log import AuditLog

_BASIS: Final = "GDPR Art. 17(1)(b)"
_FIELD: Final = "prompt"


@dataclass(frozen=True)
class Opened:
    """The prompt of entry `seq` was opened, as entry `recorded` says; the entry `erased` is a person's certificate.

    `entries` were about that person, `sealed` of their contents were destroyed.
    """

    seq: int
    recorded: int | None
    erased: int
    entries: int
    sealed: int


def keep_prompts_sealed(own: Session) -> None:
    """Make an unseal key and let the policy have prompts sealed from the next opening on, unless that is so already."""
    from klingai_audit.privacy.unseal_key import PUBLIC_FILE
    from klingai_audit.upkeep.admin import Administration
    from klingai_audit.upkeep.unseal import make_unseal_key

    with open_log(own, create=True) as audit, _as_lead():
        keys = audit.places.keys
        if not (keys / PUBLIC_FILE).exists():
            make_unseal_key(keys)
        if not audit.policy.vault.seals:
            Administration(audit).set_policy("vault.seal", [_FIELD], reason="complaints have to be looked into")


def open_and_erase(stage: Stage) -> Opened:
    """The lead opens one prompt and erases one person; a proof that was handed out before still holds."""
    from klingai_audit.tlog.keys import VerifierKey
    from klingai_audit.trust.proofs import check_entry_proof, prove_entry
    from klingai_audit.upkeep.erasure import erase_subject
    from klingai_audit.upkeep.unseal import unseal

    audit, show = stage.audit, stage.narrator
    audit.flush("published")
    seq, gone = _newest_prompt(audit, MAKER), _newest_prompt(audit, INTERN)
    proof = prove_entry(audit.reader, gone).format()
    with _as_lead():
        show.scene(LEAD, "looks into a complaint and opens one prompt, which is kept sealed beside the log")
        done = unseal(audit, seq, _FIELD, reason="a complaint about that video")
        show.result(
            "success",
            f"{len(done.value)} bytes, just what entry {seq} committed to; who opens it, and why, was recorded first",
        )
        show.scene(LEAD, f"erases {mask_id(INTERN.id)}, who left and asks for it")
        made = erase_subject(audit, INTERN.id, basis=_BASIS)
        check_entry_proof(proof, [VerifierKey.parse(audit.vkey)])
        show.result(
            "success",
            f"key, name and {made.vault_files} sealed prompts are destroyed; {made.entries} entries stay, of nobody",
        )
        try:
            unseal(audit, gone, _FIELD, reason="to see that it cannot be opened")
        except UsageError:
            show.result("blocked", f"the prompt of entry {gone} opens for nobody any more")
    show.aside(f"The log verifies, and the proof of entry {gone}, made before, holds.")
    if not made.verified:
        raise StorageError(
            "The log does not verify after the erasure.", do="Run the demo in an empty folder: --dir NEW."
        )
    return Opened(seq, done.recorded, made.seq, made.entries, made.vault_files)


def told(opened: Opened) -> dict[str, Any]:
    """Return it for programs."""
    return asdict(opened)


def next_command(program: str, where: str, opened: Opened) -> tuple[str, str]:
    """Return (what it does, command line) to open that prompt once more; `where` names the log."""
    words = "read that prompt; the log says that you did"
    return words, f"{program} unseal {opened.seq} --field {_FIELD} --reason 'a second look' {where}"


def _as_lead() -> acting:
    return acting(LEAD.id, actor_type="admin", ip=LEAD.ip, team=LEAD.team)


def _newest_prompt(audit: AuditLog, person: Person) -> int:
    """Return the newest entry of somebody that announces a prompt. Raises: StorageError."""
    found = [entry.seq for entry in audit.query(actor=person.id, event_type="prompt_submitted")]
    if not found:
        raise StorageError("The log lacks the prompts of this demo.", do="Run the demo in an empty folder: --dir NEW.")
    return found[-1]
