"""A key that was revoked a moment ago still reads, until the registry is asked again, and changes nothing."""

import pytest
from security.gateway_rig import make_rig
from security.route_scopes import NEEDS

CATALOG = "/mint/v1/"
READING = ("/mint/v1/tasks/", "/mint/v1/files/")  # a task's prompts and scores, a file's preview: no change
GUARDED = [
    (method, path)
    for (method, path), scope in ((route.split(" "), scope) for route, scope in NEEDS.items())
    if scope in {"admin", "operator"}
    or (method != "GET" and path.startswith(CATALOG) and not path.startswith(READING))
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_routes_of_secrets_and_those_that_change_something_ask_the_registry_each_time(method, path):
    rig = make_rig()
    assert (await rig.ask("GET", "/mint/v1/policies", "all")).status == 418
    del rig.registry.owners["all"]
    assert (await rig.ask("GET", "/mint/v1/policies", "all")).status == 418, "it is believed for a while"
    target = path.replace("{", "").replace("}", "")
    assert (await rig.ask(method, target, "all")).status == 401
    assert (await rig.ask("GET", "/mint/v1/policies", "all")).status == 401, "what is known now holds at once"


async def test_other_routes_ask_once_for_each_key():
    rig = make_rig()
    for _ in range(5):
        await rig.ask("GET", "/mint/v1/policies", "read")
    assert rig.registry.verified == ["read"]


async def test_a_request_asks_at_most_once_whose_key_it_is():
    rig = make_rig()
    await rig.ask("POST", "/mint/v1/keys", "all", body=b'{"name": "ci"}')
    assert rig.registry.verified == ["all"]
