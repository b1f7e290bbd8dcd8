"""Kling's error codes, and the exceptions of our client.

::

    KlingError                  1  a call to Kling failed; has code, http_status, request_id, retryable
    ├── KlingAuthenticationError   1000-1004: the credential
    ├── KlingAccountError          1100-1102: the account, arrears, resource packs
    ├── KlingPermissionError       1103, 1304: not allowed for this caller or address
    ├── KlingRequestError          1200-1203: the request
    ├── KlingPolicyViolation       1300, 1301: the content
    ├── KlingRateLimited           1302, 1303: too fast, too many at once
    ├── KlingServerError           5000-5002 and unknown codes
    ├── KlingReplyMalformed        an answer that is none of Kling's
    ├── KlingConnectionError    3  nothing was sent, or a read got no answer
    ├── KlingOutcomeUnknown     3  a paid call was sent and nobody knows if it took effect
    ├── KlingTaskFailed            the task ended as failed
    ├── KlingWaitTimeout           the task has not ended in the time given; it goes on
    └── KlingDownloadFailed     3  a result could not be fetched whole

What the provider wrote is in `provider_message` only: it may echo the prompt, so it is in no `str` and no `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from klingai_audit.errors import KlingAuditError

__all__ = [
    "CODES",
    "Category",
    "CodeInfo",
    "KlingAccountError",
    "KlingAuthenticationError",
    "KlingConnectionError",
    "KlingDownloadFailed",
    "KlingError",
    "KlingOutcomeUnknown",
    "KlingPermissionError",
    "KlingPolicyViolation",
    "KlingRateLimited",
    "KlingReplyMalformed",
    "KlingRequestError",
    "KlingServerError",
    "KlingTaskFailed",
    "KlingWaitTimeout",
    "code_info",
    "refusal",
]

Category = Literal["authentication", "account", "permission", "request", "policy", "rate_limit", "server"]


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """One business code. `retryable`: `safe` for any call, `read` for reads only (a create may have taken effect)."""

    code: int
    http_status: int
    category: Category
    meaning: str
    do: str
    retryable: Literal["no", "safe", "read"] = "no"


_NEW_KEY: Final = "Check the key in the console and in KLINGAI_API_KEY, or KLINGAI_ACCESS_KEY and KLINGAI_SECRET_KEY."
_CLOCK: Final = "Set this machine's clock; tokens are signed anew with every call that needs it."
_BACK_OFF: Final = "Wait a second or more and call again; the client does so by itself."
_LATER: Final = "Reads are repeated by the client; look a create up by its external id before ordering again."

CODES: Final[Mapping[int, CodeInfo]] = {
    info.code: info
    for info in (
        CodeInfo(1000, 401, "authentication", "authentication failed", _NEW_KEY),
        CodeInfo(1001, 401, "authentication", "no credential was sent", _NEW_KEY),
        CodeInfo(
            1002, 401, "authentication", "the credential is not valid here",
            _NEW_KEY + " Models of the new design take API keys only.",
        ),
        CodeInfo(1003, 401, "authentication", "the token is not valid yet", _CLOCK),
        CodeInfo(1004, 401, "authentication", "the token has expired", _CLOCK),
        CodeInfo(1100, 429, "account", "the account is in an abnormal state", "Ask Kling's support."),
        CodeInfo(1101, 429, "account", "the account is in arrears", "Pay the bill."),
        CodeInfo(
            1102, 429, "account", "the resource pack for this product is used up or expired",
            "Buy a pack of this product's type; packs for video and image are separate.",
        ),
        CodeInfo(1103, 403, "permission", "no permission for this API or model", "Ask the owner of the account."),
        CodeInfo(1200, 400, "request", "the request's parameters are invalid", "Compare them with the model's page."),
        CodeInfo(
            1201, 400, "request", "a parameter's name or value is invalid, or an id is not found or taken",
            "Compare them with the model's page; provider_message names the one.",
        ),
        CodeInfo(1202, 404, "request", "the method is invalid", "Compare method and path with the API's page."),
        CodeInfo(1203, 404, "request", "the resource, for example the model, does not exist", "Use another model."),
        CodeInfo(1300, 400, "policy", "the platform's policy refused it", "Change the input."),
        CodeInfo(1301, 400, "policy", "the content policy refused it", "Change the prompt or the media."),
        CodeInfo(1302, 429, "rate_limit", "requests come too fast", _BACK_OFF, "safe"),
        CodeInfo(1303, 429, "rate_limit", "more tasks at once than the pack allows", _BACK_OFF, "safe"),
        CodeInfo(1304, 429, "permission", "this address is not on the account's allow-list", "Add it in the console."),
        CodeInfo(5000, 500, "server", "an internal error of the service", _LATER, "read"),
        CodeInfo(5001, 503, "server", "the service is being maintained", _LATER, "read"),
        CodeInfo(5002, 504, "server", "the service timed out inside", _LATER, "read"),
    )
}  # fmt: skip
"""All documented codes but 0 (success). Source: vendor documentation of 2026-09-20, error code page."""


def code_info(code: int | None) -> CodeInfo | None:
    """What is documented of a code; None for others."""
    return None if code is None else CODES.get(code)


class KlingError(KlingAuditError):
    """A call to Kling failed.

    `code` is the business code, `http_status` the status, `request_id` the provider's id of the request (None
    where there is none), `retryable` whether the same call may be repeated without risk. `provider_message`
    is the provider's text, which may echo the prompt.
    """

    def __init__(
        self,
        message: str,
        *,
        do: str = "",
        code: int | None = None,
        http_status: int | None = None,
        request_id: str | None = None,
        provider_message: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, do=do)
        self.code = code
        self.http_status = http_status
        self.request_id = request_id
        self.provider_message = provider_message
        self.retryable = retryable


class KlingAuthenticationError(KlingError):
    """Kling does not accept the credential (1000-1004)."""


class KlingAccountError(KlingError):
    """The account cannot pay for the call (1100-1102)."""


class KlingPermissionError(KlingError):
    """The caller, or the address, is not allowed to do this (1103, 1304)."""


class KlingRequestError(KlingError):
    """The request is not one that Kling can serve (1200-1203)."""


class KlingPolicyViolation(KlingError):
    """Kling refused the content (1300, 1301)."""


class KlingRateLimited(KlingError):
    """Too fast, or too many tasks at once (1302, 1303)."""


class KlingServerError(KlingError):
    """Kling failed (5000-5002, or a code that is not documented)."""


class KlingReplyMalformed(KlingError):
    """The answer is not one of Kling's."""


