"""AuditLog, the front door: wiring only.

`open` creates or takes up a log; `log` and `record` turn meaning into durable entries; `query`, `activity` and
`verify` answer from what is stored. Everything that thinks lives in the rooms below.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from klingai_audit.capture import attach as clients
from klingai_audit.capture.spool import Spool
from klingai_audit.capture.starting import is_there
from klingai_audit.config import Places, must_create, open_store, open_vault, state_folder, subject_table
from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable, SignerUnavailable
from klingai_audit.event.context import UNKNOWN_ACTOR, resolve
from klingai_audit.event.given import refuse_given
from klingai_audit.event.own import own_event
from klingai_audit.event.record import Draft, EncodedEvent
from klingai_audit.event.types import EventType
from klingai_audit.ledger.alive import Alive
from klingai_audit.ledger.appender import Appender, Observer
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.heads_of import head_of
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.opening import check_remembered_key, first_metadata, tell_all
from klingai_audit.ledger.options import OptionsMemory, describe_options
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.receipt import Receipt, State, check_wait
from klingai_audit.ledger.scratch import scratch_beside
from klingai_audit.ledger.state import OriginMemory, StateFolder
from klingai_audit.privacy.door import Door
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.privacy.vault import Vault
from klingai_audit.stores.urls import RemoteUrl
from klingai_audit.trust.quorum import Quorum
from klingai_audit.views.answers import Answers
from klingai_audit.views.erasures import redo_erasures
from klingai_audit.views.textlog import TextLog

if TYPE_CHECKING:
    from klingai_audit.capture.recorder import Recorder
    from klingai_audit.kling.webhook import Callback
    from klingai_audit.trust.verdict import Verdict

__all__ = ["AuditLog"]

_POLICY_FILE: Final = "policy.toml"


class AuditLog(Answers):
    """One log, opened for writing by this process. Threads, asyncio tasks and forked children may share it.

    Use `AuditLog.open`; as a context manager it is closed at the end of the block.
    `spool` is where entries wait while the log cannot be reached.
    """

    spool: Spool

    def __init__(
        self, places: Places, keys: KeyFolder, appender: Appender, door: Door, subjects: SubjectTable, reader: LogReader
    ) -> None:
        self.places = places
        self.reader = reader
        self.subjects = subjects
        self._keys = keys
        self._appender = appender
        self._door = door
        self._wait: State | None = None
        self.quorum = appender.witnesses = Quorum(reader, keys.log_signer.verifier, places.keys, door.policy.witness)
        self._recorder: Recorder | None = None
        self._recorder_lock = threading.Lock()
        self._observers: list[Observer] = []
        self._warned_unknown = False
        self.origin: str = keys.origin
        self.vkey: str = keys.log_signer.verifier.format()
        self.vault = Vault(places.vault, self.origin)

    # --- life -------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        log: str | os.PathLike[str] | RemoteUrl | None = None,
        *,
        keys: str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        subjects: str | os.PathLike[str] | RemoteUrl | None = None,
        vault: str | os.PathLike[str] | None = None,
        create: bool = True,
        origin: str | None = None,
        post_quantum: bool = False,
        wait: State | None = None,
        text_log: str | os.PathLike[str] | None = None,
        accept_clock: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        ops: FileOps = OPS,
    ) -> AuditLog:
        """Open the log at `log`, a folder or a URL (default: `KLINGAI_AUDIT_LOG`, else `./audit`), for writing.

        Creates it only when neither log nor keys exist and `create` is true; a half-finished creation is completed.
        What a crashed writer left is recovered first; whom a backup brought back is erased again. On return
        `log_opened` is published (or durable: docs/signer.md).

        Args: `origin` names a new log (default `log.klingai-audit.internal/<32 random hex>`); `post_quantum` gives
        a new one an ML-DSA-44 key, too; `wait` makes every call wait until its entry is `durable` or `published`;
        `text_log` also writes plain lines to a file; `accept_clock` accepts a wall clock that jumped by more than a
        day; `clock` and `ops` are for tests.
        Raises: LogNotFound, LogDamaged, InconsistentCheckpoints, InvalidPolicy, UnsafePermissions,
        UnsupportedStorage, AuditUnavailable.
        """
        check_wait(wait)
        places = Places.resolve(log, keys, state, subjects, vault)
        store = open_store(places, ops)
        folder, memory = KeyFolder(places.keys, ops), StateFolder(places.state, ops)
        there = functools.partial(is_there, store, folder, memory, places.keys / _POLICY_FILE)
        if must_create(places, folder, memory, exists=there, create=create):
            with folder.locked():
                name = origin or f"log.klingai-audit.internal/{secrets.token_hex(16)}"
                folder.create(name, post_quantum=post_quantum and not store.exists())
                folder.write_policy(_POLICY_FILE, Policy.DEFAULT_TEXT.encode())
                memory.create()
                store.create()
        folder.resume()
        check_remembered_key(folder)
        policy = Policy.load(places.keys / _POLICY_FILE)
        sealed = open_vault(places, folder.origin, policy, ops)
        lookup_key = folder.lookup_key
        table = subject_table(places, lookup_key)
        reader = LogReader(store)
        head = head_of(
            store,
            folder,
            memory,
            lambda event_type, metadata: own_event(event_type, metadata, clock.now_ns()),
            clock,
            rotation=policy.verify.epoch_rotation,
            accept_clock=accept_clock,
        )
        observers: list[Observer] = [] if text_log is None else [TextLog(Path(text_log), table, ops).observe]
        appender = Appender(
            head,
            opening=lambda: {"policy": policy.digest, "writer": secrets.token_hex(8)},
            observer=tell_all(observers),
        )
        door = Door(policy, table, lookup_key, clock=clock.now_ns, vault=sealed)
        audit = cls(places, folder, appender, door, table, reader)
        audit.vault = sealed
        audit._wait, audit._observers = wait, observers
        created = own_event("log_created", first_metadata(folder, policy.digest), clock.now_ns())
        audit.spool = Spool(
            places.state, lookup_key, audit.origin, policy, appender,
            remembered=lambda: memory.remembers, wait=wait, ops=ops, now_ns=clock.now_ns,
        )  # fmt: skip

        def begin() -> None:
            folder.created()
            _OPEN.add(audit)
            if places.log != "memory:":
                OriginMemory(ops=ops).remember(audit.origin, audit.vkey, folder.mldsa_vkey)
                redo_erasures(reader, table, sealed, places.state, ops)
                given = {"wait": wait, "text_log": text_log and Path(text_log)}
                audit._note_options(OptionsMemory(places.state, ops), given, clock)

        audit.spool.start(lambda: appender.open(created=[(created, False)]), begin)
        _OPEN.add(audit)
        return audit

    def _note_options(self, memory: OptionsMemory, given: Mapping[str, Any], clock: Clock) -> None:
        """Record what is otherwise than at the last opening: policy, places, and options that are given."""
        people = self.places.subjects_file or f"elsewhere:{self.fingerprint(str(self.places.subjects))}"
        places: dict[str, Path | str] = {"keys": self.places.keys, "state": self.places.state, "subjects": people}
        if self.policy.vault.seals:
            places["vault"] = self.places.vault
        log_key = "external" if self._keys.external else "file"
        options = {"policy": self.policy.digest, "log_key": log_key, **places, **given}
        told = describe_options(self.places.home, options, self.fingerprint)
        if changes := memory.changes(told):
            self.append(own_event("settings_changed", {"changed": changes}, clock.now_ns())).wait()
        memory.remember(told)

    def close(self) -> None:
        """Commit and publish everything, append `log_closed`, stop; idempotent.

        Raises: AuditUnavailable if entries could not be recorded; the log is closed all the same.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(_OPEN.discard, self)
            stack.callback(self.close_index)
            stack.callback(self.subjects.close)
            stack.callback(self._appender.close)
            stack.callback(self.spool.close)
            if self._recorder is not None:
                self._recorder.close()

    def after_fork(self) -> None:
        """In a forked child: a lock that a thread of the parent held is not held here."""
        self._recorder_lock = threading.Lock()
        self._index_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AuditLog {self.places.log} {self.origin}>"

    # --- writing ----------------------------------------------------------------------------------

    def log(
        self,
        event_type: EventType | str,
        actor_id: str | None = None,
        resource_type: str | None = None,
        action: str | None = None,
        outcome: str = "success",
        resource_id: str | None = None,
        actor_type: str | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
        *,
        event_id: str | None = None,
        timestamp: Any = None,
        correlation_id: str | None = None,
        on_behalf_of: str | None = None,
        request_id: str | None = None,
        team: str | None = None,
        project: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **more_metadata: Any,
    ) -> Receipt:
        """Append one event; returns its receipt at once (or after `wait`, if the log was opened with it).

        Who acts comes from `acting(…)` where it is not given. Privacy is applied before anything is written:
        credentials are removed, prompts become commitments, people pseudonyms (docs/format.md).
        Raises: InvalidEvent and its kinds (nothing was written), AuditUnavailable.
        """
        refuse_given(event_type, event_id)
        draft = Draft(
            event_type=event_type,
            actor_id=actor_id,
            actor_type=actor_type,
            on_behalf_of=on_behalf_of,
            team=team,
            project=project,
            resource_type=resource_type,
            resource_id=resource_id,
            action=action,
            outcome=outcome,
            ip_address=ip_address,
            user_agent=user_agent,
            correlation_id=correlation_id,
            request_id=request_id,
            event_id=event_id,
            timestamp=timestamp,
            metadata={**(metadata or {}), **more_metadata},
        )
        return self.record(draft)

    def record(self, draft: Draft, *, once: bool = False) -> Receipt:
        """Append a draft; with `once`, an event id that the log already holds is not appended again.

        Raises: as `log`.
        """
        seen = once or draft.event_type == EventType.TASK_STATUS_CHANGED
        return self.append(self.admit(draft, warn=not seen), once=once)

    def admit(self, draft: Draft, *, warn: bool = True, seal: bool = True) -> EncodedEvent:
        """Resolve who acts and apply privacy; of the log nothing is written (`seal`: vault, too). Raises: as `log`.

        With `warn` the first act of nobody is warned of; what is seen of a task is no act of who sees it.
        """
        resolved = resolve(draft)
        if warn and resolved.actor_id == UNKNOWN_ACTOR and not self._warned_unknown:
            self._warned_unknown = True
            warnings.warn(
                'An event was recorded with actor "unknown": bind who acts with klingai_audit.acting(…).',
                stacklevel=4,
            )
        return self._door.admit(resolved, seal=seal)

    def append(self, event: EncodedEvent, *, once: bool = False) -> Receipt:
        """Append an admitted event. Raises: AuditUnavailable."""
        receipt = self._appender.append(event, once=once)
        return receipt if self._wait is None else receipt.wait(self._wait)

    def flush(self, state: State = "durable", timeout: float | None = None) -> None:
        """Block until everything logged so far is `durable` or `published`, outcomes of captured calls included.

        What waits in the spool is durable there; it goes into the log if that can be reached. Raises: AuditUnavailable.
        """
        if self._recorder is not None:
            self._recorder.desk.settle()
        if not self.spool.settle() and state == "published":
            raise AuditUnavailable("The log cannot be reached.", do="What was logged meanwhile waits in the spool.")
        self._appender.flush(publish=state == "published", timeout=timeout)

    def rotate_keys(self) -> int:
        """End the current epoch now and return the new epoch's number; the handover is published on return."""
        self._appender.rotate()
        return self._keys.current.epoch

    # --- capture ----------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The policy in force, as read when the log was opened."""
        return self._door.policy

    def fingerprint(self, credential: str) -> str:
        """Return 16 hex digits that name a credential in this log and nowhere else."""
        return self._door.fingerprint(credential)

    @property
    def recorder(self) -> Recorder:
        """The recorder that turns HTTP exchanges with Kling into entries of this log."""
        with self._recorder_lock:
            if self._recorder is None:
                from klingai_audit.capture.recorder import Recorder
                from klingai_audit.kling.meaning import PROVIDER
                from klingai_audit.kling.shelf import TaskTable

                tasks = TaskTable(self.places.state / "tasks.sqlite", self.reader, self.subjects.reveal)
                self._observers.append(tasks.observe)
                self._recorder = Recorder(self, PROVIDER, tasks)
                self.spool.look_after(self._recorder.desk.overdue, self._recorder.desk.catch_up)
            return self._recorder

    httpx_transport = clients.httpx_transport
    attach = clients.attach
    instrument = clients.instrument

    def wrap(self, thing: Any, operations: Mapping[str, str | None] | None = None) -> Any:
        """Return a stand-in for a client object whose methods are operations of Kling, each call recorded.

        Methods named like operations of the catalogue are recorded; `operations` names others (`{"make":
        "text_to_video"}`), or None for what is no act. The rest passes through and is listed once in the log
        `klingai_audit`. Raises: UsageError: an operation or a method that there is not.
        """
        from klingai_audit.capture.wrap import wrap
        from klingai_audit.kling.endpoints import ROWS

        return wrap(thing, self.recorder, ROWS, operations)

    def webhook(self, headers: Any, body: bytes, *, secret: Any = None, client: Any = None) -> Callback:
        """Record a callback of Kling; returns what became of it, and the HTTP status to answer with.

        `headers` and the raw `body` as they arrived; `secret`: the webhook secret (`whsec_…`), or several. Without a
        valid signature the end of a task is only a claim, until `client` (a `KlingAI`) finds it confirmed by asking.
        Raises: UsageError: a secret that is none.
        """
        from klingai_audit.kling.webhook import receive

        return receive(self.recorder, headers, body, secret=secret, client=client)

    # --- verification ------------------------------------------------------------------------------

    def verify(self, **options: Any) -> Verdict:
        """Publish, then verify the whole log; returns a graded verdict and never raises for what the log holds.

        Starts from the key in the keys folder and the remembered head in the state folder; `options` are those of
        `klingai_audit.trust.verify.verify`.
        """
        from klingai_audit.trust.authority import policy_roots
        from klingai_audit.trust.custody import with_custody
        from klingai_audit.trust.verify import verify

        tolerated = AuditUnavailable if self.spool.down else SignerUnavailable
        with contextlib.suppress(tolerated):  # then the verdict tells what is not signed
            self.flush("published")
        terms: dict[str, Any] = {
            "key": self.vkey,
            "key_source": "keys folder",
            "mldsa_key": self._keys.mldsa_vkey,
            "mldsa_source": "keys folder",
            "remembered": state_folder(self.places).read_head(),
            "policy": self.policy,
        }
        terms["tsa_roots"] = policy_roots(self.policy, self.places.keys)
        terms["scratch"] = scratch_beside(self.places.state)
        return with_custody(verify(self.reader.store, **{**terms, **options}), self.places.keys)


_OPEN: Final[Alive[AuditLog]] = Alive()
