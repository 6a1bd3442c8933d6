"""The bodies and answers of serving routes in the public schema, made by `tools/make_serving_bodies.py`."""

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from starlette.routing import BaseRoute

from services.gateway.http.openai.admission import AdmittedRoute


def read_bodies() -> bytes:
    """Return the file of bodies and answers."""
    return files(__package__).joinpath("bodies.json").read_bytes()


def add_bodies(schema: dict[str, Any], routes: Iterable[BaseRoute], bodies: bytes) -> None:  # Any: JSON
    """Add the fields of each serving route's body and answer to the schema; its examples stay."""
    found = json.loads(bodies)
    components = schema["components"]["schemas"]
    assert not components.keys() & found["schemas"].keys(), "a schema of vLLM's has the name of one of ours"
    components |= found["schemas"]
    for route in routes:
        if isinstance(route, AdmittedRoute):
            operation = schema["paths"][route.path]["post"]
            body = operation["requestBody"]["content"]["application/json"]
            name = f"{route.operation.title().replace('_', '')}Body"
            components[name] = {**found["bodies"][route.operation], **body["schema"]}
            body["schema"] = {"$ref": f"#/components/schemas/{name}"}
            answer = operation["responses"]["200"]["content"]
            answer["application/json"] = {"schema": found["answers"].get(route.operation, {"type": "object"})}
            if "stream" in components[name].get("properties", ()):
                answer["text/event-stream"] = {"schema": {"type": "string"}}
