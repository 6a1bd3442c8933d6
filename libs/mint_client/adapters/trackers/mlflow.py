"""MLflow by its REST API (docs/adr/0032): runs of one experiment, and its model registry."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from mint_client.core.refusals import TrackerAwayError, TrackerRefusedError
from mint_client.core.tracking import TrackedModel, TrackedRun, TrackedVersion, missing

T = TypeVar("T")
_SECONDS = 30.0
_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
_TROUBLE = (401, 403, 408, 429, 502, 503, 504)
"""Answers about the server or the login, and not about one run."""
_MAX_METRICS, _MAX_FIELDS, _MAX_PAGE, _MAX_TEXT = 1000, 100, 25_000, 500
"""MLflow's limits of a request, and the length of a parameter that every version of it takes."""
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
JOB_TAG, REVISION_TAG, POLICY_TAG = "mint.job_id", "mint.revision", "mint.policy_id"


@dataclass(slots=True, kw_only=True)
class _Known:
    """A run of this process: what MLflow has of it."""

    run_id: str
    logged: set[tuple[str, int]]
    tags: Mapping[str, str] = field(default_factory=dict)


class MlflowTracker:
    """Asks MLflow what it has, and sends the rest. Satisfies `Tracker`."""

    def __init__(self, url: str, project: str, environ: Mapping[str, str]) -> None:
        """Connect later. ``environ`` may have MLflow's own variables of a login."""
        self._url = url.rstrip("/")
        self._project = project
        token, user = environ.get("MLFLOW_TRACKING_TOKEN"), environ.get("MLFLOW_TRACKING_USERNAME")
        self._http = httpx.Client(
            base_url=f"{self._url}/api/2.0/mlflow",
            headers={"authorization": f"Bearer {token}"} if token else {},
            auth=(user, environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            timeout=_SECONDS,
        )
        self._experiment_id = ""
        self._runs: dict[str, _Known] = {}
        self._versions: dict[str, dict[int, str]] = {}

    def record(self, run: TrackedRun) -> None:
        """Send the points, parameters and tags of a run that MLflow does not have."""
        try:
            self._send(run, self._runs.get(run.job_id) or self._opened(run))
        except TrackerRefusedError:
            # Somebody may have deleted it there.
            self._runs.pop(run.job_id, None)
            self._experiment_id = ""
            raise
        if run.is_ended:
            self._runs.pop(run.job_id)

    def register(self, model: TrackedModel) -> None:
        """Create the versions that the registry does not have, and set aliases."""
        found = self._model(model)
        known = self._versions.get(model.name) or self._read_versions(model.name)
        self._versions[model.name] = known
        for version in model.versions:
            if version.number not in known:
                known[version.number] = self._add_version(model, version)
        pointing = {each["alias"]: str(each["version"]) for each in found.get("aliases", ())}
        for version in model.versions:
            for alias in map(_alias, version.aliases):
                if pointing.get(alias) != known[version.number]:
                    body = {"name": model.name, "alias": alias, "version": known[version.number]}
                    self._post("registered-models/alias", body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, run: TrackedRun, known: _Known) -> None:
        scalars = [replace(each, name=_key(each.name)) for each in run.scalars]
        for part in _parts(missing(scalars, known.logged), _MAX_METRICS):
            metrics = [
                {
                    "key": each.name,
                    "value": each.value,
                    "step": each.step,
                    "timestamp": _milliseconds(each.at or run.started_at),
                }
                for each in part
            ]
            self._post("runs/log-batch", {"run_id": known.run_id, "metrics": metrics})
            known.logged |= {(each.name, each.step) for each in part}
        tags = {**run.tags, JOB_TAG: run.job_id, "mlflow.note.content": run.notes}
        if tags != known.tags:
            self._post("runs/log-batch", {"run_id": known.run_id, "tags": _pairs(tags)})
            known.tags = tags
        if run.is_ended:
            ended = {"status": _STATUS[run.state], "end_time": _milliseconds(run.finished_at or 0.0)}
            self._post("runs/update", {"run_id": known.run_id, **ended})

    def _opened(self, run: TrackedRun) -> _Known:
        """Return a run that MLflow has, or a new one, with its parameters."""
        run_id = self._find_run(run.job_id)
        if not run_id:
            body = {
                "experiment_id": self._experiment(),
                "run_name": run.name,
                "start_time": _milliseconds(run.started_at),
                "tags": _pairs({JOB_TAG: run.job_id}),
            }
            run_id = self._post("runs/create", body)["run"]["info"]["run_id"]
        for part in _parts(_pairs(run.config), _MAX_FIELDS):
            self._post("runs/log-batch", {"run_id": run_id, "params": part})
        known = _Known(run_id=run_id, logged=set(self._read_logged(run_id)))
        self._runs[run.job_id] = known
        return known

    def _find_run(self, job_id: str) -> str:
        body = {
            "experiment_ids": [self._experiment()],
            "filter": f"tags.`{JOB_TAG}` = '{job_id}'",
            "max_results": 1,
        }
        found = self._post("runs/search", body).get("runs", ())
        return next((each["info"]["run_id"] for each in found), "")

    def _read_logged(self, run_id: str) -> Iterator[tuple[str, int]]:
        run = self._get("runs/get", run_id=run_id)["run"]
        for key in {metric["key"] for metric in run["data"].get("metrics", ())}:
            for page in self._pages("metrics/get-history", run_id=run_id, metric_key=key):
                yield from ((key, int(metric["step"])) for metric in page.get("metrics", ()))

    def _experiment(self) -> str:
        if not self._experiment_id:
            try:
                found = self._get("experiments/get-by-name", experiment_name=self._project)["experiment"]
            except _NotThereError:
                found = self._post("experiments/create", {"name": self._project})
            self._experiment_id = found["experiment_id"]
        return self._experiment_id

    def _model(self, model: TrackedModel) -> dict[str, Any]:  # MLflow's JSON
        """Return a registered model, new if it is not there. Raises TrackerRefusedError for another's."""
        try:
            found = self._get("registered-models/get", name=model.name)["registered_model"]
        except _NotThereError:
            tags = _pairs({POLICY_TAG: model.policy_id, "mint.base": model.base})
            body = {"name": model.name, "tags": tags}
            return dict(self._post("registered-models/create", body)["registered_model"])
        if {"key": POLICY_TAG, "value": model.policy_id} not in found.get("tags", ()):
            problem = f"its model {model.name} is not of this policy; rename or delete it there"
            raise TrackerRefusedError(tracker=self._url, problem=problem)
        return dict(found)

    def _read_versions(self, name: str) -> dict[int, str]:
        """Return the version of each revision that is registered."""
        found = {}
        for page in self._pages("model-versions/search", filter=f"name='{name}'", _limit=1000):
            for version in page.get("model_versions", ()):
                tags = {tag["key"]: tag["value"] for tag in version.get("tags", ())}
                found[int(tags.get(REVISION_TAG, 0))] = str(version["version"])
        return found

    def _add_version(self, model: TrackedModel, version: TrackedVersion) -> str:
        tags = {
            REVISION_TAG: version.number,
            "mint.digest": version.digest,
            "mint.parent": version.parent,
            "mint.adapter": version.url,
        }
        # MLflow refuses sources of schemes whose hosts it might connect to, such as http.
        source = f"mint://{version.url.partition('://')[2]}"
        body = {"name": model.name, "source": source, "tags": _pairs(tags)}
        known = self._runs.get(version.job_id)
        run_id = known.run_id if known else version.job_id and self._find_run(version.job_id)
        if run_id:
            body["run_id"] = run_id
        return str(self._post("model-versions/create", body)["model_version"]["version"])

    def _pages(self, path: str, *, _limit: int = _MAX_PAGE, **query: str) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            page = self._get(path, **query, max_results=_limit, **({"page_token": token} if token else {}))
            yield page
            token = page.get("next_page_token", "")
            if not token:
                return

    def _get(self, path: str, **query: str | int) -> dict[str, Any]:  # MLflow's JSON
        return self._ask("GET", path, params=query)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:  # httpx's own
        try:
            response = self._http.request(method, f"/{path}", **more)
            told = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._away(str(error) or type(error).__name__) from error
        except ValueError as error:
            raise self._away(f"{response.status_code} is no answer of MLflow") from error
        if response.is_success and isinstance(told, dict):
            return told
        code, message = told.get("error_code", ""), str(told.get("message", response.status_code))
        if response.status_code in _TROUBLE:
            raise self._away(message)
        kind = _NotThereError if code == _NOT_THERE else TrackerRefusedError
        raise kind(tracker=f"MLflow at {self._url}", problem=message)

    def _away(self, problem: str) -> TrackerAwayError:
        return TrackerAwayError(tracker=f"MLflow at {self._url}", problem=problem)


class _NotThereError(TrackerRefusedError):
    """{tracker} does not have it: {problem}"""


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    yield from (items[first : first + size] for first in range(0, len(items), size))


def _pairs(fields: Mapping[str, object]) -> Sequence[dict[str, str]]:
    return [{"key": _key(name), "value": str(value)[:_MAX_TEXT]} for name, value in fields.items()]


def _key(name: str) -> str:
    """Return a name in the characters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)[:250]


def _alias(alias: str) -> str:
    """Return an alias in the characters that MLflow takes; it reserves ``latest`` and ``v1``."""
    is_reserved = alias == "latest" or re.fullmatch(r"v\d+", alias)
    return re.sub(r"[^\w-]", "_", f"alias-{alias}" if is_reserved else alias, flags=re.ASCII)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
