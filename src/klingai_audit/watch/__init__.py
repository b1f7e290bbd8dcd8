"""Watching a log: checks on a schedule, and alerts on what they find, once. See docs/how-to/watch.md."""
