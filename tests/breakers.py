"""For tests that have runs fail on purpose."""

import httpx


def disable_breaker(prefect_api: str, dataset: str) -> None:
    """As in the Prefect UI; `dropflow apply` leaves it so."""
    with httpx.Client(base_url=prefect_api, timeout=30) as http:
        found = http.post("/automations/filter", json={"limit": 200}).raise_for_status().json()
        (breaker,) = (one for one in found if one["name"] == f"breaker · {dataset}")
        http.patch(f"/automations/{breaker['id']}", json={"enabled": False}).raise_for_status()
