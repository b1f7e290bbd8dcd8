"""Time stamps of others (RFC 3161) on this log's checkpoints: asking for them, keeping them, saying so in an entry."""
