"""What the provider's records say, as far as a comparison needs it: tasks, lines of the ledgers, packs. Pure.

Records travel through the journal as JSON, so that an interrupted run can go on. Amounts are exact decimals by unit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import msgspec

from klingai_audit.kling.account import Deduction, ResourcePack
from klingai_audit.kling.reply import TaskRecord
from klingai_audit.kling.rows import UNKNOWN_PACK
from klingai_audit.views.orders import amounts_of, unit_name

__all__ = ["LedgerLine", "Pack", "ProviderRecords", "ProviderTask", "moment_of"]

_UNKNOWN: Final = f"{UNKNOWN_PACK} units"
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)


class ProviderTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task in a list of the provider; times in ms since 1970 UTC by the provider's clock."""

    id: str
    status: str
    external_id: str | None = None
    created_ms: int | None = None
    updated_ms: int | None = None
    charges: dict[str, str] | None = None
    product: str | None = None

    @classmethod
    def of(cls, task: TaskRecord, product: str | None = None) -> ProviderTask:
        """From a task record of either generation; `product` is what its list is of."""
        sums = amounts_of([charge.facts() for charge in task.charges])
        if product is not None and sums is not None and _UNKNOWN in sums:  # legacy records do not name the pack
            sums[f"{'image' if product == 'image' else 'video'} units"] = sums.pop(_UNKNOWN)
        if sums is None and task.status == "failed":
            sums = {}
        return cls(
            id=task.id,
            status=task.status,
            external_id=task.external_id,
            created_ms=task.created_ms,
            updated_ms=task.updated_ms,
            charges=None if sums is None else {unit: format(amount, "f") for unit, amount in sums.items()},
            product=product or task.product,
        )

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.status in ("succeeded", "failed")

    @property
    def amounts(self) -> dict[str, Decimal] | None:
        """What its record says that it cost, by unit; None if it says nothing."""
        return None if self.charges is None else {unit: Decimal(text) for unit, text in self.charges.items()}


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One deduction. `account` is the pack's id, or the kind of cash balance; amounts are decimal text."""

    task_id: str | None
    unit: str
    amount: str | None
    time_ms: int | None
    account: str
    before: str | None = None
    after: str | None = None
    key_name: str | None = None
    function: str | None = None
    model: str | None = None

    @classmethod
    def of(cls, line: Deduction, ledger: str) -> LedgerLine:
        """From a line of the `package` or the `balance` ledger."""
        cash = ledger == "balance"
        unit = unit_name("cash" if cash else "unit", package=line.product_type, currency=line.currency)
        account = (line.cash_type or "balance") if cash else (line.package_id or "")
        amount, before, after = (
            None if number is None else format(number, "f") for number in (line.amount, line.before, line.after)
        )
        return cls(
            task_id=line.task_id, unit=unit, amount=amount, time_ms=line.time_ms, account=account, before=before,
            after=after, key_name=line.api_key_name, function=line.product_function, model=line.model,
        )  # fmt: skip

    @property
    def is_cash(self) -> bool:
        """Whether money was deducted, not units of a pack."""
        return not self.unit.endswith("units")

    @property
    def value(self) -> Decimal:
        """The amount; 0 if the line states none."""
        return Decimal(self.amount or 0)


class Pack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resource pack as the account tells of it; quantities are decimal text, what remains lags up to 12 hours."""

    id: str
    name: str | None = None
    kind: str | None = None
    status: str | None = None
    total: str | None = None
    remaining: str | None = None

    @classmethod
    def of(cls, pack: ResourcePack) -> Pack:
        """From the answer of the account."""
        total, remaining = (None if n is None else format(n, "f") for n in (pack.total, pack.remaining))
        return cls(
            id=pack.id or "", name=pack.name, kind=pack.type, status=pack.status, total=total, remaining=remaining
        )


@dataclass(slots=True)
class ProviderRecords:
    """Everything that was read from the provider.

    `asked` are ids, the provider's or the caller's, that it was asked for by name.
    """

    tasks: dict[str, ProviderTask] = field(default_factory=dict)
    lines: list[LedgerLine] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def add_tasks(self, tasks: Iterable[ProviderTask]) -> None:
        """Take in tasks; of two sights of one task the later state stays."""
        for task in tasks:
            known = self.tasks.get(task.id)
            if known is None or not known.final or (task.final and known.charges is None):
                self.tasks[task.id] = task

    def by_external(self) -> Mapping[str, ProviderTask]:
        """Return the tasks by the caller's id."""
        return {task.external_id: task for task in self.tasks.values() if task.external_id is not None}

    def by_task(self) -> dict[str, list[LedgerLine]]:
        """Return the ledgers' lines by task."""
        found: dict[str, list[LedgerLine]] = {}
        for line in self.lines:
            found.setdefault(line.task_id or "", []).append(line)
        return found


def moment_of(millis: int | None) -> dt.datetime | None:
    """Return ms since 1970 UTC as a time."""
    return None if millis is None else _EPOCH + millis * _MS
