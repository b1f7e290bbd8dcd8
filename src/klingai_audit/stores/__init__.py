"""Places for a log: one contract (`klingai_audit.ledger.store`), natural bytes."""
