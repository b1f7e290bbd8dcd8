"""Witnesses: other people who see a log's checkpoints and say so with their own keys. Client and server."""
