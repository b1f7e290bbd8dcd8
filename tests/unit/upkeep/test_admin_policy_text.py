"""One setting changed in a policy.toml: what was meant, and nothing else."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klingai_audit.errors import InvalidPolicy, UsageError
from klingai_audit.privacy.policy import EVENT_CLASSES, Policy
from klingai_audit.upkeep.policy_text import change_setting, parse_value, read_setting

DEFAULT = Policy.DEFAULT_TEXT


@pytest.mark.parametrize(
    "before,after",
    [
        ('[privacy]\nreads = "off" # why\n', '[privacy]\nreads = "record" # why\n'),
        ('[privacy]\nreads="o#f"  # a # b\n', '[privacy]\nreads = "record"  # a # b\n'),
        ("", '[privacy]\nreads = "record"\n'),
        ("# mine\n", '# mine\n\n[privacy]\nreads = "record"\n'),
        ("[failure]\n", '[failure]\n\n[privacy]\nreads = "record"\n'),
        ("[privacy]\n# c\n\n[failure]\n", '[privacy]\nreads = "record"\n# c\n\n[failure]\n'),
        (
            '[privacy]\ncommit = [\n  "a", # x\n  "[b]",\n]\n\n[verify]\n',
            '[privacy]\ncommit = [\n  "a", # x\n  "[b]",\n]\nreads = "record"\n\n[verify]\n',
        ),
        ('[ privacy ] # t\nreads = "off"', '[ privacy ] # t\nreads = "record"'),
        ("[privacy]\nreads = '''\noff'''\nx = 1\n", '[privacy]\nreads = "record"\nx = 1\n'),
    ],
)
def test_comments_and_other_lines_stay(before, after):
    """Only the setting's own lines change; a missing table or key is added."""
    assert after == change_setting(before, "privacy.reads", "record")


@pytest.mark.parametrize(
    "text",
    ['privacy.reads = "off"\n', 'privacy = { reads = "off" }\n', '[privacy]\n"reads" = "off"\n', "privacy = 1\n", "[["],
)
def test_other_spellings_are_refused(text):
    """What the edit would not mean, or cannot read, is left alone."""
    with pytest.raises(InvalidPolicy):
        change_setting(text, "privacy.reads", "record")


@pytest.mark.parametrize("key", ["reads", "a.b.c", "privacy.", ".reads", "privacy.re ads", "privacy.reads=1"])
def test_key_is_table_and_name(key):
    """Anything else is no setting."""
    with pytest.raises(UsageError):
        change_setting(DEFAULT, key, "x")


@pytest.mark.parametrize(
    "text,value",
    [("record", "record"), ('"a b"', "a b"), ("true", True), ("12", 12), ('["a", "b"]', ["a", "b"]), ("-x", "-x")],
)
def test_values_are_read_as_typed(text, value):
    """TOML where it is TOML, else the text itself."""
    assert value == parse_value(text)


@pytest.mark.parametrize("text", ["1.5", "2026-11-21", "[1]", "{a = 1}"])
def test_values_of_other_kinds_are_refused(text):
    """No setting takes a date, a fraction or a table."""
    with pytest.raises(UsageError):
        parse_value(text)


@given(st.sampled_from(EVENT_CLASSES), st.text(max_size=20))
@example("paid_create", ",")
def test_any_text_can_be_set_and_read_back(name, value):
    """What is written is what was meant, whatever it holds; the other tables stay."""
    if any(0xD800 <= ord(character) < 0xE000 for character in value):
        return
    changed = change_setting(DEFAULT, f"failure.{name}", value)
    assert value == read_setting(changed, f"failure.{name}")
    assert tomllib.loads(DEFAULT)["privacy"] == tomllib.loads(changed)["privacy"]
    assert DEFAULT.count("#") + value.count("#") == changed.count("#")


@given(st.lists(st.sampled_from(["prompt", "*_prompt", 'a","b', ",", "#", "]"]), max_size=4))
def test_lists_can_be_set(names):
    """A list over several lines is replaced as a whole."""
    changed = change_setting(DEFAULT, "privacy.commit", names)
    assert names == read_setting(changed, "privacy.commit")
    assert "personal" == read_setting(changed, "privacy.actor_ids")
