"""Webhooks of a real gateway at a real HTTP server."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.gateway.adapters.webhook_sender import HttpWebhookSender
from tests.integration.gateway.receiver import Received, Receiver

pytestmark = pytest.mark.integration
SECONDS = 60.0
TENANT = TenantId("ten_a")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def mint(stack, counter) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client
        for webhook in client.get("/webhooks").json():
            client.delete(f"/webhooks/{webhook['webhook_id']}").raise_for_status()


def make(mint: httpx.Client, receiver: Receiver, *types: str) -> tuple[str, str]:
    """Make a webhook; return its path and its secret."""
    body = {"url": receiver.url, "event_types": list(types)}
    made = mint.post("/webhooks", json=body)
    assert made.status_code == 201, made.text
    return f"/webhooks/{made.json()['webhook']['webhook_id']}", made.json()["secret"]


def move(mint: httpx.Client, alias: str, revision: int = 1) -> None:
    mint.put(f"/policies/counter/aliases/{alias}", json={"revision": revision}).raise_for_status()


def wait_for(mint: httpx.Client, path: str, **wanted: object) -> dict:
    deadline = time.monotonic() + SECONDS
    while True:
        found = mint.get(path).json()
        newest = (found or [{}])[0] if isinstance(found, list) else found
        if all(newest.get(name) == value for name, value in wanted.items()):
            return newest
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def signature(secret: str, received: Received) -> str:
    head = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}."
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, head.encode() + received.body, hashlib.sha256)).decode()


def test_an_event_is_posted_signed_to_its_tenant_s_webhook_alone(stack, mint, receiver):
    path, secret = make(mint, receiver, "alias.moved")
    with stack.client(key=stack.other_key) as other:
        theirs = Receiver()
        make(other, theirs)
        for verb, at in (("GET", path), ("DELETE", path), ("POST", f"{path}/rotate")):
            assert other.request(verb, at).status_code == 404
        move(mint, "hooked")
        (received,) = receiver.wait_for(lambda found: len(found) == 1)
        assert theirs.received == []
        theirs.stop()
        for webhook in other.get("/webhooks").json():
            other.delete(f"/webhooks/{webhook['webhook_id']}")
    event = json.loads(received.body)
    assert (event["type"], event["data"]["alias"]) == ("alias.moved", "hooked")
    assert received.headers["webhook-signature"] == signature(secret, received)
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    log = wait_for(mint, f"{path}/deliveries", state="delivered", tries=1)
    assert log["delivery_id"] == received.headers["webhook-id"]
    assert (log["event_id"], log["attempts"][0]["status"]) == (event["id"], 200)
    assert secret not in mint.get(path).text


def test_a_failed_delivery_comes_again_under_its_id_until_it_is_taken(mint, receiver):
    path, _ = make(mint, receiver, "alias.moved")
    receiver.status = 500
    move(mint, "failing")
    receiver.wait_for(lambda found: len(found) == 2)
    receiver.status = 204
    log = wait_for(mint, f"{path}/deliveries", state="delivered")
    assert log["tries"] >= 3
    assert {received.headers["webhook-id"] for received in receiver.received} == {log["delivery_id"]}
    assert {attempt["status"] for attempt in log["attempts"]} == {500, 204}


def test_a_delivered_event_is_replayed_under_its_id(mint, receiver):
    path, _ = make(mint, receiver, "alias.moved")
    move(mint, "again")
    log = wait_for(mint, f"{path}/deliveries", state="delivered")
    replayed = mint.post(f"{path}/deliveries/{log['delivery_id']}/replay")
    assert replayed.json()["state"] == "waiting"
    one, two = receiver.wait_for(lambda found: len(found) == 2)
    assert (one.headers["webhook-id"], one.body) == (two.headers["webhook-id"], two.body)
    assert mint.post(f"{path}/deliveries/whd_none/replay").status_code == 404


def test_a_paused_webhook_is_sent_to_when_it_goes_on(mint, receiver):
    path, _ = make(mint, receiver, "alias.moved")
    assert mint.patch(path, json={"state": "paused"}).json()["state"] == "paused"
    move(mint, "paused")
    wait_for(mint, f"{path}/deliveries", state="waiting")
    assert receiver.received == []
    mint.patch(path, json={"state": "active"}).raise_for_status()
    receiver.wait_for(lambda found: len(found) == 1)


def test_after_a_rotation_the_old_secret_signs_too(mint, receiver):
    path, old = make(mint, receiver, "alias.moved")
    new = mint.post(f"{path}/rotate").json()["secret"]
    assert new != old
    move(mint, "rotated")
    (received,) = receiver.wait_for(lambda found: len(found) == 1)
    assert received.headers["webhook-signature"] == f"{signature(new, received)} {signature(old, received)}"


def test_a_webhook_that_takes_nothing_for_long_is_disabled_with_the_reason(mint, receiver):
    path, _ = make(mint, receiver, "alias.moved")
    receiver.status = 503
    move(mint, "given-up")
    log = wait_for(mint, f"{path}/deliveries", state="failed")
    assert log["due_at"] is None
    move(mint, "given-up", 2)  # by now it has failed for longer than anybody waits
    found = wait_for(mint, path, state="disabled")
    assert found["reason"].endswith("at last: status 503")
    receiver.status = 200
    assert mint.patch(path, json={"state": "active"}).json()["reason"] is None
    move(mint, "given-up", 3)
    wait_for(mint, f"{path}/deliveries", state="delivered")


def test_a_receiver_that_does_not_answer_holds_up_nobody(mint, receiver):
    receiver.stalls.set()
    path, _ = make(mint, receiver, "alias.moved")
    quick = Receiver()
    make(mint, quick, "alias.moved")
    move(mint, "stalled")
    quick.wait_for(lambda found: len(found) == 1)
    receiver.wait_for(lambda found: len(found) == 2)  # tried again after the time-out
    log = wait_for(mint, f"{path}/deliveries", state="waiting")
    assert log["attempts"][0]["problem"] == "no answer in 1 s"
    quick.stop()


def test_no_redirect_is_followed(mint, receiver):
    target = Receiver()
    receiver.status, receiver.headers = 307, {"location": target.url}
    path, _ = make(mint, receiver, "alias.moved")
    move(mint, "redirected")
    receiver.wait_for(lambda found: len(found) == 1)
    log = wait_for(mint, f"{path}/deliveries", state="waiting", tries=1)
    assert (log["attempts"][0]["status"], target.received) == (307, [])
    target.stop()


def test_kill_9_of_the_gateway_loses_no_delivery(stack, mint, receiver):
    path, _ = make(mint, receiver, "alias.moved")
    receiver.stalls.set()
    move(mint, "killed", 1)
    receiver.wait_for(lambda found: len(found) == 1)
    stack.kill("gateway")  # with a request under way
    receiver.stalls.clear()
    stack.move_alias("counter", "killed", 2)  # while no gateway is there
    stack.start("gateway")
    receiver.wait_for(lambda found: len({each.headers["webhook-id"] for each in found}) == 2)
    deadline = time.monotonic() + SECONDS
    while {log["state"] for log in mint.get(f"{path}/deliveries").json()} != {"delivered"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    events = {json.loads(each.body)["data"]["sequence"] for each in receiver.received}
    assert events == {1, 2}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"url": "ftp://example.com"}, "invalid_field"),
        ({"url": "https://example.com", "event_types": ["alias.exploded"]}, "invalid_field"),
        ({"url": "https://example.com", "description": "\x00"}, "invalid_field"),
        ({"url": "https://example.com", "secret": "mine"}, "invalid_field"),
        ({}, "invalid_field"),
    ],
)
def test_what_makes_no_webhook_is_refused(mint, body, code):
    answer = mint.post("/webhooks", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)


def test_a_tenant_has_so_many_webhooks_and_takes_an_admin_key(mint):
    statuses = [mint.post("/webhooks", json={"url": "https://example.com"}).status_code for _ in range(21)]
    assert statuses == [201] * 20 + [422]
    key = mint.post("/keys", json={"name": "hooks", "scopes": ["read", "train"]}).json()["key"]
    answer = mint.get("/webhooks", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["0x7f000001", "2130706433", "127.1"])
async def test_a_name_of_an_address_inside_is_sent_nothing(receiver, host):
    sender = HttpWebhookSender(SystemClock(), timeout_seconds=2.0, allow_private=False)
    port = receiver.url.partition("127.0.0.1:")[2].partition("/")[0]
    attempt = await sender.send(TENANT, f"https://{host}:{port}/hook", {}, b"{}")
    await sender.close()
    assert "IP address in its usual form" in (attempt.problem or "")
    assert (attempt.status, receiver.received) == (None, [])
