"""Bytes in order: entries, seals, batches, checkpoints, keys and receipts. Knows no event and no file system."""
