"""The embedded stack: a real store, a real Prefect server, worker and listener on loopback."""
