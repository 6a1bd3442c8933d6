"""Who reaches whom under the chart's NetworkPolicies: what the services call, and nothing else."""

from collections.abc import Mapping

import pytest
from chart.policies import Endpoint, allows
from chart.rendering import NAMESPACE, Answer, of_kind, pods_of

pytestmark = [pytest.mark.slow]

PORTS = {"gateway": 8321, "registry": 8101, "trainer": 8102, "rollout": 8103, "loader": 8104}
CALLS = {
    *{(caller, "registry") for caller in ("gateway", "rollout", "trainer", "loader")},
    *{("gateway", called) for called in ("rollout", "trainer", "loader")},
    *{("rollout", called) for called in ("trainer", "loader")},
    ("test", "gateway"),
}
STRANGERS = {
    "beside": Endpoint(namespace=NAMESPACE, labels={"app": "other"}),
    "elsewhere": Endpoint(namespace="other"),
    "outside": Endpoint(address="198.51.100.7"),
}


def endpoints(answer: Answer) -> Mapping[str, Endpoint]:
    return {
        pods.service: Endpoint(labels=pods.labels, namespace=NAMESPACE)
        for pods in pods_of(answer.objects)
        if pods.role != "worker"
    }


def test_services_reach_whom_they_call_and_nobody_else(rendered: Mapping[str, Answer]) -> None:
    for name in ("small", "gpus"):
        policies = of_kind(rendered[name].objects, "NetworkPolicy")
        pods = endpoints(rendered[name])
        reached = {
            (caller, called)
            for caller, source in {**pods, **STRANGERS}.items()
            for called, port in PORTS.items()
            if caller != called and allows(policies, source, pods[called], port, home=NAMESPACE)
        }
        assert reached == CALLS


def test_processes_of_some_services_reach_each_other(rendered: Mapping[str, Answer]) -> None:
    """Rollout passes calls of agents on, gateways polls of samples, trainers the work of others' policies."""
    policies = of_kind(rendered["small"].objects, "NetworkPolicy")
    for service, pods in endpoints(rendered["small"]).items():
        if service in PORTS:
            reached = allows(policies, pods, pods, PORTS[service], home=NAMESPACE)
            assert reached == (service in {"rollout", "gateway", "trainer"}), service


def test_metrics_are_read_from_the_monitoring_namespace(rendered: Mapping[str, Answer]) -> None:
    policies = of_kind(rendered["small"].objects, "NetworkPolicy")
    for called, port in PORTS.items():
        target = endpoints(rendered["small"])[called]
        assert allows(policies, Endpoint(namespace="monitoring"), target, port, home=NAMESPACE)
        assert not allows(policies, Endpoint(namespace="monitoring"), target, 22, home=NAMESPACE)


def test_clients_are_let_to_the_gateway_alone(rendered: Mapping[str, Answer]) -> None:
    for name, client in (
        ("gpus", Endpoint(namespace="ingress-nginx")),
        ("nodes", Endpoint(address="192.0.2.9")),
    ):
        policies = of_kind(rendered[name].objects, "NetworkPolicy")
        pods = endpoints(rendered[name])
        reached = {
            called
            for called, port in PORTS.items()
            if allows(policies, client, pods[called], port, home=NAMESPACE)
        }
        assert reached == {"gateway"}


def test_stores_are_reached_where_the_values_say(rendered: Mapping[str, Answer]) -> None:
    policies = of_kind(rendered["gpus"].objects, "NetworkPolicy")
    stores = {
        (4222, "nats"): True,
        (4222, "other"): False,
        (443, "storage"): True,
        (6432, "nats"): False,
    }
    for service, source in endpoints(rendered["gpus"]).items():
        if service in {"test", "migrate"}:
            continue
        for (port, namespace), expected in stores.items():
            target = Endpoint(namespace=namespace)
            assert allows(policies, source, target, port, home=NAMESPACE) == expected, (service, namespace)
        postgres = Endpoint(address="10.20.3.4")
        assert allows(policies, source, postgres, 6432, home=NAMESPACE)
        assert not allows(policies, source, postgres, 5432, home=NAMESPACE)
        assert allows(policies, source, Endpoint(namespace="monitoring"), 4318, home=NAMESPACE)


def test_migrations_reach_postgres_alone(rendered: Mapping[str, Answer]) -> None:
    policies = of_kind(rendered["gpus"].objects, "NetworkPolicy")
    source = endpoints(rendered["gpus"])["migrate"]
    for address, namespace, port, expected in (
        ("10.20.3.4", "", 6432, True),
        ("", "nats", 4222, False),
        ("", "storage", 443, False),
        ("198.51.100.7", "", 443, False),
    ):
        target = Endpoint(address=address, namespace=namespace)
        assert allows(policies, source, target, port, home=NAMESPACE) == expected, port


def test_webhooks_go_out_from_the_gateway_to_public_addresses(rendered: Mapping[str, Answer]) -> None:
    pods = endpoints(rendered["gpus"])
    for name, address, expected in (
        ("gpus", "198.51.100.7", True),
        ("gpus", "2001:db8::7", True),
        ("gpus", "10.1.2.3", False),
        ("gpus", "169.254.169.254", False),
        ("gpus", "fd00::1", False),
        ("nodes", "198.51.100.7", True),
    ):
        # In `nodes` the blob store may be anywhere, by the same port.
        policies = of_kind(rendered[name].objects, "NetworkPolicy")
        source = endpoints(rendered[name])["gateway"]
        target = Endpoint(address=address)
        assert allows(policies, source, target, 443, home=NAMESPACE) == expected, address
        assert not allows(policies, source, target, 80, home=NAMESPACE)
    policies = of_kind(rendered["gpus"].objects, "NetworkPolicy")
    for service in ("registry", "rollout", "trainer", "loader", "migrate", "test"):
        assert not allows(policies, pods[service], STRANGERS["outside"], 443, home=NAMESPACE)


def test_ranks_reach_each_other_on_every_port_and_nobody_else_does(rendered: Mapping[str, Answer]) -> None:
    answer = rendered["nodes"]
    policies = of_kind(answer.objects, "NetworkPolicy")
    groups = [pods for pods in pods_of(answer.objects) if pods.role]
    ranks = [(pods.owner, Endpoint(labels=pods.labels, namespace=NAMESPACE)) for pods in groups]
    for owner, source in ranks:
        for other, target in ranks:
            assert allows(policies, source, target, 29400, home=NAMESPACE) == (owner == other)
    for source in (endpoints(answer)["gateway"], *STRANGERS.values()):
        for _, target in ranks:
            assert not allows(policies, source, target, 29400, home=NAMESPACE)
