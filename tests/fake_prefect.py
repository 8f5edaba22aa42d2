"""A Prefect API over HTTP that takes events once by id and remembers them. Its runs, if any, are done by a thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dropflow.embedded.processes import LOOPBACK, free_port


@dataclass
class FakePrefect:
    url: str
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    deployed: set[str] = field(default_factory=set)
    """Datasets that have been applied."""
    work: Callable[[str, list[str]], tuple[str, str]] | None = None
    """Given a run's id and its keys: the name of the state that it ends in, and its message."""

    def take(self, event: dict[str, Any]) -> None:
        if event["id"] not in self.events:
            self.events[event["id"]] = event
            if self.work:
                threading.Thread(target=self._run, args=(event, self.work), daemon=True).start()

    def _run(self, event: dict[str, Any], work: Callable[[str, list[str]], tuple[str, str]]) -> None:
        keys = [found["key"] for found in event["payload"]["objects"]]
        run: dict[str, Any] = {
            "id": str(uuid4()),
            "parameters": {"keys": keys},
            "expected_start_time": _now(),
        }
        run |= {"state_type": "RUNNING", "state_name": "Running", "state": {"timestamp": _now()}}
        self.runs.append(run)
        name, message = work(run["id"], keys)
        kind = "COMPLETED" if name == "Completed" else "FAILED"
        run |= {"state_type": kind, "state_name": name, "state": {"timestamp": _now(), "message": message}}

    @property
    def keys(self) -> list[str]:
        """Of all events together: a key that is there twice was in two events."""
        return [found["key"] for event in self.events.values() for found in event["payload"]["objects"]]


def _now() -> str:
    return datetime.now(UTC).isoformat()


@contextmanager
def fake_prefect(host: str = LOOPBACK, port: int = 0) -> Iterator[FakePrefect]:
    port = port or free_port()
    fake = FakePrefect(f"http://{host}:{port}/api")

    async def events(request: Request) -> Response:
        for event in await request.json():
            fake.take(event)
        return Response(status_code=204)

    async def runs(request: Request) -> Response:
        # Of one page, whatever is asked for.
        return JSONResponse([] if (await request.json()).get("offset") else fake.runs)

    async def deployments(request: Request) -> Response:
        asked = await request.json()
        is_of_paused = "paused" in asked.get("deployments", {})
        names = [] if is_of_paused or asked.get("offset") else sorted(fake.deployed)
        return JSONResponse([{"name": name} for name in names])

    async def version(_: Request) -> Response:
        return JSONResponse("3.8.8")

    routes = [
        Route("/api/admin/version", version),
        Route("/api/events", events, methods=["POST"]),
        Route("/api/flow_runs/filter", runs, methods=["POST"]),
        Route("/api/deployments/filter", deployments, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), host=host, port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield fake
    server.should_exit = True
    thread.join(10)
