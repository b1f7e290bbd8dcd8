"""The product table: every create path that the simulator serves. A further product is a further row."""

from __future__ import annotations

from collections.abc import Mapping

from klingai_audit.kling.simulator.audio import AUDIO
from klingai_audit.kling.simulator.editing import EDITING
from klingai_audit.kling.simulator.image_to_video import IMAGE_TO_VIDEO
from klingai_audit.kling.simulator.images import IMAGES
from klingai_audit.kling.simulator.library import LIBRARY
from klingai_audit.kling.simulator.omni import OMNI
from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.talking import TALKING
from klingai_audit.kling.simulator.text_to_video import TEXT_TO_VIDEO

PRODUCTS: Mapping[str, Product] = {
    product.path: product
    for product in (*TEXT_TO_VIDEO, *IMAGE_TO_VIDEO, *OMNI, *TALKING, *EDITING, *AUDIO, *IMAGES, *LIBRARY)
}
"""Create path -> product."""
