"""The policy: what is withheld, what happens when recording fails, what verification demands. Data, not code.

`init` writes `Policy.DEFAULT_TEXT` as policy.toml into the keys folder; its SHA-256 is named in `log_opened` and in
every `policy_updated`. Tables and keys that this version does not know are refused.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import tomllib
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec

from klingai_audit.errors import InvalidPolicy, StorageError, UnknownEventType, UsageError
from klingai_audit.privacy.access_policy import AccessPolicy
from klingai_audit.privacy.retention import RetentionPolicy
from klingai_audit.privacy.spool_policy import SpoolPolicy
from klingai_audit.privacy.vault_policy import VaultPolicy

__all__ = [
    "EVENT_CLASSES",
    "AccessPolicy",
    "FailurePolicy",
    "Policy",
    "PrivacyPolicy",
    "RetentionPolicy",
    "SpoolPolicy",
    "TimestampPolicy",
    "VaultPolicy",
    "VerifyPolicy",
    "WatchPolicy",
    "WitnessRules",
    "parse_optional_span",
    "parse_span",
]

_Failure = Literal["refuse", "warn", "spool"]

_NAME: Final = re.compile(r"\*?[a-z0-9_]{2,64}").fullmatch
_MAX_POLICY_BYTES: Final = 65_536
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])", re.ASCII).fullmatch
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_DEFAULT_TEXT: Final = """\
# Policy of this audit log. Its SHA-256 is named in the log each time a writer opens it.
# Unknown tables and keys are refused. Remove a line to get its default, which is what stands here.

[privacy]
# Metadata under these names enters as commitment (salted digest and length), at any depth and in any spelling
# (negative_prompt, negativePrompt). A leading * stands for any beginning.
commit = [
  "prompt", "*_prompt", "multi_prompt", "lyrics", "query", "text", "message", "*_message", "message_text",
  "task_status_msg", "image", "image_tail", "images", "image_list", "video", "videos", "video_list", "audio",
  "audios", "audio_list", "sound_file", "mask", "static_mask", "dynamic_masks", "url", "urls", "*_url", "*_urls",
]
# "personal": actor ids become pseudonyms. "opaque": you declare that ids name no person (service names);
# they are then kept as they are, except what looks like an e-mail address, an IP address or a credential.
actor_ids = "personal"
# An act that nobody is bound to: "warn" records it as actor "unknown" and warns once; "refuse" refuses it.
unknown_actor = "warn"
# Queries, exports and reports by the command line: "record" writes an entry for each, "off" says it did not.
reads = "off"
# Polls of a task: "changes" writes an entry when the status changes, "all" for each poll.
record_reads = "changes"

[vault]
# Content under these names, which privacy.commit withholds, is also kept sealed beside the log, so that those who hold
# the unseal key can open it on the record. Needs a key first: klingai-audit keys unseal-init
seal = []
# Longer content stays a commitment only.
max_bytes = 262144
# true: the whole IP address of each act, too.
addresses = false

[access]
# Acts that nobody does alone: unseal, erase, purge (retention apply), rotate (keys rotate), and govern: users add and
# remove, and changes of this table by policy set.
two_person = []
# In which roles (users add --role) a second person may approve: viewer, auditor, privacy_officer, admin.
approvers = ["privacy_officer", "admin"]
# 1: somebody else approves. 2: two people do, so that nobody need believe who runs the command.
signatures = 1
# How long an approval is good. Each is good once.
max_age = "24h"
# "enforced": only a privacy_officer unseals and erases, only an admin purges, rotates, governs. "recorded": anybody.
roles = "recorded"

[failure]
# What happens to an act that cannot be recorded: "refuse" (it does not happen), "warn" (it happens, is counted,
# and the count is recorded when recording works again) or "spool" (it happens; its entries wait, see below).
paid_create = "refuse"
credentials = "refuse"
admin = "refuse"
export = "refuse"
unseal = "refuse"
download = "refuse"
delete = "refuse"
read = "warn"
log = "refuse"

[spool]
# Entries of classes with "spool" wait in the state folder, sealed, while the log cannot be reached. So do those that
# the log has not acknowledged for so long.
after = "10s"
# While so many bytes wait, no further act of these classes begins.
max_bytes = 67108864
# Nor while so many entries do.
max_records = 100000

[verify]
# Entries that no signed checkpoint covers, while no writer is at work, break the log (true) or are a note (false).
require_checkpoint = true
# A new signing key each UTC day ("daily"), or only on request ("never").
epoch_rotation = "daily"

[timestamp]
# Address of an RFC 3161 time stamp authority, for `klingai-audit timestamp`.
tsa = ""
# The root certificates that its stamps must lead to: a PEM file, relative to this one.
roots = ""
# How often you have the log stamped (30m, 12h, 1d). Back-dating counts as ruled out up to twice this.
interval = "24h"

