"""From the caller's words to the bodies of every product, in both generations."""

from __future__ import annotations

import base64

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling import options, orders, products
from klingai_audit.kling.orders import image_to_video_order, motion_control_order, omni_video_order
from klingai_audit.kling.products import product_order, video_source
from tests.unit.kling.test_media import png

LINK = "https://media.example/a.png"
CLIP = "https://media.example/a.mp4"
PICTURE = png(640, 480)
SENT = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize("action", products._KNOWN)
def test_every_option_of_every_product_has_a_place(action):
    """No option that the types allow is unknown to the builder."""
    places = {*products._OWN.get(action, {}), *products._COMMON}
    assert set(products._KNOWN[action].__annotations__) - places == set()


@pytest.mark.parametrize("product", [options.TextToVideo, options.ImageToVideo])
def test_every_option_of_both_generations_has_a_place(product):
    """The same for the products that both generations have."""
    assert set(product.__annotations__) - {*orders._OPTIONS, "model", "legacy"} == set()


def test_image_to_video_of_the_new_design():
    """A typed list: prompt, first and last frame, elements and voices with their names in the prompt."""
    order = image_to_video_order(
        PICTURE,
        "a lake",
        {"last_frame": LINK, "elements": {"Hero": "857"}, "voices": ["v1"], "audio": True, "watermark": True},
        new_design=True,
    )
    assert (order.path, order.route) == ("/image-to-video/kling-3.0-turbo", None)
    assert order.with_external_id("mine") == {
        "contents": [
            {"type": "prompt", "text": "a lake"},
            {"type": "first_frame", "url": SENT},
            {"type": "last_frame", "url": LINK},
            {"type": "element", "element_id": "857", "id": "Hero"},
            {"type": "voice", "voice_id": "v1", "id": "voice_1"},
        ],
        "settings": {"audio": "native"},
        "options": {"watermark_info": {"enabled": True}, "external_task_id": "mine"},
    }
    assert "external_task_id" not in str(order.body)


def test_image_to_video_of_a_legacy_model():
    """Flat, with lists of objects; no prompt where there is none."""
    order = image_to_video_order(
        LINK,
        "",
        {
            "model": "kling-v2-6",
            "last_frame": PICTURE,
            "elements": ["857"],
            "voices": ["v1"],
            "duration": 5,
            "static_mask": LINK,
            "dynamic_masks": [{"mask": LINK, "trajectories": []}],
            "mode": "pro",
        },
        new_design=True,
    )
    assert order.route == "/v1/videos/image2video"
    assert order.with_external_id("mine") == {
        "model_name": "kling-v2-6",
        "image": LINK,
        "image_tail": SENT,
        "element_list": [{"element_id": "857"}],
        "voice_list": [{"voice_id": "v1"}],
        "duration": "5",
        "static_mask": LINK,
        "dynamic_masks": [{"mask": LINK, "trajectories": []}],
        "mode": "pro",
        "external_task_id": "mine",
    }


def test_omni_video_in_both_generations():
    """References by name, frames, one video, and what becomes of its sound."""
    given = {"images": [LINK], "first_frame": LINK, "last_frame": LINK, "base_video": CLIP, "audio": "original"}
    new = omni_video_order("@image_1 swims", {**given, "elements": ["8"], "duration": 5}, new_design=True)
    assert new.path == "/omni-video/kling-3.0-omni"
    assert new.body == {
        "contents": [
            {"type": "prompt", "text": "@image_1 swims"},
            {"type": "first_frame", "url": LINK},
            {"type": "last_frame", "url": LINK},
            {"type": "refer_image", "url": LINK, "id": "image_1"},
            {"type": "base_video", "url": CLIP, "id": "video_1"},
            {"type": "element", "element_id": "8", "id": "element_1"},
        ],
        "settings": {"audio": "original", "duration": 5},
    }
    old = omni_video_order("<<<image_1>>>", {**given, "model": "kling-v3-omni", "mode": "pro"}, new_design=False)
    assert old.body == {
        "model_name": "kling-v3-omni",
        "prompt": "<<<image_1>>>",
        "image_list": [
            {"image_url": LINK, "type": "first_frame"},
            {"image_url": LINK, "type": "end_frame"},
            {"image_url": LINK},
        ],
        "video_list": [{"video_url": CLIP, "refer_type": "base", "keep_original_sound": "yes"}],
        "mode": "pro",
    }
    assert omni_video_order("x", {"audio": True, "model": "kling-v3-omni"}, new_design=True).body["sound"] == "on"
    assert omni_video_order("x", {"audio": False}, new_design=True).body["settings"] == {"audio": "off"}
    with pytest.raises(UsageError):
        omni_video_order("x", {"base_video": CLIP, "feature_video": CLIP}, new_design=True)


