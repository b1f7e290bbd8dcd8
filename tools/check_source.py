"""House rules that ruff, mypy and import-linter do not know. `make check` runs this.

Prints one line per breach, `path:line: rule: what to do`, and exits 1 if there is any. Each rule is a
function from one parsed file to breaches; tests/arch plants one breach of each to see it found.
Ruff already refuses print, assert, naive datetimes and notes to self; those are not repeated here.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Breach", "Source", "check_repository", "check_text"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/klingai_audit/"
MAX_LINES = 400

MAY_WRITE = {
    PACKAGE + "durable.py": "the one place that writes files",
    PACKAGE + "kling/simulator/tls.py": "TLS takes certificates from files; they lie in a private temporary folder",
    PACKAGE + "upkeep/copy.py": "the drill attacks a copy, and a copy needs no care",
    PACKAGE + "upkeep/drill.py": "the copy lies in a temporary folder",
    PACKAGE + "testing/events.py": "a log in memory has its keys in a temporary folder",
    PACKAGE + "index/folder.py": "a reader without a writable state folder gets a temporary index",
    PACKAGE + "upkeep/backup.py": "removes an unfinished copy, which has a name that no other file has",
    PACKAGE + "detect/trials.py": "a rule is tried on a log in memory, its keys in a temporary folder",
    PACKAGE + "ledger/sealed.py": "a sealed day is read from an unnamed temporary file",
    PACKAGE + "stores/objects_files.py": "a day of a log in a bucket is shown from an unnamed temporary file",
    PACKAGE + "standalone/klingai_audit_verify.py": "it unpacks a copy of a bucket into a temporary folder",
    PACKAGE + "ledger/scratch.py": "a log on a server is verified in a private temporary folder, which goes",
    PACKAGE + "stores/postgres_reader.py": "a day of a database is viewed in an unnamed temporary file",
    PACKAGE + "config.py": "a reader without a writable state folder gets a temporary one",
}
"""Files of src that may call the file system's writing functions, and why; a needless one is a breach."""

OWN_IMPORTS = {
    PACKAGE + "tlog/": ("errors", "tlog"),
    PACKAGE + "stores/subjects_postgres.py": ("errors", "privacy", "stores"),
    PACKAGE + "stores/objects": (
        "diagnostics",
        "errors",
        "ledger.batches",
        "ledger.purged",
        "ledger.store",
        "ledger.tree",
        "stores",
        "tlog",
    ),
    PACKAGE + "stores/": ("durable", "errors", "ledger.batches", "ledger.sealed", "ledger.store", "stores"),
    PACKAGE + "kling/simulator/": ("errors", "kling.simulator"),
}
"""Rooms that may import from this package only what is named."""

FACES = (PACKAGE + "cli/", PACKAGE + "kling/simulator/")
"""Packages whose `__init__` is all that others see; their modules keep no `__all__`."""

MAY_BE_LONG = {
    PACKAGE + "standalone/klingai_audit_verify.py": "a verifier that an auditor carries is one file",
}
"""Files of src that may have more lines than `MAX_LINES`, and why."""

SYSTEM_CALLS = {"open", "close", "truncate", "rename", "unlink", "mkdir", "rmdir"}
"""Methods of `durable.FileOps` that are one system call of the same name and need no further words."""

