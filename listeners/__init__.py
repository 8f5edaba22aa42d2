"""News of objects (stream, webhook, sweep) into the ledger, and from there to Prefect as events."""