def test_motion_control_in_both_generations():
    """Image and video in their places, the sound kept or not."""
    new = motion_control_order(LINK, CLIP, "image", "", {"keep_sound": True, "elements": ["8"]}, new_design=True)
    assert new.body == {
        "contents": [
            {"type": "image", "url": LINK},
            {"type": "video", "url": CLIP},
            {"type": "element", "element_id": "8", "id": "element_1"},
        ],
        "settings": {"character_orientation": "image", "audio": "original"},
    }
    old = motion_control_order(LINK, CLIP, "video", "dance", {"keep_sound": False}, new_design=False)
    assert old.body == {
        "model_name": "kling-v2-6",
        "image_url": LINK,
        "video_url": CLIP,
        "character_orientation": "video",
        "mode": "std",
        "prompt": "dance",
        "keep_original_sound": "no",
    }


BODIES = [
    (
        "advanced_lip_sync",
        {"session_id": "s", "face_choose.face_id": "0"},
        {"audio_id": "a", "end": 3000, "volume": 1.5},
        {
            "session_id": "s",
            "face_choose": [
                {
                    "face_id": "0",
                    "audio_id": "a",
                    "sound_start_time": 0,
                    "sound_end_time": 3000,
                    "sound_insert_time": 0,
                    "sound_volume": 1.5,
                }
            ],
        },
    ),
    (
        "lip_sync",
        {},
        {"video_id": "v", "text": "hi", "voice_id": "x", "language": "en", "speed": 1.2},
        {
            "input": {
                "video_id": "v",
                "text": "hi",
                "voice_id": "x",
                "voice_language": "en",
                "voice_speed": 1.2,
                "mode": "text2video",
            }
        },
    ),
    (
        "lip_sync",
        {},
        {"video_url": CLIP, "sound": "https://media.example/a.mp3"},
        {
            "input": {
                "video_url": CLIP,
                "mode": "audio2video",
                "audio_type": "url",
                "audio_url": "https://media.example/a.mp3",
            }
        },
    ),
    (
        "create_element",
        {"element_name": "n", "element_description": "d"},
        {"frontal_image": LINK, "refer_images": [LINK], "tags": ["o_102"], "voice_id": "v"},
        {
            "element_name": "n",
            "element_description": "d",
            "element_image_list": {"frontal_image": LINK, "refer_images": [{"image_url": LINK}]},
            "tag_list": [{"tag_id": "o_102"}],
            "element_voice_id": "v",
            "reference_type": "image_refer",
        },
    ),
    (
        "create_element",
        {"element_name": "n"},
        {"video": CLIP},
        {
            "element_name": "n",
            "element_video_list": {"refer_videos": [{"video_url": CLIP}]},
            "reference_type": "video_refer",
        },
    ),
    (
        "generate_image",
        {"prompt": "p"},
        {"model": "kling-v3", "image": PICTURE, "elements": ["8"], "n": 2, "watermark": False},
        {
            "prompt": "p",
            "model_name": "kling-v3",
            "image": SENT,
            "element_list": [{"element_id": "8"}],
            "n": 2,
            "watermark_info": {"enabled": False},
        },
    ),
    (
        "video_effects",
        {"effect_scene": "hug", **products.effect_input([LINK, LINK])},
        {"duration": 5},
        {"effect_scene": "hug", "input": {"images": [LINK, LINK], "duration": "5"}},
    ),
]


@pytest.mark.parametrize("action,required,given,body", BODIES)
def test_bodies(action, required, given, body):
    """Options stand where the vendor's pages have them."""
    assert product_order(action, required, given).body == body


@pytest.mark.parametrize(
    "action,given",
    [
        ("advanced_lip_sync", {"end": 1}),
        ("advanced_lip_sync", {"audio_id": "a"}),
        ("advanced_lip_sync", {"end": 1, "audio_id": "a", "sound": LINK}),
        ("lip_sync", {"video_id": "v"}),
        ("lip_sync", {"video_id": "v", "text": "x", "sound": LINK}),
        ("create_element", {}),
        ("generate_image", {"colour": "red"}),
        ("omni_image", {"images": LINK}),
    ],
)
def test_contradictions(action, given):
    """What is missing, doubled or unknown is said before anything is sent."""
    with pytest.raises(UsageError) as caught:
        product_order(action, {"face_choose.face_id": "0"} if action == "advanced_lip_sync" else {}, given)
    assert caught.value.message


@pytest.mark.parametrize("source", [(None, None), ("v", CLIP)])
def test_one_video(source):
    """By id or by link, not none, not both."""
    assert video_source("v", None) == {"video_id": "v"}
    with pytest.raises(UsageError):
        video_source(*source)


def test_calls_without_external_ids():
    """What answers at once carries no id of ours."""
    order = product_order("text_to_speech", {"text": "x", "voice_id": "v"}, {"speed": 1.0})
    assert order.with_external_id("mine") == {"text": "x", "voice_id": "v", "voice_speed": 1.0}
