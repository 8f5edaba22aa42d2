"""Prefect automations, one YAML a user edits each, and what keeps the server in step with them."""
