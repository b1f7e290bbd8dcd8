"""The whole life of a log as nobody (uid 65534) on a root file system that cannot be written.

A mount namespace of the test's own: everything is read-only but three small file systems for the log, the table of
people and the state. Keys are made once, before, and are read-only from then on.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PLACE = "/mnt"
"""Where the places are mounted, in the namespace of the test only."""

SCRIPT = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=1m tmpfs "$PLACE"
for name in keys log subjects state; do
  mkdir "$PLACE/$name"
  mount -t tmpfs -o mode=0700,uid=65534,gid=65534,size=64m tmpfs "$PLACE/$name"
done
cut -d' ' -f5 /proc/self/mountinfo | while read -r mounted; do
  case "$mounted" in "$PLACE"/*) continue ;; esac  # these stay
  mount -o remount,bind,ro "$mounted" 2>/dev/null || true
done
for place in / /tmp /var/tmp "$PLACE"; do
  if touch "$place/written" 2>/dev/null; then rm "$place/written"; echo "writable: $place"; fi
done
as_nobody() { cd /; setpriv --reuid 65534 --regid 65534 --clear-groups $READING --no-new-privs sh -euc "$1"; }
as_nobody "$BEGIN"
mount -o remount,bind,ro "$PLACE/keys"
as_nobody "$LIFE"
"""
"""As root, in a mount namespace: everything is made read-only but the places; keys are, once they exist."""

BEGIN = r"""
test "$(id -u)" = 65534
klingai() { "$PYTHON" -m klingai_audit.cli "$@"; }
klingai init --origin log.example.com/read-only
klingai policy set verify.epoch_rotation never
"""

LIFE = r"""
klingai() { "$PYTHON" -m klingai_audit.cli "$@"; }
for place in / /tmp /var/tmp /dev/shm "$PLACE" "$PLACE/keys" "$PLACE/keys/audit.keys"; do
  if touch "$place/written" 2>/dev/null; then echo "writable: $place"; fi
done
klingai log x_asset_reviewed --actor user@example.com --resource-type asset --metadata verdict=fine
klingai verify
klingai query --actor user@example.com
klingai query --sql "SELECT count(*) AS entries FROM events"
klingai show 1
klingai watch --once --record --detect-every off
klingai detect || test $? -eq 1
klingai export --format csv -o "$PLACE/state/out.csv" --record
klingai prove 1 -o "$PLACE/state/proof"
klingai check "$PLACE/state/proof" --key "$PLACE/keys/audit.keys/log.pub"
klingai subject export user@example.com -o "$PLACE/state/person.json"
klingai verify --quick
tail -c 100 "$KLINGAI_AUDIT_LOG/checkpoint" > /dev/null
"""


@functools.cache
def why_not() -> str:
    """Say why the test cannot run here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make everything read-only"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "util-linux (unshare, setpriv) is not installed"
    probe = ["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp"]
    tried = subprocess.run(probe, capture_output=True, check=False)
    return "" if tried.returncode == 0 else "mount namespaces are not allowed here"


def reading_rights() -> str:
    """Options that let nobody read (not write) the interpreter, if it lies in a folder that is closed to others."""
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c"]
    tried = subprocess.run(
        [*nobody, '"$PYTHON" -c "import klingai_audit.cli"'],
        cwd="/", env={**os.environ, "PYTHON": sys.executable}, capture_output=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else "--inh-caps +dac_read_search --ambient-caps +dac_read_search"


def test_the_whole_life_on_a_read_only_root() -> None:
    """Every command of a life succeeds, and nothing else could have been written."""
    if reason := why_not():
        pytest.skip(reason)
    environment = {
        "PATH": os.environ["PATH"],
        "PLACE": PLACE,
        "PYTHON": sys.executable,
        "READING": reading_rights(),
        "BEGIN": BEGIN,
        "LIFE": LIFE,
        "HOME": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
        "KLINGAI_AUDIT_LOG": f"{PLACE}/log/audit",
        "KLINGAI_AUDIT_KEYS": f"{PLACE}/keys/audit.keys",
        "KLINGAI_AUDIT_SUBJECTS": f"{PLACE}/subjects/subjects.sqlite",
        "KLINGAI_AUDIT_STATE": f"{PLACE}/state/audit.state",
        "XDG_STATE_HOME": f"{PLACE}/state/known",
        "KLINGAI_AUDIT_ACTOR": "service-test",
    }
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "writable:" not in done.stdout
    assert ": nothing is broken" in done.stdout
    assert "No change found in the log of" in done.stdout
