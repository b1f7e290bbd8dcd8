"""Paths and what they answer. Source: fact sheet sections 2 and 3.

A handler gets the simulator (its lock is held), the request, the caller and the path's variable
part, and returns a reply or a refusal. Paths are matched after `normalise`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

from klingai_audit.kling.simulator import account_queries, library, records, task_queries
from klingai_audit.kling.simulator.calls import Call, Handler, page, view_of
from klingai_audit.kling.simulator.messages import Refusal, Response, parse_object, success
from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.products import PRODUCTS


@dataclass(frozen=True, slots=True)
class Route:
    """The methods of one path; `tokens`: AccessKey tokens are good here (sheet section 0)."""

    methods: Mapping[str, Handler]
    tokens: bool = True
    rest: str = ""


FIXED: Mapping[str, Route] = {
    "/tasks": Route({"GET": task_queries.get_tasks, "POST": task_queries.search_tasks}, tokens=False),
    "/account/costs": Route({"GET": account_queries.costs}),
    "/account/billing/package": Route({"POST": account_queries.package_ledger}),
    "/account/billing/balance": Route({"POST": account_queries.balance_ledger}),
    **{path: Route({"GET": partial(library.list_presets, path)}) for path in library.PRESET_PATHS},
    **{path: Route({"POST": partial(library.delete, path)}) for path in library.DELETES},
}
"""Paths that are no products."""


def normalise(path: str, prefix: str = "") -> str:
    """Drop `prefix` if present, repeated slashes (some clients send them) and the last slash."""
    path = re.sub("/{2,}", "/", path)
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        path = path[len(prefix) :]
    return path.rstrip("/") or "/"


def find_route(path: str) -> Route | None:
    """The route of a normalised path, None if there is none."""
    if path in FIXED:
        return FIXED[path]
    product = PRODUCTS.get(path)
    if product is not None:
        return _product_route(product)
    parent, _, last = path.rpartition("/")
    product = PRODUCTS.get(parent)
    if product is not None and product.generation == "legacy" and product.singles:
        return Route({"GET": partial(_legacy_single, product)}, rest=unquote(last))
    return None


def _product_route(product: Product) -> Route:
    methods: dict[str, Handler] = {"POST": partial(_create, product)}
    if product.path == library.OLD_ELEMENTS:
        methods["GET"] = library.list_old_elements
    elif product.generation == "legacy" and product.lists:
        methods["GET"] = partial(_legacy_list, product)
    return Route(methods, tokens=product.generation == "legacy")


def _create(product: Product, call: Call) -> Response | Refusal:
    body = parse_object(call.request.body)
    if isinstance(body, Refusal):
        return body
    order = product.read(body, call.sim)
    if isinstance(order, Refusal):
        return order
    task = call.sim.accept(product, order, call.caller, call.request.base_url)
    if isinstance(task, Refusal):
        return task
    view = view_of(call)
    if product.reply is not None:
        return success(product.reply(call.sim, task, view))
    return success(records.legacy_created(task, view) if product.generation == "legacy" else records.new_created(task))


def _legacy_single(product: Product, call: Call) -> Response | Refusal:
    book = call.sim.book
    task = book.by_id(call.rest) or (book.by_external_id(call.rest) if product.by_external_id else None)
    if task is None or task.path != product.path:
        return records.not_found(call.rest)
    return success(records.legacy_record(task, view_of(call)))


def _legacy_list(product: Product, call: Call) -> Response | Refusal:
    own = [task for _, task in call.sim.book.newest_first() if task.path == product.path]
    found = page(call, own, product.max_page_size)
    view = view_of(call)
    return found if isinstance(found, Refusal) else success([records.legacy_record(task, view) for task in found])
