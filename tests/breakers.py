"""For tests that have runs fail on purpose."""

from dropflow.prefect_api import connect_prefect
from dropflow.settings import Settings


def disable_breaker(settings: Settings, dataset: str) -> None:
    """As in the Prefect UI; `dropflow apply` leaves it so."""
    with connect_prefect(settings).http as http:
        found = http.post("/automations/filter", json={"limit": 200}).raise_for_status().json()
        (breaker,) = (one for one in found if one["name"] == f"breaker · {dataset}")
        http.patch(f"/automations/{breaker['id']}", json={"enabled": False}).raise_for_status()
