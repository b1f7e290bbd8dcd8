"""The public names of the library with their signatures and docstrings, as Markdown."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from tools.docs_pages import escape, one_line, table

__all__ = ["CALLED", "HIDDEN", "PUBLIC", "error_table", "error_tree", "names"]

PUBLIC: Mapping[str, tuple[str, ...]] = {
    "api-log": (
        "klingai_audit:AuditLog",
        "klingai_audit:Receipt",
        "klingai_audit:acting",
        "klingai_audit.event.context:Actor",
        "klingai_audit:ToCommit",
    ),
    "api-kling": (
        "klingai_audit.kling:KlingAI",
        "klingai_audit.kling:AsyncKlingAI",
        "klingai_audit.kling.client:ClientOptions",
        "klingai_audit.kling.orders:TextToVideo",
        "klingai_audit.kling:Task",
        "klingai_audit.kling.tasks:Video",
        "klingai_audit.kling.tasks:Charged",
        "klingai_audit.kling:Download",
        "klingai_audit.kling.flows:Retries",
    ),
    "api-capture": (
        "klingai_audit.capture.httpx:audited_transport",
        "klingai_audit.capture.httpx:attach_client",
        "klingai_audit.capture.instrument:Instrumentation",
        "klingai_audit.capture.web:ActingASGI",
        "klingai_audit.capture.web:ActingWSGI",
        "klingai_audit.capture.web:signed_in",
        "klingai_audit.kling.webhook:Callback",
        "klingai_audit.capture.desk:UnrecordedWarning",
    ),
    "api-read": (
        "klingai_audit.views.plan:Filter",
        "klingai_audit.views.entry:EntryView",
        "klingai_audit.index:Index",
        "klingai_audit.index:Table",
        "klingai_audit.views.activity:Activity",
        "klingai_audit.views.activity:Former",
        "klingai_audit.views.groups:Grouped",
        "klingai_audit.views.groups:Group",
        "klingai_audit.views.costs:Costs",
        "klingai_audit.views.costs:CostRow",
        "klingai_audit.views.ledger:Compared",
    ),
    "api-report": (
        "klingai_audit.report:build",
        "klingai_audit.report:Report",
        "klingai_audit.report:Rendered",
        "klingai_audit.report.status:take_status",
        "klingai_audit.report.status:Status",
        "klingai_audit.report.lines:Line",
    ),
    "api-verify": (
        "klingai_audit.trust.verify:verify",
        "klingai_audit.trust.verdict:Verdict",
        "klingai_audit.trust.verdict:Threat",
        "klingai_audit.trust.verdict:Finding",
        "klingai_audit.trust.verdict:Unsigned",
        "klingai_audit.trust.authority:read_roots",
        "klingai_audit.upkeep.stamping:time_authority",
        "klingai_audit.upkeep.stamping:stamp_now",
        "klingai_audit.stamp.run:Stamping",
    ),
    "api-privacy": (
        "klingai_audit.privacy.policy:Policy",
        "klingai_audit.privacy.commitment:opening",
        "klingai_audit.privacy.commitment:check_opening",
        "klingai_audit.privacy.subjects:SubjectTable",
        "klingai_audit.privacy.subjects:Subject",
        "klingai_audit.privacy.erasures:Erased",
        "klingai_audit.upkeep.unseal:unseal",
        "klingai_audit.upkeep.unseal:Unsealed",
        "klingai_audit.trust.openings:check_opening_file",
        "klingai_audit.trust.openings:Opened",
        "klingai_audit.privacy.vault:Vault",
        "klingai_audit.upkeep.erasure:erase_subject",
        "klingai_audit.upkeep.erasure:Certificate",
        "klingai_audit.bundle.person:export_subject",
        "klingai_audit.bundle.person:PersonExport",
    ),
    "api-keeping": (
        "klingai_audit.upkeep.retention:plan_retention",
        "klingai_audit.upkeep.retention:Plan",
        "klingai_audit.upkeep.retention:DayPlan",
        "klingai_audit.upkeep.retention:PlanRow",
        "klingai_audit.upkeep.retention:apply_retention",
        "klingai_audit.upkeep.retention:Applied",
        "klingai_audit.upkeep.holds:set_hold",
        "klingai_audit.upkeep.holds:release_hold",
        "klingai_audit.upkeep.holds:active_holds",
        "klingai_audit.upkeep.holds:Hold",
    ),
    "api-admin": (
        "klingai_audit.upkeep.admin:Administration",
        "klingai_audit.upkeep.admin:Declared",
        "klingai_audit.upkeep.registry:Registry",
        "klingai_audit.upkeep.approvals:require_approval",
        "klingai_audit.upkeep.approval_file:sign_approval",
        "klingai_audit.upkeep.approval_file:Approval",
        "klingai_audit.upkeep.approval_file:unseal_target",
        "klingai_audit.upkeep.approval_file:erase_target",
        "klingai_audit.upkeep.approval_file:purge_target",
        "klingai_audit.upkeep.approval_file:rotate_target",
        "klingai_audit.upkeep.approval_file:current_epoch",
        "klingai_audit.upkeep.migrate:migrate",
        "klingai_audit.upkeep.migrate:Migrated",
        "klingai_audit.upkeep.writers:export_writer",
        "klingai_audit.upkeep.writers:import_writer",
        "klingai_audit.upkeep.writers:Handed",
    ),
    "api-import": (
        "klingai_audit.upkeep.importing:import_files",
        "klingai_audit.upkeep.importing:ImportResult",
        "klingai_audit.upkeep.importing:FileImport",
        "klingai_audit.upkeep.importing:ImportFinding",
    ),
    "api-reconcile": (
        "klingai_audit.reconcile:reconcile",
        "klingai_audit.reconcile:Result",
        "klingai_audit.reconcile:Difference",
    ),
    "api-export": (
        "klingai_audit.exports:export",
        "klingai_audit.exports:ExportResult",
        "klingai_audit.exports:Course",
        "klingai_audit.exports:CursorFile",
    ),
    "api-operation": (
        "klingai_audit.operation:serve_metrics",
        "klingai_audit.operation:metrics",
        "klingai_audit.operation:MetricsServer",
    ),
    "api-testing": (
        "klingai_audit.testing:capture_events",
        "klingai_audit.testing:CapturedEvents",
        "klingai_audit.testing:refuse_unaudited",
        "klingai_audit.testing:UnauditedRequest",
        "klingai_audit.testing:memory_log",
        "klingai_audit.testing:HandClock",
        "klingai_audit.testing.proxy:FaultProxy",
        "klingai_audit.testing.proxy:Cut",
        "klingai_audit.testing.proxy:Delay",
        "klingai_audit.testing.proxy:Duplicate",
        "klingai_audit.testing.proxy:Repeat",
        "klingai_audit.testing.proxy:Traffic",
        "klingai_audit.testing.batches:BatchMaker",
    ),
    "api-simulator": (
        "klingai_audit.kling.simulator:Simulator",
        "klingai_audit.kling.simulator:serve",
        "klingai_audit.kling.simulator:SimulatorServer",
        "klingai_audit.kling.simulator:RealClock",
        "klingai_audit.kling.simulator:ManualClock",
    ),
}
"""Part of the page -> the names it shows, as `module:name`."""

CALLED = {
    "acting",
    "ActingASGI",
    "ActingWSGI",
    "Administration",
    "HandClock",
    "AsyncKlingAI",
    "KlingAI",
    "ManualClock",
    "RealClock",
    "Retries",
    "Simulator",
    "ToCommit",
}
"""Classes that users make themselves; of the others the constructor is not shown."""

HIDDEN: Mapping[str, tuple[str, ...]] = {
    "AsyncKlingAI": ("in_thread", "run"),
    "AuditLog": ("admit", "append", "record", "recorder"),
    "Course": ("clock", "pause"),
    "CursorFile": ("load", "save"),
    "EntryView": ("show_person",),
    "Finding": ("as_json",),
    "Instrumentation": ("replace",),
    "KlingAI": ("run",),
    "Receipt": ("resolve",),
    "Simulator": ("accept", "handle", "media_path", "now_ms"),
    "SubjectTable": ("after_fork",),
    "Verdict": ("memory", "with_recorded"),
}
"""Methods and members that are public for other rooms of this project, not for users."""

_WIDTH = 100
_LABEL = re.compile(r"^(Args|Raises|Source|Returns|Yields|Requires)\b[^:]*:", re.MULTILINE)
_PROPERTIES = (property, functools.cached_property)
_INTERNAL = ("clock", "ops", "random")
"""Parameters that exist for tests of this project only."""


def names(part: str) -> str:
    """Return the sections of one part of the page."""
    return "\n\n".join(_object(place) for place in PUBLIC[part])


def error_tree(module: str) -> str:
    """Return the tree that a module of errors draws in its docstring."""
    doc = inspect.getdoc(importlib.import_module(module)) or ""
    tree = doc.partition("::\n\n")[2].partition("\n\n")[0]
    return f"```text\n{textwrap.dedent(tree).strip()}\n```"


def error_table(module: str) -> str:
    """Return the table of the exceptions that a module defines."""
    found = importlib.import_module(module)
    classes = [item for item in vars(found).values() if inspect.isclass(item) and issubclass(item, Exception)]
    rows = [
        (f"`{item.__name__}`", f"`{item.__mro__[1].__name__}`", str(getattr(item, "exit_code", 1)), _first(item))
        for item in classes
        if item.__module__ == module
    ]
    return table(("exception", "is a", "exit code", "when"), rows)


def _first(item: type) -> str:
    return escape(one_line((inspect.getdoc(item) or "").partition("\n\n")[0]))


def _object(place: str) -> str:
    module, _, name = place.partition(":")
    item = getattr(importlib.import_module(module), name)
    parts = [f"### {name}", f"    from {module} import {name}"]
    if inspect.isclass(item):
        parts += _class(item)
    else:
        parts += [_fence(_signature(name, item)), _prose(inspect.getdoc(item))]
    return "\n\n".join(part for part in parts if part)


def _class(item: type) -> Iterator[str]:
    name, hidden = item.__name__, HIDDEN.get(item.__name__, ())
    if hasattr(item, "__required_keys__"):
        yield from _options(item)
        return
    if name in CALLED:
        yield _fence(_signature(name, item))
    yield _prose(inspect.getdoc(item))
    if name not in CALLED and (fields := [(field, kind) for field, kind in _fields(item) if field not in hidden]):
        yield table(("member", "type"), ((f"`{field}`", f"`{kind}`") for field, kind in fields))
    members = _members(item, hidden)
    properties = [(member, value) for member, value in members.items() if isinstance(value, _PROPERTIES)]
    if properties:
        rows = ((f"`{member}`", escape(one_line(inspect.getdoc(value) or ""))) for member, value in properties)
        yield table(("property", "meaning"), rows)
    for member, value in members.items():
        method = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(method) and inspect.getdoc(method):
            yield f"#### {name}.{member}"
            yield _fence(_signature(member, method, bound=not isinstance(value, staticmethod)))
            yield _prose(inspect.getdoc(method))


def _options(item: type) -> Iterator[str]:
    """Yield the prose of a TypedDict and a table of its members; its docstring says `name: …` or `name, name: …`."""
    names = "|".join(item.__annotations__)
    listed = re.compile(rf"(?:^|\s)((?:{names})(?:, (?:{names}))*|[A-Z]\w+ only): ")
    head, *pieces = listed.split(one_line(inspect.getdoc(item) or ""))
    texts = dict(zip(pieces[::2], pieces[1::2], strict=True))
    rest = [f"{label}: {text}" for label, text in texts.items() if label.endswith(" only")]
    yield _prose("\n\n".join([head, *rest]))
    said = {name: text for label, text in texts.items() for name in label.split(", ")}
    rows = (
        (f"`{name}`", f"`{_kind(hint)}`", escape(said.get(name, "")).strip())
        for name, hint in item.__annotations__.items()
    )
    yield table(("member", "type", "meaning"), rows)


def _members(item: type, hidden: tuple[str, ...]) -> dict[str, Any]:
    """Return the public members of a class and of its bases of the same module, its own first."""
    homes = [base for base in item.__mro__ if base.__module__ == item.__module__]
    found: dict[str, Any] = {}
    for home in homes:
        for name, value in vars(home).items():
            if name[0] != "_" and name not in hidden:
                found.setdefault(name, value)
    return found


def _fields(item: type) -> list[tuple[str, str]]:
    if dataclasses.is_dataclass(item):
        return [(field.name, _kind(field.type)) for field in dataclasses.fields(item)]
    return []


def _kind(hint: Any) -> str:
    """Return an annotation as people write it."""
    if isinstance(hint, str):
        return hint
    if hasattr(hint, "__forward_arg__"):
        return str(hint.__forward_arg__)
    if get_origin(hint) is not None and not hasattr(hint, "__name__"):
        return " | ".join(_kind(argument) for argument in get_args(hint))
    return getattr(hint, "__name__", str(hint))


def _signature(name: str, item: Any, *, bound: bool = False) -> str:
    """Return `name(parameters) -> result`, on several lines if it is long."""
    signature = inspect.signature(item)
    parameters = list(signature.parameters.values())
    if bound or (not inspect.isclass(item) and parameters and parameters[0].name in ("self", "cls")):
        parameters = parameters[1:]
    words: list[str] = []
    keywords = False
    for parameter in parameters:
        if parameter.name in _INTERNAL:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            keywords = True
        elif parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            words.append("*")
            keywords = True
        words.append(_parameter(parameter))
    prefix = "await " if inspect.iscoroutinefunction(item) else ""
    result = signature.return_annotation
    end = f" -> {_kind(result)}" if result is not signature.empty and not inspect.isclass(item) else ""
    short = f"{prefix}{name}({', '.join(words)}){end}"
    if len(short) <= _WIDTH:
        return short
    lines = "".join(f"    {word},\n" for word in words)
    return f"{prefix}{name}(\n{lines}){end}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = "" if parameter.annotation is parameter.empty else f": {_kind(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{kind}"
    return f"{parameter.name}{kind} = {parameter.default!r}"


def _fence(text: str) -> str:
    return f"```text\n{text}\n```"


def _prose(doc: str | None) -> str:
    """Return a docstring as paragraphs, what it takes and raises on lines of their own, code as it is."""
    parts = []
    for part in (doc or "").split("\n\n"):
        if part.startswith("    "):
            parts.append(f"```text\n{textwrap.dedent(part)}\n```")
            continue
        text = _LABEL.sub(lambda match: f"\n\n{match.group()}", re.sub(r"::$", ":", part))
        parts += [escape(one_line(paragraph)) for paragraph in text.split("\n\n") if paragraph.strip()]
    return "\n\n".join(parts)
