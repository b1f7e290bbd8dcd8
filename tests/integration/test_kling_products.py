"""Every method of the client against the simulator, into a real log: order, end, charge, file, nothing private."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal

import pytest

from klingai_audit import acting
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.kling import errors
from tests.unit.kling.test_media import png
from tests.unit.kling.world import PAIR, POLL, make_world

CLIP = "https://media.example/clip.mp4?seconds=5"
PICTURE = png(640, 480)
WORDS = "a serene lake at dawn"


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path, speed=2000) as made, acting("user@example.com"):
        yield made


ORDERS = {
    "text_to_video": (lambda k: k.text_to_video(WORDS), "video"),
    "image_to_video": (lambda k: k.image_to_video(PICTURE, WORDS, duration=5), "video"),
    "image_to_video legacy": (
        lambda k: k.image_to_video("https://media.example/a.png", WORDS, model="kling-v2-6", mode="pro"),
        "video",
    ),
    "omni_video": (lambda k: k.omni_video(WORDS, images={"hero": PICTURE}, aspect_ratio="1:1"), "video"),
    "omni_video edited": (lambda k: k.omni_video(WORDS, base_video=CLIP, audio="original", multi_shot=False), "video"),
    "omni_video legacy": (
        lambda k: k.omni_video(WORDS, model="kling-video-o1", images=[PICTURE], aspect_ratio="16:9"),
        "video",
    ),
    "motion_control": (lambda k: k.motion_control(PICTURE, CLIP, "image", keep_sound=False), "video"),
    "motion_control legacy": (
        lambda k: k.motion_control(PICTURE, CLIP, "video", WORDS, model="kling-v2-6", mode="pro", keep_sound=True),
        "video",
    ),
    "multi_image_to_video": (lambda k: k.multi_image_to_video([PICTURE, PICTURE], WORDS), "video"),
    "avatar": (lambda k: k.avatar(PICTURE, sound=b"ID3\x04" + bytes(500), prompt=WORDS), "video"),
    "video_effects": (lambda k: k.video_effects("squish", [PICTURE]), "video"),
    "lip_sync": (
        lambda k: k.lip_sync(video_url=CLIP, text=WORDS, voice_id="oversea_male1", language="en"),
        "video",
    ),
    "text_to_audio": (lambda k: k.text_to_audio(WORDS, 5.0), "audio"),
    "video_to_audio": (lambda k: k.video_to_audio(video_url=CLIP, sound_effect_prompt=WORDS), "audio"),
    "generate_image": (lambda k: k.generate_image(WORDS, n=2, resolution="1k"), "image"),
    "omni_image": (lambda k: k.omni_image(WORDS, images=[PICTURE]), "image"),
    "multi_image_to_image": (lambda k: k.multi_image_to_image([PICTURE, PICTURE], prompt=WORDS), "image"),
    "expand_image": (lambda k: k.expand_image(PICTURE, up=0.5, left=0.25), "image"),
    "virtual_try_on": (lambda k: k.virtual_try_on(PICTURE, PICTURE), "image"),
    "multi_shot_images": (lambda k: k.multi_shot_images(PICTURE), "image"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_every_product(world, name):
    """Announced, started, ended once with results and charge, fetched and deleted: one story, one correlation."""
    order, medium = ORDERS[name]
    with world.client() as kling:
        task = order(kling).wait(poll_interval=POLL)
        again = kling.task(task.id)
        download = task.download(world.folder / "result")
        size = download.size
        download.delete()
    entries = [entry for entry in world.entries() if entry["event_type"] != "api_key_used"]
    types = [entry["event_type"] for entry in entries if entry["event_type"] != "task_status_changed"]
    assert download.medium == ("video" if name == "video_to_audio" else medium)
    assert types[0] in ("prompt_submitted", "task_submitted")
    assert types[1:] == [
        f"{medium}_generation_started",
        f"{medium}_generation_completed",
        f"{download.medium}_downloaded",
        f"{download.medium}_downloaded",
        f"{download.medium}_deleted",
        f"{download.medium}_deleted",
    ]
    assert {entry["correlation_id"] for entry in entries} == {entries[0]["event_id"]}
    assert entries[0]["action"] == name.split()[0]
    end = next(entry for entry in entries if entry["event_type"].endswith("_completed"))
    paid = sum(Decimal(charge["amount"]) for charge in end["metadata"]["charge"])
    assert paid == world.sim.task(task.id).charge == sum(charge.amount for charge in again.charge)
    assert {charge["package_type"] for charge in end["metadata"]["charge"]} <= {"video", "image", "try-on"}
    assert end["metadata"]["results"]
    assert entries[-1]["metadata"]["bytes"] == entries[-3]["metadata"]["bytes"] == size > 0
    assert not (world.folder / "result").exists()
    assert WORDS not in str(entries)
    assert "media.example" not in str(entries)


def test_every_result_can_be_fetched(world):
    """Images by number; the WAV file of a sound; what is not there is said."""
    with world.client() as kling:
        images = kling.generate_image(WORDS, n=3).wait(poll_interval=POLL)
        assert len(images.images) == 3
        digests = {images.download(world.folder / f"{n}.png", index=n).sha256 for n in range(3)}
        sound = kling.text_to_audio(WORDS, 3.0).wait(poll_interval=POLL)
        assert sound.audios[0].wav_url
        assert sound.download(world.folder / "a.wav", wav=True).size > 0
        views = kling.multi_shot_images(PICTURE).wait(poll_interval=POLL)
        assert len(views.images) % 3 == 0
        with pytest.raises(UsageError):
            images.download(world.folder / "x", index=3)
        with pytest.raises(UsageError):
            images.download(world.folder / "x", wav=True)
    assert len(digests) >= 1
    assert [entry["event_type"] for entry in world.entries()].count("image_downloaded") == 6


def test_paid_calls_that_answer_at_once(world):
    """Speech, faces and recognition: the charge is in the answer, the end is one entry."""
    with world.client() as kling:
        speech = kling.text_to_speech(WORDS, "oversea_male1", language="en")
        assert speech.done
        assert speech.audios
        assert speech.download(world.folder / "speech.mp3").medium == "audio"
        pictures = kling.recognize_image(PICTURE)
        assert pictures.done
        assert pictures.images
        pictures.download(world.folder / "cut.png")
        video = kling.text_to_video(WORDS).wait(poll_interval=POLL)
        faces = kling.identify_face(video_id=video.videos[0].id)
        assert faces.charge[0].amount == Decimal("0.05")
        face = faces.data["face_data"][0]["face_id"]
        synced = kling.advanced_lip_sync(faces.data["session_id"], face, sound=b"ID3\x04" + bytes(99), end=3000)
        assert synced.wait(poll_interval=POLL).videos
    paid = [entry for entry in world.entries() if "charge" in entry.get("metadata", {})]
    assert [(entry["event_type"], entry["action"]) for entry in paid] == [
        ("audio_generation_completed", "text_to_speech"),
        ("task_completed", "recognize_image"),
        ("video_generation_completed", "query_tasks"),
        ("task_completed", "identify_face"),
        ("video_generation_completed", "query_task"),
    ]
    charged = sum(Decimal(charge["amount"]) for entry in paid for charge in entry["metadata"]["charge"])
    assert charged == sum(line.payment.amount for line in world.sim.account.deductions)


def test_editing_what_is_in_a_video(world):
    """Selections are calls that answer at once; the edited video is a task."""
    with world.client() as kling:
        session = kling.init_selection(video_url=CLIP).data["session_id"]
        points = [{"x": 0.5, "y": 0.5}]
        kling.add_selection(session, 0, points)
        kling.delete_selection(session, 0, points)
        kling.clear_selection(session)
        kling.add_selection(session, 0, points)
        kling.preview_selection(session)
        task = kling.multi_elements(session, "swap", images=[PICTURE], prompt=WORDS).wait(poll_interval=POLL)
        assert task.videos
    ends = [entry["action"] for entry in world.entries() if entry["event_type"] == "task_completed"]
    assert ends == [
        "init_selection", "add_selection", "delete_selection", "clear_selection", "add_selection", "preview_selection"
    ]  # fmt: skip


def test_voices_and_elements(world):
    """Made, listed, deleted; what Kling offers is a list, not a story."""
    with world.client() as kling:
        voice = kling.voices.create("Narrator", url="https://media.example/v.mp3?seconds=9").wait(poll_interval=POLL)
        element = kling.elements.create(
            "Hero", "a brave one", frontal_image=PICTURE, refer_images=[PICTURE], tags=["o_102"]
        ).wait(poll_interval=POLL)
        voice_id, element_id = voice.voices[0].id, element.elements[0].id
        assert [item.id for item in kling.voices.list()] == [voice_id]
        assert [item.id for item in kling.elements.list(page_size=1)] == [element_id]
        assert next(iter(kling.voices.presets())).owned_by == "kling"
        assert list(kling.elements.presets())
        kling.voices.delete(voice_id)
        kling.elements.delete(element_id)
        with pytest.raises(errors.KlingRequestError):
            kling.voices.delete("1")
    told = [
        (entry["event_type"], entry["outcome"], entry["resource_type"], entry["resource_id"])
        for entry in world.entries()
        if entry["event_type"] in ("resource_created", "resource_deleted")
    ]
    assert told == [
        ("resource_created", "success", "voice", voice_id),
        ("resource_created", "success", "element", element_id),
        ("resource_deleted", "unknown", "voice", voice_id),
        ("resource_deleted", "success", "voice", voice_id),
        ("resource_deleted", "unknown", "element", element_id),
        ("resource_deleted", "success", "element", element_id),
        ("resource_deleted", "unknown", "voice", "1"),
        ("resource_deleted", "failure", "voice", "1"),
    ]
    assert "Narrator" not in str(world.entries())
    reads = [entry["action"] for entry in world.entries() if entry["event_type"] == "resource_read"]
    assert reads.count("list_preset_voices") == reads.count("list_preset_elements") == 1


def test_the_account(world):
    """Packs and both ledgers; each look is an entry with what was seen, also the same look again."""
    world.sim.costs_per_second = None
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    with world.client() as kling:
        task = kling.text_to_video(WORDS).wait(poll_interval=POLL)
        packs = kling.account.costs(since=since)
        kling.account.costs(since=since)
        lines = list(
            kling.account.package_ledger(since=since, until=dt.datetime(2099, 1, 1, tzinfo=dt.UTC), page_size=1)
        )
        assert list(kling.account.balance_ledger(since=0, until=4_000_000_000_000)) == []
        with pytest.raises(UsageError):
            kling.account.costs(since=dt.datetime(2026, 1, 1))  # noqa: DTZ001
    assert {pack.type for pack in packs} == {"decreasing_total"}
    assert [(line.task_id, line.amount) for line in lines] == [(task.id, world.sim.task(task.id).charge)]
    looks = [entry for entry in world.entries() if entry["event_type"] == "quota_checked"]
    assert [entry["action"] for entry in looks[:2]] == ["read_costs", "read_costs"]
    assert {entry["action"] for entry in looks} == {"read_costs", "read_package_ledger", "read_balance_ledger"}
    assert looks[0]["metadata"]["packs"] == len(packs)


def test_the_key_pair(world):
    """With an AccessKey, tasks of any legacy product are read on their own path."""
    world.sim.costs_per_second = None
    with world.client(**PAIR) as kling:
        image = kling.generate_image(WORDS).wait(poll_interval=POLL)
        assert kling.task(image.id, product="generate_image").images
        assert kling.find(image.external_task_id, product="generate_image").id == image.id
        assert [task.id for task in kling.tasks(product="generate_image")] == [image.id]
        assert kling.account.costs()
        with pytest.raises(UsageError):
            kling.task(image.id, product="paint")
        with pytest.raises(UsageError):
            kling.omni_video(WORDS, model="kling-3.0-omni")


def test_raw_requests(world):
    """What has no method: recorded by path, refused by Kling and not by us."""
    with world.client() as kling:
        answer = kling.request("GET", "/v1/images/generations", params={"pageNum": "1"})
        assert answer.data == []
        made = kling.request("POST", "/v1/images/generations", {"prompt": WORDS})
        assert made.data["task_id"]
        with pytest.raises(errors.KlingError):
            kling.request("POST", "/v9/dreams", {"prompt": WORDS, "model_name": "kling-99"})
        with pytest.raises(errors.KlingError):
            kling.text_to_video(WORDS, model="kling-99.0")
    assert ("task_completed", "failure") in world.story()
    unknown = [entry for entry in world.entries() if entry.get("action") == "/v9/dreams"]
    assert [entry["event_type"] for entry in unknown] == ["prompt_submitted", "task_completed"]
    assert unknown[0]["metadata"]["model"] == "kling-99"
    assert WORDS not in str(world.entries())


def test_deleting_a_file_that_is_gone(world):
    """Announced, and told as a failure; the caller hears it."""
    with world.client() as kling:
        done = kling.text_to_video(WORDS).wait(poll_interval=POLL).download(world.folder / "x.mp4")
        done.delete()
        with pytest.raises(StorageError):
            done.delete()
    assert world.story()[-2:] == [("video_deleted", "unknown"), ("video_deleted", "failure")]


def test_the_same_in_coroutines(world):
    """Tasks, synchronous calls, lists, the account, downloads and deletions, awaited."""
    world.sim.costs_per_second = None

    async def run():
        async with world.async_client() as kling:
            image = await kling.generate_image(WORDS)
            await image.wait(poll_interval=POLL)
            done = await image.download(world.folder / "a.png")
            await done.delete()
            await kling.text_to_speech(WORDS, "oversea_male1", language="en")
            voice = await kling.voices.create("N", url="https://media.example/v.mp3?seconds=9")
            await voice.wait(poll_interval=POLL)
            names = [item.name async for item in kling.voices.list()]
            await kling.voices.delete(voice.voices[0].id)
            packs = await kling.account.costs()
            lines = [line async for line in kling.account.package_ledger(until=4_000_000_000_000, page_size=1)]
            seen = [task.id async for task in kling.tasks()]
            answer = await kling.request("GET", "/v1/images/generations")
            return names, packs, lines, seen, answer

    names, packs, lines, seen, answer = asyncio.run(run())
    assert names == ["N"]
    assert packs
    assert len(lines) == 3
    assert len(seen) == 2
    assert len(answer.data) == 1
    assert not (world.folder / "a.png").exists()
    assert ("image_deleted", "success") in world.story()
