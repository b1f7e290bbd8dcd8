"""Carries out a Dockerfile without Docker: a root file system of its own for each stage, in a mount namespace.

A stage begins as an overlay over this machine's root, whose `python` is the interpreter of the tests; what a stage
changes stays in the overlay. Only the instructions that ours uses are known.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Instruction", "Machine", "Stage", "parse_dockerfile"]

KNOWN = {
    "ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "EXPOSE", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals and what follows it."""

    name: str
    rest: str


@dataclass(slots=True)
class Stage:
    """One `FROM`: its name, instructions, and what they set."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def parse_dockerfile(text: str) -> list[Stage]:
    """Return the stages. Fails for an instruction that is not known here."""
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        assert name in KNOWN, line
        if name == "FROM":
            words = rest.split()
            stages.append(Stage(words[2] if words[1:2] == ["AS"] else ""))
        elif name != "ARG":
            stages[-1].instructions.append(Instruction(name, rest))
    return stages


class Machine:
    """Builds stages below `folder`, from the files of `context`."""

    def __init__(self, folder: Path, context: Path) -> None:
        self.folder = folder
        self.context = context
        self.built: dict[str, Path] = {}
        bin_ = folder / "bin"
        bin_.mkdir()
        (bin_ / "python").symlink_to(sys.executable)
        self.path = f"{bin_}:/usr/local/bin:/usr/bin:/bin"

    def build(self, stage: Stage) -> None:
        """Carry out its instructions."""
        upper = self.folder / f"stage-{len(self.built)}"
        for name in ("upper", "work", "merged"):
            (upper / name).mkdir(parents=True)
        self.built[stage.name] = upper
        stage.environment = {"PATH": self.path, "HOME": os.environ["HOME"]}
        for one in stage.instructions:
            getattr(self, f"_{one.name.lower()}")(stage, one.rest)

    def inside(self, stage: Stage, script: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script with the stage's root as root; `before` is run in the namespace first, with `$ROOT`."""
        upper = self.built[stage.name]
        outer = f"""set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$UPPER/upper,workdir=$UPPER/work" "$ROOT"
mount --rbind /proc "$ROOT/proc"; mount --rbind /dev "$ROOT/dev"
if mountpoint -q /tmp; then mkdir -p "$UPPER/tmp"; mount --bind "$UPPER/tmp" "$ROOT/tmp"; fi
{before}
PATH="$PATH:/usr/sbin:/sbin"
exec chroot "$ROOT" /bin/sh -euc "$SCRIPT"
"""
        environment = {**os.environ, **stage.environment, "UPPER": str(upper), "ROOT": f"{upper}/merged"}
        environment["SCRIPT"] = f"cd {shlex.quote(stage.folder)}\n{script}"
        return subprocess.run(
            ["unshare", "-m", "/bin/sh", "-c", outer],
            env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip

    # --- instructions -----------------------------------------------------------------------------

    def _run(self, stage: Stage, rest: str) -> None:
        done = self.inside(stage, rest)
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"

    def _copy(self, stage: Stage, rest: str) -> None:
        words = rest.split()
        source = self.context
        if words[0].startswith("--from="):
            source = self.built[words.pop(0).removeprefix("--from=")] / "upper"
        *names, target = words
        place = self.built[stage.name] / "upper" / os.path.normpath(f"{stage.folder}/{target}").lstrip("/")
        if target.startswith("/"):
            place = self.built[stage.name] / "upper" / target.lstrip("/")
        for name in names:
            found = source / name.lstrip("/")
            goal = place / found.name if found.is_file() else place
            goal.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                goal.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", f"{found}/." if found.is_dir() else str(found), str(goal)], check=True)

    def _workdir(self, stage: Stage, rest: str) -> None:
        stage.folder = rest.strip()
        (self.built[stage.name] / "upper" / stage.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _env(self, stage: Stage, rest: str) -> None:
        name, _, value = rest.partition("=")
        stage.environment[name] = value

    def _user(self, stage: Stage, rest: str) -> None:
        stage.user = rest.strip()

    def _entrypoint(self, stage: Stage, rest: str) -> None:
        stage.entrypoint = _words(rest)

    def _volume(self, stage: Stage, rest: str) -> None:
        stage.volumes += _words(rest)

    def _cmd(self, _stage: Stage, rest: str) -> None:
        assert _words(rest)

    def _expose(self, _stage: Stage, rest: str) -> None:
        assert all(word.isdigit() for word in rest.split())

    def _stopsignal(self, _stage: Stage, rest: str) -> None:
        assert rest == "SIGTERM"


def _words(rest: str) -> list[str]:
    found: list[str] = json.loads(rest)
    assert all(isinstance(word, str) for word in found)
    return found
