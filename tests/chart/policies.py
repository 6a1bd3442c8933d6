"""What NetworkPolicies allow: their rules, as Kubernetes' documentation has them."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A pod, or with ``address`` something outside of the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    address: str = ""


def allows(policies: Sequence[Policy], source: Endpoint, target: Endpoint, port: int, *, home: str) -> bool:
    """Return whether a TCP connection is let through; ``home`` is the namespace of the policies."""
    leaves = _lets(policies, source, target, port, home=home, kind="Egress")
    return leaves and _lets(policies, target, source, port, home=home, kind="Ingress")


def _lets(
    policies: Sequence[Policy], pod: Endpoint, other: Endpoint, port: int, *, home: str, kind: str
) -> bool:
    own = [
        each["spec"]
        for each in policies
        if pod.namespace == home
        and kind in each["spec"]["policyTypes"]
        and _selects(each["spec"]["podSelector"], pod.labels)
    ]
    rules = [rule for spec in own for rule in spec.get(kind.lower(), [])]
    return not own or any(_takes(rule, other, port, home=home, kind=kind) for rule in rules)


def _takes(rule: Mapping[str, Any], other: Endpoint, port: int, *, home: str, kind: str) -> bool:
    ports = rule.get("ports")
    if ports and not any(each["port"] == port and each.get("protocol", "TCP") == "TCP" for each in ports):
        return False
    peers = rule.get("from" if kind == "Ingress" else "to")
    return not peers or any(_is(peer, other, home=home) for peer in peers)


def _is(peer: Mapping[str, Any], other: Endpoint, *, home: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return bool(other.address) and (
            _within(other.address, block["cidr"])
            and not any(_within(other.address, each) for each in block.get("except", []))
        )
    if other.address:
        return False
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": other.namespace}
        if not _selects(peer["namespaceSelector"], named):
            return False
    elif other.namespace != home:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _within(address: str, cidr: str) -> bool:
    one, network = ipaddress.ip_address(address), ipaddress.ip_network(cidr)
    return one.version == network.version and one in network


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
