#!/usr/bin/env bash
# Regenerates requirements/*.txt with the uv that is first on PATH (`make lock` provides it).
#
# One resolution serves CPython 3.11 and later on Linux and macOS, hashes of all builds included.
# Versions younger than COOLDOWN are not considered: most hijacked releases are found within days.
# requirements/README.md tells what each file is for.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --exclude-newer "${COOLDOWN:-7 days}" --custom-compile-command "make lock" ${UPGRADE:+--upgrade} "$@"
}

compile requirements/build.in -o requirements/build.txt
compile pyproject.toml -c requirements/build.txt -o requirements/core.txt
compile requirements/demo.in -c requirements/build.txt -c requirements/core.txt -o requirements/demo.txt
compile pyproject.toml --extra report -c requirements/build.txt -c requirements/core.txt -o requirements/report.txt
# Without constraints, which uv cannot combine with wheels that end at one CPython; a test holds the locks together.
compile pyproject.toml --all-extras requirements/build.in requirements/test.in -o requirements/test.txt
uv pip compile --quiet --python-version 3.11 --python-platform linux --generate-hashes --no-emit-index-url \
  --exclude-newer "${COOLDOWN:-7 days}" --custom-compile-command "make lock" \
  pyproject.toml --extra otlp --extra serve --extra trust --extra postgres --extra objects --extra archive \
  -c requirements/build.txt -c requirements/test.txt -o requirements/image.txt
compile requirements/lock.in -o requirements/lock.txt
compile requirements/thirdparty-needs.in -c requirements/test.txt -o requirements/thirdparty-needs.txt
