"""A route's scope holds whatever is done to its path, its headers and its method."""

from collections.abc import Iterator

import pytest
from security.gateway_rig import SCOPES, Rig, make_rig
from security.route_scopes import MAY, NEEDS

from services.gateway.http.edge.routes import GatewayRoute

ROUTES = [tuple(route.split(" ")) for route in NEEDS]
SUFFIXES = [
    *("%0a", "%0d", "%0d%0a", "%00", "%2f", "/", "//", "%2f%2f", ";x", ";", ".", "..", "/.", "/..", "%2e"),
    *("%20", "%09", "%3f", "%23", "%25", "%c0%af", "%ef%bc%8f", "%e2%80%a8", "%0a%0a", "%0ax", "%5c", "*"),
]


@pytest.fixture(scope="module")
def rig() -> Rig:
    return make_rig()


def plain(path: str) -> str:
    """Return a route's path with a name in every place."""
    return path.replace("{", "").replace("}", "")


def mangled(target: str) -> Iterator[str]:
    """Yield what a path can be made to look like."""
    for suffix in SUFFIXES:
        yield target + suffix
    first, _, rest = target[1:].partition("/")
    yield from (f"//{first}/{rest}", f"/{first}//{rest}", f"/{first}/./{rest}", f"/x/../{first}/{rest}")
    yield from (f"/{first}%0a/{rest}", f"/%0a{first}/{rest}", f"/{first};x/{rest}", f"/{first}%20/{rest}")
    yield from (f"/{first}%2f{rest}", f"/{first}%252f{rest}", f"%2f{first}/{rest}", f"/{first}\\{rest}")
    yield from (target.upper(), target.title(), f"{target}?x=%0a", f"http://evil.example{target}")


def test_every_route_says_the_scope_that_is_written_down(rig):
    said = {
        f"{method} {route.path_format}": route.needed_scope
        for route in rig.http.routes
        if isinstance(route, GatewayRoute)
        for method in route.methods
    }
    assert said == NEEDS


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_scope_opens_what_it_says_and_nothing_else(rig, method, path):
    for keys in ((), ("unknown",)):
        assert (await rig.ask(method, plain(path), *keys)).status == 401
    for scope in SCOPES:
        status = (await rig.ask(method, plain(path), scope)).status
        assert (status == 403) == (NEEDS[f"{method} {path}"] not in MAY[scope]), scope
        assert status != 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_mangled_path_is_the_plain_one_or_none(rig, method, path):
    needed = NEEDS[f"{method} {path}"]
    lacking = [scope for scope in SCOPES if needed not in MAY[scope]]
    allowed = await rig.ask(method, plain(path), "all")
    for target in mangled(plain(path)):
        for scope in lacking:
            # 405: it is the path of other methods alone.
            assert (await rig.ask(method, target, scope)).status in {403, 404, 405}, (target, scope)
        # 422: a name in the path may not look like this.
        assert (await rig.ask(method, target, "all")).status in {allowed.status, 404, 405, 422}, target


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_header_makes_a_request_another(rig, method, path):
    needed = NEEDS[f"{method} {path}"]
    lacking = next(scope for scope in SCOPES if needed not in MAY[scope])
    for name in ("x-http-method-override", "x-http-method", "x-method-override"):
        for other in ("GET", "DELETE", "OPTIONS"):
            answer = await rig.ask(method, plain(path), lacking, headers=[(name, other)])
            assert answer.status == 403
    for name in ("x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-uri"):
        answer = await rig.ask(method, plain(path), lacking, headers=[(name, "/healthz")])
        assert answer.status == 403


async def test_keys_that_disagree_open_nothing(rig):
    target = "/mint/v1/policies"
    assert (await rig.ask("GET", target, "read", "read")).status == 418
    assert (await rig.ask("GET", target, "read", headers=[("x-api-key", "read")])).status == 418
    for keys, headers in (
        (("read", "admin"), ()),
        (("admin", "read"), ()),
        (("read",), [("x-api-key", "admin")]),
        ((), [("x-api-key", "admin"), ("x-api-key", "read")]),
    ):
        answer = await rig.ask("GET", target, *keys, headers=headers)
        assert (answer.status, answer.code) == (401, "unauthorized")
    assert (await rig.ask("GET", target, headers=[("authorization", "Basic cmVhZA==")])).status == 401
    basic = [("authorization", "Basic cmVhZA=="), ("x-api-key", "read")]
    assert (await rig.ask("GET", target, headers=basic)).status == 418


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
async def test_other_methods_than_a_route_has_are_refused_before_any_key(rig, method):
    for _, path in ROUTES:
        assert (await rig.ask(method, plain(path), "all")).status == 405, path


async def test_no_answer_leads_to_an_address_from_the_host_header(rig):
    for _, path in ROUTES:
        for target in (plain(path) + "/", plain(path)):
            answer = await rig.ask("GET", target, "all")
            assert not 300 <= answer.status < 400
            assert "evil.example" not in str(answer.headers)
