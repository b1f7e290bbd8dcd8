"""The compliance report: what a log shows, as HTML, PDF, JSON and CSV, every number with its question."""
