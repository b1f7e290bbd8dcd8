"""The product table: every create path that the simulator serves. A further product is a further row."""

from __future__ import annotations

from collections.abc import Mapping

from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.text_to_video import TEXT_TO_VIDEO

PRODUCTS: Mapping[str, Product] = {product.path: product for product in (*TEXT_TO_VIDEO,)}
"""Create path -> product."""
