"""The few Prefect API calls that do not need Prefect's own client, over plain HTTP.

`import prefect` costs seconds and 150 MiB: the listener and `dropflow drop` do without.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, uuid4, uuid5

import httpx
from pydantic import SecretStr, TypeAdapter

from dropflow.clock import ahead_of_us, utc_now
from dropflow.errors import DropflowError, EventRefusedError, PermanentError, TransientError
from dropflow.objects import ObjectRef
from dropflow.retry import retry
from dropflow.settings import Settings
from dropflow.tls import trust, unreachable

OBJECT_CREATED, DATASET_PROCESSED = "object.created", "dataset.processed"
PAGE, MOST_PAGES = 200, 25
NOTIFICATION_BLOCK, NOTIFICATION_BLOCK_TYPE = "dropflow", "dropflow-notifications"
TIMEOUT, SHORT_TIMEOUT = 15.0, 3.0
"""Seconds. The short one is for what is asked again and again."""
REFUSALS = (400, 409, 413, 422)
"""Answers that are about this one event; others are about address or permission."""
T = TypeVar("T")
PERMANENT = ("Failed", "OutOfMemory", "TimedOut", "TooManyProcesses")
"""States of runs that would end the same way again."""


def object_created_event(
    dataset: str, refs: list[ObjectRef], *, event_id: str = "", force: bool = False
) -> dict[str, Any]:
    """The event an automation turns into a run: dataset and object references, never bytes.

    Prefect takes events of the same id, some minutes apart at most, for one.
    """
    payload = {
        "bucket": refs[0].bucket,
        "force": force,
        "objects": [{"key": r.key, "etag": r.etag, "size": r.size, "version_id": r.version_id} for r in refs],
    }
    return _event(OBJECT_CREATED, dataset, payload, event_id)


def dataset_processed_event(dataset: str, keys: list[str], run_id: str) -> dict[str, Any]:
    """The event an automation turns into a training run: the raw keys that were prepared.

    A run tells of the same keys once, however often it is tried.
    """
    event_id = str(uuid5(NAMESPACE_URL, json.dumps([DATASET_PROCESSED, run_id, sorted(keys)])))
    return _event(DATASET_PROCESSED, dataset, {"keys": keys, "run_id": run_id}, event_id)


def deadline_event(dataset: str, due: datetime, verdict: str) -> dict[str, Any]:
    """dataset.missing or dataset.punctual: a file was expected by `due`. One event, however often posted."""
    name = f"dataset.{verdict}"
    event_id = str(uuid5(NAMESPACE_URL, json.dumps([name, dataset, due.isoformat()])))
    return _event(name, dataset, {"due": due.isoformat()}, event_id)


def _event(name: str, dataset: str, payload: dict[str, Any], event_id: str) -> dict[str, Any]:
    return {
        "id": event_id or str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {
            "prefect.resource.id": f"dropflow.dataset.{dataset}",
            "prefect.resource.name": dataset,
        },
        "payload": {"dataset": dataset, **payload},
    }


@dataclass(frozen=True, slots=True)
class Run:
    """A flow run as far as delivery is concerned. Times are by our clock."""

    id: str
    keys: frozenset[str]
    type: str
    state: str
    message: str
    expected: datetime
    since: datetime
    """When it entered this state."""
    minutes: float = 0
    """It may take so long, where its job variables say so."""

    @classmethod
    def of(cls, run: dict[str, Any], ahead: timedelta = timedelta(0)) -> "Run":
        """`ahead`: by how much Prefect's clock is ahead of ours."""
        state = run.get("state") or {}
        expected = datetime.fromisoformat(run["expected_start_time"]) - ahead
        return cls(
            id=run["id"],
            keys=frozenset(str(key) for key in run.get("parameters", {}).get("keys") or ()),
            type=run.get("state_type") or "",
            state=run.get("state_name") or "",
            message=state.get("message") or "",
            expected=expected,
            since=datetime.fromisoformat(state["timestamp"]) - ahead if state.get("timestamp") else expected,
            minutes=_minutes((run.get("job_variables") or {}).get("minutes")),
        )

    @property
    def finished(self) -> bool:
        """Whether it came to its own end, good or bad, with every object looked at."""
        return self.type == "COMPLETED" or self.state in ("Rejected", "Failed")

    @property
    def interrupted(self) -> bool:
        """Whether store or keys kept it from its work."""
        return self.state == "Interrupted"

    @property
    def ended(self) -> bool:
        return self.type in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def at_work(self, patience: timedelta) -> bool:
        """Whether it may still bring receipts: a worker that was killed leaves its runs as they were."""
        patience = max(patience, timedelta(minutes=self.minutes))
        longest = {"PENDING": timedelta(minutes=1), "RUNNING": patience, "CANCELLING": patience}
        return not self.ended and (self.type not in longest or utc_now() - self.since < longest[self.type])


