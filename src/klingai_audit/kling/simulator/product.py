"""What a product is: one create path with its field table and its way from body to order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from klingai_audit.kling.simulator.fields import Field, check_fields
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.tasks import Order, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator
    from klingai_audit.kling.simulator.records import View

Body = Mapping[str, Any]
Reply = Callable[["Simulator", Task, "View"], dict[str, Any]]
"""From a call that was done at once to the `data` of its reply."""


@dataclass(frozen=True, slots=True)
class Product:
    """One create path: which generation it speaks, what it draws on, how a body becomes an order."""

    path: str
    generation: Literal["legacy", "new"]
    pack: str
    """Resource pack and concurrency type: `video`, `image` or `try-on`."""
    product_type: str
    """Value of the filter `product_type` of `POST /tasks`."""
    fields: tuple[Field, ...]
    order: Callable[[Body], Order | Refusal]
    """Rules between fields, defaults and price; called when every single field holds."""
    function: str = "Text to Video"
    """`product_function` of the billing detail."""
    bind: Callable[[Body, Order, Simulator], Order | Refusal] | None = None
    """Rules that need the account: ids of earlier results and sessions."""
    reply: Reply | None = None
    """Set for synchronous calls: no task is listed, the result and the cost are in the reply."""
    singles: bool = True
    """Whether there is a single query, `GET <path>/{id}`."""
    lists: bool = True
    """Whether there is a list query, `GET <path>`."""
    by_external_id: bool = True
    """Whether the single query also matches external ids."""
    max_page_size: int = 500

    def read(self, body: Body, sim: Simulator) -> Order | Refusal:
        """Check a request body against this product's table and the account."""
        order = check_fields(body, self.fields, strict=sim.strict_media) or self.order(body)
        if isinstance(order, Refusal) or self.bind is None:
            return order
        return self.bind(body, order, sim)


def synchronous(
    path: str,
    fields: tuple[Field, ...],
    order: Callable[[Body], Order | Refusal],
    reply: Reply,
    function: str,
    bind: Callable[[Body, Order, Simulator], Order | Refusal] | None = None,
) -> Product:
    """A row for a call that is answered at once and has no queries."""
    return Product(
        path, "legacy", "video", "video", fields, order, function, bind, reply, singles=False, lists=False
    )  # fmt: skip


def legacy(
    path: str,
    fields: tuple[Field, ...],
    order: Callable[[Body], Order | Refusal],
    function: str,
    bind: Callable[[Body, Order, Simulator], Order | Refusal] | None = None,
) -> Product:
    """A row for a legacy video, audio, voice or element path: all draw on the video pack."""
    return Product(path, "legacy", "video", "video", fields, order, function, bind)


def new_design(
    path: str,
    fields: tuple[Field, ...],
    order: Callable[[Body], Order | Refusal],
    function: str,
    bind: Callable[[Body, Order, Simulator], Order | Refusal] | None = None,
) -> Product:
    """A row for a video path of the new design."""
    return Product(path, "new", "video", "video", fields, order, function, bind)
