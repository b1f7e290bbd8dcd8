"""`watch`: verify, detect, reconcile, witness and stamp on a schedule, and tell somebody when something is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.operating import Metrics, operated
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.signals import exit_code, until_signalled

if TYPE_CHECKING:
    import datetime as dt

    from klingai_audit.detect.rules import Rule
    from klingai_audit.privacy.policy import Policy
    from klingai_audit.trust.verdict import Verdict
    from klingai_audit.watch.channels import Channel
    from klingai_audit.watch.problems import Alert
    from klingai_audit.watch.rounds import Round, Settings

_STYLES: Final = {"broken": "bold red", "unreachable": "red", "finding": "yellow", "note": "cyan"}

Span = str | None


def watch(
    *,
    quick_every: Annotated[Span, Parameter(help="Verify what is new: 5m, off. Default: watch.quick.")] = None,
    full_every: Annotated[Span, Parameter(help="Verify everything. Default: watch.full.")] = None,
    detect_every: Annotated[Span, Parameter(help="Run the detection rules. Default: watch.detect.")] = None,
    witness_every: Annotated[
        Span, Parameter(help="Look whether witnesses have to be asked. Default: watch.witness.")
    ] = None,
    reconcile_every: Annotated[
        Span, Parameter(help="Compare with the provider, if there is a credential. Default: watch.reconcile.")
    ] = None,
    expect_heartbeat: Annotated[
        Span, Parameter(help="Alert when writers leave no entry and no heartbeat for so long: 3h.")
    ] = None,
    record: Annotated[
        bool, Parameter(help="Write into the log, too: needed to record, witness, stamp and reconcile.")
    ] = False,
    once: Annotated[bool, Parameter(help="Do what is due now, then exit: for cron.")] = False,
    exit_on_finding: Annotated[bool, Parameter(help="Exit as soon as something is found.")] = False,
    webhook: Annotated[str | None, Parameter(help="POST alerts as JSON to this address.")] = None,
    webhook_secret: Annotated[
        Path | None, Parameter(help="File with the secret (base64) that signs them, as Standard Webhooks asks.")
    ] = None,
    syslog: Annotated[str | None, Parameter(help="Send alerts to tls://host:6514 or tcp://host:601.")] = None,
    ca: Annotated[Path | None, Parameter(help="PEM file of the authority behind the syslog receiver.")] = None,
    plain: Annotated[bool, Parameter(help="Allow tcp:// and http:// to another machine.")] = False,
    key: Annotated[str | None, Parameter(help="The log's public key, as for verify.")] = None,
    metrics: Metrics = None,
    session: SessionArgument,
) -> int:
    """Watch the log until interrupted: verify, detect, and with --record also reconcile, witness and time-stamp.

    Each finding is told once, and again when it is gone or comes back. Exit codes of --once and --exit-on-finding: 0
    nothing is open, 1 a finding, 3 a check could not be made or nobody could be told, 4 evidence does not hold.
    """
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.cli.trusting import check_log, memory_folder
    from klingai_audit.watch.metrics import observe, take
    from klingai_audit.watch.run import Watch

    policy = _policy(session)
    spans = {
        "quick": quick_every,
        "full": full_every,
        "detect": detect_every,
        "witness": witness_every,
        "reconcile": reconcile_every,
        "heartbeat": expect_heartbeat,
    }
    settings = _settings(policy, spans, record=record)
    channels = _channels(webhook, webhook_secret, syslog, ca, plain=plain)
    _check_extra(policy, settings)

    def verify(quick: bool, progress: Callable[[int, int], None]) -> Verdict:
        return check_log(session, key=key, quick=quick, progress=progress)

    with until_signalled() as ended, operated(session, metrics) as board:

        def tell(done: Round) -> None:
            take(board, done)
            _tell(session, done, always=once)

        watch = Watch(
            session.places,
            policy,
            settings,
            verify,
            folder=session.places.state if session.state else memory_folder(session.places),
            actor=reader_id(),
            rules=_rules(session),
            channels=channels,
            stop=lambda: bool(ended),
        )
        observe(board, watch)
        board.check("log", lambda: _unreadable(session))
        found = watch.run(tell, once=once, on_finding=exit_on_finding)
    return exit_code(ended, found)


def _unreadable(session: Session) -> None:
    """Raises: StorageError if the log's checkpoint cannot be read."""
    from klingai_audit.config import open_reader

    open_reader(session.places).checkpoint_note()


