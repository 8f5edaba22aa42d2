"""A Prefect API over HTTP that takes events once by id and remembers them, and tells of no runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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

    @property
    def keys(self) -> list[str]:
        """Of all events together: a key that is there twice was in two events."""
        return [found["key"] for event in self.events.values() for found in event["payload"]["objects"]]


@contextmanager
def fake_prefect() -> Iterator[FakePrefect]:
    port = free_port()
    fake = FakePrefect(f"http://{LOOPBACK}:{port}/api")

    async def events(request: Request) -> Response:
        for event in await request.json():
            fake.events.setdefault(event["id"], event)
        return Response(status_code=204)

    async def runs(_: Request) -> Response:
        return JSONResponse([])

    async def deployments(_: Request) -> Response:
        return JSONResponse([])

    async def version(_: Request) -> Response:
        return JSONResponse("3.8.8")

    routes = [
        Route("/api/admin/version", version),
        Route("/api/events", events, methods=["POST"]),
        Route("/api/flow_runs/filter", runs, methods=["POST"]),
        Route("/api/deployments/filter", deployments, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), host=LOOPBACK, port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield fake
    server.should_exit = True
    thread.join(10)
