"""Derived, rebuildable, read-only answers from the log: query, activity, the story of one generation."""
