"""Create the virtual environment at argv[1], or leave it alone if it fits the Python that runs this.

Written so that every Python since 2.7 can read it: an old one gets a sentence instead of a traceback.
`<folder>/.python` is rewritten only when the environment is made anew; make compares its time.
"""

import os
import subprocess
import sys

OLDEST = (3, 11)


def main(folder):
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST:
        return "Python 3.11 or later is needed and this is %s; try: make PYTHON=python3.12" % version
    if sys.implementation.name != "cpython":
        return "CPython is needed and this is %s; try: make PYTHON=python3.12" % sys.implementation.name

    wanted = "%s %s %s\n" % (version, sys.base_prefix, os.path.abspath(folder))
    stamp = os.path.join(folder, ".python")
    python = os.path.join(folder, "bin", "python")
    if _read(stamp) == wanted and os.path.exists(python):
        return None
    try:
        import ensurepip
        import venv
    except ImportError:
        return "%s cannot make virtual environments (no ensurepip); install the package python3.%d-venv" % (
            sys.executable,
            sys.version_info[1],
        )
    del ensurepip, venv
    status = subprocess.call([sys.executable, "-m", "venv", "--clear", folder])
    if status:
        return "python -m venv failed (exit %d)" % status
    with open(stamp, "w") as file:
        file.write(wanted)
    return None


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except EnvironmentError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
