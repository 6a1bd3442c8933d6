"""The chart's files agree with each other and with the services; tests/chart renders them, where Helm is."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mint_common.runtime.edge import create_http
from mint_common.settings import describe_settings
from mint_common.settings.read import FILE
from services.standalone.settings import READ_BY

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/mint"
TEMPLATES = sorted((CHART / "templates").rglob("*.*"))
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)
OPEN = {"global", "affinity"}
"""Helm's own, and an object of Kubernetes that is passed on."""


def test_schema_is_one_and_closed_at_every_level() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    is_open = [path for path, node in _objects(SCHEMA, ()) if node.get("additionalProperties", True) is True]

    assert {path[-1] for path in is_open} == OPEN


def _objects(node: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(node, list):
        for each in node:
            yield from _objects(each, path)
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, value in node.items():
            yield from _objects(value, (*path, key))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid_and_a_wrong_key_anywhere_in_them_is_not(example: Path) -> None:
    values = yaml.safe_load(example.read_text())
    assert [error.message for error in CHECK.iter_errors(values)] == []

    for path in _mappings(values, ()):
        broken = copy.deepcopy(values)
        found = broken
        for key in path:
            found = found[key]
        found["Wrong Key"] = {}
        assert not CHECK.is_valid(broken), path


def _mappings(node: object, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, dict):
        if path[-1:] != ("engine_args",):
            yield path
        for key, value in node.items():
            yield from _mappings(value, (*path, key))
    if isinstance(node, list):
        for at, value in enumerate(node):
            yield from _mappings(value, (*path, at))


def test_the_page_shows_the_smallest_example() -> None:
    shown = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/operate/kubernetes.md").read_text(), re.MULTILINE | re.DOTALL
    )

    assert [yaml.safe_load(each) for each in shown] == [
        yaml.safe_load((CHART / "ci/small-values.yaml").read_text())
    ]


def test_defaults_are_valid_where_they_are_not_required_to_be_said() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    missing = {error.message for error in CHECK.iter_errors(values)}

    assert missing == {
        "'images' is a required property",
        "'url' is a required property",
        *(
            f"'{key}' is a required property"
            for key in ("internalToken", "natsUrl", "postgresDsn", "bootstrapKey")
        ),
    }


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("rollout.settings.file_bytes", 1),
        ("gateway.settings.tokenizers", ["tiny=tiny"]),
        ("rollout.env", {"MINT_ROLLOUT_FILE_BYTES": "1"}),
        ("engineDefaults.settings.dtype", "float8"),
        ("engineDefaults.settings.engine_id", "mine"),
        ("engineDefaults.cacheSize", "20 GB"),
        ("trainerDefaults.settings.sharding", "fsdp3"),
        ("bases", {"Tiny": {"path": "/bases/tiny"}}),
        ("bases", {"tiny": {"engines": {"cpu": {}}}}),
        ("bases", {"tiny": {"path": "/bases/tiny", "engines": {"a-b": {}}}}),
        ("blobs.url", "file:///var/lib/mint"),
        ("secrets.s3AccessKey", {"name": "bucket", "key": "access"}),
    ],
)
def test_a_wrong_value_is_refused(path: str, wrong: object) -> None:
    values = yaml.safe_load((CHART / "ci/small-values.yaml").read_text())
    assert CHECK.is_valid(values)
    found, *keys = values, *path.split(".")
    for key in keys[:-1]:
        found = found.setdefault(key, {})
    found[keys[-1]] = wrong

    assert not CHECK.is_valid(values)


def test_every_setting_in_the_templates_is_known() -> None:
    known = {one.variable for service, cls in READ_BY.items() for one in describe_settings(cls, service)}
    text = "\n".join(path.read_text() for path in TEMPLATES)
    found = set(re.findall(r"\bMINT_[A-Z0-9_]*[A-Z0-9]\b", text)) - {"MINT_%s"}
    named = {name.removesuffix(FILE) for name in found}
    own = set(re.findall(r"\{\{ \$prefix \}\}_([A-Z0-9_]+)", text))
    named |= {f"MINT_{service.upper()}_{name}" for service in READ_BY for name in own}
    files = set(re.findall(r"^([a-z0-9_]+): \{\{", (CHART / "templates/_env.tpl").read_text(), re.MULTILINE))
    assert files
    named |= {f"MINT_{name.upper()}" for name in files}

    assert named - known == set()


def test_paths_in_the_templates_are_routes_of_every_service() -> None:
    http = create_http(title="any", service="any", internal_token="token", ready=lambda: True)
    routes = {route.path for route in http.routes}
    text = "\n".join(path.read_text() for path in TEMPLATES)
    asked = set(re.findall(r"path: (/[a-z]+)\b", text)) | set(re.findall(r"%s:%s(/[a-z]+)", text))

    assert {"/readyz", "/healthz", "/metrics"} <= asked
    assert asked - routes == set()


def test_series_in_the_templates_are_exported() -> None:
    text = (CHART / "templates/scaling.yaml").read_text()
    named = set(re.findall(r"\bmint_(?!dev_)[a-z_]+", text))
    documented = set(
        re.findall(r"^\| `(mint_[a-z_]+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)
    )

    assert named
    assert named - documented == set()
