"""What the chart makes of values: objects, and the pods among them."""

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/mint"
NAMESPACE = "models"
Object = Mapping[str, Any]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A release and its values, installed or upgraded."""

    values: Values
    release: str = "mint"
    is_upgrade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Its objects and what the linter says, or why there are none."""

    objects: Sequence[Object] = ()
    lint: Sequence[str] = ()
    error: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """The pods of one template: ``owner`` is the name of the set, ``role`` says which of its templates."""

    owner: str
    kind: str
    role: str
    template: Object

    @property
    def labels(self) -> Mapping[str, str]:
        """Return their labels."""
        return dict(self.template["metadata"].get("labels", {}))

    @property
    def spec(self) -> Object:
        """Return what they run."""
        return dict(self.template["spec"])

    @property
    def service(self) -> str:
        """Return which service they are of."""
        return self.labels["app.kubernetes.io/component"]


def example(name: str, **changes: object) -> Values:
    """Return the values of an example, with the values at some paths (dots are ``__``) changed."""
    values: Values = yaml.safe_load((CHART / f"ci/{name}-values.yaml").read_text())
    for path, value in changes.items():
        found, *keys = values, *path.split("__")
        for key in keys[:-1]:
            found = found.setdefault(key, {})
        found[keys[-1]] = copy.deepcopy(value)
    return values


def render(cases: Sequence[Case]) -> list[Answer]:
    """Return what Helm makes of each case; skips the test where its SDK is missing."""
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("helm-python-sdk is not installed: make test-chart installs it")
    asked = {
        "chart": str(CHART),
        "cases": [{**asdict(case), "namespace": NAMESPACE} for case in cases],
    }
    worker = [sys.executable, str(Path(__file__).with_name("helm_worker.py"))]
    done = subprocess.run(worker, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [_read(each) for each in json.loads(done.stdout)]


def _read(answer: Mapping[str, Any]) -> Answer:
    if "error" in answer:
        return Answer(error=answer["error"])
    files = {Path(name).name: text for name, text in answer["files"].items()}
    notes = files.pop("NOTES.txt", "")
    objects = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    return Answer(objects=objects, lint=[str(each) for each in answer["lint"]], notes=notes)


def pods_of(objects: Sequence[Object]) -> Iterator[Pods]:
    """Yield every template of pods, and pods that stand for themselves."""
    for one in objects:
        kind, name = one["kind"], one["metadata"]["name"]
        if kind in {"Deployment", "StatefulSet", "Job"}:
            yield Pods(owner=name, kind=kind, role="", template=one["spec"]["template"])
        elif kind == "LeaderWorkerSet":
            for role in ("leader", "worker"):
                template = one["spec"]["leaderWorkerTemplate"][f"{role}Template"]
                yield Pods(owner=name, kind=kind, role=role, template=template)
        elif kind == "Pod":
            yield Pods(owner=name, kind=kind, role="", template=one)


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Return the objects of some kinds."""
    return [one for one in objects if one["kind"] in kinds]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a selector by equal labels takes a pod."""
    return selector.items() <= labels.items()
