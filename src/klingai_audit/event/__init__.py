"""Meaning: event types, the event and its bytes, who is acting."""

from __future__ import annotations
