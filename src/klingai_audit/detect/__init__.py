"""Detections: rules as data that look for what is odd in a log, and tell of each finding once."""