def _minutes(value: object) -> float:
    """What somebody has written into a form: a week at most."""
    return min(float(value), 7 * 24 * 60.0) if isinstance(value, int | float) and value > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PrefectApi:
    """A client for one Prefect API. Methods raise TransientError once retries are used up."""

    http: httpx.Client

    @retry
    def post_events(self, events: list[dict[str, Any]]) -> None:
        """Post events; the 204 says they were received, not that they are kept."""
        self._post("/events", events)

    @retry
    def version(self) -> tuple[str, datetime]:
        """The server's version and its own time, in whole seconds. Raises TransientError, PermanentError."""
        answer = self._answer("/admin/version")
        date = answer.headers.get("date")
        try:
            version = _VERSION.validate_json(answer.content)
        except ValueError as error:
            raise PermanentError(f"{answer.url} does not answer as a Prefect API does") from error
        return version, parsedate_to_datetime(date) if date else datetime.now(UTC)

    def _ahead(self) -> timedelta:
        """By how much Prefect's clock, which dates runs, is ahead of ours; 0 when it does not say."""
        return ahead_of_us(self._answer("/admin/version").headers.get("date"))

    @retry
    def workers_online(self, work_pool: str) -> tuple[list[str], bool]:
        """Names of its workers with a heartbeat of late, and whether the pool is paused."""
        is_paused = bool(self._get(f"/work_pools/{work_pool}")["is_paused"])
        workers = self._post(f"/work_pools/{work_pool}/workers/filter", {})
        online = _rows(workers, lambda row: str(row["name"]) if row["status"] == "ONLINE" else "")
        return [name for name in online if name], is_paused

    @retry
    def runs_tagged(self, tag: str, since: datetime) -> list[dict[str, Any]]:
        """Flow runs with this tag expected since then, the latest first."""
        body = {
            "flow_runs": {
                "tags": {"all_": [tag]},
                "expected_start_time": {"after_": since.isoformat()},
            },
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": 5,
        }
        runs: list[dict[str, Any]] = self._post("/flow_runs/filter", body).json()
        return runs

    @retry
    def runs_of(self, dataset: str, since: datetime) -> list["Run"]:
        """The dataset's preprocessing runs expected since then, the latest first, and all at work.

        Raises TransientError or PermanentError.
        """
        ahead = self._ahead()
        since, soon = since + ahead, utc_now() + ahead + timedelta(minutes=1)
        body: dict[str, Any] = {
            "flows": {"name": {"any_": ["preprocess"]}},
            "deployments": {"name": {"any_": [dataset]}},
            "sort": "EXPECTED_START_TIME_DESC",
        }
        recent = {"expected_start_time": {"after_": since.isoformat(), "before_": soon.isoformat()}}
        at_work = {
            "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"]}},
            "expected_start_time": {"before_": soon.isoformat()},
        }
        found: dict[str, Run] = {}
        of = partial(Run.of, ahead=ahead)
        for chosen in (at_work, recent):
            runs = self._all("/flow_runs/filter", {**body, "flow_runs": chosen}, of)
            found |= {run.id: run for run in runs}
        return list(found.values())

    @retry
    def channel_urls(self) -> SecretStr | None:
        """The Apprise URLs in the notification block, whoever filled it; None when there is no block."""
        body = {
            "block_documents": {"name": {"any_": [NOTIFICATION_BLOCK]}},
            "block_types": {"slug": {"any_": [NOTIFICATION_BLOCK_TYPE]}},
            "include_secrets": True,
        }
        answer = self._post("/block_documents/filter", body)
        return next(iter(_rows(answer, lambda row: SecretStr(str(row["data"]["urls"])))), None)

    @retry
    def run_form(self, dataset: str) -> str:
        """Path of the UI's form in which the dataset's deployment is run by hand."""
        return f"/deployments/deployment/{self._get(f'/deployments/name/preprocess/{dataset}')['id']}/run"

    def paused(self) -> frozenset[str]:
        """The datasets whose deployment preprocess/<dataset> is paused. Not tried again when it fails.

        Prefect itself only stops schedules then: automations still start runs.
        Raises TransientError or PermanentError.
        """
        return self._deployments({"paused": {"eq_": True}})

    def deployed(self) -> frozenset[str]:
        """The datasets that have a deployment preprocess/<dataset>. Not tried again when it fails.

        Raises TransientError or PermanentError.
        """
        return self._deployments({})

    def _deployments(self, like: dict[str, Any]) -> frozenset[str]:
        body = {"flows": {"name": {"any_": ["preprocess"]}}, "deployments": like}
        return frozenset(self._all("/deployments/filter", body, lambda row: str(row["name"]), SHORT_TIMEOUT))

    @retry
    def set_paused(self, dataset: str, *, paused: bool) -> bool:
        """Pause or resume preprocess/<dataset>; whether it was not so before.

        Raises TransientError, or PermanentError when there is no such deployment.
        """
        found = self._get(f"/deployments/name/preprocess/{dataset}")
        if found["paused"] == paused:
            return False
        self._post(f"/deployments/{found['id']}/{'pause' if paused else 'resume'}_deployment", {})
        return True

    def create_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Have a deployment, given as flow/name, run now with these parameters; the run's id.

        Raises TransientError, or PermanentError when there is none, or it has no such parameters.
        """
        return self._create_run(deployment, parameters, str(uuid4()))

    @retry
    def _create_run(self, deployment: str, parameters: dict[str, Any], once: str) -> str:
        found = self._get(f"/deployments/name/{deployment}")
        body = {
            "parameters": {**found["parameters"], **parameters},
            "state": {"type": "SCHEDULED"},
            # The answer to an earlier attempt may have been lost.
            "idempotency_key": once,
        }
        run: str = self._post(f"/deployments/{found['id']}/create_flow_run", body).json()["id"]
        return run

    def _get(self, path: str) -> Any:
        return self._answer(path).json()

    def _answer(self, path: str) -> httpx.Response:
        try:
            answer = self.http.get(path)
        except httpx.RequestError as error:
            raise unreachable(f"Prefect API {self.http.base_url}", error) from error
        if answer.is_success:
            return answer
        if answer.status_code < 500 and answer.status_code != 401:
            raise PermanentError(
                f"Prefect API answered {answer.status_code} to GET {path}: has `dropflow apply` been run?"
            )
        raise refused(answer, f"GET {path}")

    def _all(
        self, path: str, body: dict[str, Any], of: Callable[[dict[str, Any]], T], timeout: float = TIMEOUT
    ) -> Iterator[T]:
        """Page after page, MOST_PAGES at most."""
        for page in range(MOST_PAGES):
            asked = {**body, "limit": PAGE, "offset": page * PAGE}
            found = _rows(self._post(path, asked, timeout), of)
            yield from found
            if len(found) < PAGE:
                return

    def _post(self, path: str, body: Any, timeout: float = TIMEOUT) -> httpx.Response:
        try:
            answer = self.http.post(path, json=body, timeout=timeout)
        except httpx.RequestError as error:
            raise unreachable(f"Prefect API {self.http.base_url}", error) from error
        if answer.is_success:
            return answer
        refusal = refused(answer, f"POST {path}")
        raise EventRefusedError(str(refusal)) if answer.status_code in REFUSALS else refusal


def refused(answer: httpx.Response, asked: str) -> DropflowError:
    """What an answer means that is none of success."""
    told = f"Prefect API answered {answer.status_code} to {asked}"
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        return TransientError(told)
    if answer.status_code == 401:
        return PermanentError(
            f"the Prefect API lets nobody in without its password ({answer.url}): "
            "set DROPFLOW_PREFECT_AUTH to the server's PREFECT_SERVER_API_AUTH_STRING"
        )
    return PermanentError(f"{told}: {answer.text[:300]}")


_ROWS, _VERSION = TypeAdapter(list[dict[str, Any]]), TypeAdapter(str)


def _rows(answer: httpx.Response, of: Callable[[dict[str, Any]], T]) -> list[T]:
    try:
        return [of(row) for row in _ROWS.validate_json(answer.content)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"{answer.url} does not answer as a Prefect API does: {error!r:.300}") from error


def connect_prefect(settings: Settings) -> PrefectApi:
    """Open the API that the settings name. Raises SettingsError."""
    auth = settings.prefect_auth
    user, _, password = auth.get_secret_value().partition(":") if auth else ("", "", "")
    return PrefectApi(
        httpx.Client(
            base_url=settings.prefect_api,
            auth=httpx.BasicAuth(user, password) if auth else None,
            verify=trust(settings.ca_file),
            timeout=TIMEOUT,
        )
    )


def key_tag(key: str) -> str:
    """The tag a run carries for each of its objects."""
    return f"key:{key}"
