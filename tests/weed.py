"""A real store of a test's own, whose users may do what their actions say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import wait_until

from dropflow.embedded.processes import Process, free_port
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.settings import Settings
from dropflow.storage import connect

NOWHERE = Webhook("http://127.0.0.1:9/notifications", "nobody-listens-there", [])
Users = dict[tuple[str, str], list[str]]
"""Actions by access and secret key."""


@contextmanager
def weed(folder: Path, users: Users, port: int | None = None) -> Iterator[str]:
    """The address of SeaweedFS with these users."""
    folder.mkdir(parents=True, exist_ok=True)
    (admin, secret), *_ = users
    access = StoreAccess(port or free_port(), admin, secret)
    command, environment = seaweedfs(folder / "data", access, [free_port() for _ in range(4)], NOWHERE)
    config = folder / "users.json"
    config.write_text(json.dumps({"identities": [_identity(*user) for user in users.items()]}))
    # Its users are those of the file alone.
    environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    settings = Settings.model_validate(
        {"s3_endpoint": access.endpoint, "s3_access_key": admin, "s3_secret_key": secret}
    )
    process = Process("store", [*command, f"-s3.config={config}"], environment, folder / "log", lambda: True)
    process.start()
    try:
        wait_until(lambda: _answers(settings), what="the store")
        yield access.endpoint
    finally:
        process.stop()


def _identity(keys: tuple[str, str], actions: list[str]) -> dict[str, object]:
    access, secret = keys
    credentials = [{"accessKey": access, "secretKey": secret}]
    return {"name": access, "credentials": credentials, "actions": actions}


def _answers(settings: Settings) -> bool:
    try:
        connect(settings).client.list_buckets()
    except Exception:  # noqa: BLE001 - not yet
        return False
    return True
