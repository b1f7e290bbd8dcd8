"""deploy/docker: what the Dockerfile says, and what comes of it when it is carried out without Docker."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dockerfile import Machine, Stage, parse_dockerfile


def text(repository: Path) -> str:
    return (repository / "deploy" / "docker" / "Dockerfile").read_text()


def lines(stage: Stage, name: str) -> list[str]:
    return [one.rest for one in stage.instructions if one.name == name]


def test_packages_are_pinned_by_hash(repository: Path) -> None:
    """pip takes what the locks name by hash, or nothing from anywhere; no place to download from is named."""
    build, last = parse_dockerfile(text(repository))
    installs = [
        part for run in lines(build, "RUN") for part in run.split("&&") if re.search(r"pip (install|wheel)", part)
    ]
    assert len(installs) == 4
    for part in installs:
        assert ("--require-hashes -r requirements/" in part) != ("--no-index" in part and "--no-deps" in part), part
    assert [] == [run for run in lines(last, "RUN") if "pip" in run]
    assert not re.search(r"https?:|--index|--trusted|curl|wget|apt|ADD ", text(repository))


def test_the_base_is_one_argument(repository: Path) -> None:
    """Both stages have the same interpreter, and whoever builds may name it by digest."""
    froms = re.findall(r"^FROM (\S+)", text(repository), re.MULTILINE)
    assert ["${PYTHON_IMAGE}"] * 2 == froms
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.1[1-4]-slim$", text(repository), re.MULTILINE)


def test_it_runs_as_nobody(repository: Path) -> None:
    """A number, so that `runAsNonRoot` can be checked; nothing is done after it but saying what to run."""
    _, last = parse_dockerfile(text(repository))
    names = [one.name for one in last.instructions]
    assert ["65534:65534"] == lines(last, "USER")
    assert {"STOPSIGNAL", "ENTRYPOINT", "CMD"} == set(names[names.index("USER") + 1 :])
    assert ['["klingai-audit"]'] == lines(last, "ENTRYPOINT")


def test_only_what_is_needed_gets_into_a_build(repository: Path) -> None:
    """The ignore file lets in exactly what is copied."""
    build, last = parse_dockerfile(text(repository))
    copied = {word for rest in lines(build, "COPY") for word in rest.split()[:-1]}
    allowed = {line[1:] for line in text_of_ignore(repository).split("\n") if line.startswith("!")}
    assert copied == allowed
    assert "*" in text_of_ignore(repository).split("\n")
    assert all((repository / name).exists() for name in copied)
    assert all(rest.startswith("--from=build ") for rest in lines(last, "COPY"))


def text_of_ignore(repository: Path) -> str:
    return (repository / "deploy" / "docker" / "Dockerfile.dockerignore").read_text()


@functools.cache
def why_not() -> str:
    """Say why no stage can be built here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make root file systems"
    if any(shutil.which(name) is None for name in ("unshare", "setpriv", "chroot")):
        return "util-linux (unshare, setpriv) is not installed"
    script = (
        "set -e; mount --make-rprivate /; d=$(mktemp -d); mount -t tmpfs tmpfs $d; mkdir $d/u $d/w $d/m; "
        "mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/m; test -d $d/m/usr"
    )
    tried = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "mount namespaces with overlays are not allowed here"


LIFE = r"""
run() { setpriv --reuid 65534 --regid 65534 --clear-groups $READING --no-new-privs klingai-audit "$@"; }
run --version
run init
run log x_asset_reviewed --actor user@example.com --resource-type asset
run verify
run query --actor user@example.com
run ingest --openapi | head -c 20
run ingest-token render-farm > /dev/null
if touch /written 2>/dev/null; then echo "writable: /"; fi
"""


@pytest.mark.slow
def test_what_is_built_works(repository: Path, tmp_path: Path) -> None:
    """Every instruction is carried out; the result lives its life as nobody, with its volumes as all that it writes."""
    if reason := why_not():
        pytest.skip(reason)
    machine = Machine(tmp_path, repository)
    build, last = parse_dockerfile(text(repository))
    machine.build(build)
    machine.build(last)
    made = tmp_path / "stage-1" / "upper"
    assert (made / "opt/klingai-audit/bin/klingai-audit").is_file()
    assert not (made / "build").exists()
    assert not list(made.glob("opt/klingai-audit/lib/*/site-packages/pip"))
    assert list(made.glob("opt/klingai-audit/lib/*/site-packages/klingai_audit/__pycache__/*.pyc"))
    assert 3 == len(last.volumes)
    last.environment["READING"] = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
    mounts = "".join(
        f'mount -t tmpfs -o mode=0750,uid=65534,gid=65534 tmpfs "$ROOT{place}"\n' for place in last.volumes
    )
    shut = 'mount -o remount,ro "$ROOT"\n'
    done = machine.inside(last, LIFE, before=mounts + shut)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "writable:" not in done.stdout
    assert "No change found in the log of" in done.stdout