def _policy(session: Session) -> Policy:
    """Return the log's policy, the default where this reader cannot see it. Raises: InvalidPolicy."""
    from klingai_audit.errors import InvalidPolicy
    from klingai_audit.privacy.policy import Policy

    path = session.places.keys / "policy.toml"
    try:
        return Policy.load(path)
    except (InvalidPolicy, OSError):
        if path.exists():
            raise
        return Policy.default()


def _settings(policy: Policy, given: dict[str, Span], *, record: bool) -> Settings:
    from klingai_audit.errors import UsageError
    from klingai_audit.privacy.policy import parse_optional_span
    from klingai_audit.watch.rounds import Settings

    spans: dict[str, dt.timedelta | None] = {
        name: policy.watch.span(name) if text is None else parse_optional_span(escaped(text), f"the time for {name}")
        for name, text in given.items()
    }
    heartbeat = spans["heartbeat"]
    if heartbeat is not None and heartbeat.total_seconds() < 3600:
        raise UsageError(
            "A heartbeat comes an hour after the last entry: a shorter silence is none.",
            do="Use --expect-heartbeat 3h, or off.",
        )
    return Settings(**spans, record=record or policy.watch.record)


def _channels(
    webhook: str | None, secret: Path | None, syslog: str | None, ca: Path | None, *, plain: bool
) -> list[Channel]:
    from klingai_audit.errors import UsageError
    from klingai_audit.watch.channels import Syslog, Webhook, read_secret

    made: list[Channel] = []
    if webhook is not None:
        made.append(Webhook(escaped(webhook), None if secret is None else read_secret(secret), plain=plain))
    elif secret is not None:
        raise UsageError("--webhook-secret signs for nobody.", do="Give --webhook URL, too.")
    if syslog is not None:
        made.append(Syslog(escaped(syslog), ca=None if ca is None else str(ca), plain=plain))
    return made


def _check_extra(policy: Policy, settings: Settings) -> None:
    if settings.record and policy.timestamp.tsa:
        from klingai_audit.trust.authority import require_extra

        require_extra()


def _rules(session: Session) -> tuple[Rule, ...]:
    from klingai_audit.cli.detecting import RULES_FOLDER
    from klingai_audit.detect.rules import load_rules

    own = session.places.keys / RULES_FOLDER
    return tuple(load_rules([own] if own.is_dir() else [], ()))


def _tell(session: Session, done: Round, *, always: bool) -> None:
    from klingai_audit.views.inert import inert

    if session.as_json:
        if always or not done.quiet:
            session.emit(done.to_json())
            session.flush()
        return
    moment = f"{done.time:%Y-%m-%dT%H:%M:%SZ}"
    for job in done.jobs:
        if always or not job.quiet:
            style = "yellow" if job.failed else ""
            session.say((f"{moment} ", "dim"), (f"{job.name}: {inert(job.words)}", style), f" ({job.seconds:.1f} s)")
    for alert in done.alerts:
        session.say((f"{moment} ", "dim"), *_alert(alert))
    for words in done.delivered:
        session.say((f"{moment} told: {inert(words)}", "dim"))
    for words in done.trouble:
        session.remark(f"{moment} {inert(words)}")
    session.flush()


def _alert(alert: Alert) -> Iterator[str | tuple[str, str]]:
    from klingai_audit.views.inert import inert

    problem = alert.problem
    where = ""
    if problem.seq is not None:
        last = (problem.seq_end or problem.seq + 1) - 1
        where = f" entry {problem.seq}" if last == problem.seq else f" entries {problem.seq} to {last}"
    style = "green" if alert.change == "gone" else _STYLES[problem.level]
    yield (f"{alert.change} ", style)
    yield (f"{problem.source} {inert(problem.kind)}", "bold")
    yield f"{where}: {inert(problem.text)}"
