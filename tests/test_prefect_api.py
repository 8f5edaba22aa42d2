"""What the listener makes of a Prefect API's answers, the wrong ones above all."""

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from dropflow.errors import EventRefusedError, PermanentError, TransientError
from dropflow.prefect_api import PAGE, PrefectApi, Run, connect_prefect
from dropflow.prefect_env import prefect_environment
from dropflow.settings import Settings

NOW = datetime.now(UTC)


def api(answer: Callable[[httpx.Request], httpx.Response]) -> PrefectApi:
    return PrefectApi(httpx.Client(base_url="http://prefect/api", transport=httpx.MockTransport(answer)))


def run(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "parameters": {"keys": [f"churn/{number}.csv"]},
        "state_type": "RUNNING",
        "state_name": "Running",
        "state": {"message": None, "timestamp": NOW.isoformat()},
        "expected_start_time": NOW.isoformat(),
        **changes,
    }


def test_a_server_with_a_password_is_sent_it_by_both_clients() -> None:
    settings = Settings.model_validate(
        {"prefect_api_url": "http://prefect/api", "prefect_auth": "admin:pass:wörd"}
    )
    http = connect_prefect(settings).http
    assert isinstance(http.auth, httpx.BasicAuth)
    sent = next(http.auth.auth_flow(httpx.Request("GET", "http://prefect/api")))
    encoded = b64encode("admin:pass:wörd".encode()).decode()
    assert sent.headers["authorization"] == f"Basic {encoded}"
    assert prefect_environment(settings)["PREFECT_API_AUTH_STRING"] == "admin:pass:wörd"
    without = Settings(prefect_api_url="http://prefect/api")
    assert connect_prefect(without).http.auth is None
    assert "PREFECT_API_AUTH_STRING" not in prefect_environment(without)


def test_links_lead_to_the_ui_as_people_reach_it() -> None:
    inside = {"prefect_api_url": "http://prefect:4200/api"}
    outside = {"prefect_ui_url": "https://flows.example.com/"}
    assert Settings.model_validate(inside).run_url("1") == "http://prefect:4200/v2/runs/flow-run/1"
    settings = Settings.model_validate({**inside, **outside})
    assert settings.run_url("1") == "https://flows.example.com/runs/flow-run/1"
    assert prefect_environment(settings)["PREFECT_UI_URL"] == "https://flows.example.com"


def test_a_wrong_password_is_told_with_the_setting() -> None:
    closed = api(lambda _: httpx.Response(401))
    for ask in (closed.version, lambda: closed.post_events([{}])):
        with pytest.raises(PermanentError, match="DROPFLOW_PREFECT_AUTH"):
            ask()


def test_a_redirect_is_no_success() -> None:
    elsewhere = api(lambda _: httpx.Response(307, headers={"location": "https://prefect/api/events"}))
    with pytest.raises(PermanentError, match="answered 307"):
        elsewhere.post_events([{}])


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_event_is_told_from_a_refused_caller(status: int) -> None:
    with pytest.raises(EventRefusedError):
        api(lambda _: httpx.Response(status)).post_events([{}])
    with pytest.raises(PermanentError) as error:
        api(lambda _: httpx.Response(401)).post_events([{}])
    assert not isinstance(error.value, EventRefusedError)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"id": 1}]', b"[3]"])
def test_an_answer_of_something_else_is_told(body: bytes) -> None:
    with pytest.raises(PermanentError, match="does not answer as a Prefect API does"):
        api(lambda _: httpx.Response(200, content=body)).runs_of("churn", NOW)


def test_runs_beyond_the_first_page_are_seen() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json="3.8.8")
        asked = json.loads(request.content)
        numbers = range(asked["offset"], min(asked["offset"] + asked["limit"], PAGE + 50))
        return httpx.Response(200, json=[run(number) for number in numbers])

    assert len(api(answer).runs_of("churn", NOW)) == PAGE + 50


@pytest.mark.parametrize("minutes", [-10, 0, 10])
def test_runs_are_asked_for_and_dated_whatever_prefect_takes_for_the_time(minutes: int) -> None:
    theirs = datetime.now(UTC) + timedelta(minutes=minutes)
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(json.loads(request.content)["flow_runs"]["expected_start_time"])
        times = {"expected_start_time": theirs.isoformat(), "state": {"timestamp": theirs.isoformat()}}
        body = [run(1, **times, state_type="PENDING")] if request.method == "POST" else "3.8.8"
        return httpx.Response(200, json=body, headers={"date": format_datetime(theirs, usegmt=True)})

    ours = datetime.now(UTC)
    (found,) = api(answer).runs_of("churn", ours)
    assert abs(found.expected - ours) < timedelta(seconds=5)
    assert found.at_work(timedelta(hours=1))
    for window in asked:
        assert datetime.fromisoformat(window["before_"]) > theirs
    assert abs(datetime.fromisoformat(asked[-1]["after_"]) - theirs) < timedelta(seconds=5)


def test_paused_datasets_beyond_the_first_page_are_seen() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        assert asked["deployments"] == {"paused": {"eq_": True}}
        numbers = range(asked["offset"], min(asked["offset"] + asked["limit"], PAGE + 50))
        return httpx.Response(200, json=[{"name": f"d{number}"} for number in numbers])

    assert len(api(answer).paused()) == PAGE + 50


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(200, json=[{}]), httpx.Response(404)])
def test_a_question_for_pauses_is_asked_once(answer: httpx.Response) -> None:
    asked = []

    def count(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer

    with pytest.raises((TransientError, PermanentError)):
        api(count).paused()
    assert len(asked) == 1


def test_pausing_what_is_paused_changes_nothing() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={"id": "1", "paused": True})

    assert api(answer).set_paused("churn", paused=True) is False
    assert api(answer).set_paused("churn", paused=False) is True
    assert paths[-1] == "/api/deployments/1/resume_deployment"
    with pytest.raises(PermanentError, match="has `dropflow apply` been run"):
        api(lambda _: httpx.Response(404)).set_paused("churn", paused=True)


@pytest.mark.parametrize(
    ("kind", "age", "at_work"),
    [
        ("SCHEDULED", timedelta(days=2), True),
        ("PENDING", timedelta(seconds=30), True),
        ("PENDING", timedelta(minutes=2), False),
        ("RUNNING", timedelta(minutes=30), True),
        ("RUNNING", timedelta(hours=2), False),
        ("COMPLETED", timedelta(0), False),
        ("CRASHED", timedelta(0), False),
    ],
)
def test_how_long_a_run_is_believed_to_be_at_work(kind: str, age: timedelta, at_work: bool) -> None:
    state = {"message": "", "timestamp": (datetime.now(UTC) - age).isoformat()}
    found = Run.of(run(1, state_type=kind, state=state))
    assert found.at_work(timedelta(hours=1)) is at_work


def test_a_run_whose_job_variables_give_it_longer_is_believed_longer() -> None:
    state = {"message": "", "timestamp": (datetime.now(UTC) - timedelta(hours=2)).isoformat()}
    long = run(1, state_type="RUNNING", state=state, job_variables={"minutes": 180})
    assert Run.of(long).at_work(timedelta(hours=1))
