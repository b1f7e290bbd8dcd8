"""Sounds and speech. Source: fact sheet section 2.4."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator.fields import Field, one_of, pick
from klingai_audit.kling.simulator.legacy_common import LEGACY_TASK, legacy_order
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import SOUND, SPEECH
from klingai_audit.kling.simulator.product import Body, legacy, synchronous
from klingai_audit.kling.simulator.talking import VIDEO_SOURCE, bind_parent
from klingai_audit.kling.simulator.tasks import VIDEO, Order, Output, Task, format_seconds

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator
    from klingai_audit.kling.simulator.records import View

CHARS_PER_SECOND = 10
MIN_SPEECH_SECONDS = 1.0

SPEECH_FIELDS = (
    Field("text", "string", required=True, max_chars=1000),
    Field("voice_id", "string", required=True),
    Field("voice_language", "string", choices=("zh", "en")),
    Field("voice_speed", "number", low=0.8, high=2.0),
)


def _speech(body: Body) -> Order | Refusal:
    """Speech voices are a catalogue of their own: ids of the voice library (all digits) are not in it."""
    if body["voice_id"].isdecimal():
        return Refusal(1201, "Voice id not found")
    seconds = max(MIN_SPEECH_SECONDS, len(body["text"]) / CHARS_PER_SECOND / pick(body, "voice_speed", 1.0))
    return legacy_order(
        body, model="tts", version="tts", prompt=body["text"], units=SPEECH, audio=True, makes=(_audio(seconds),)
    )


def _spoken(_sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    (audio,) = task.outputs
    spoken = {
        "id": audio.output_id,
        "url": view.url(task, audio, "mp3"),
        "duration": format_seconds(audio.facts["seconds"]),
    }
    return {
        "task_id": task.task_id,
        "task_status": "succeed",
        "task_status_msg": "",
        "task_result": {"audios": [spoken]},
        **view.cost(task),
        "created_at": task.created_ms,
        "updated_at": task.end_ms,
    }


def _audio(seconds: float) -> Output:
    return Output("audio", facts={"seconds": seconds})


SOUND_FIELDS = (
    Field("prompt", "string", required=True, max_chars=200),
    Field("duration", "number", required=True, low=3.0, high=10.0),
    *LEGACY_TASK,
)


def _sound(body: Body) -> Order | Refusal:
    return legacy_order(
        body,
        model="text-to-audio",
        version="text-to-audio",
        units=SOUND,
        audio=True,
        makes=(_audio(body["duration"]),),
    )


DUB_FIELDS = (
    *VIDEO_SOURCE,
    Field("sound_effect_prompt", "string", max_chars=200),
    Field("bgm_prompt", "string", max_chars=200),
    Field("asmr_mode", "boolean"),
    *LEGACY_TASK,
)


def _dub(body: Body) -> Order | Refusal:
    prompts = [pick(body, name, "") for name in ("sound_effect_prompt", "bgm_prompt")]
    return one_of(body, "video_id", "video_url") or legacy_order(
        body,
        model="video-to-audio",
        version="video-to-audio",
        prompt="\n".join(filter(None, prompts)),
        units=SOUND,
        audio=True,
    )


def _bind_dub(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    bound = bind_parent(body, order, sim)
    if isinstance(bound, Refusal) or bound.parent is None:
        return bound
    seconds = bound.parent.seconds
    if not 3 <= seconds <= 20:
        return Refusal(1201, "the video must be 3 to 20 seconds long")
    return replace(bound, seconds=int(seconds), makes=(VIDEO, _audio(seconds)))


AUDIO = (
    synchronous("/v1/audio/tts", SPEECH_FIELDS, _speech, _spoken, "Text to Speech"),
    legacy("/v1/audio/text-to-audio", SOUND_FIELDS, _sound, "Text to Audio"),
    legacy("/v1/audio/video-to-audio", DUB_FIELDS, _dub, "Video to Audio", _bind_dub),
)
"""Rows of the product table."""
