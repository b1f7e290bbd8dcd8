"""The room's public face."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import klingai_audit.tlog as room

MODULES = sorted(info.name for info in pkgutil.iter_modules(room.__path__))


def test_all_public_names_exist_and_are_documented():
    """Every name of __all__ is there; functions and classes have a docstring."""
    assert sorted(set(room.__all__)) == sorted(room.__all__)
    for name in room.__all__:
        thing = getattr(room, name)
        if getattr(thing, "__module__", "").startswith(room.__name__):
            assert thing.__doc__, name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name):
    """Its __all__ names what it has, and it has a docstring."""
    module = importlib.import_module(f"{room.__name__}.{name}")
    assert module.__doc__
    assert [] == [public for public in module.__all__ if not hasattr(module, public)]


@pytest.mark.parametrize("name", MODULES)
def test_the_room_does_no_input_or_output(name):
    """No module imports the file system, the clock, the network or processes."""
    tree = ast.parse(Path(room.__path__[0], f"{name}.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {module.split(".")[0] for module in imported}
    allowed = {
        "__future__",
        "base64",
        "binascii",
        "collections",
        "cryptography",
        "dataclasses",
        "functools",
        "hashlib",
        "klingai_audit",
        "re",
        "types",
        "typing",
    }
    assert tops <= allowed
    ours = {module for module in imported if module.startswith("klingai_audit")}
    assert all(module == "klingai_audit.errors" or module.startswith("klingai_audit.tlog.") for module in ours)
