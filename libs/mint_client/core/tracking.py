"""Jobs as runs of an experiment tracker, policies as its registered models.

Projections of the gateway's JSON. A run is whole each time it is made: a tracker logs what it lacks.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from mint_client.core.job_curves import Scalar, scalars_of
from mint_client.core.jobs import TERMINAL


class TrackerKind(StrEnum):
    """The trackers that there is an adapter for."""

    MLFLOW = "mlflow"
    WANDB = "wandb"
    TRACKIO = "trackio"
    TENSORBOARD = "tensorboard"


NOT_STARTED = "submitted"
Field = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedVersion:
    """A revision, the aliases that point at it, and where its adapter is downloaded."""

    number: int
    digest: str
    parent: str
    job_id: str
    url: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A job as a run.

    ``config`` has its settings, with keys as ``outer.inner``; ``tags`` its state and lineage; ``links`` the
    addresses of what it made. ``destination`` is what the job's own request says of its run at W&B.
    """

    job_id: str
    policy: str
    state: str
    started_at: float
    finished_at: float | None
    config: Mapping[str, Field]
    tags: Mapping[str, str]
    links: Mapping[str, str]
    scalars: tuple[Scalar, ...]
    versions: tuple[TrackedVersion, ...]
    destination: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return a name for people."""
        return f"{self.policy}-{self.job_id[-6:]}"

    @property
    def is_ended(self) -> bool:
        """Return whether its job has ended."""
        return self.state in TERMINAL

    @property
    def notes(self) -> str:
        """Return its links as Markdown."""
        return "\n".join(f"- [{name}]({link})" for name, link in self.links.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedModel:
    """A policy as a registered model."""

    policy_id: str
    name: str
    base: str
    versions: Sequence[TrackedVersion]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFacts:
    """A policy's base, scores from the oldest and aliases, as the gateway at ``url`` has them."""

    url: str
    base: Mapping[str, Any]
    scores: Sequence[Mapping[str, Any]] = ()
    aliases: Sequence[Mapping[str, Any]] = ()

    def pointing_at(self, number: int) -> tuple[str, ...]:
        """Return the aliases of a revision."""
        return tuple(each["alias"] for each in self.aliases if each["revision"]["number"] == number)


def run_of(job: Mapping[str, Any], facts: PolicyFacts) -> TrackedRun:
    """Return the run of a job from its JSON."""
    url, policy = facts.url, str(job["policy"])
    made = [step for step in job["steps"] if step.get("published_at") is not None]
    revisions = [{**step["revision"], "parent": step["sampled"], "job_id": job["job_id"]} for step in made]
    links = {"job": f"{url}/mint/v1/jobs/{job['job_id']}"}
    if job.get("result"):
        links["result"] = _revision_url(url, policy, job["result"]["number"])
    fine_tuning = job.get("fine_tuning") or {}
    wandb = next((each.get("wandb") for each in fine_tuning.get("integrations") or ()), None)
    return TrackedRun(
        job_id=job["job_id"],
        policy=policy,
        state=job["state"],
        started_at=job.get("started_at") or job["created_at"],
        finished_at=job.get("finished_at"),
        config=dict(flat({**job["spec"], **_request(fine_tuning)})),
        tags=_tags(job, facts),
        links=links,
        scalars=(*scalars_of(made), *_scores(job["job_id"], made, facts.scores)),
        versions=_versions(policy, revisions, facts),
        destination=wandb or {},
    )


def _request(fine_tuning: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fine_tuning.get(name) for name in ("model", "metadata", "lora")}


def _tags(job: Mapping[str, Any], facts: PolicyFacts) -> dict[str, str]:
    """Return the state and the lineage of a job; what it lacks is left out."""
    result, data = job.get("result") or {}, job["spec"].get("data") or {}
    first: Mapping[str, Any] = next(iter(job["steps"]), {})
    evaluation = (data.get("evaluation") or {}).get("file") or {}
    told = {
        "state": job["state"],
        "reason": job.get("reason"),
        "policy": job["policy"],
        "policy_id": job["policy_id"],
        "base": job["base"],
        "base_digest": facts.base.get("digest"),
        "task": job["spec"].get("task"),
        "training_file": (data.get("training") or {}).get("file_id"),
        "validation_file": evaluation.get("file_id"),
        "parent": first.get("sampled"),
        "result": result.get("digest"),
        "result_number": result.get("number"),
    }
    return {f"mint.{name}": str(value) for name, value in told.items() if value not in (None, "")}


def _scores(
    job_id: str, made: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]
) -> Iterator[Scalar]:
    """Yield the newest score of each suite and metric of each revision that a job made, not its own again."""
    steps = {step["revision"]["number"]: step["step"] for step in made}
    newest = {
        (f"eval/{score['suite']}/{score['metric']}", steps[score["number"]]): score
        for score in scores
        if score["number"] in steps and score["suite"] != f"job:{job_id}"
    }
    for (name, step), score in newest.items():
        yield Scalar(name=name, step=step, value=score["value"], at=score["created_at"])


def model_of(
    policy: Mapping[str, Any], revisions: Sequence[Mapping[str, Any]], facts: PolicyFacts
) -> TrackedModel:
    """Return the registered model of a policy from its JSON."""
    return TrackedModel(
        policy_id=policy["policy_id"],
        name=policy["name"],
        base=policy["base"],
        versions=_versions(policy["name"], revisions, facts),
    )


def _versions(
    policy: str, revisions: Sequence[Mapping[str, Any]], facts: PolicyFacts
) -> tuple[TrackedVersion, ...]:
    return tuple(
        TrackedVersion(
            number=each["number"],
            digest=each["digest"],
            parent=each["parent"] or "",
            job_id=each["job_id"] or "",
            url=_revision_url(facts.url, policy, each["number"]),
            aliases=facts.pointing_at(each["number"]),
        )
        for each in revisions
    )


def _revision_url(url: str, policy: str, number: int) -> str:
    return f"{url}/mint/v1/policies/{policy}/revisions/{number}/adapter.tar"


def flat(fields: Mapping[str, Any], *, within: str = "") -> Iterator[tuple[str, Field]]:
    """Yield the fields of nested objects as ``outer.inner``, lists in one line; empty ones are left out."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flat(value, within=f"{within}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{within}{name}", ", ".join(map(str, value))
        elif value not in (None, ""):
            yield f"{within}{name}", value if isinstance(value, str | int | float) else str(value)


def missing(scalars: Iterable[Scalar], logged: Collection[tuple[str, int]]) -> list[Scalar]:
    """Return the scalars whose name and step are not logged yet, in the order of their steps."""
    lacking = [each for each in scalars if (each.name, each.step) not in logged]
    return sorted(lacking, key=lambda each: (each.step, each.name))


def rows_of(scalars: Sequence[Scalar]) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yield (step, time, values by name) of scalars in the order of their steps."""
    for step, found in groupby(scalars, key=lambda each: each.step):
        row = list(found)
        yield step, max(each.at or 0.0 for each in row), {each.name: each.value for each in row}