_WRITING_OS = re.compile(
    r"(os\.(rename|renames|replace|unlink|remove|rmdir|removedirs|mkdir|makedirs|link|symlink|truncate|ftruncate|write"
    r"|pwrite|writev|chmod|fchmod|chown|utime|mkfifo)|shutil\.(copy|move|rmtree|chown|make_archive|unpack)\w*|tempfile\.\w+)"
)
_WRITING_METHODS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "chmod"}
_FORBIDDEN_WORDS = re.compile(r"tamper-?proof|\bcompliant\b|NotImplementedError|pragma: no cover", re.IGNORECASE)
_HERE_ONLY = re.compile(
    "|".join(
        [  # written apart so that this file does not name them
            r"(?<![\w.-])/" + "work/",
            r"(?<![\w.-])/" + "root/",
            "/" + "tmp/(dv|team)",
            "pypi" + r"\.org",
            "pythonhosted" + r"\.org",
            "npmjs" + r"\.(org|com)",
            "debian" + r"\.org",
            "proxy" + r"\.golang\.org",
        ]
    )
)


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken rule at one place; `line` counts from 1."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed Python file; `path` is relative to the repository, `documented` see `documented_methods`."""

    path: str
    text: str
    tree: ast.Module
    documented: frozenset[str] = frozenset()

    def breach(self, node: ast.AST | int, rule: str, message: str) -> Breach:
        """Build a breach at a node or line."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Breach(self.path, line, rule, message)


# --- rules for src -----------------------------------------------------------------------------------


def check_length(source: Source) -> Iterator[Breach]:
    """A source file has at most 400 lines."""
    lines = source.text.count("\n")
    if lines > MAX_LINES and source.path not in MAY_BE_LONG:
        yield source.breach(MAX_LINES + 1, "length", f"{lines} lines, at most {MAX_LINES}: split it by meaning")


def check_writes(source: Source) -> Iterator[Breach]:
    """Only durable.py changes files."""
    found = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and _writes(node)]
    if source.path in MAY_WRITE:
        if not found:
            yield source.breach(1, "writes", "needs no exception any more: take it out of MAY_WRITE")
        return
    for node in found:
        yield source.breach(node, "writes", f"`{ast.unparse(node.func)}`: files are written through durable.FileOps")


def _writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if _WRITING_OS.fullmatch(name):
        return True
    if name == "os.open":
        arguments = ast.unparse(call)
        return "os.devnull" not in arguments and re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", arguments) is not None
    if name in {"open", "io.open", "gzip.open"}:
        return _mode(call, 1)
    if not isinstance(call.func, ast.Attribute):
        return False
    plain = not call.keywords
    match call.func.attr:
        case "open":
            return _mode(call, 0)
        case "unlink" | "rmdir":  # `FileOps` takes the path as argument, `Path` is what it is called on
            return not call.args
        case "rename" | "replace":  # one argument: Path's; two: FileOps', str's; keywords: datetime's, dataclasses'
            return len(call.args) == 1 and plain
        case "mkdir":
            return not call.args or any(keyword.arg in {"parents", "exist_ok"} for keyword in call.keywords)
        case attribute:
            return attribute in _WRITING_METHODS


def _mode(call: ast.Call, position: int) -> bool:
    values = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] + call.args[position : position + 1]
    return any(
        isinstance(value, ast.Constant) and isinstance(value.value, str) and set(value.value) & set("wax+")
        for value in values
    )


def check_clock(source: Source) -> Iterator[Breach]:
    """No float clock where times become bytes."""
    if not source.path.startswith((PACKAGE + "tlog/", PACKAGE + "event/", PACKAGE + "ledger/")):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.time":
            yield source.breach(node, "clock", "time.time() rounds: use time.time_ns()")


def check_splitlines(source: Source) -> Iterator[Breach]:
    """`splitlines` also splits at U+2028 and other characters that are no line ends in our formats."""
    if source.path.startswith(PACKAGE + "cli/"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "splitlines":
            yield source.breach(node, "splitlines", 'splits at U+2028 and others: use split("\\n")')


def check_own_imports(source: Source) -> Iterator[Breach]:
    """Some rooms may import only what `OWN_IMPORTS` names."""
    room = next((room for room in OWN_IMPORTS if source.path.startswith(room)), None)
    if room is None:
        return
    allowed = [f"klingai_audit.{name}" for name in OWN_IMPORTS[room]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "klingai_audit" and not any(f"{name}.".startswith(f"{ok}.") for ok in allowed):
                yield source.breach(node, "imports", f"{name}: this room imports only {', '.join(allowed)}")


def check_exports(source: Source) -> Iterator[Breach]:
    """`__all__` of a public module names exactly its public functions, classes and aliases; limits as it likes."""
    name = source.path.rsplit("/", 1)[1]
    package = name == "__init__.py"
    if not package and (name.startswith("_") or source.path.startswith(FACES)):
        return
    public = set(_public_names(source.tree.body, package=package))
    exports = next(
        (
            node.value
            for node in source.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        None,
    )
    if exports is None:
        if any(not name.isupper() for name in public):
            yield source.breach(1, "exports", f"no __all__; public here: {', '.join(sorted(public))}")
        return
    listed = set(ast.literal_eval(exports))
    imported = {
        alias.asname or alias.name
        for node in source.tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("klingai_audit")
        for alias in node.names
    }
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in source.tree.body)
    for missing in sorted(name for name in public - listed if not name.isupper()):
        yield source.breach(exports, "exports", f"{missing} is public and not in __all__: add it or give it a _")
    for extra in sorted(listed - public - imported):
        if not (package and (lazy or extra == "__version__")):
            yield source.breach(exports, "exports", f"{extra} is in __all__ and not defined here")


def _public_names(body: list[ast.stmt], *, package: bool) -> Iterator[str]:
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        elif isinstance(node, ast.If | ast.Try):
            blocks = [node.body, node.orelse, *(handler.body for handler in getattr(node, "handlers", []))]
            names = [name for block in blocks for name in _public_names(block, package=package)]
        elif package and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("klingai_audit"):
            names = [alias.asname or alias.name for alias in node.names]
        yield from (name for name in names if not name.startswith("_"))


def check_docstrings(source: Source) -> Iterator[Breach]:
    """Public methods of public classes say what they do, unless a protocol or base says it."""
    if source.path.startswith(PACKAGE + "cli/"):
        return
    for cls in source.tree.body:
        if not isinstance(cls, ast.ClassDef) or cls.name.startswith("_"):
            continue
        for method in cls.body:
            if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.name.startswith("_"):
                continue
            decorators = {ast.unparse(item).rsplit(".", 1)[-1] for item in method.decorator_list}
            if ast.get_docstring(method) or decorators & {"setter", "deleter", "overload", "override"}:
                continue
            if method.name in source.documented or (cls.name == "FileOps" and method.name in SYSTEM_CALLS):
                continue
            yield source.breach(method, "docstring", f"{cls.name}.{method.name} is public and has no docstring")


def documented_methods(trees: list[ast.Module]) -> frozenset[str]:
    """Return names of methods that some protocol, or the exception tree's base, documents for all that have them."""
    return frozenset(
        method.name
        for tree in trees
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in cls.bases)
        for method in cls.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    )


