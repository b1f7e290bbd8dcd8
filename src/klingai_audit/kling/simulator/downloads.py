"""Results as files behind hotlink-protected addresses. Source: fact sheet section 6."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from klingai_audit.kling.simulator import media, picture, sound
from klingai_audit.kling.simulator.library import preset_tasks
from klingai_audit.kling.simulator.messages import Request, Response
from klingai_audit.kling.simulator.tasks import RETENTION_MS, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

MEDIA_ROOT = "/media/"
FORMS: Mapping[str, str] = {"video": "mp4", "image": "png", "audio": "wav", "voice": "wav", "element": "png"}
"""Kind of an output -> the form of its file unless another is asked for."""
TYPES: Mapping[str, str] = {"mp4": "video/mp4", "png": "image/png", "wav": "audio/wav", "mp3": "audio/mpeg"}
TRIAL_SECONDS = 2.0


class Downloads:
    """Makes result addresses and serves them: no key is needed, the token in the query string is."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._key = secrets.token_bytes(32)
        self._presets = preset_tasks()

    def path(self, task: Task, output: Output, form: str = "", part: str = "") -> str:
        """Path and query of an output's file; good for 30 days from the task's end (presets: from now)."""
        suffix = f"-{part}" if part else ""
        name = f"{MEDIA_ROOT}{task.task_id}/{output.output_id}{suffix}.{form or FORMS[output.kind]}"
        begin = self._sim.now_ms() if task.task_id in self._presets else task.end_ms
        expires = (begin + RETENTION_MS) // 1000
        return f"{name}?expires={expires}&token={self._token(name, str(expires))}"

    def serve(self, request: Request, path: str) -> Response:
        """The bytes behind an address; 403 without its token or too late, 404 before the task has succeeded."""
        if request.method != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        params, now = request.params, self._sim.now_ms()
        expires, token = params.get("expires", ""), params.get("token", "")
        if not hmac.compare_digest(self._token(path, expires).encode(), token.encode()):
            return _plain(HTTPStatus.FORBIDDEN)
        if now >= int(expires) * 1000:
            return _plain(HTTPStatus.FORBIDDEN)
        task_id, _, name = path.removeprefix(MEDIA_ROOT).partition("/")
        task = self._presets.get(task_id) or self._sim.book.any_by_id(task_id)
        if task is None or task.status(now) != "succeeded":
            return _plain(HTTPStatus.NOT_FOUND)
        hop = int(params.get("hop", "0")) if params.get("hop", "0").isdecimal() else 0
        if hop < self._sim.media_redirects:
            target = f"{request.base_url}{path}?expires={expires}&token={token}&hop={hop + 1}"
            return Response(HTTPStatus.FOUND, b"", "text/plain", (("Location", target),))
        return self._file(task, name)

    def _file(self, task: Task, name: str) -> Response:
        form = name.rpartition(".")[2]
        seed = name.encode() + self._key
        seconds = next((output.facts["seconds"] for output in task.outputs if "seconds" in output.facts), TRIAL_SECONDS)
        make: Mapping[str, Callable[[], bytes]] = {
            "mp4": lambda: media.render(seed, _video_ratio(task.order.aspect_ratio), task.frames),
            "png": lambda: picture.render(seed, task.order.aspect_ratio),
            "wav": lambda: sound.wav(seed, seconds),
            "mp3": lambda: sound.mp3(seed, seconds),
        }
        return Response(HTTPStatus.OK, make[form](), TYPES[form], (("Cache-Control", "private"),))

    def _token(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def _video_ratio(ratio: str) -> str:
    return ratio if ratio in media.FORMATS else "16:9"


def _plain(status: HTTPStatus) -> Response:
    return Response(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")
