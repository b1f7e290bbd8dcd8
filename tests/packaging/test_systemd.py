"""The units of deploy/systemd: commands that this version understands, and what systemd itself says of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.cli.app import build_app

PROGRAM = "/opt/klingai-audit/bin/klingai-audit"
HARDENING = ("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "StateDirectory=")
KNOWN = {
    "[Unit]": {"Description", "Wants", "After"},
    "[Timer]": {"OnCalendar", "RandomizedDelaySec", "Persistent"},
    "[Install]": {"WantedBy"},
    "[Service]": {
        "Type", "User", "Group", "Environment", "EnvironmentFile", "ExecStart", "StateDirectory", "StateDirectoryMode",
        "ReadWritePaths", "KillMode", "TimeoutStopSec", "Restart", "RestartSec", "RestartPreventExitStatus", "Nice",
        "IOSchedulingClass", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem", "ProtectHome", "PrivateTmp",
        "PrivateDevices", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs",
        "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "RestrictAddressFamilies", "RestrictNamespaces",
        "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "SystemCallArchitectures", "SystemCallFilter",
        "UMask",
    },
}  # fmt: skip
"""Section of a unit -> settings that systemd knows there, as far as ours have them."""

UNITS = (
    "backup.service", "backup.timer", "ingest.service", "retention.service", "retention.timer", "serve-log.service",
    "watch.service", "witness.service",
)  # fmt: skip


def folder(repository: Path) -> Path:
    return repository / "deploy" / "systemd"


def test_the_units_are_these(repository: Path) -> None:
    """A new unit has to be looked at here, too."""
    assert [f"klingai-audit-{name}" for name in UNITS] == sorted(unit.name for unit in folder(repository).iterdir())


def settings(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.split("\n") if line.startswith(f"{name}=")]


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each ExecStart, a shell taken off, variables as the unit itself sets them."""
    values = dict(pair.split("=", 1) for pair in settings(text, "Environment"))
    for line in settings(text, "ExecStart"):
        words = shlex.split(line)
        if words[0] == "/bin/sh":
            assert "-c" == words[1]
            words = shlex.split(re.sub(r"\$\([^)]*\)", "now", words[2].replace("%%", "%")).removeprefix("exec "))
        assert PROGRAM == words[0]
        filled = [values.get(word[1:], "") if word.startswith("$") else word for word in words[1:]]
        yield [word for word in filled if word and word != "--json"]  # it is one for every command


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_each_command_is_one_that_we_understand(repository: Path, name: str) -> None:
    """Every ExecStart is parsed by the command line of this version, and every service is shut in."""
    text = (folder(repository) / f"klingai-audit-{name}").read_text()
    found = list(command_lines(text))
    assert 1 == len(found)
    command, bound, _ = build_app().parse_args(found[0], exit_on_error=False, print_error=False)
    names = {
        "watch": "watch", "backup": "backup", "retention": "retention_apply", "witness": "serve", "ingest": "ingest",
        "serve-log": "serve_log",
    }  # fmt: skip
    assert names[name.partition(".")[0]] == command.__name__
    assert bound.arguments or command.__name__ == "watch"
    for setting in HARDENING:
        assert f"\n{setting}" in text, setting


def test_options_of_the_watch_page_are_understood() -> None:
    """What the how-to puts into WATCH_OPTIONS is parsed, too."""
    options = "watch --record --webhook https://alerts.example.com/x --webhook-secret /etc/klingai-audit/secret"
    tokens = f"{options} --expect-heartbeat 3h"
    command, bound, _ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
    assert ("watch", True, "3h") == (
        command.__name__, bound.arguments["record"], bound.arguments["expect_heartbeat"],
    )  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_each_line_is_a_setting_of_its_section(repository: Path, name: str) -> None:
    """Sections in the order that people expect, settings that systemd has, each line one of them."""
    section, sections = "", []
    for line in (folder(repository) / f"klingai-audit-{name}").read_text().split("\n"):
        if line.startswith("["):
            section = line
            sections.append(section)
        elif line and not line.startswith("#"):
            setting, equals, value = line.partition("=")
            assert equals, line
            assert setting in KNOWN[section], f"{setting} in {section}"
            assert value or setting == "CapabilityBoundingSet"
    assert sections in (["[Unit]", kind, "[Install]"] for kind in ("[Service]", "[Timer]")) or (
        ["[Unit]", "[Service]"] == sections and name in ("backup.service", "retention.service")
    )


def test_systemd_takes_the_units(repository: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify`, where there is one, says nothing about them; the program is one that is there."""
    for unit in folder(repository).iterdir():
        text = unit.read_text()
        assert "klingai-audit" in text
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, sys.executable))
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in done.stderr.split("\n") if "klingai" in line]
    assert ([], 0) == (ours, done.returncode)