[witness]
# Acts of these classes wait until the quorum of witness.policy has cosigned the entry that announces them, and do not
# happen otherwise: paid_create, download, delete, credentials, admin.
require = []
# How long they wait.
timeout = "2m"

[watch]
# `klingai-audit watch`: how often it verifies what is new ("off": never).
quick = "5m"
# How often it verifies everything.
full = "24h"
# How often it runs the detection rules.
detect = "15m"
# How often it looks whether there is something to show to the witnesses. Time stamps: timestamp.interval.
witness = "1m"
# How often it compares the log with the provider's records, where it has a credential.
reconcile = "24h"
# It alerts when writers have left no entry and no heartbeat for so long: 3h is right for a service; "off": never.
heartbeat = "off"
# true: it writes what it found into the log, reconciles, and has the log witnessed and stamped. false: it only reads.
record = false

[retention]
# Nothing is purged but by `klingai-audit retention apply`, and never an entry about the log itself.
# Rule books whose minimum counts too: pci_dss, hipaa, sec_17a4, eu_ai_act, china_labelling, soc2.
profiles = []
# For how long entries are kept at least: days (365d), weeks (52w), or forever.
minimum = "365d"
# And at most. A minimum above it is refused when this file is loaded.
maximum = "2557d"
# From which age on a day's file is packed for good (sealed); only sealed days are purged.
seal_after = "7d"
# What single event types and categories have otherwise: download = { minimum = "365d", maximum = "730d" }
[retention.classes]
"""

_OFF: Final = "off"


class PrivacyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What enters in which form. `commit` holds metadata names, lowercase with `_`, a leading `*` for any beginning."""

    commit: tuple[str, ...] = ()
    actor_ids: Literal["personal", "opaque"] = "personal"
    unknown_actor: Literal["warn", "refuse"] = "warn"
    reads: Literal["off", "record"] = "off"
    record_reads: Literal["changes", "all"] = "changes"


class FailurePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to an act of each class that cannot be recorded."""

    paid_create: _Failure = "refuse"
    credentials: _Failure = "refuse"
    admin: _Failure = "refuse"
    export: _Failure = "refuse"
    unseal: _Failure = "refuse"
    download: _Failure = "refuse"
    delete: _Failure = "refuse"
    read: _Failure = "warn"
    log: Literal["refuse", "warn"] = "refuse"

    def for_class(self, cls: str) -> _Failure:
        """Return `refuse`, `warn` or `spool` for an event class; a class that is not known is refused."""
        return getattr(self, cls) if cls in EVENT_CLASSES else "refuse"

    @property
    def spools(self) -> bool:
        """Whether any class has the policy `spool`."""
        return any(self.for_class(cls) == "spool" for cls in EVENT_CLASSES)


EVENT_CLASSES: Final[tuple[str, ...]] = FailurePolicy.__struct_fields__
"""Names of the event classes that the failure policy tells apart."""


class VerifyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What verification demands beyond the format, and how long a signing key lives."""

    require_checkpoint: bool = True
    epoch_rotation: Literal["daily", "never"] = "daily"


class TimestampPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who stamps checkpoints, whose roots are trusted for it (relative to the policy file), and how often."""

    tsa: str = ""
    roots: str = ""
    interval: str = "24h"

    @property
    def span(self) -> dt.timedelta:
        """`interval` as a span of time."""
        return parse_span(self.interval, "timestamp.interval")


class WitnessRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Classes of acts that happen only after witnesses have seen them announced, and how long they wait for that."""

    require: tuple[Literal["paid_create", "download", "delete", "credentials", "admin"], ...] = ()
    timeout: str = "2m"

    @property
    def span(self) -> dt.timedelta:
        """`timeout` as a span of time."""
        return parse_span(self.timeout, "witness.timeout")


class WatchPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often `watch` does what, each a span of time or `off`; and whether it writes into the log."""

    quick: str = "5m"
    full: str = "24h"
    detect: str = "15m"
    witness: str = "1m"
    reconcile: str = "24h"
    heartbeat: str = "off"
    record: bool = False

    def span(self, name: str) -> dt.timedelta | None:
        """The setting `name` as a span of time, None if it is off. Raises: UsageError."""
        return parse_optional_span(getattr(self, name), f"watch.{name}")


_WATCH_SPANS: Final = tuple(name for name in WatchPolicy.__struct_fields__ if name != "record")


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    privacy: PrivacyPolicy = PrivacyPolicy()
    failure: FailurePolicy = FailurePolicy()
    spool: SpoolPolicy = SpoolPolicy()
    verify: VerifyPolicy = VerifyPolicy()
    timestamp: TimestampPolicy = TimestampPolicy()
    witness: WitnessRules = WitnessRules()
    watch: WatchPolicy = WatchPolicy()
    retention: RetentionPolicy = RetentionPolicy()
    vault: VaultPolicy = VaultPolicy()
    access: AccessPolicy = AccessPolicy()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the policy; `digest` is the SHA-256 of the file's bytes as 64 lowercase hex digits."""

    DEFAULT_TEXT: ClassVar[str] = _DEFAULT_TEXT

    privacy: PrivacyPolicy
    failure: FailurePolicy
    verify: VerifyPolicy
    retention: RetentionPolicy
    digest: str
    timestamp: TimestampPolicy = TimestampPolicy()
    witness: WitnessRules = WitnessRules()
    watch: WatchPolicy = WatchPolicy()
    vault: VaultPolicy = VaultPolicy()
    access: AccessPolicy = AccessPolicy()
    spool: SpoolPolicy = SpoolPolicy()

    @property
    def spool_after(self) -> float:
        """How long an entry of a class with `spool` is waited for, in seconds."""
        return parse_span(self.spool.after, "spool.after").total_seconds()

    @classmethod
    def default(cls) -> Policy:
        """Return the policy that `init` writes."""
        return cls.parse(_DEFAULT_TEXT.encode())

    @classmethod
    def load(cls, path: Path | None) -> Policy:
        """Read a policy.toml, or return the default if `path` is None.

        Raises: InvalidPolicy naming the file and the key. StorageError: the file cannot be read.
        """
        if path is None:
            return cls.default()
        try:
            data = path.read_bytes()
        except FileNotFoundError as exc:
            raise InvalidPolicy(f"{path}: there is no such file", do="Run klingai-audit init, or restore it.") from exc
        except OSError as exc:
            raise StorageError(f"{path}: cannot be read: {exc.strerror}") from exc
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, name: str = "policy.toml") -> Policy:
        """Read the bytes of a policy file; `name` is what errors call it. Raises: InvalidPolicy."""
        if len(data) > _MAX_POLICY_BYTES:
            raise InvalidPolicy(f"{name}: larger than {_MAX_POLICY_BYTES:,} bytes")
        try:
            tables = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidPolicy(f"{name}: not TOML in UTF-8: {exc}") from exc
        try:
            file = msgspec.convert(tables, _File)
        except msgspec.ValidationError as exc:
            raise InvalidPolicy(f"{name}: {str(exc).replace('`$.', '`')}") from exc
        privacy = file.privacy
        if "commit" not in tables.get("privacy", {}):
            privacy = msgspec.structs.replace(privacy, commit=_default_names())
        for entry in privacy.commit:
            if _NAME(entry) is None:
                raise InvalidPolicy(f"{name}: privacy.commit: names are lowercase letters, digits and _, `*` in front")
        try:
            _ = file.timestamp.span, file.witness.span
            parse_span(file.access.max_age, "access.max_age")
            for setting in _WATCH_SPANS:
                file.watch.span(setting)
            file.retention.check()
            file.vault.check(privacy.commit)
            parse_span(file.spool.after, "spool.after")
            file.spool.check()
            _check_spool_and_witness(file)
        except (UsageError, UnknownEventType) as exc:
            raise InvalidPolicy(f"{name}: {exc.message}", do=exc.do) from exc
        return cls(
            privacy=privacy,
            failure=file.failure,
            verify=file.verify,
            timestamp=file.timestamp,
            witness=file.witness,
            watch=file.watch,
            retention=file.retention,
            vault=file.vault,
            access=file.access,
            spool=file.spool,
            digest=hashlib.sha256(data).hexdigest(),
        )


def parse_span(text: str, name: str) -> dt.timedelta:
    """Read a span of time such as `30m`, `12h` or `7d`; `name` is what it is called. Raises: UsageError."""
    match = _SPAN(text)
    if match is None:
        raise UsageError(f"{name} is no span of time.", do="Use a number and s, m, h, d or w, such as 12h.")
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_optional_span(text: str, name: str) -> dt.timedelta | None:
    """Read a span of time, or `off` as None; `name` is what it is called. Raises: UsageError."""
    return None if text == _OFF else parse_span(text, name)


def _check_spool_and_witness(file: _File) -> None:
    for cls in file.witness.require:
        if file.failure.for_class(cls) == "spool":
            raise UsageError(
                f"failure.{cls} is spool, and witness.require has {cls}: what waits here has nobody seen.",
                do="Take one of the two.",
            )


def _default_names() -> tuple[str, ...]:
    return tuple(tomllib.loads(_DEFAULT_TEXT)["privacy"]["commit"])
