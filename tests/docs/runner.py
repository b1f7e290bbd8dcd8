"""Runs a documentation page the way a reader would: top to bottom, in one empty folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.docs.pages import Block, Command, Page, commands

SECONDS = 400
"""A command or block that takes longer does not end; a loaded machine is no failure."""

RUN_ELSEWHERE = {"make", "git", "pip"}
"""Commands that set up the machine; .ci/run does that. `make` is checked to name a target that exists."""

WORKER = Path(__file__).with_name("worker.py")


class PageFailed(AssertionError):
    """A page does not do what it says; the message names page and line."""


def run_page(page: Page, root: Path, folder: Path) -> int:
    """Run the blocks of a page in `folder` and return how many ran; `root` is the source tree."""
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(folder / ".home"),
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
    }
    cwd = folder / "page"
    cwd.mkdir()
    (folder / ".home").mkdir()
    ran = 0
    with contextlib.ExitStack() as stack:
        if page.wants_simulator:
            environment |= stack.enter_context(_simulator())
        if page.wants_postgres:
            environment |= stack.enter_context(_postgres(environment["PATH"]))
        if page.wants_bucket:
            environment |= stack.enter_context(_bucket())
        shell = _Shell(page, root, cwd, environment)
        python: _Python | None = None
        for block in page.blocks:
            if block.language == "python":
                python = python or stack.enter_context(_Python(page, cwd, environment, folder / "python.txt"))
                python.run(block)
            elif block.language == "console":
                for command in commands(block):
                    shell.run(command)
            else:
                continue
            ran += 1
    return ran


@contextlib.contextmanager
def _simulator() -> Iterator[dict[str, str]]:
    from klingai_audit.kling.simulator import DEFAULT_API_KEY, RealClock, Simulator, serve

    with serve(Simulator(RealClock(speed=100))) as server:
        yield {"KLINGAI_BASE_URL": server.base_url, "KLINGAI_API_KEY": DEFAULT_API_KEY}


@contextlib.contextmanager
def _postgres(path: str) -> Iterator[dict[str, str]]:
    from tests.support.postgres import PostgresServer, binaries

    with PostgresServer.running() as server:
        place = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGDATABASE": "postgres"}
        yield place | {"PGUSER": "postgres", "PGPASSWORD": server.password, "PATH": f"{path}:{binaries()}"}


@contextlib.contextmanager
def _bucket() -> Iterator[dict[str, str]]:
    from tests.support.objects import ObjectServer

    with ObjectServer.running() as server:
        yield server.variables() | {"AUDIT_BUCKET": server.bucket()}


class _Shell:
    """One reader's terminal: the folder and variables that a command leaves are the next one's."""

    def __init__(self, page: Page, root: Path, cwd: Path, environment: dict[str, str]) -> None:
        self._page = page
        self._targets = make_targets(root)
        self._cwd = str(cwd)
        self._environment = environment

    def run(self, command: Command) -> None:
        place = f"{self._page.path}:{command.line}"
        words = shlex.split(command.script, comments=True)
        if words and words[0] in RUN_ELSEWHERE:
            targets = [word for word in words[1:] if words[0] == "make" and word[0] != "-" and "=" not in word]
            unknown = [word for word in targets if word not in self._targets]
            if unknown:
                message = f"{place}: the Makefile has no target {', '.join(unknown)}"
                raise PageFailed(message)
            return
        read, write = os.pipe()
        # What the command leaves running in the background must not hold the pipe open.
        script = f"{{\n{command.script}\n}} {write}>&-\ncode=$?\n{{ pwd; env -0; }} >&{write}\nexit $code"
        with os.fdopen(read, "rb") as left:
            try:
                done = subprocess.run(
                    ["bash", "-c", script],
                    cwd=self._cwd,
                    env=self._environment,
                    pass_fds=[write],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired as exc:
                message = f"{place}: {command.script!r} takes longer than {SECONDS} s"
                raise PageFailed(message) from exc
            finally:
                os.close(write)
            after = left.read().decode()
        if done.returncode != command.exit_code:
            output = done.stdout.decode(errors="replace")
            message = f"{place}: {command.script!r} exits {done.returncode}, not {command.exit_code}\n{output}"
            raise PageFailed(message)
        if after:
            self._cwd, _, variables = after.partition("\n")
            pairs = (item.partition("=") for item in variables.split("\0") if item)
            self._environment = {name: value for name, _, value in pairs if name not in {"_", "SHLVL", "PWD", "OLDPWD"}}


class _Python:
    """One reader's interpreter; a context manager."""

    def __init__(self, page: Page, cwd: Path, environment: dict[str, str], output: Path) -> None:
        self._page = page
        self._output = output
        with output.open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, WORKER],
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.close()
        self._child.stdout.close()
        try:
            code = self._child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        if code:
            message = f"{self._page.path}: the interpreter ends with {code}\n{self._output.read_text()}"
            raise PageFailed(message)

    def run(self, block: Block) -> None:
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(
            json.dumps({"code": block.code, "line": block.line, "page": str(self._page.path)}) + "\n"
        )
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        error = json.loads(answer)["error"] if answer else "the interpreter is gone"
        if error:
            message = f"{self._page.path}:{block.line}: {error}\n{self._output.read_text()}"
            raise PageFailed(message)


def make_targets(root: Path) -> set[str]:
    """Return the targets that the Makefile declares."""
    text = (root / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return {word for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for word in line.split()} - {"FORCE"}
