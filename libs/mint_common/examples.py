"""Examples in the public schema: what a reader copies first, and what the tests send."""

from mint_common.json_types import JsonObject


def body_config(example: JsonObject) -> JsonObject:
    """Return the configuration of a request's body: nothing unknown is taken, and this is an example."""
    return {"extra": "forbid", "json_schema_extra": {"examples": [example]}}


def json_body(example: JsonObject) -> JsonObject:
    """Return what the schema says of a body that is handed on: an object, and this is an example."""
    schema: JsonObject = {"type": "object", "examples": [example]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
