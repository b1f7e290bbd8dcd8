"""`serve-log` and `export --format tiles`: the log for other people's software, over HTTP and as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from klingai_audit.cli.cosigning import Cosigned, Witnesses, cosigned_head
from klingai_audit.cli.operating import Metrics, operated
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.proving import size_of
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.signals import exit_code, until_signalled


def serve_log(
    *,
    listen: Annotated[str, Parameter(help="HOST:PORT; port 0 takes any free one.")] = "127.0.0.1:8787",
    tokens: Annotated[
        Path | None,
        Parameter(help="A file with SHA-256 digests of readers' tokens, one a line: they may read entries."),
    ] = None,
    public: Annotated[
        bool, Parameter(help="Give entries to everybody who can reach the port. Recorded in the log (needs its keys).")
    ] = False,
    cosigned: Cosigned = False,
    witnesses: Witnesses = None,
    certificate: Annotated[Path | None, Parameter(help="Serve over TLS with this certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, Parameter(help="Its private key (PEM).")] = None,
    metrics: Metrics = None,
    session: SessionArgument,
) -> int:
    """Serve the log as C2SP tlog-tiles until interrupted: checkpoint and hashes to all, entries to readers."""
    from klingai_audit.config import open_reader
    from klingai_audit.operation.asgi import counted
    from klingai_audit.publish.server import bind, log_app, read_tokens, run_app

    reader = open_reader(session.places)
    head = cosigned_head(session, reader, witnesses) if cosigned else None
    if head is not None:
        head()
    app = log_app(reader, tokens=() if tokens is None else read_tokens(tokens), public=public, head=head)
    listening = bind(listen)
    host, port = listening.getsockname()[:2]
    scheme = "http" if certificate is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    recorded = _record_public(session, reader.size) if public else False
    readers = "everybody" if public else "readers with a token" if tokens else "nobody (name a file with --tokens)"
    if session.as_json:
        session.emit({"url": url, "origin": reader.origin, "public": public, "recorded": recorded})
    else:
        session.say("Serving ", (reader.origin, "bold"), f" at {url}/checkpoint")
        session.say((f"Hashes to everybody, entries to {readers}. Stop with Ctrl-C.", "dim"))
    session.flush()
    with until_signalled() as ended, operated(session, metrics, reader) as board:
        served = counted(app, board, ("/tile/entries", "/tile", "/checkpoint"))
        run_app(served, listening, certificate=certificate, private_key=private_key, ended=ended)
    return exit_code(ended)


def export_tiles(
    session: Session, folder: Path | None, *, cosigned: bool, witnesses: Path | None, record: bool
) -> None:
    """Bring a static folder of tiles up to the log's checkpoint, or to the newest cosigned one.

    Raises: UsageError without a folder, or without a cosigned checkpoint where one is asked for.
    """
    from klingai_audit.cli.recording import record_act, tell_recorded
    from klingai_audit.config import open_reader
    from klingai_audit.errors import UsageError
    from klingai_audit.publish.tiles import publish_tiles
    from klingai_audit.views.inert import inert

    if folder is None:
        raise UsageError("Tiles are a folder of files.", do="Name it: --format tiles -o FOLDER")
    reader = open_reader(session.places)
    head = cosigned_head(session, reader, witnesses) if cosigned else None
    size = reader.size if head is None else size_of(head())
    about = {"command": "export", "format": "tiles", "tree_size": size}
    recorded = record_act(session, "log_exported", about, asked=record)
    with progress_bar(session, "writing tiles", "files") as progress:
        done = publish_tiles(reader, folder, head=head, progress=progress)
    name = escaped(str(folder))
    if session.as_json:
        told = {"folder": name, "old_size": done.old_size, "tree_size": done.size}
        session.emit({**told, "written": done.written, "removed": done.removed, "recorded": recorded})
        return
    session.say((inert(name), "bold"), f": {done.size:,} entries, {done.size - done.old_size:,} of them new.")
    tell_recorded(session, recorded)


def _record_public(session: Session, size: int) -> bool:
    from klingai_audit.cli.recording import append

    append(session, "log_exported", {"command": "serve-log", "public": True, "tree_size": size})
    return True
