"""What the chart makes is what Kubernetes' own schemas allow, and refers to what is there."""

import copy
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml
from chart.rendering import CHART, Answer, Case, Object, example, matches, of_kind, pods_of, render

from services.standalone.settings import READ_BY

pytestmark = [pytest.mark.slow]

OBSERVABILITY = CHART.parents[1] / "observability"
OLDEST, NEWEST = "1.27", "1.37"
"""Kubernetes' versions: the oldest that Chart.yaml allows, and the newest that the schemas are there for."""
CUSTOM = {
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
GROUP_SPEC = {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"}
GROUP_TEMPLATE = {
    *("size", "restartPolicy", "leaderTemplate", "workerTemplate", "subGroupPolicy"),
    *("volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy"),
}
"""Fields of LeaderWorkerSet 0.9, whose schema no package has."""


def _check(one: Object, version: str) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: make test-chart installs it")
    import kubernetes_validate

    kubernetes_validate.validate(one, version, strict=True)


def _as_set(template: Object, spec: Mapping[str, Any]) -> Object:
    """Return a StatefulSet with the parts of a LeaderWorkerSet that it has too."""
    labels = template["metadata"]["labels"]
    shared = {
        key: spec[key]
        for key in ("volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy")
        if key in spec
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "group"},
        "spec": {
            "serviceName": "group",
            "selector": {"matchLabels": labels},
            "template": template,
            **shared,
        },
    }


def test_values_render_and_lint(answer: Answer) -> None:
    assert answer.lint == []
    assert answer.objects
    assert answer.notes


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects_of_kubernetes_fit_its_schemas(answer: Answer, version: str) -> None:
    for one in answer.objects:
        if one["kind"] not in CUSTOM:
            _check(one, version)


def test_a_misspelt_field_does_not_fit(rendered: Mapping[str, Answer]) -> None:
    import kubernetes_validate

    broken = copy.deepcopy(of_kind(rendered["small"].objects, "Deployment")[0])
    broken["spec"]["template"]["spec"]["terminationGraceSeconds"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGraceSeconds"):
        _check(broken, NEWEST)


def test_groups_of_nodes_have_known_fields_alone(rendered: Mapping[str, Answer]) -> None:
    groups = of_kind(rendered["nodes"].objects, "LeaderWorkerSet")
    assert {one["metadata"]["name"] for one in groups} == {"big-loader-kimi-k2-wide", "big-trainer-kimi-k2"}
    for one in groups:
        spec, group = one["spec"], one["spec"]["leaderWorkerTemplate"]
        assert set(spec) <= GROUP_SPEC
        assert set(group) <= GROUP_TEMPLATE
        assert (spec["startupPolicy"], group["restartPolicy"]) == (
            "LeaderCreated",
            "RecreateGroupOnPodRestart",
        )
        for role in ("leaderTemplate", "workerTemplate"):
            _check(_as_set(group[role], group), NEWEST)


def group_named(rendered: Mapping[str, Answer], name: str) -> Mapping[str, Any]:
    groups = of_kind(rendered["nodes"].objects, "LeaderWorkerSet")
    return next(one for one in groups if one["metadata"]["name"] == name)


def test_a_group_starts_as_many_ranks_as_it_has_gpus(rendered: Mapping[str, Answer]) -> None:
    trainer = group_named(rendered, "big-trainer-kimi-k2")
    group = trainer["spec"]["leaderWorkerTemplate"]
    assert (trainer["spec"]["replicas"], group["size"]) == (1, 4)
    for role in ("leaderTemplate", "workerTemplate"):
        (container,) = group[role]["spec"]["containers"]
        assert "--nproc-per-node 8 " in container["command"][-1]
        assert container["command"][-1].endswith("-m services.trainer")


def test_all_machines_of_an_engine_start_alike_but_for_their_rank(rendered: Mapping[str, Answer]) -> None:
    engine = group_named(rendered, "big-loader-kimi-k2-wide")
    group = engine["spec"]["leaderWorkerTemplate"]
    commands, environs = [], []
    for role in ("leaderTemplate", "workerTemplate"):
        (container,) = group[role]["spec"]["containers"]
        commands.append(container["command"])
        environs.append(container["env"])
    assert commands[0] == commands[1]
    assert environs[0] == environs[1]
    assert {"MINT_LOADER_NODE_RANK", "MINT_LOADER_NODES", "MINT_LOADER_LEADER"} <= {
        word.partition("=")[0] for word in commands[0][-1].split()
    }


def test_trainers_of_a_base_are_as_many_as_asked_for() -> None:
    values = example("small", bases__tiny={"path": "/bases/tiny", "trainer": {"replicas": 3}})
    (answer,) = render([Case(values=values)])
    (trainers,) = of_kind(answer.objects, "StatefulSet")
    assert (trainers["metadata"]["labels"]["app.kubernetes.io/component"], trainers["spec"]["replicas"]) == (
        "trainer",
        3,
    )


def test_names_are_unique_and_short_enough(answer: Answer) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in answer.objects]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)
    sets = of_kind(answer.objects, "StatefulSet", "LeaderWorkerSet", "Deployment")
    assert all(len(one["metadata"]["name"]) <= 52 for one in sets), "their pods carry 11 characters more"


