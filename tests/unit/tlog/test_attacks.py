"""Every named attack on a proof has its file, its answer, and a second opinion."""

from __future__ import annotations

import json

import pytest

from klingai_audit.errors import InvalidProof
from klingai_audit.tlog import verify_consistency, verify_inclusion
from tests.reference import merkle as reference
from tests.unit.tlog import vectors
from tests.vectors.tlog import generate

FILES = sorted(path.relative_to(generate.HERE).as_posix() for path in generate.HERE.rglob("*.json"))
PRODUCT = {"inclusion": verify_inclusion, "consistency": verify_consistency}
REFERENCE = {"inclusion": reference.verify_inclusion, "consistency": reference.verify_consistency}


def arguments(name):
    content = json.loads((generate.HERE / name).read_text(encoding="utf-8"))
    want = content.pop("want")
    assert content.pop("why")
    for key, value in content.items():
        if isinstance(value, str):
            content[key] = bytes.fromhex(value)
        elif isinstance(value, list):
            content[key] = vectors.hexes(value)
    return want, content


@pytest.mark.parametrize("name", FILES)
def test_the_verifier_answers_as_wanted(name):
    """Accepted or InvalidProof, nothing else."""
    want, given = arguments(name)
    verify = PRODUCT[name.split("/")[0]]
    if want == "accept":
        verify(**given)
    else:
        with pytest.raises(InvalidProof):
            verify(**given)


@pytest.mark.parametrize("name", FILES)
def test_the_reference_answers_as_wanted(name):
    """The vector itself is checked by the second implementation."""
    want, given = arguments(name)
    verify = REFERENCE[name.split("/")[0]]
    if want == "accept":
        verify(*given.values())
    else:
        with pytest.raises(ValueError):
            verify(*given.values())


def test_the_files_are_what_the_generator_writes():
    """No file was edited by hand, none is missing, none is left over."""
    written = {name: (generate.HERE / name).read_text(encoding="utf-8") for name in FILES}
    assert dict(generate.vectors()) == written


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_both_answers_are_covered(kind):
    """A verifier that always refuses, or always accepts, fails here."""
    wants = {arguments(name)[0] for name in FILES if name.startswith(kind)}
    assert {"accept", "reject"} == wants
