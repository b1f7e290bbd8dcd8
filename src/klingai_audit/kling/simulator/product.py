"""What a product is: one create path with its field table and its way from body to order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from klingai_audit.kling.simulator.fields import Field, check_fields
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.tasks import Order

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Product:
    """One create path: which generation it speaks, what it draws on, how a body becomes an order."""

    path: str
    generation: Literal["legacy", "new"]
    pack: str
    """Resource pack and concurrency type: `video`, `image` or `audio`."""
    product_type: str
    """Value of the filter `product_type` of `POST /tasks`."""
    fields: tuple[Field, ...]
    order: Callable[[Body], Order | Refusal]
    """Rules between fields, defaults and price; called when every single field holds."""

    def read(self, body: Body) -> Order | Refusal:
        """Check a request body against this product's table."""
        return check_fields(body, self.fields) or self.order(body)