# --- rules for tests ---------------------------------------------------------------------------------


def check_test_docstrings(source: Source) -> Iterator[Breach]:
    """Each test says in one sentence what it proves."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            if not ast.get_docstring(node):
                yield source.breach(node, "test", f"{node.name} has no docstring")
            elif len(node.body) == 1:
                yield source.breach(node, "test", f"{node.name} is empty")


def check_skips(source: Source) -> Iterator[Breach]:
    """Nothing is skipped or expected to fail without a reason."""
    names = ("skip", "xfail", "importorskip", "mark.skip", "mark.skipif", "mark.xfail")
    marks = {f"pytest.{name}" for name in names}
    calls = {id(node.func): node for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute) or (name := ast.unparse(node)) not in marks:
            continue
        call = calls.get(id(node))
        reasons = [] if call is None else [word.value for word in call.keywords if word.arg == "reason"]
        if call is not None and name in {"pytest.skip", "pytest.xfail", "pytest.mark.skip"}:
            reasons += call.args
        if not any(not isinstance(reason, ast.Constant) or reason.value for reason in reasons):
            yield source.breach(node, "skip", f"{name} without a reason")


# --- rules for any text ------------------------------------------------------------------------------


def check_text(path: str, text: str) -> Iterator[Breach]:
    """No words that promise too much, no places that exist on one machine only."""
    promising = path.startswith(("src/", "docs/")) or path in {"README.md", "CHANGELOG.md", "SECURITY.md"}
    for number, line in enumerate(text.split("\n"), 1):
        if promising and (word := _FORBIDDEN_WORDS.search(line)):
            yield Breach(path, number, "wording", f"`{word.group()}` is a promise we do not make or work left undone")
        if place := _HERE_ONLY.search(line):
            yield Breach(path, number, "place", f"`{place.group()}` means nothing on another machine")


Rule = Callable[[Source], Iterator[Breach]]
SRC_RULES: tuple[Rule, ...] = (
    check_length,
    check_writes,
    check_clock,
    check_splitlines,
    check_own_imports,
    check_exports,
    check_docstrings,
)
TEST_RULES: tuple[Rule, ...] = (check_test_docstrings, check_skips)


def check_repository(root: Path = ROOT) -> list[Breach]:
    """Return all breaches below `root`, by path and line."""
    breaches: list[Breach] = []
    trees: dict[str, tuple[str, ast.Module]] = {}
    for file in _files(root):
        path = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        breaches += check_text(path, text)
        if path.endswith(".py") and path.startswith((PACKAGE, "tests/")):
            trees[path] = (text, ast.parse(text, path))
    documented = documented_methods([tree for path, (_, tree) in trees.items() if path.startswith(PACKAGE)])
    for path, (text, tree) in trees.items():
        source = Source(path, text, tree, documented)
        for rule in SRC_RULES if path.startswith(PACKAGE) else TEST_RULES:
            breaches += rule(source)
    breaches += [
        Breach(path, 1, "writes", "is in MAY_WRITE and does not exist")
        for path in MAY_WRITE
        if not (root / path).exists()
    ]
    return sorted(breaches, key=lambda breach: (breach.path, breach.line, breach.rule))


def _files(root: Path) -> Iterator[Path]:
    yield from (file for pattern in ("*.md", "*.toml", "Makefile", ".ci/run") for file in root.glob(pattern))
    for folder in ("src", "tests", "tools", "bench", "docs", "requirements"):
        for suffix in ("py", "md", "toml", "txt", "in", "sh", "json", "html"):
            yield from (root / folder).rglob(f"*.{suffix}")


if __name__ == "__main__":
    found = check_repository()
    for item in found:
        print(item)
    sys.exit(1 if found else 0)
