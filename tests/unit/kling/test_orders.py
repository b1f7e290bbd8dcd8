"""From the caller's words to the body of either generation."""

from __future__ import annotations

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.orders import text_to_video_order


def test_the_new_design():
    """Model in the path, settings and options in their objects, the external id among the options."""
    order = text_to_video_order(
        "a lake",
        {"model": "kling-3.0", "duration": 5, "resolution": "1080p", "aspect_ratio": "1:1", "audio": True,
         "multi_shot": False, "watermark": True, "callback_url": "https://hooks.example/"},
        new_design=True,
    )  # fmt: skip
    assert (order.path, order.generation, order.model) == ("/text-to-video/kling-3.0", "new", "kling-3.0")
    assert order.with_external_id("mine") == {
        "prompt": "a lake",
        "settings": {
            "resolution": "1080p",
            "aspect_ratio": "1:1",
            "duration": 5,
            "multi_shot": False,
            "audio": "native",
        },
        "options": {
            "callback_url": "https://hooks.example/",
            "watermark_info": {"enabled": True},
            "external_task_id": "mine",
        },
    }


def test_the_legacy_design():
    """Model in the body, flat, durations as text."""
    order = text_to_video_order(
        "a lake",
        {
            "model": "kling-v2-6",
            "duration": 10,
            "mode": "pro",
            "negative_prompt": "blur",
            "audio": False,
            "cfg_scale": 0.5,
            "camera_control": {"type": "simple"},
            "multi_prompt": [{"index": 1}],
            "shot_type": "customize",
            "multi_shot": True,
            "watermark": False,
        },
        new_design=True,
    )
    assert (order.path, order.generation) == ("/v1/videos/text2video", "legacy")
    assert order.with_external_id("mine") == {
        "model_name": "kling-v2-6",
        "prompt": "a lake",
        "negative_prompt": "blur",
        "mode": "pro",
        "cfg_scale": 0.5,
        "multi_shot": True,
        "shot_type": "customize",
        "duration": "10",
        "sound": "off",
        "camera_control": {"type": "simple"},
        "multi_prompt": [{"index": 1}],
        "watermark_info": {"enabled": False},
        "external_task_id": "mine",
    }


def test_defaults_follow_the_credential():
    """Nothing is sent that was not asked for; a key pair gets a legacy model."""
    new, old = (text_to_video_order("x", {}, new_design=kind) for kind in (True, False))
    assert (new.model, new.body) == ("kling-3.0-turbo", {"prompt": "x"})
    assert (old.model, old.generation) == ("kling-v2-6", "legacy")


def test_the_generation_can_be_named():
    """Where a model's name does not tell, the caller does."""
    assert text_to_video_order("x", {"model": "odd", "legacy": True}, new_design=False).generation == "legacy"
    assert (
        text_to_video_order("x", {"model": "kling-v9", "legacy": False}, new_design=True).path
        == "/text-to-video/kling-v9"
    )


@pytest.mark.parametrize(
    "options,new_design",
    [
        ({"model": "kling-3.0"}, False),
        ({"model": "kling-3.0", "negative_prompt": "blur"}, True),
        ({"model": "kling-3.0", "mode": "pro"}, True),
        ({"model": "kling-v2-6", "resolution": "720p"}, True),
        ({"model": "a/b"}, True),
        ({"model": "../v1"}, True),
        ({"model": 7}, True),
        ({"colour": "red"}, True),
    ],
)
def test_contradictions_are_refused(options, new_design):
    """Options of the other generation, models of the other credential, names that would change the path."""
    with pytest.raises(UsageError) as caught:
        text_to_video_order("x", options, new_design=new_design)
    assert caught.value.message
