"""Runs the Python blocks of one page in one process, as a reader at a prompt would.

Started by tests/docs/runner.py: one JSON object a line comes in (`code`, `line`, `page`), one goes out (`error`).
What the blocks print goes to stderr, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import traceback


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for request in sys.stdin:
        asked = json.loads(request)
        answers.write(json.dumps({"error": run(asked["code"], asked["page"], asked["line"], namespace)}) + "\n")
        answers.flush()


def run(code: str, page: str, line: int, namespace: dict[str, object]) -> str | None:
    """Execute one block, `await` at the top included; return the traceback, or None."""
    try:
        source = "\n" * (line - 1) + code
        compiled = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(compiled, namespace)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except BaseException:  # noqa: BLE001 - SystemExit in an example is a failure, too
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    main()
