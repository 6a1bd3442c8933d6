"""Make the schema of the Helm chart's values, and their table in docs/operate/kubernetes.md."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from generated_page import ROOT, between, generate
from pydantic import BaseModel

from mint_common.settings import SHARED
from services.standalone.settings import READ_BY

SOURCE = ROOT / "deploy/helm/values.schema.yaml"
CHART = ROOT / "deploy/helm/mint"
PAGE = ROOT / "docs/operate/kubernetes.md"
BEGIN, END = "<!-- values: tools/make_chart.py -->\n", "<!-- end of values -->\n"
HEAD = "| value | type | default | what it is |\n|---|---|---|---|\n"

PARTS = ("gateway", "registry", "rollout", "engineDefaults", "trainerDefaults")
"""What has keys in common, which have one row each."""

DECIDED = {
    "registry": ("bootstrap_key",),
    "trainer": ("base_dir", "ranks"),
    "rollout": ("environments_dir",),
    "loader": ("engine_id", "base_dir", "cache_dir", "executor", "nodes", "node_rank", "leader"),
    "gateway": ("tokenizers",),
}
"""Settings that the chart gives itself, beside those of `SHARED` and its address."""

Schema = dict[str, Any]


def make_schema() -> Schema:
    """Return the schema of the chart's values, every object closed."""
    source = yaml.safe_load(SOURCE.read_text())
    del source["x-parts"]
    return {"$comment": "Made by tools/make_chart.py.", **_closed(source)}


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "x-settings" in node:
        return _settings_schema(node["x-settings"])
    closed = {key: _closed(value) for key, value in node.items()}
    if node.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _settings_schema(service: str) -> Schema:
    """Return the schema of a service's own settings, by their names in small letters."""
    left_out = DECIDED[service]
    own = _own_settings(READ_BY[service])
    properties = {name: one for name, one in own if name not in {*left_out, "http_host", "http_port"}}
    page = f"[settings of the {service}](../reference/settings.md#{service})"
    description = f"{page} in lower case, without `MINT_{service.upper()}_`"
    if left_out:
        description += "; the chart sets " + ", ".join(f"`{name}`" for name in left_out)
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }


def _own_settings(cls: type[BaseModel]) -> Iterator[tuple[str, Schema]]:
    """Yield name and schema of each setting that stands under the service's own name."""
    described = cls.model_json_schema()["properties"]
    for name, info in cls.model_fields.items():
        kind = info.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            yield name, _plain(described[name])
        elif name not in SHARED:
            yield from _own_settings(kind)


def _plain(described: Schema) -> Schema:
    """Return pydantic's schema of a setting without its default, which is the service's own."""
    kept = {key: value for key, value in described.items() if key not in {"default", "title", "format"}}
    if "JSON object" in described.get("description", ""):
        kept["type"] = ["string", "object"]
    return kept


def make_table(schema: Schema) -> str:
    """Return a row for every value that can be set, with its default of values.yaml."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    leaves = list(_leaves(schema, schema, "", set()))
    keys = Counter(path.partition(".")[2] for path, _ in leaves if path.startswith(PARTS))
    rows: dict[str, str] = {}
    for path, one in leaves:
        part, _, key = path.partition(".")
        shown, default = path, _default(defaults, path)
        if part in PARTS and keys[key] == len(PARTS) and key != "settings":
            shown = f"PART.{key}"
            each = {name: _default(defaults, f"{name}.{key}") for name in PARTS}
            if len(set(each.values())) > 1:
                default = "; ".join(f"{name}: {value or 'none'}" for name, value in each.items())
        rows[shown] = f"| `{shown}` | {_type(schema, one)} | {default} | {one.get('description', '')} |\n"
    return HEAD + "".join(rows.values())


def _leaves(schema: Schema, node: Schema, path: str, shown: set[str]) -> Iterator[tuple[str, Schema]]:
    """Yield each value below a node with its path; a definition is opened where it is met first."""
    for key, given in node.get("properties", {}).items():
        one, where = _resolved(schema, given), f"{path}{key}"
        items = one.get("additionalProperties")
        if _opens(one, given, shown):
            yield from _leaves(schema, one, f"{where}.", shown)
            continue
        yield where, one
        if isinstance(items, dict) and _opens(named := _resolved(schema, items), items, shown):
            yield from _leaves(schema, named, f"{where}.NAME.", shown)


def _opens(one: Schema, given: Schema, shown: set[str]) -> bool:
    """Return whether the keys of a value have rows of their own, and note that a definition now has."""
    name = given.get("$ref")
    is_described = any("description" in each for each in one.get("properties", {}).values())
    is_settings = "](../reference/settings.md#" in one.get("description", "")
    if not is_described or is_settings or name in shown:
        return False
    shown.update({name} if name else ())
    return True


def _resolved(schema: Schema, node: Schema) -> Schema:
    if "$ref" not in node:
        return node
    target = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _type(schema: Schema, one: Schema) -> str:
    if "enum" in one:
        return ", ".join(f"`{each}`" for each in one["enum"])
    keys = one.get("properties", {})
    if keys and not any("description" in each for each in keys.values()):
        return "{" + ", ".join(keys) + "}"
    if one["type"] == "array":
        return f"list of {_type(schema, _resolved(schema, one['items']))}"
    return str(one["type"])


def _default(defaults: Mapping[str, Any], path: str) -> str:
    found: Any = defaults
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            return ""
        found = found[key]
    return f"`{json.dumps(found)}`" if found not in ("", [], {}) else ""


def make_page(schema: Schema) -> str:
    """Return the page with the table of now."""
    return between(PAGE, BEGIN, END, make_table(schema))


if __name__ == "__main__":
    schema = make_schema()
    pages = {
        CHART / "values.schema.json": lambda: json.dumps(schema, indent=1) + "\n",
        PAGE: lambda: make_page(schema),
    }
    generate(__doc__, pages)
