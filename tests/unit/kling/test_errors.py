"""All documented error codes, and exceptions that do not echo."""

from __future__ import annotations

import pickle

import pytest

from klingai_audit.errors import KlingAuditError
from klingai_audit.kling import errors
from klingai_audit.kling.errors import CODES, KlingError, code_info, refusal

SHEET = {
    1000: (401, errors.KlingAuthenticationError),
    1001: (401, errors.KlingAuthenticationError),
    1002: (401, errors.KlingAuthenticationError),
    1003: (401, errors.KlingAuthenticationError),
    1004: (401, errors.KlingAuthenticationError),
    1100: (429, errors.KlingAccountError),
    1101: (429, errors.KlingAccountError),
    1102: (429, errors.KlingAccountError),
    1103: (403, errors.KlingPermissionError),
    1200: (400, errors.KlingRequestError),
    1201: (400, errors.KlingRequestError),
    1202: (404, errors.KlingRequestError),
    1203: (404, errors.KlingRequestError),
    1300: (400, errors.KlingPolicyViolation),
    1301: (400, errors.KlingPolicyViolation),
    1302: (429, errors.KlingRateLimited),
    1303: (429, errors.KlingRateLimited),
    1304: (429, errors.KlingPermissionError),
    5000: (500, errors.KlingServerError),
    5001: (503, errors.KlingServerError),
    5002: (504, errors.KlingServerError),
}


def test_the_table_is_the_documented_one():
    """The 21 codes with their HTTP status, and nothing else."""
    assert {code: info.http_status for code, info in CODES.items()} == {code: row[0] for code, row in SHEET.items()}


@pytest.mark.parametrize("code", SHEET)
def test_every_code_says_what_and_what_to_do(code):
    """Each code has its exception, its meaning in the message and an advice."""
    status, cls = SHEET[code]
    error = refusal("text_to_video", code=code, http_status=status, request_id="r", provider_message="echo: a lake")
    assert type(error) is cls
    assert str(code) in error.message
    assert error.do
    assert (error.code, error.http_status, error.request_id) == (code, status, "r")
    assert error.retryable is (code in (1302, 1303))
    assert "a lake" not in str(error) + repr(error) + repr(error.args)
    assert error.provider_message == "echo: a lake"


def test_an_unknown_code_is_told_as_such():
    """A code that is not documented is named, and not called retryable."""
    error = refusal("text_to_video", code=1104, http_status=418, request_id=None, provider_message=None)
    assert type(error) is errors.KlingServerError
    assert "1104" in error.message
    assert error.retryable is False
    assert code_info(1104) is None is code_info(None)


def test_the_tree_is_ours_and_travels():
    """Every exception is a KlingAuditError and survives pickling with its facts."""
    classes = [getattr(errors, name) for name in errors.__all__ if name.startswith("Kling")]
    assert all(issubclass(cls, KlingError) for cls in classes)
    assert issubclass(KlingError, KlingAuditError)
    error = errors.KlingOutcomeUnknown("sent", external_task_id="x", do="look")
    again = pickle.loads(pickle.dumps(error))
    assert (again.external_task_id, again.message, again.do, again.exit_code) == ("x", "sent", "look", 3)
