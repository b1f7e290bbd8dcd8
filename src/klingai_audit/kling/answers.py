"""From an answer to the exception that says what it means, for the flows of `kling.flows`."""

from __future__ import annotations

from klingai_audit.kling.errors import (
    KlingConnectionError,
    KlingError,
    KlingOutcomeUnknown,
    KlingReplyMalformed,
    KlingServerError,
    code_info,
    refusal,
)
from klingai_audit.kling.reply import Reply
from klingai_audit.kling.steps import Answer

__all__ = ["error_of", "is_retryable", "malformed", "reply_of", "write_error"]


def reply_of(answer: Answer | None) -> Reply:
    """The reply in an answer; none is unclear."""
    return Reply("unclear", problem="no_answer") if answer is None else answer.reply


def is_retryable(reply: Reply) -> bool:
    """Whether the same call may be sent again after this, whatever it is."""
    info = code_info(reply.code)
    return info is not None and info.retryable == "safe"


def error_of(action: str, answer: Answer | None) -> KlingError:
    """The exception for an answer that ends an operation, chained to the library's own error."""
    reply = reply_of(answer)
    if reply.http_status is None:
        what = "was not sent" if reply.verdict == "refused" else "got no answer"
        error: KlingError = KlingConnectionError(
            f"{action} {what} ({reply.problem}).", do="Check network, proxy and base URL.", retryable=True
        )
    elif reply.code:
        error = refusal(
            action, code=reply.code, http_status=reply.http_status, request_id=reply.request_id,
            provider_message=reply.message or None,
        )  # fmt: skip
    elif reply.http_status >= 500:
        error = KlingServerError(
            f"Kling failed at {action} (HTTP {reply.http_status}).", http_status=reply.http_status, retryable=True
        )
    else:
        error = malformed(action, reply)
    error.__cause__ = answer.error if answer is not None else None
    return error


def write_error(action: str, answer: Answer | None, external_id: str) -> KlingError:
    """The exception for a call that may have changed something: refused, not sent, or nobody knows."""
    if reply_of(answer).verdict == "refused":
        return error_of(action, answer)
    error = KlingOutcomeUnknown(
        f"{action} was sent, and nobody knows whether Kling carried it out.",
        external_task_id=external_id,
        do="Look at the account's tasks or ledger before you repeat it.",
    )
    error.__cause__ = answer.error if answer is not None else None
    return error


def malformed(action: str, reply: Reply) -> KlingReplyMalformed:
    """The exception for an answer that is none of Kling's."""
    return KlingReplyMalformed(
        f"The answer to {action} is not one of Kling's (HTTP {reply.http_status}).",
        do="Is the base URL right, and is a proxy answering in its place?",
        http_status=reply.http_status,
        request_id=reply.request_id,
    )
