"""Which request is which row."""

from __future__ import annotations

import pytest

from klingai_audit.kling import catalogue
from klingai_audit.kling.catalogue import match

HOST = "https://api-singapore.klingai.com"
ELSEWHERE = "https://reseller.example"


@pytest.mark.parametrize(
    "method,url,row,variables",
    [
        ("POST", f"{HOST}/text-to-video/kling-3.0", "NEW_TEXT_TO_VIDEO", {"model": "kling-3.0"}),
        ("post", f"{HOST}/text-to-video/kling-9.9-new", "NEW_TEXT_TO_VIDEO", {"model": "kling-9.9-new"}),
        ("POST", f"{HOST}/v1/videos/text2video", "LEGACY_TEXT_TO_VIDEO", {}),
        ("POST", f"{ELSEWHERE}/kling/v1/videos/text2video", "LEGACY_TEXT_TO_VIDEO", {}),
        ("POST", f"{ELSEWHERE}/a/b//v1//videos///text2video/", "LEGACY_TEXT_TO_VIDEO", {}),
        ("GET", f"{HOST}/v1/videos/text2video/123", "LEGACY_ONE", {"id": "123"}),
        ("GET", f"{HOST}/v1/videos/text2video//123?x=1", "LEGACY_ONE", {"id": "123"}),
        ("GET", f"{HOST}/v1/videos/text2video?pageNum=1&pageSize=30", "LEGACY_LIST", {}),
        ("GET", f"{HOST}/tasks?task_ids=1,2", "TASKS_BY_ID", {}),
        ("POST", f"{HOST}/tasks", "SEARCH_TASKS", {}),
        ("POST", "http://127.0.0.1:8080/tasks", "SEARCH_TASKS", {}),
        ("POST", f"{HOST}/v1/new/things", "UNKNOWN_WRITE", {}),
        ("DELETE", f"{HOST}/v1/anything/1", "UNKNOWN_DELETE", {}),
        ("delete", f"{HOST}/v1/anything/831045678901234567", "UNKNOWN_DELETE", {"id": "831045678901234567"}),
        ("DELETE", f"{HOST}/v1/videos/text2video", "UNKNOWN_DELETE", {}),
        ("PUT", f"{HOST}/v1/anything/1", "UNKNOWN_WRITE", {}),
        ("GET", f"{HOST}/v1/new/things?start_time=1", "UNKNOWN_READ", {}),
        ("HEAD", f"{HOST}/tasks", "UNKNOWN_READ", {}),
        ("GET", "https://cdn.klingai.com/x/y.mp4?t=1", "DOWNLOAD", {}),
        ("GET", "https://v2.kechuangai.com/x/y.PNG", "DOWNLOAD", {}),
        ("GET", "https://p1.inkwai.com/x/y.mp3", "DOWNLOAD", {}),
    ],
)
def test_rows(method, url, row, variables):
    """Prefixes and doubled slashes do not matter, model lists are open, unknown calls are generic."""
    found = match(method, url)
    assert found.row is getattr(catalogue, row)
    assert dict(found.variables) == variables


@pytest.mark.parametrize(
    "method,url",
    [
        ("GET", "https://example.com/"),
        ("POST", "https://example.com/v1/videos"),
        ("GET", "https://example.com/a.mp4"),
        ("PUT", f"{ELSEWHERE}/v1/videos/text2video"),
        ("GET", "https://notklingai.com/x.mp4"),
        ("POST", "https://klingai.com.example/x"),
        ("DELETE", f"{ELSEWHERE}/v1/videos/text2video/1"),
    ],
)
def test_what_is_not_klings(method, url):
    """Other hosts with other paths pass."""
    assert match(method, url) is None


@pytest.mark.parametrize(
    "url,sure",
    [
        (f"{HOST}/tasks", True),
        (f"{ELSEWHERE}/tasks", False),
        ("http://localhost/tasks", True),
        ("http://[::1]/tasks", True),
    ],
)
def test_a_path_that_anyone_could_have_is_not_sure(url, sure):
    """`/tasks` on a foreign host is Kling's only if the reply looks so."""
    assert match("GET", url).sure is sure


@pytest.mark.parametrize(
    "path,action",
    [
        ("/v1/images/inventions", "/v1/images/inventions"),
        ("//v1//general/123456789012345678/", "/v1/general/{id}"),
        ("/x/01a20014-3398-77f1-87a9-48d02febd02d", "/x/{id}"),
        ("/" + "y" * 300, "/" + "y" * 119),
    ],
)
def test_an_unknown_path_is_its_own_action(path, action):
    """Ids are left out, so that equal calls have equal names."""
    assert match("POST", HOST + path).action == action


def test_hosts():
    """Kling's domains and their subdomains, nothing that only ends alike."""
    hosts = ["klingai.com", "api.klingai.com", "kling.ai", "klingai.com.evil.example", "xklingai.com", ""]
    assert [catalogue.is_kling_host(host) for host in hosts] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    "model,legacy",
    [
        ("kling-v2-6", True),
        ("kling-v3", True),
        ("kling-video-o1", True),
        ("kling-3.0-turbo", False),
        ("kling-o1", False),
    ],
)
def test_model_generations(model, legacy):
    """A model's name tells its generation."""
    assert catalogue.is_legacy_model(model) is legacy


def test_only_observed_idempotency_is_used():
    """Rows that may be sent again after an unclear answer are those where the sheet saw it work."""
    assert [row.path for row in catalogue.ROWS if row.idempotent] == ["/text-to-video/{model}", "/v1/videos/text2video"]
