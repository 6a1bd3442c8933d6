"""The public schema changes only on purpose: `tools/make_openapi.py` writes the golden file anew."""

import json
from dataclasses import replace
from pathlib import Path

from mint_common.algorithms import BUILT_IN, Algorithms
from mint_common.uploads import UPLOAD_CODES
from services.gateway.http.public import build_http, name_algorithms

GOLDEN = Path(__file__).parents[2] / "golden/openapi/gateway.json"


def test_the_schema_is_the_golden_one() -> None:
    current = json.loads(json.dumps(build_http(ready=lambda: True).openapi()))
    assert current == json.loads(GOLDEN.read_text()), "run tools/make_openapi.py and look at the diff"


def test_a_stack_s_own_algorithms_are_in_its_schema() -> None:
    http = build_http(ready=lambda: True)
    name_algorithms(http, Algorithms([*BUILT_IN, replace(Algorithms().named("dpo"), name="own")]))
    schemas = http.openapi()["components"]["schemas"]
    assert schemas["JobRequest"]["properties"]["algorithm"]["enum"][-4:] == ["opd", "sft", "dpo", "own"]
    method = schemas["MintFields"]["properties"]["method"]["anyOf"]
    assert method[0]["enum"][-3:] == ["dppo", "kto", "own"]


def test_every_body_of_the_mint_and_openai_apis_has_an_example() -> None:
    schema = json.loads(GOLDEN.read_text())
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is not None and not path.startswith("/api/"):
                shape = content["schema"]
                named = [
                    option["$ref"]
                    for option in shape.get("anyOf", shape.get("oneOf", [shape]))
                    if "$ref" in option
                ]
                body = schema["components"]["schemas"][named[0].rpartition("/")[2]] if named else shape
                assert body.get("examples"), f"{method} {path} has none"


def test_every_route_needs_a_key() -> None:
    for path, methods in json.loads(GOLDEN.read_text())["paths"].items():
        for method, operation in methods.items():
            is_open = path in {"/health", "/ping"}
            assert bool(operation.get("security")) != is_open, f"{method} {path}"


def test_an_upload_names_every_code_of_its_refusals() -> None:
    upload = json.loads(GOLDEN.read_text())["paths"]["/mint/v1/policies/{policy}/revisions"]["post"]
    answer = upload["responses"]["422"]["content"]["application/json"]
    codes = answer["schema"]["properties"]["error"]["properties"]["code"]["enum"]
    assert set(codes) == {"invalid_field", "idempotency_conflict", *UPLOAD_CODES}
    assert answer["example"]["error"]["code"] in codes


def test_every_post_that_changes_something_takes_an_idempotency_key() -> None:
    """But those that answer with a secret, and refuse it; and those of agents, who are many and quick."""
    secret = {
        "/mint/v1/keys",
        "/mint/v1/tenants/{tenant}/keys",
        "/mint/v1/keys/{key}/rotate",
        "/mint/v1/tenants",
    }
    hooks = {"/mint/v1/webhooks", "/mint/v1/webhooks/{webhook}/rotate"}
    tasks = {"/mint/v1/tasks/{task}/prompts", "/mint/v1/tasks/{task}/score"}
    reading = {*tasks, "/mint/v1/files/{file}/preview"}
    without = set()
    for path, methods in json.loads(GOLDEN.read_text())["paths"].items():
        names = {parameter["name"] for parameter in methods.get("post", {}).get("parameters", [])}
        if "post" in methods and path.startswith("/mint/") and "idempotency-key" not in names:
            without.add(path)
    agents = {path for path in without if path.startswith("/mint/v1/episodes/")}
    assert without == secret | hooks | reading | agents | {"/mint/v1/jobs/{job}/episodes"}
