"""The page: what it lists, what it does, and who is kept out of it."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from conftest import wait_until
from pydantic import SecretStr
from starlette.testclient import TestClient

from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, free_port
from dropflow.errors import SettingsError, TransientError
from dropflow.ledger import Fate, Ledger, Settlement
from dropflow.ledger import pages as pages_module
from dropflow.ledger.pages import Wanted
from dropflow.ledger.tables import objects
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.prefect_api import connect_prefect
from dropflow.quality import ColumnProfile, Figures, FrameProfile, Frequent
from dropflow.receipts import REPORTS, Receipt, commit_receipt, companion_key
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from listeners.http import server_config
from listeners.intake import Intake
from listeners.metrics import Metrics
from listeners.page import Page, access, attempts, make_page
from listeners.webhook import PATH, make_app

TOKEN, PAGE_TOKEN = "a-token-for-the-webhook", "a-token-for-the-page"
OWN = {"X-Dropflow": "1"}
ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it here
RUN = "0a0b0c0d-0000-4000-8000-000000000001"
HOSTILE = [
    "churn/<img src=x onerror=alert(1)>.csv",
    "churn/{{ 7*7 }}.csv",
    "churn/\u202evsc.exe\u2066\u0007\x1b[2K\r\n.csv",
    "churn/'\"`;--</script><script>alert(1)</script>.csv",
    "churn/javascript:alert(1)//.csv",
    "churn/100%_sure.csv",
]


@pytest.fixture
def datasets() -> Datasets:
    return load_datasets(PROJECT / "datasets")


class Site:
    """The listener's HTTP side with the page, and what tests look at behind it."""

    def __init__(self, settings: Settings, datasets: Datasets, ledger: Ledger, store: ObjectStore) -> None:
        self.ledger, self.store, self.datasets = ledger, store, datasets
        self.intake = Intake(ledger, datasets)
        webhook = make_app(self.intake, SecretStr(TOKEN), Metrics(ledger))
        prefect = connect_prefect(settings)
        self.app = make_page(Page(settings, datasets, ledger, store, prefect, self.intake), others=webhook)
        self.client = TestClient(self.app, base_url=f"http://{LOOPBACK}", headers=OWN, follow_redirects=False)

    def see(self, *keys: str) -> None:
        self.ledger.record(ObjectCreated(ObjectRef("raw", key, "e1"), "webhook") for key in keys)

    def drop(self, key: str, content: bytes = b"x") -> ObjectRef:
        ref = self.store.put("raw", key, content, "text/csv")
        self.ledger.record([ObjectCreated(ref, "webhook")])
        return ref

    def process(self, ref: ObjectRef, *, prepared: bytes = b"prepared", **fields: Any) -> Receipt:
        """Give the object output, report and receipt, as a run does."""
        churn = self.datasets["churn"]
        output = self.store.put("processed", churn.output_key(ref.key), prepared, "x/y")
        report = companion_key(REPORTS, churn, ref, "f", "html")
        self.store.put("processed", report, b"<h1>Report</h1><script>alert(1)</script>", "text/html")
        told = {
            "output_bucket": "processed",
            "output_key": output.key,
            "output_etag": output.etag,
            "report_key": report,
            "flow_run_id": RUN,
            **fields,
        }
        place = {"dataset": "churn", "bucket": ref.bucket, "key": ref.key, "etag": ref.etag}
        receipt = Receipt(**{**place, "fingerprint": "f", "fate": "processed", **told})
        assert commit_receipt(self.store, churn, receipt, force=False)
        self.settle(ref, Fate.PROCESSED, "1 row in, 1 out", output_key=output.key)
        return receipt

    def settle(self, ref: ObjectRef, fate: Fate, reason: str, **more: Any) -> None:
        self.ledger.settle([Settlement(ref, "churn", fate, reason, datetime.now(UTC), **more)])

    def ask(self, **query: Any) -> Any:
        answer = self.client.get("/objects", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def keys(self, **query: Any) -> list[str]:
        return [found["key"] for found in self.ask(**query)["objects"]]

    def token(self, key: str) -> str:
        (found,) = self.ask(search=key)["objects"]
        return str(found["id"])


Make = Callable[..., Site]


@pytest.fixture
def make_site(settings: Settings, datasets: Datasets, ledger: Ledger, store: ObjectStore) -> Make:
    def make(**changed: Any) -> Site:
        values = {**settings.model_dump(), "webhook_token": TOKEN, "webhook_port": 8808, **changed}
        return Site(Settings(**values), datasets, ledger, store)

    return make


@pytest.fixture
def site(make_site: Make) -> Site:
    return make_site()


@contextmanager
def served(site: Site) -> Iterator[str]:
    """A real server in a thread, as the listener has it; its address."""
    port = free_port()
    server = uvicorn.Server(server_config(site.app, LOOPBACK, port))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join()


# What it lists


def test_objects_are_listed_the_last_changed_first_with_counts(site: Site) -> None:
    site.see("churn/a.csv", "churn/b.csv", "elsewhere/c.csv")
    (a,) = site.ledger.find("raw", "churn/a.csv")
    site.settle(a.ref, Fate.REJECTED, "row 3: Age is 7, expected 18 or more")
    told = site.ask()
    first = told["objects"][0]
    assert first["key"] == "churn/a.csv"
    assert (first["fate"], first["dataset"], first["reason"]) == (
        "rejected",
        "churn",
        "row 3: Age is 7, expected 18 or more",
    )
    assert (first["again"], first["run"], first["report"], first["output"]) == (True, True, False, False)
    assert told["counts"] == {"": {"pending": 2}, "churn": {"rejected": 1}}
    assert told["unaccounted"] is None
    assert told["next"] is None


def test_search_and_filters_are_combined(site: Site) -> None:
    site.see("churn/2026-11.csv", "churn/2026-12.csv", "churn/100%_sure.csv", "other/2026-11.csv")
    for name in ("churn/2026-11.csv", "churn/100%_sure.csv"):
        (found,) = site.ledger.find("raw", name)
        site.settle(found.ref, Fate.PROCESSED, "done")
    assert site.keys(search="2026-11") == ["churn/2026-11.csv", "other/2026-11.csv"]
    assert site.keys(search="CHURN/2026-1", fate="pending") == ["churn/2026-12.csv"]
    assert site.keys(search="%_") == ["churn/100%_sure.csv"], "literally"
    assert site.keys(search="s3://raw/churn/2026-12.csv") == ["churn/2026-12.csv"]
    assert set(site.keys(dataset="churn")) == {"churn/2026-11.csv", "churn/100%_sure.csv"}
    assert set(site.keys(dataset="-")) == {"churn/2026-12.csv", "other/2026-11.csv"}
    assert site.keys(dataset="churn", fate="failed") == []
    assert site.keys(dataset="no such", search="2026") == []


def test_every_object_is_on_exactly_one_page(site: Site) -> None:
    keys = [f"churn/{number}.csv" for number in range(25)]
    site.see(*keys)  # all changed at the same moment
    (late,) = site.ledger.find("raw", "churn/7.csv")
    site.settle(late.ref, Fate.PROCESSED, "done")
    for query in ({}, {"search": "churn"}):
        found, after = [], ""
        while after is not None:
            told = site.ask(limit=4, after=after, **query)
            assert len(told["objects"]) <= 4
            found += [one["key"] for one in told["objects"]]
            after = told["next"]
        assert found[0] == "churn/7.csv"
        assert sorted(found) == sorted(keys)


def test_an_unchanged_listing_is_not_sent_again(site: Site) -> None:
    site.see("churn/a.csv")
    etag = site.client.get("/objects").headers["etag"]
    answer = site.client.get("/objects", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    (found,) = site.ledger.find("raw", "churn/a.csv")
    site.settle(found.ref, Fate.PROCESSED, "done")
    assert site.client.get("/objects", headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize(
    "query", [{"fate": "x"}, {"after": "x"}, {"after": "2026-11-21T10:00:00_1"}, {"limit": "many"}]
)
def test_a_question_that_makes_no_sense_is_refused(site: Site, query: dict[str, str]) -> None:
    answer = site.client.get("/objects", params=query)
    assert (answer.status_code, "Traceback" in answer.text) == (400, False)


def test_no_answer_has_more_than_a_hundred_rows(site: Site) -> None:
    site.see(*(f"churn/{number}.csv" for number in range(150)))
    assert len(site.keys(limit=100_000)) == 100
    assert len(site.keys(limit=-5)) == 1


def test_fifty_thousand_objects_are_answered_from_the_index(site: Site) -> None:
    moment = datetime(2026, 11, 1)
    fates = [Fate.PROCESSED.value] * 999 + [Fate.FAILED.value]
    common = {"bucket": "raw", "etag": "e", "source": "sweep", "deliveries": 1, "force": False}
    common |= {"reason": "", "output_bucket": "", "output_key": "", "output_etag": "", "first_seen": moment}
    rows = [
        {
            **common,
            "key": f"churn/{n}.csv",
            "dataset": ("churn", "taxi")[n % 2],
            "fate": fates[n % 1000],
            "updated": moment + timedelta(seconds=n),
        }
        for n in range(50_000)
    ]
    with site.ledger.database.write() as db:
        db.execute(sa.insert(objects), rows)
    read: list[str] = []
    sa.event.listen(
        site.ledger.database.engine, "before_cursor_execute", lambda *given: read.append(str(given[2]))
    )
    told = site.ask()
    assert len(told["objects"]) == 100
    assert told["objects"][0]["key"] == "churn/49999.csv"
    assert sum(told["counts"]["churn"].values()) == 25_000
    assert len(site.keys(fate="failed", dataset="taxi")) == 50
    assert site.keys(search="/49998.csv") == ["churn/49998.csv"]
    listings = [statement for statement in read if "FROM objects" in statement and "count(" not in statement]
    assert listings
    assert all("LIMIT" in one or "objects.id IN" in one or "objects.id =" in one for one in listings)
    with site.ledger.database.read() as db:
        query = "SELECT updated, id FROM objects WHERE fate = 'failed' AND dataset = 'taxi' AND (updated, id) < (?, 9) ORDER BY updated DESC, id DESC LIMIT 9"
        plan = str(db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", (str(moment),)).all())
    assert "USING COVERING INDEX ix_objects_page" in plan
    assert "TEMP B-TREE" not in plan


def test_a_search_that_takes_too_long_is_cut_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.record(ObjectCreated(ObjectRef("raw", f"churn/{n}.csv", "e"), "sweep") for n in range(3000))
    monkeypatch.setattr(pages_module, "LONGEST_READ", -1.0)
    with pytest.raises(TransientError, match="interrupted"):
        ledger.pages.page(Wanted("nowhere"), [""], 10)
    monkeypatch.setattr(pages_module, "LONGEST_READ", 60.0)
    assert ledger.pages.page(Wanted("nowhere"), [""], 10).entries == []


def test_hostile_names_are_json_text_and_nothing_else(site: Site) -> None:
    site.see(*HOSTILE)
    for key in HOSTILE:
        (found,) = site.ledger.find("raw", key)
        site.settle(found.ref, Fate.REJECTED, f"no good: {key}")
    answer = site.client.get("/objects")
    assert answer.headers["content-type"] == "application/json"
    shown = [one["key"] for one in answer.json()["objects"]]
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert all(one["key"].isprintable() and one["reason"].isprintable() for one in answer.json()["objects"])
    for name in ("<img src=x", "{{ 7*7 }}"):
        assert len(site.keys(search=name)) == 1
    page = site.client.get("/")
    assert "onerror=alert" not in page.text
    assert "49.csv" not in page.text


def test_the_page_makes_no_markup_of_texts_and_loads_nothing_from_elsewhere(site: Site) -> None:
    script, style, page = (site.client.get(path).text for path in ("/page.js", "/page.css", "/"))
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
    ):
        assert sink not in script
    assert not [text for text in (script, style, page) if "://" in text]
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    assert page.count("<script") == 1


# What every answer says to browsers


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/page.css", "/objects", "/setup", "/report", "/objects?fate=x"]
)
def test_every_answer_has_strict_headers(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control-")]


def test_other_paths_are_the_webhooks(site: Site) -> None:
    assert site.client.get("/healthz").text == "alive\n"
    assert site.client.get("/metrics").status_code == 200
    assert site.client.post(PATH, content=b"{}").status_code == 401
    assert site.client.get("/static/page.js").status_code == 404


# Who is kept out


@pytest.mark.parametrize("path", ["/", "/objects", "/setup", "/page.js"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8808", "127.0.0.1.evil.example", "", "localhost."]
)
def test_a_foreign_name_that_points_here_is_refused(site: Site, path: str, host: str) -> None:
    assert site.client.get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8808", "127.0.0.1", "[::1]:8808", "LOCALHOST"])
def test_the_names_of_this_machine_are_served(site: Site, host: str) -> None:
    assert site.client.get("/objects", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Dropflow": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_scripts_change_nothing(site: Site, headers: dict[str, str]) -> None:
    ref = site.drop("churn/a.csv")
    site.settle(ref, Fate.FAILED, "no receipt")
    body = {"object": site.token("churn/a.csv"), "force": True}
    assert site.client.post("/replay", json=body, headers=headers).status_code == 403
    query = urlencode({"dataset": "churn", "key": "churn/b.csv"})
    assert site.client.put(f"/upload?{query}", content=b"x", headers=headers).status_code == 403
    assert site.client.post("/login", json={"token": "x"}, headers=headers).status_code == 403
    assert site.ledger.find("raw", "churn/a.csv")[0].fate is Fate.FAILED
    assert not site.store.exists("raw", "churn/b.csv")


def test_own_script_may(site: Site) -> None:
    headers = {"Origin": f"http://{LOOPBACK}", "Sec-Fetch-Site": "same-origin"}
    query = urlencode({"dataset": "churn", "key": "churn/b.csv"})
    assert site.client.put(f"/upload?{query}", content=b"x", headers=headers).status_code == 201


@pytest.mark.parametrize("changed", [{"webhook_host": ANYWHERE}, {"page_url": "https://files.example"}])
def test_off_loopback_the_page_is_closed_without_a_token(
    make_site: Make, changed: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(**changed)
    for path in ("/", "/objects", "/page.js"):
        answer = site.client.get(path)
        assert (answer.status_code, "DROPFLOW_PAGE_TOKEN" in answer.text) == (503, True)
    assert "DROPFLOW_PAGE_TOKEN" in caplog.text
    assert site.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("changed", [{"webhook_host": ANYWHERE}, {}])
def test_with_a_token_one_signs_in(make_site: Make, changed: dict[str, str]) -> None:
    site = make_site(page_token=PAGE_TOKEN, **changed)
    site.see("churn/a.csv")
    assert site.client.get("/").status_code == 200, "the form"
    closed = ["/setup", "/objects", "/explain", "/run", "/report", "/output", "/quarantine"]
    assert {site.client.get(path).status_code for path in closed} == {401}
    assert site.client.post("/replay", json={}).status_code == 401
    assert site.client.put("/upload").status_code == 401
    answer = site.client.post("/login", json={"token": PAGE_TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert PAGE_TOKEN not in cookie
    assert site.keys() == ["churn/a.csv"]
    assert site.client.get("/setup").json()["signed_in"] is True
    site.client.post("/logout")
    assert site.client.get("/objects").status_code == 401


@pytest.mark.parametrize(
    "given", ["", "wrong", PAGE_TOKEN[:-1], f"{PAGE_TOKEN}x", TOKEN, None, 7, ["x"], "ä\ud800"]
)
def test_a_wrong_token_is_refused(make_site: Make, given: Any) -> None:
    site = make_site(page_token=PAGE_TOKEN)
    answer = site.client.post("/login", content=json.dumps({"token": given}))
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    assert site.client.post("/login", content=b"no json").status_code == 400


@pytest.mark.parametrize(
    "cookie", ["", "x", ".", "99999999999.", f"99999999999.{'0' * 64}", PAGE_TOKEN, "ä.ö"]
)
def test_a_forged_cookie_is_refused(make_site: Make, cookie: str) -> None:
    site = make_site(page_token=PAGE_TOKEN)
    headers = {"Cookie": f"dropflow={cookie}".encode()}
    assert site.client.get("/objects", headers=headers).status_code == 401


def test_a_cookie_expires(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(page_token=PAGE_TOKEN)
    assert site.client.post("/login", json={"token": PAGE_TOKEN}).status_code == 204
    cookie = {"Cookie": f"dropflow={site.client.cookies['dropflow']}"}
    assert site.client.get("/objects", headers=cookie).status_code == 200
    later = time.time() + access.SIGNED_IN_SECONDS + 1
    monkeypatch.setattr(access.time, "time", lambda: later)
    assert site.client.get("/objects", headers=cookie).status_code == 401


def test_neither_token_opens_the_others_door(make_site: Make) -> None:
    site = make_site(page_token=PAGE_TOKEN)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert site.client.get("/objects", headers=bearer).status_code == 401
    assert site.client.post("/login", json={"token": TOKEN}).status_code == 403
    assert site.client.post("/login", json={"token": PAGE_TOKEN}).status_code == 204
    for headers in ({}, {"Authorization": f"Bearer {PAGE_TOKEN}"}):
        assert site.client.post(PATH, content=b"{}", headers=headers).status_code == 401
    with pytest.raises(SettingsError, match="must be another"):
        make_site(page_token=TOKEN)


def test_behind_https_the_cookie_is_for_https_and_its_host_only(make_site: Make) -> None:
    site = make_site(page_token=PAGE_TOKEN, page_url="https://files.example")
    host = {"Host": "files.example", "Origin": "https://files.example"}
    cookie = site.client.post("/login", json={"token": PAGE_TOKEN}, headers=host).headers["set-cookie"]
    assert cookie.startswith("__Host-dropflow=")
    assert "Secure" in cookie.split("; ")


# Reports and outputs


def test_report_and_output_are_found_through_the_receipt(site: Site) -> None:
    ref = site.drop("churn/a.csv")
    site.process(ref)
    token = site.token("churn/a.csv")
    report = site.client.get("/report", params={"object": token})
    assert report.status_code == 200
    assert report.text.startswith("<h1>Report</h1>")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert report.headers["x-content-type-options"] == "nosniff"
    output = site.client.get("/output", params={"object": token})
    assert (output.status_code, output.content) == (200, b"prepared")
    assert output.headers["content-disposition"] == "attachment; filename*=UTF-8''a.parquet"
    assert output.headers["content-type"] == "application/octet-stream"
    run = site.client.get("/run", params={"object": token})
    assert run.status_code == 303
    assert run.headers["location"] == f"http://127.0.0.1:9/v2/runs/flow-run/{RUN}"


@pytest.mark.parametrize("path", ["/report", "/output", "/quarantine", "/run", "/explain"])
@pytest.mark.parametrize(
    "given",
    [
        "",
        "1",
        "0-",
        "processed/secret",
        "../../secret",
        "1-0123456789abcdef",
        "9" * 40 + "-x",
        "-1-x",
        "1\0-x",
    ],
)
def test_nothing_but_an_object_of_the_ledger_can_be_asked_for(site: Site, path: str, given: str) -> None:
    site.process(site.drop("churn/a.csv"))
    assert site.client.get(path, params={"object": given}).status_code in (400, 404)
    assert site.client.get(path, params={"bucket": "raw", "key": "churn/a.csv"}).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"output_bucket": "raw", "output_key": "churn/a.csv", "report_key": "churn/a.csv"},
        {"output_key": "secrets/all.csv", "report_key": "secrets/all.csv"},
        {"output_key": "", "report_key": ""},
        {"output_key": "_receipts/churn/x", "report_key": "_reports/taxi/x"},
        {"flow_run_id": "//evil.example"},
    ],
)
def test_a_forged_receipt_opens_no_other_bucket_or_folder(site: Site, fields: dict[str, str]) -> None:
    site.store.put("processed", "secrets/all.csv", b"secret", "x/y")
    site.process(site.drop("churn/a.csv", b"secret"), **fields)
    token = site.token("churn/a.csv")
    for path in ("/run",) if "flow_run_id" in fields else ("/report", "/output", "/quarantine"):
        answer = site.client.get(path, params={"object": token})
        assert answer.status_code == 404
        assert b"secret" not in answer.content


def test_what_was_replaced_or_deleted_since_is_not_given_for_it(site: Site) -> None:
    ref = site.drop("churn/a.csv")
    receipt = site.process(ref)
    token = site.token("churn/a.csv")
    site.store.put("processed", receipt.output_key, b"another", "x/y")
    assert site.client.get("/output", params={"object": token}).status_code == 404
    site.store.delete("processed", receipt.report_key)
    assert site.client.get("/report", params={"object": token}).status_code == 404


def test_a_report_is_made_of_the_receipts_figures(site: Site) -> None:
    column = ColumnProfile("<script>x", "text", 0, 1, Frequent((("<img src=x>", 1),), 0))
    figures = Figures(before=FrameProfile(1, (column,)), after=FrameProfile(0, ()))
    site.process(site.drop("churn/a.csv"), report_key="", figures=figures)
    answer = site.client.get("/report", params={"object": site.token("churn/a.csv")})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert "&lt;script&gt;x" in answer.text
    assert "&lt;img src=x&gt;" in answer.text


# What it does


@pytest.mark.parametrize("force", [True, False])
def test_rerun_makes_the_object_pending_and_wakes_the_listener(site: Site, force: bool) -> None:
    site.process(site.drop("churn/a.csv"))
    token = site.token("churn/a.csv")
    assert site.client.post("/replay", json={"object": token, "force": force}).status_code == 204
    (found,) = site.ledger.find("raw", "churn/a.csv")
    assert (found.fate, found.force, found.reason) == (Fate.PENDING, force, "replayed")
    assert site.intake.arrived.is_set()
    assert site.ask(search="a.csv")["counts"] == {"": {"pending": 1}}, "nothing remembered"
    again = site.client.post("/replay", json={"object": token, "force": True})
    assert (again.status_code, "it is pending" in again.text) == (409, True)


def test_only_the_newest_version_of_a_known_dataset_is_replayed(site: Site) -> None:
    old = site.drop("churn/a.csv", b"1")
    site.settle(old, Fate.PROCESSED, "done")
    token = site.token("churn/a.csv")
    site.drop("churn/a.csv", b"2")
    assert site.client.post("/replay", json={"object": token}).status_code == 409
    site.see("elsewhere/b.csv")
    site.ledger.ignore(site.ledger.find("raw", "elsewhere/b.csv"), "outside every dataset")
    assert site.client.post("/replay", json={"object": site.token("elsewhere/b.csv")}).status_code == 409
    assert site.client.post("/replay", content=b"[1]").status_code == 400


def test_explain_tells_the_story_in_printable_lines(site: Site) -> None:
    site.process(site.drop("churn/a\u202eb.csv"))
    told = site.client.get("/explain", params={"object": site.token("churn/a")}).json()
    assert told["object"] == "s3://raw/churn/a%E2%80%AEb.csv"
    assert told["fate"] == "processed"
    lines = [line["what"] for line in told["story"]]
    assert any(line.startswith("receipt: processed") for line in lines)
    assert all(line.isprintable() for line in [*lines, *told["now"], told["next"]])


def put(site: Site, key: str, content: Any = b"x", dataset: str = "churn", **more: str) -> httpx.Response:
    query = urlencode({"dataset": dataset, "key": key, **more})
    return site.client.put(f"/upload?{query}", content=content)


def test_an_upload_arrives_in_the_datasets_folder_and_in_the_ledger(site: Site) -> None:
    content = b"0123456789abcdef" * 2**16 * 10  # more than one part
    assert put(site, "churn/new & ü.csv", content).status_code == 201
    ref, stored = site.store.get("raw", "churn/new & ü.csv")
    assert stored == content
    (found,) = site.ledger.find("raw", "churn/new & ü.csv")
    assert (found.ref.etag, found.fate, found.source) == (ref.etag, Fate.PENDING, "page")
    assert site.intake.arrived.is_set()


def test_what_is_there_is_replaced_only_when_asked_to(site: Site) -> None:
    assert put(site, "churn/a.csv", b"1").status_code == 201
    answer = put(site, "churn/a.csv", b"2")
    assert (answer.status_code, "there already" in answer.text) == (409, True)
    assert site.store.get("raw", "churn/a.csv")[1] == b"1"
    assert put(site, "churn/a.csv", b"2", replace="1").status_code == 201
    assert site.store.get("raw", "churn/a.csv")[1] == b"2"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("churn/a.png", "would not belong to churn, which takes raw/churn/**/*.csv"),
        ("taxi/a.csv", "would not belong to churn"),
        ("a.csv", "would not belong"),
        ("", "empty"),
        ("churn/../taxi/a.csv", ".. part"),
        ("churn//a.csv", "empty"),
        ("churn/a\\b.csv", "backslash"),
        ("churn/a\nb.csv", "control characters"),
        ("churn/\u202ea.csv", "control characters"),
        (f"churn/{'x' * 1100}.csv", "too long"),
    ],
)
def test_a_key_the_dataset_would_not_take_is_told_and_not_stored(site: Site, key: str, told: str) -> None:
    answer = put(site, key)
    assert (answer.status_code, told in answer.text) == (400, True), answer.text
    assert list(site.store.list("raw")) == []


def test_an_unknown_dataset_is_told(site: Site) -> None:
    answer = put(site, "churn/a.csv", dataset="chrun")
    assert (answer.status_code, "did you mean 'churn'" in answer.text) == (400, True)


def test_a_file_that_is_too_large_is_refused_whether_it_says_so_or_not(make_site: Make) -> None:
    site = make_site(page_upload_mib=1)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 2**20

    with served(site) as url:
        head = f"PUT /upload?dataset=churn&key=churn/a.csv HTTP/1.1\r\nHost: {LOOPBACK}\r\nX-Dropflow: 1\r\n"
        with socket.create_connection((LOOPBACK, int(url.rpartition(":")[2])), timeout=20) as connection:
            connection.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
            assert b" 413 " in connection.recv(100), "before any of the body"
        with suppress(httpx.WriteError):  # it may be cut off while it is still sending
            address = f"{url}/upload?dataset=churn&key=churn/a.csv"
            assert httpx.put(address, content=endless(), headers=OWN).status_code == 413
        assert taken < 60
    assert list(site.store.list("raw")) == []
    assert not site.store.client.list_multipart_uploads(Bucket="raw").get("Uploads")


def test_an_upload_that_is_cut_off_leaves_nothing(make_site: Make) -> None:
    site = make_site()

    def cut() -> Iterator[bytes]:
        yield b"x" * (20 * 2**20)
        raise RuntimeError("the browser was closed")

    with served(site) as url, pytest.raises(RuntimeError):
        httpx.put(f"{url}/upload?dataset=churn&key=churn/a.csv", content=cut(), headers=OWN)
    assert list(site.store.list("raw")) == []
    wait_until(lambda: not site.store.client.list_multipart_uploads(Bucket="raw").get("Uploads"))


def test_uploads_can_be_turned_off(make_site: Make) -> None:
    site = make_site(page_upload_mib=0)
    assert put(site, "churn/a.csv").status_code == 413
    assert site.client.get("/setup").json()["upload_bytes"] == 0


# Limits


def test_many_wrong_tokens_from_one_address_are_not_looked_at(
    make_site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listeners.page.app.WRONG_TOKEN_WAIT", 0)
    site = make_site(page_token=PAGE_TOKEN)

    def log_in(token: str, address: str = "192.0.2.1") -> httpx.Response:
        client = TestClient(site.app, base_url=f"http://{LOOPBACK}", headers=OWN, client=(address, 1))
        return client.post("/login", json={"token": token})

    assert [log_in(f"guess {n}").status_code for n in range(attempts.MOST)] == [403] * attempts.MOST
    refused = log_in(PAGE_TOKEN)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60"), "even the right one"
    assert log_in(PAGE_TOKEN, "192.0.2.2").status_code == 204, "others are let in"
    monkeypatch.setattr(attempts, "WITHIN", 0.0)
    assert log_in(PAGE_TOKEN).status_code == 204, "once they are long ago"


def test_no_more_addresses_are_remembered_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_ADDRESSES", 3)
    kept = attempts.Attempts()
    for number in range(10):
        for _ in range(attempts.MOST):
            kept.wrong(f"192.0.2.{number}")
    assert [n for n in range(10) if kept.too_many(f"192.0.2.{n}")] == [7, 8, 9]


def test_one_address_does_not_take_all_connections(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listeners.http.MOST_OF_ONE", 5)
    with served(site) as url, ExitStack() as held:
        elsewhere = held.enter_context(connected(url, "127.0.0.2"))
        silent = [held.enter_context(connected(url)) for _ in range(8)]
        assert [is_cut_off(connection) for connection in silent[:3]] == [True] * 3, "the first make room"
        assert [answer_to(connection) for connection in (*silent[3:], elsewhere)] == [200] * 6


def test_who_has_signed_in_keeps_the_connection(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listeners.http.MOST_ANONYMOUS", 3)
    monkeypatch.setattr("listeners.http.MOST_AUTHENTICATED", 1)
    site = make_site(page_token=PAGE_TOKEN)
    given = site.client.post("/login", json={"token": PAGE_TOKEN}).headers["set-cookie"]
    cookie = f"Cookie: {given.partition(';')[0]}\r\n"
    with served(site) as url, ExitStack() as held:
        known, beyond, stranger = (held.enter_context(connected(url)) for _ in range(3))
        assert [answer_to(one, "/setup", cookie) for one in (known, beyond)] == [200, 200]
        assert answer_to(stranger, "/setup") == 401
        for number in range(5):
            held.enter_context(connected(url, f"127.0.0.{number + 2}"))
        assert is_cut_off(stranger)
        assert is_cut_off(beyond), "those who know the token take no room of those who do not"
        assert answer_to(known, "/setup", cookie) == 200


def connected(url: str, address: str = LOOPBACK) -> socket.socket:
    connection = socket.create_connection(
        (LOOPBACK, int(url.rpartition(":")[2])), timeout=5, source_address=(address, 0)
    )
    connection.settimeout(5)
    return connection


def answer_to(connection: socket.socket, path: str = "/healthz", headers: str = "") -> int:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n{headers}\r\n".encode())
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_who_does_not_read_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listeners.http.SLOWEST_READER", 0.5)
    ref = site.drop("churn/a.csv")
    site.process(ref, prepared=b"x" * 40 * 2**20)
    token = site.token(ref.key)
    with served(site) as url, socket.create_connection((LOOPBACK, int(url.rpartition(":")[2]))) as connection:
        connection.sendall(f"GET /output?object={token} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        time.sleep(2)
        taken = 0
        with suppress(ConnectionError):
            while chunk := connection.recv(2**20):
                taken += len(chunk)
        assert taken < 40 * 2**20
        assert httpx.get(f"{url}/healthz").status_code == 200


def is_cut_off(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
