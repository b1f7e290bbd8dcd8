"""Transparency-log formats and mathematics (RFC 6962, C2SP): no files, no clock, no network."""
