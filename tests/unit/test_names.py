"""One name has one meaning: no public class name is defined twice in the product."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

SHARED_NAMES: Mapping[str, str] = {
    # Bodies of one resource at the public edge and behind it.
    "CollectionBody": "gateway and registry",
    "EvaluationBody": "gateway and registry",
    "ProtectBody": "gateway and registry",
    "RollbackBody": "gateway and registry",
    "RuleBody": "gateway and registry",
    # Each is private to its service and has a better name there.
    "Finished": "trainer: the end of an operation; mint_common: the end of a completion",
    "Group": "trainer: ranks; loader: rows of one adapter; mint_common: samples of one prompt",
    "Handlers": "trainer and loader: a service's event handlers",
    "Held": "loader: an adapter on the engine, and KV memory of a request",
    "Job": "trainer: work on a policy; loader: a load; rollout: a managed job",
    "Kept": "trainer: a stored result; loader: an adapter to restore",
    "LaidOut": "trainer: inputs of a batch; loader: a built adapter",
    "Limits": "trainer: of the scheduler; loader: of requests",
    "Line": "trainer: a packed sequence, and an ordered queue",
    "Lineage": "gateway: a query; trainer: of a session; mint_common: of a revision",
    "Prompt": "gateway: of a Tinker request; mint_common: of a task",
    "Refused": "loader: by the builder; mint_common: an operation's outcome",
    "Replay": "trainer: of expert routes; mint_common: of the event log",
    "Resident": "trainer: a policy in memory; loader: an adapter on the engine",
    "Stepped": "trainer: of a wave; mint_common: of an operation",
    "Submission": "gateway: of a job; mint_common: of an operation",
    "Task": "trainer: work on a policy; rollout: prompts with a reward",
    "Tiers": "trainer: of policies; loader: of adapters",
}
"""Names with more than one meaning, and their meanings."""


def test_a_public_class_name_is_defined_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for folder in ("services", "libs"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    repeated = {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES}

    assert repeated == {}