def test_kinds_that_need_an_operator_come_only_when_asked_for(rendered: Mapping[str, Answer]) -> None:
    assert of_kind(rendered["small"].objects, *CUSTOM) == []
    for answer in rendered.values():
        assert {one["apiVersion"] for one in of_kind(answer.objects, *CUSTOM)} <= set(CUSTOM.values())
    assert (
        of_kind(rendered["nothing optional"].objects, "NetworkPolicy", "PodDisruptionBudget", "Pod", "Job")
        == []
    )


def test_no_secret_and_no_role_is_made(answer: Answer) -> None:
    assert of_kind(answer.objects, "Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


def test_what_selects_pods_selects_those_of_one_set(answer: Answer) -> None:
    pods = list(pods_of(answer.objects))
    for one in answer.objects:
        spec = one.get("spec", {})
        selector = spec.get("selector")
        if selector is None or one["kind"] not in {
            "Service",
            "PodDisruptionBudget",
            "Deployment",
            "StatefulSet",
        }:
            continue
        labels = selector if one["kind"] == "Service" else selector["matchLabels"]
        labels = {key: value for key, value in labels.items() if "worker-index" not in key}
        owners = {each.owner for each in pods if matches(labels, each.labels)}
        assert owners == {one["metadata"]["name"]}, one["kind"]


def test_two_releases_keep_apart(rendered: Mapping[str, Answer]) -> None:
    one, other = render([Case(values=example("small"), release=name) for name in ("mint", "mint-two")])
    names = {(each["kind"], each["metadata"]["name"]) for each in one.objects}
    assert names.isdisjoint({(each["kind"], each["metadata"]["name"]) for each in other.objects})
    for service in of_kind(one.objects, "Service"):
        assert not any(matches(service["spec"]["selector"], each.labels) for each in pods_of(other.objects))


def test_targets_of_scaling_exist_and_leave_their_number_open(rendered: Mapping[str, Answer]) -> None:
    objects = [one for answer in rendered.values() for one in answer.objects]
    scalers = of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")
    assert {one["kind"] for one in scalers} == {"ScaledObject", "HorizontalPodAutoscaler"}
    for answer in rendered.values():
        for scaler in of_kind(answer.objects, "ScaledObject", "HorizontalPodAutoscaler"):
            target = scaler["spec"]["scaleTargetRef"]
            (found,) = [
                one
                for one in of_kind(answer.objects, target["kind"])
                if one["metadata"]["name"] == target["name"] and one["apiVersion"] == target["apiVersion"]
            ]
            assert "replicas" not in found["spec"]


def test_an_engine_is_scaled_by_its_own_series(rendered: Mapping[str, Answer]) -> None:
    (scaler,) = of_kind(rendered["gpus"].objects, "ScaledObject")
    queries = [each["metadata"]["query"] for each in scaler["spec"]["triggers"]]
    labels = '{namespace="models",mint_dev_base="qwen3-4b",mint_dev_engine="small"}'
    assert sorted(queries) == [
        f"sum(mint_loader_queue_oldest_seconds{labels})",
        f"sum(mint_loader_requests_open{labels})",
    ]
    assert [each["metadata"]["threshold"] for each in scaler["spec"]["triggers"]] == ["2.5", "48"]
    monitors = of_kind(rendered["gpus"].objects, "PodMonitor")
    assert all(one["spec"]["podTargetLabels"] == ["mint.dev/base", "mint.dev/engine"] for one in monitors)


def test_alerts_and_dashboards_arrive_as_they_are(rendered: Mapping[str, Answer]) -> None:
    (rules,) = of_kind(rendered["gpus"].objects, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
    (boards,) = of_kind(rendered["gpus"].objects, "ConfigMap")
    files = {path.name: json.loads(path.read_text()) for path in OBSERVABILITY.glob("dashboards/*.json")}
    assert {name: json.loads(text) for name, text in boards["data"].items()} == files
    assert files
    assert len(json.dumps(boards)) < 1 << 20, "a ConfigMap holds 1 MiB"


def test_jobs_have_the_names_that_alerts_know(rendered: Mapping[str, Answer]) -> None:
    objects = rendered["gpus"].objects
    jobs = {one["metadata"]["labels"]["mint.dev/job"] for one in of_kind(objects, "Service")}
    jobs |= {each.labels["mint.dev/job"] for each in pods_of(objects)} - {"mint-test", "mint-migrate"}
    assert jobs == {f"mint-{service}" for service in READ_BY}
    for one in of_kind(objects, "ServiceMonitor", "PodMonitor"):
        assert one["spec"]["jobLabel"] == "mint.dev/job"
    named = set(re.findall(r'job=~?"([^"]+)"', (OBSERVABILITY / "alerts.yaml").read_text()))
    assert all(any(re.fullmatch(each, job) for job in jobs) for each in named)


TWO_RANKS = {"path": "/bases/tiny", "trainer": {"ranks": 2}}
REFUSED: Mapping[str, tuple[dict[str, object], str]] = {
    "ranks without sharding": ({"bases__tiny": TWO_RANKS}, "2 ranks need settings.sharding"),
    "sharding without ranks": (
        {"trainerDefaults": {"settings": {"sharding": "fsdp"}}},
        "settings.sharding takes no effect on one rank",
    ),
    "ranks without GPUs": (
        {
            "trainerDefaults": {
                "ranks": 2,
                "settings": {"sharding": "fsdp"},
                "resources": {"limits": {"nvidia.com/gpu": 1}},
            }
        },
        "1 GPUs for 2 ranks",
    ),
    "GPUs without workers": (
        {
            "engineDefaults": {
                "resources": {"limits": {"nvidia.com/gpu": 4}},
                "settings": {"tensor_parallel": 2},
            }
        },
        "4 GPUs on each of 1 nodes",
    ),
    "nodes without workers": ({"engineDefaults": {"nodes": 2}}, "2 nodes for 1 workers"),
    "slots beyond memory": ({"engineDefaults": {"settings": {"slots": 65}}}, "settings.host_capacity"),
    "scaling without Prometheus": ({"engineDefaults": {"scaling": {"enabled": True}}}, "prometheusUrl"),
    "bases of one name": (
        {"bases": {name: {"path": "/bases/tiny"} for name in ("a-b", "a_b")}},
        "objects of the same names",
    ),
    "a claim that is not where it is mounted": (
        {"bases__tiny": {"path": "/models/tiny", "claim": "bases"}},
        "must be below /bases/",
    ),
    "a long name": (
        {"nameOverride": "n" * 30, "bases": {"b" * 30: {"path": "/b", "trainer": {}}}},
        "52 characters",
    ),
    "an ingress that is shut out": (
        {"gateway": {"ingress": {"enabled": True, "host": "h"}}},
        "clientNamespaces",
    ),
    "a name of nothing": ({"gateway": {"replica": 1}}, "replica"),
    "a setting of nothing": ({"registry": {"settings": {"check": 1}}}, "check"),
}


@pytest.fixture(scope="module")
def refusals() -> Mapping[str, Answer]:
    cases = [Case(values=example("small", **changes)) for changes, _ in REFUSED.values()]
    return dict(zip(REFUSED, render(cases), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_work_are_refused(name: str, refusals: Mapping[str, Answer]) -> None:
    assert REFUSED[name][1] in refusals[name].error


def images(objects: Sequence[Object]) -> set[str]:
    return {each.spec["containers"][0]["image"] for each in pods_of(objects)}


def test_images_are_those_of_the_values(rendered: Mapping[str, Answer]) -> None:
    assert images(rendered["small"].objects) == {"mint:slim", "mint:tasks", "mint:cpu"}
    assert images(rendered["gpus"].objects) == {"mint:slim", "mint:tasks", "mint:gpu", "mint:cpu"}
    assert images(rendered["nodes"].objects) == {f"mint@sha256:{64 * each}" for each in "012"}