class KlingConnectionError(KlingError):
    """No answer; either nothing was sent, or it was a read, which changes nothing."""

    exit_code = 3


class KlingOutcomeUnknown(KlingError):
    """A paid call was sent, and nobody knows whether it took effect.

    `external_task_id` finds the task, if there is one: `kling.find(external_task_id)`.
    """

    exit_code = 3

    def __init__(self, message: str, *, external_task_id: str, do: str = "", request_id: str | None = None) -> None:
        super().__init__(message, do=do, request_id=request_id)
        self.external_task_id = external_task_id


class KlingTaskFailed(KlingError):
    """The task ended as failed; `task_id` names it, `provider_message` says why."""

    def __init__(self, message: str, *, task_id: str, provider_message: str | None = None, do: str = "") -> None:
        super().__init__(message, do=do, provider_message=provider_message)
        self.task_id = task_id


class KlingWaitTimeout(KlingError):
    """The task has not ended in the time given; it goes on, and may be charged. `task_id` names it."""

    def __init__(self, message: str, *, task_id: str, do: str = "") -> None:
        super().__init__(message, do=do, retryable=True)
        self.task_id = task_id


class KlingDownloadFailed(KlingError):
    """A result could not be fetched whole; nothing is left at the target path."""

    exit_code = 3


_CLASSES: Final[Mapping[str, type[KlingError]]] = {
    "authentication": KlingAuthenticationError,
    "account": KlingAccountError,
    "permission": KlingPermissionError,
    "request": KlingRequestError,
    "policy": KlingPolicyViolation,
    "rate_limit": KlingRateLimited,
    "server": KlingServerError,
}


def refusal(
    action: str, *, code: int | None, http_status: int | None, request_id: str | None, provider_message: str | None
) -> KlingError:
    """Build the exception for an answer that is an error; `action` names the call."""
    info = code_info(code)
    cls = _CLASSES[info.category] if info else KlingServerError
    what = f"code {code}: {info.meaning}" if info else f"HTTP {http_status}, code {code}, which is not documented"
    return cls(
        f"Kling refused {action} ({what}).",
        do=info.do if info else "Keep the request id for Kling's support.",
        code=code,
        http_status=http_status,
        request_id=request_id,
        provider_message=provider_message,
        retryable=info is not None and info.retryable == "safe",
    )
