"""What may enter: secrets removed, people as pseudonyms, content as commitments."""

from __future__ import annotations
