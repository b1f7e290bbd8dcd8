"""`witness`: have the log witnessed, or be a witness of other logs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.operating import Metrics, operated
from klingai_audit.cli.session import Session, SessionArgument, escaped, open_log
from klingai_audit.cli.signals import exit_code, pause_until, until_signalled
from klingai_audit.errors import NoTrustedKey, UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.tlog.keys import VerifierKey
    from klingai_audit.tlog.policy import WitnessPolicy
    from klingai_audit.upkeep.witnessing import Round
    from klingai_audit.witness.server import Answer, Witness

_STYLES: Final = {"cosigned": "green", "ahead": "bold red", "refused": "bold red"}
_ALARM: Final = 4
_FAILED: Final = 1

KeyFile = Annotated[Path, Parameter(help="The witness's private key file.")]
Database = Annotated[Path, Parameter(help="The witness's memory, an SQLite file.")]


def submit(
    *,
    every: Annotated[
        float | None, Parameter(help="Go on, asking every so many seconds if there is news. Default: once.")
    ] = None,
    timeout: Annotated[float, Parameter(help="Seconds to wait for one witness.")] = 10.0,
    metrics: Metrics = None,
    session: SessionArgument,
) -> int:
    """Show the newest checkpoint to the witnesses of <keys>/witness.policy and keep their cosignatures in an entry.

    Exit 1 if fewer cosigned than the policy asks for, 4 if a witness holds another history.
    """
    from klingai_audit.operation.health import observe
    from klingai_audit.upkeep.witnessing import witness_now
    from klingai_audit.witness.client import WitnessClient

    policy = _policy(session)
    with until_signalled() as ended, open_log(session) as audit, operated(session, metrics) as board:
        observe(board, audit)
        client = WitnessClient(policy, timeout=timeout)
        while not ended:
            done = witness_now(audit, client, always=every is None)
            code = _tell(session, done, policy)
            if every is None or code == _ALARM:
                return code
            session.flush()
            pause_until(lambda: bool(ended), every)
    return exit_code(ended)


def status(*, session: SessionArgument) -> int:
    """Say which checkpoint was cosigned last, by whom and when. Exit 1 if the quorum never cosigned one."""
    from klingai_audit.cli.trusting import check_log

    policy = _policy(session)
    verdict = check_log(session, first_use=True)
    threat = next(threat for threat in verdict.threats if threat.threat == "fork")
    told = {"quorum": policy.describe(), "fork": threat.state, "by": threat.by, "exit": verdict.exit_code}
    if session.as_json:
        session.emit(told)
    else:
        session.say(("Asked for: ", "dim"), policy.describe())
        session.say(threat.by)
    return verdict.exit_code or (0 if threat.state == "ruled_out" else _FAILED)


def keygen(
    name: Annotated[str, Parameter(help="The witness's name, such as witness.example/one: its public identity.")],
    /,
    *,
    key: KeyFile,
    session: SessionArgument,
) -> None:
    """Make the key of a new witness; prints the public key for the policies of logs."""
    from klingai_audit.ledger.keyfile import make_key_file
    from klingai_audit.tlog.keys import COSIGNATURE

    taken = "Name a new file: a witness keeps its key for life."
    signer = make_key_file(key, escaped(name), taken=taken, algorithm=COSIGNATURE)
    if session.as_json:
        session.emit({"name": signer.name, "vkey": signer.verifier.format(), "file": escaped(str(key))})
        return
    session.say(("Public key, for the policies of logs:", "dim"))
    session.say(signer.verifier.format())


def serve(
    *,
    key: KeyFile,
    logs: Annotated[Path, Parameter(help="A file with the public keys (vkeys) of the logs to witness, one a line.")],
    database: Database,
    listen: Annotated[str, Parameter(help="HOST:PORT; port 0 takes any free one.")] = "127.0.0.1:8788",
    certificate: Annotated[Path | None, Parameter(help="Serve over TLS with this certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, Parameter(help="Its private key (PEM).")] = None,
    metrics: Metrics = None,
    session: SessionArgument,
) -> int:
    """Be a witness until interrupted: cosign what extends what was cosigned before, refuse and keep what does not."""
    from klingai_audit.ledger.keyfile import read_key_file
    from klingai_audit.operation.asgi import counted
    from klingai_audit.publish.server import bind, run_app
    from klingai_audit.witness.book import Book
    from klingai_audit.witness.server import Witness, witness_app

    signer = read_key_file(key, make="Make one: klingai-audit witness keygen NAME --key FILE")
    witness = Witness(signer, _log_keys(logs), Book(database))
    app = witness_app(witness, lambda path, answer: _journal(session, path, answer))
    listening = bind(listen)
    host, port = listening.getsockname()[:2]
    url = f"{'http' if certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    if session.as_json:
        session.emit({"url": url, "name": signer.name, "vkey": signer.verifier.format(), "logs": witness.origins})
    else:
        session.say("Witness ", (inert(signer.name), "bold"), f" at {url}, for {len(witness.origins)} log(s)")
        session.say((f"Line for their policies: witness NAME {signer.verifier.format()} {url}", "dim"))
    session.flush()
    with until_signalled() as ended, operated(session, metrics) as board:
        board.check("memory", lambda: _memory_trouble(witness))
        board.look("findings", lambda: {("witness", "broken"): float(len(witness.book.exhibits()))})
        served = counted(app, board, ("/add-checkpoint",))
        run_app(served, listening, certificate=certificate, private_key=private_key, ended=ended)
    return exit_code(ended)


def evidence(
    *,
    database: Database,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="A folder: write each exhibit as two files.")
    ] = None,
    session: SessionArgument,
) -> int:
    """List the refused checkpoints that contradict what this witness cosigned. Exit 4 if there are any."""
    from klingai_audit.durable import OPS
    from klingai_audit.witness.book import Book

    exhibits = Book(database).exhibits()
    for number, one in enumerate(exhibits, 1):
        moment = dt.datetime.fromtimestamp(one.time, dt.UTC).isoformat()
        told: dict[str, Any] = {"origin": one.origin, "time": moment, "reason": one.reason}
        if output is not None:
            OPS.make_folder(output)
            told["held"], told["refused"] = f"{number:04}-held.checkpoint", f"{number:04}-refused.request"
            OPS.replace(output / told["held"], one.held)
            OPS.replace(output / told["refused"], one.request)
        if session.as_json:
            session.emit(told)
        else:
            session.say((inert(one.origin), "bold"), f" {moment}: ", (one.reason, "red"))
    if not exhibits and not session.as_json:
        session.say("No contradiction was ever shown to this witness.")
    return _ALARM if exhibits else 0


def _tell(session: Session, done: Round, policy: WitnessPolicy) -> int:
    found = done.submission
    if found is None:
        if session.as_json:
            session.emit({"size": done.size, "asked": False})
        else:
            session.say((f"Nothing new at size {done.size:,}.", "dim"))
        return 0
    if session.as_json:
        results = [
            {"witness": one.name, "state": one.state, "detail": one.detail, "time": one.time} for one in found.results
        ]
        told = {"size": found.size, "asked": True, "satisfied": found.satisfied, "seq": done.seq}
        session.emit({**told, "quorum": policy.describe(), "results": results})
    else:
        for one in found.results:
            session.say((f"{one.state:<11} ", _STYLES.get(one.state, "yellow")), inert(one.name), f"  {one.detail}")
        kept = "not kept" if done.seq is None else f"kept in entry {done.seq}"
        enough = "as the policy asks" if found.satisfied else f"fewer than asked for: {policy.describe()}"
        session.say(f"Size {found.size:,}: {enough}; {kept}.")
    return _ALARM if found.alarming else 0 if found.satisfied else _FAILED


def _journal(session: Session, path: str, answer: Answer) -> None:
    if answer.forked:
        session.remark("A log showed another history than it did before: kept as evidence.", forked=True)
    else:
        session.remark(f"{path} {answer.status}", path=path, status=answer.status)


def _memory_trouble(witness: Witness) -> None:
    """Raises: StorageError if what was cosigned cannot be read."""
    witness.book.held(witness.origins[0])


def _policy(session: Session) -> WitnessPolicy:
    from klingai_audit.upkeep.witnessing import POLICY_FILE, read_policy

    path = session.places.keys / POLICY_FILE
    try:
        policy = read_policy(session.places.keys)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from exc
    if policy is None:
        raise UsageError(f"No witnesses are named: there is no {path}.", do="docs/how-to/witness.md shows one.")
    return policy


def _log_keys(path: Path) -> list[VerifierKey]:
    from klingai_audit.durable import read_optional
    from klingai_audit.tlog.keys import VerifierKey

    try:
        data = read_optional(path)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from exc
    lines = (data or b"").decode("utf-8", "replace").split("\n")
    words = [word for word in (line.partition("#")[0].strip().removeprefix("log ") for line in lines) if word]
    if not words:
        raise NoTrustedKey(f"{path} names no log.", do="Write the vkey of each log on a line: klingai-audit keys show")
    return [VerifierKey.parse(word.split()[0]) for word in words]
