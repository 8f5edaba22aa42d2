"""What web pages and other users of the machine can do to a running `dropflow up`: nothing."""

import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from conftest import Running
from playwright.sync_api import Browser, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from dropflow.embedded.stores import find_weed
from dropflow.samples import churn_csv

pytestmark = pytest.mark.stack

CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
SOMEBODY_ELSE = 54_321
CODE = [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/forged"}}]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def web_site(page: str) -> Iterator[str]:
    """The address of a page of another origin."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def port_of(running: Running, part: str) -> int:
    """Of SeaweedFS's inner ports."""
    (found,) = (
        word
        for word in running.stack.supervisor.processes["store"].command
        if word.startswith(f"-{part}.port=")
    )
    return int(found.partition("=")[2])


@in_a_browser
def test_a_web_page_of_another_site_makes_nothing_in_prefect(running: Running, browser: Browser) -> None:
    name = f"forged-{uuid4().hex}"
    api = running.settings.prefect_api
    # A POST without a content type is sent without asking the server first, and its answer is not needed.
    page = f"""<script>
        const post = (path, body) => fetch("{api}" + path, {{method: "POST", mode: "no-cors", body: new Blob([JSON.stringify(body)])}});
        post("/flows/", {{name: "{name}"}}).finally(() => document.title = "done");
    </script>"""
    with web_site(page) as address:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_function("document.title === 'done'")
    found = running.api("POST", "/flows/filter", json={"flows": {"name": {"any_": [name]}}})
    assert found == []


@in_a_browser
def test_a_web_page_of_another_site_deletes_nothing_in_the_store(running: Running, browser: Browser) -> None:
    content = churn_csv(rows=30, seed=71)
    ref = running.put("neighbours/kept.csv", content).ref
    addresses = [
        f"http://127.0.0.1:{port_of(running, part)}/{path}"
        for part in ("master", "volume", "filer", "admin")
        for path in ("col/delete?collection=raw", "buckets/raw?recursive=true&op=delete", "dir/assign")
    ]
    images = "".join(f'<img src="{address}">' for address in addresses)
    with web_site(f"{images}<script>onload = () => document.title = 'done'</script>") as address:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_function("document.title === 'done'")
    assert running.store.get("raw", ref.key)[1] == content


@pytest.mark.parametrize("sent", [{}, {"Authorization": "Basic ZHJvcGZsb3c6Z3Vlc3NlZA=="}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/flows/"),
        ("POST", "/deployments/"),
        ("POST", "/block_documents/filter"),
        ("GET", "/admin/settings"),
    ],
)
def test_without_its_password_prefect_lets_nobody_in(
    running: Running, method: str, path: str, sent: dict[str, str]
) -> None:
    body = json.dumps({"name": "forged", "pull_steps": CODE}) if method == "POST" else None
    answer = httpx.request(method, running.settings.prefect_api + path, content=body, headers=sent)
    assert answer.status_code == 401


def sign_in_by_websocket(address: str) -> None:
    with connect(address, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send(json.dumps({"type": "auth", "token": "dropflow:guessed"}))
        while json.loads(socket.recv(timeout=10))["type"] != "auth_success":
            pass


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_nor_by_websocket_which_pages_of_any_site_may_open(running: Running, path: str) -> None:
    address = f"{running.settings.prefect_api.replace('http', 'ws', 1)}/{path}"
    with pytest.raises((ConnectionClosed, InvalidStatus)):
        sign_in_by_websocket(address)


def test_the_store_hands_out_no_token_and_speaks_to_nobody_without_a_certificate(running: Running) -> None:
    assert httpx.get(f"http://127.0.0.1:{port_of(running, 'master')}/dir/assign").status_code == 404
    ref = running.put("neighbours/listed.csv", churn_csv(rows=30, seed=72)).ref
    store = running.stack.supervisor.processes["store"]
    certificates = {name: value for name, value in store.environment.items() if "_GRPC_" in name}
    listing = f"fs.ls /buckets/raw/{ref.key.rpartition('/')[0]}"
    assert ref.name in shell(running, listing, certificates), "who has one is answered: the question is right"
    assert ref.name not in shell(running, listing, {})


def test_a_volume_gives_no_file_without_a_token(running: Running) -> None:
    ref = running.put("neighbours/by-number.csv", churn_csv(rows=30, seed=73)).ref
    store = running.stack.supervisor.processes["store"]
    certificates = {name: value for name, value in store.environment.items() if "_GRPC_" in name}
    told = shell(running, f"fs.meta.cat /buckets/raw/{ref.key}", certificates)
    found = re.search(r'"?fileId"?: *"(\d+,\w+)"', told)
    assert found, told
    answer = httpx.get(f"http://127.0.0.1:{port_of(running, 'volume')}/{found[1]}")
    assert answer.status_code == 401
    assert b"Geography" not in answer.content


def shell(running: Running, command: str, environment: dict[str, str]) -> str:
    """What SeaweedFS's own shell shows of the store; nothing where it is not let in."""
    words = [find_weed(), "shell", f"-master=127.0.0.1:{port_of(running, 'master')}"]
    try:
        done = subprocess.run(
            words,
            input=f"{command}\nexit\n",
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


@as_root
def test_another_user_of_the_machine_reads_no_file_of_the_stack(running: Running) -> None:
    # Where the tests run as root the folder can be passed, since PostgreSQL runs under another account.
    ours = [path for path in running.settings.data_dir.iterdir() if path.name != ".env"]
    looked = subprocess.run(
        ["/usr/bin/find", *map(str, ours), "-readable"],
        user=SOMEBODY_ELSE,
        group=SOMEBODY_ELSE,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.stdout == ""
    assert looked.stderr.count("Permission denied") > 2


def test_everything_in_the_data_folder_is_its_owners(running: Running) -> None:
    # `.env` is the tests' own.
    ours = [path for path in running.settings.data_dir.iterdir() if path.name != ".env"]
    assert [path for path in ours if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert stat.S_IMODE(running.settings.data_dir.stat().st_mode) & 0o066 == 0


def test_each_process_has_the_secrets_it_needs_and_no_other(running: Running) -> None:
    told = {
        name: psutil.Process(process.pid).environ()
        for name, process in running.stack.supervisor.processes.items()
    }
    settings = running.settings
    assert settings.s3_secret_key
    assert settings.webhook_token
    assert settings.prefect_auth
    key, token = settings.s3_secret_key.get_secret_value(), settings.webhook_token.get_secret_value()
    auth = settings.prefect_auth.get_secret_value()
    holders = {
        secret: {name for name, environment in told.items() if secret in environment.values()}
        for secret in (key, token, auth)
    }
    assert holders[key] == {"store", "listener", "worker"}
    assert holders[token] == {"store", "listener"}
    assert holders[auth] == {"prefect", "listener", "worker"}
    assert not [name for name in told["database"] if name.startswith(("DROPFLOW_", "PREFECT_"))]
    assert not [name for name in told["store"] if name.startswith(("DROPFLOW_", "PREFECT_"))]
