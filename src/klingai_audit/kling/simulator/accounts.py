"""Who pays: resource packs per product type, a cash wallet, and the book of deductions. Source: sheet 2.6, 6.

Units of different pack types are different currencies: nothing here adds them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import DOLLARS_PER_UNIT
from klingai_audit.kling.simulator.tasks import Payment, Task

DAY_MS = 24 * 3600 * 1000
DEFAULT_UNITS = Decimal(1_000_000)
PackStatus = Literal["toBeOnline", "online", "expired", "runOut"]


@dataclass(slots=True)
class ResourcePack:
    """One prepaid pack; it pays from `effective_ms` to before `invalid_ms` (ms since the epoch)."""

    name: str
    pack_id: str
    product_type: str
    """`video`, `image` or `try-on`."""
    total: Decimal
    effective_ms: int
    invalid_ms: int
    kind: Literal["decreasing_total", "constant_period"] = "decreasing_total"
    concurrency: int | None = None
    """Tasks at once per model version; None leaves it to `Simulator.concurrency`."""
    used: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    """Units that accepted, unfinished tasks will cost."""

    def status(self, now_ms: int) -> PackStatus:
        """The status word of `/account/costs`."""
        if now_ms < self.effective_ms:
            return "toBeOnline"
        if now_ms >= self.invalid_ms:
            return "expired"
        return "online" if self.used < self.total else "runOut"


@dataclass(slots=True)
class Wallet:
    """A postpaid cash account. A test balance is used up first; `discount` 0.9 means 10 % off the list price."""

    balance: Decimal
    currency: Literal["USD", "CNY"] = "USD"
    test_balance: Decimal = Decimal(0)
    discount: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class Deduction:
    """One line of a billing ledger."""

    task: Task
    payment: Payment
    at_ms: int
    before: Decimal
    after: Decimal
    pack: ResourcePack | None = None
    """The pack of a unit line; None for a cash line."""


@dataclass(slots=True)
class Accounts:
    """All that pays for the account's tasks. Attributes may be changed at any time."""

    packs: list[ResourcePack] = field(default_factory=list)
    wallet: Wallet | None = None
    frozen: bool = False
    """Every paid call is refused with 1100."""
    deductions: list[Deduction] = field(default_factory=list)
    """In the order in which they happened."""
    _open: list[Task] = field(default_factory=list)

    @classmethod
    def default(cls, now_ms: int) -> Accounts:
        """One large pack of each type, from 30 days ago for ten years."""
        packs = [
            ResourcePack(
                f"{kind} pack", f"pack-{kind}-1", kind, DEFAULT_UNITS, now_ms - 30 * DAY_MS, now_ms + 3650 * DAY_MS
            )
            for kind in DOLLARS_PER_UNIT
        ]  # fmt: skip
        return cls(packs)

    def pack(self, product_type: str) -> ResourcePack:
        """The first pack of this type. Raises: UsageError: there is none."""
        found = next((pack for pack in self.packs if pack.product_type == product_type), None)
        if found is None:
            raise UsageError(f"the simulator's account has no pack of type {product_type}")
        return found

    def drain(self, product_type: str) -> None:
        """Use up every pack of this type: its creates are 429 / 1102 from now on."""
        for pack in self.packs:
            if pack.product_type == product_type:
                pack.used = pack.total

    def concurrency(self, product_type: str, default: int, now_ms: int) -> int:
        """The highest concurrency among the active packs of the type, not the sum."""
        given = [
            pack.concurrency
            for pack in self.packs
            if pack.product_type == product_type and pack.concurrency is not None and pack.status(now_ms) == "online"
        ]
        return max(given, default=default)

    def payment(self, product_type: str, units: Decimal, now_ms: int) -> Payment | Refusal:
        """How an order of `units` would be paid: by one pack of its type, else by the wallet."""
        if self.frozen:
            return Refusal(1100)
        pack = self._paying_pack(product_type, units, now_ms)
        if pack is not None:
            return Payment("unit", units, pack.pack_id)
        if not units:
            return Payment("unit", units, "")
        if self.wallet is None:
            return Refusal(1102)
        if self.wallet.balance <= 0 and self.wallet.test_balance <= 0:
            return Refusal(1101)
        price = units * DOLLARS_PER_UNIT[product_type]
        amount = price * self.wallet.discount
        source = "test_balance" if self.wallet.test_balance >= amount else "balance"
        return Payment("cash", amount, source, price, self.wallet.currency)

    def accept(self, task: Task) -> None:
        """Hold the units of an accepted task until it ends."""
        if task.payment is None or not task.payment.amount:
            return
        pack = self._pack_of(task.payment)
        if pack is not None:
            pack.held += task.payment.amount
        self._open.append(task)

    def settle(self, now_ms: int) -> None:
        """Write the deductions of all tasks that have ended; failed ones are free."""
        ended = sorted((task for task in self._open if task.ended(now_ms)), key=lambda task: task.end_ms)
        if not ended:
            return
        self._open = [task for task in self._open if not task.ended(now_ms)]
        for task in ended:
            self._deduct(task)

    def remaining(self, pack: ResourcePack, at_ms: int) -> Decimal:
        """What was left of a pack at a moment."""
        later = (line.payment.amount for line in self.deductions if line.pack is pack and line.at_ms > at_ms)
        return pack.total - pack.used + sum(later, Decimal(0))

    def _deduct(self, task: Task) -> None:
        paid = task.payment
        if paid is None:
            return
        pack = self._pack_of(paid)
        if pack is not None:
            pack.held -= paid.amount
        if task.failure:
            return
        if pack is not None:
            before = pack.total - pack.used
            pack.used += paid.amount
            self.deductions.append(Deduction(task, paid, task.end_ms, before, before - paid.amount, pack))
        elif paid.charge_type == "cash" and self.wallet is not None:
            before = getattr(self.wallet, paid.account)
            setattr(self.wallet, paid.account, before - paid.amount)
            self.deductions.append(Deduction(task, paid, task.end_ms, before, before - paid.amount))

    def _paying_pack(self, product_type: str, units: Decimal, now_ms: int) -> ResourcePack | None:
        """Of the packs that can pay all of it, the one that ends first."""
        able = [
            pack
            for pack in self.packs
            if pack.product_type == product_type
            and pack.status(now_ms) == "online"
            and pack.total - pack.used - pack.held >= units
        ]
        return min(able, key=lambda pack: pack.invalid_ms, default=None)

    def _pack_of(self, payment: Payment) -> ResourcePack | None:
        return next((pack for pack in self.packs if pack.pack_id == payment.account), None)
