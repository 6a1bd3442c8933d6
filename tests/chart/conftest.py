"""The matrix of values that the chart is rendered with."""

from collections.abc import Mapping

import pytest
from chart.rendering import Answer, Case, example, render

MATRIX = {
    "small": Case(values=example("small")),
    "gpus": Case(values=example("gpus"), release="training"),
    "nodes": Case(values=example("nodes")),
    "no bases": Case(values=example("small", bases={})),
    "served only": Case(values=example("small", bases__tiny={"path": "/bases/tiny", "engines": {"cpu": {}}})),
    "trained only": Case(values=example("small", bases__tiny={"path": "/bases/tiny", "trainer": {}})),
    "nothing optional": Case(
        values=example(
            "gpus", networkPolicy__enabled=False, podDisruptionBudgets=False, migrations=False, test=False
        )
    ),
    "environments": Case(
        values=example("small", rollout__environments={"claim": "envs", "namespaces": True})
    ),
    "every part placed": Case(
        values=example(
            "small",
            **{
                part: {
                    "nodeSelector": {"disk": "fast"},
                    "tolerations": [
                        {"key": "only", "operator": "Equal", "value": "mint", "effect": "NoExecute"}
                    ],
                    "affinity": {"nodeAffinity": {}},
                    "priorityClassName": "high",
                    "podLabels": {"team": "models"},
                    "podAnnotations": {"note": "yes"},
                    "env": {"TZ": "UTC"},
                    "resources": {"requests": {"cpu": 1}},
                }
                for part in ("gateway", "registry", "rollout", "engineDefaults", "trainerDefaults")
            },
            engineDefaults__runtimeClassName="nvidia",
            engineDefaults__cacheStorageClass="fast",
        )
    ),
}


@pytest.fixture(scope="session")
def rendered() -> Mapping[str, Answer]:
    """Return what Helm makes of each case of the matrix."""
    answers = dict(zip(MATRIX, render(list(MATRIX.values())), strict=True))
    assert {name: each.error for name, each in answers.items() if each.error} == {}
    return answers


@pytest.fixture(params=MATRIX)
def answer(request: pytest.FixtureRequest, rendered: Mapping[str, Answer]) -> Answer:
    """Return one of them."""
    return rendered[request.param]
