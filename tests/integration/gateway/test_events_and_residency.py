"""The event stream, and what is resident where."""

import json
import threading
import time
from dataclasses import asdict

import httpx
import pytest

from mint_common.ids import Digest
from services.gateway.http.mint.residency import ANSWER_SECONDS
from tests.integration.gateway.scripted_loader import ready_status

pytestmark = pytest.mark.integration


def _lines(stack, key: str, opened: threading.Event, found: list[str], until: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream("GET", f"{stack.url}/mint/v1/events", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            opened.set()
            found.append(line)
            if line.startswith("data: ") and until in line:
                return


def test_events_of_this_tenant_arrive_with_id_and_type(stack, counter):
    opened, found = threading.Event(), []
    reader = threading.Thread(target=_lines, args=(stack, stack.key, opened, found, '"alias":"watched"'))
    reader.start()
    assert opened.wait(20)
    with stack.client() as mint:
        mint.put("/policies/counter/aliases/watched", json={"revision": 2}).raise_for_status()
    reader.join(20)
    assert not reader.is_alive()
    at = next(i for i, line in enumerate(found) if '"alias":"watched"' in line)
    data = json.loads(found[at].removeprefix("data: "))
    assert found[at - 1] == "event: alias.moved"
    assert found[at - 2].startswith("id: ")
    assert data["data"]["tenant_id"] == stack.tenant_id


def test_events_of_others_do_not_arrive(stack, counter):
    opened, found = threading.Event(), []
    reader = threading.Thread(target=_lines, args=(stack, stack.other_key, opened, found, '"seed":4242'))
    reader.start()
    assert opened.wait(20)
    with stack.client() as mint:
        mint.put("/policies/counter/aliases/hidden", json={"revision": 2}).raise_for_status()
    with stack.client(key=stack.other_key) as other:
        _own_event(stack, other)
    reader.join(20)
    assert not reader.is_alive()
    assert not any("hidden" in line for line in found)


def test_a_stream_has_the_types_that_are_asked_for(stack, counter):
    opened, found = threading.Event(), []
    address = f"{stack.url}/mint/v1/events?type=revision.retired&type=revision.restored"
    headers = {"authorization": f"Bearer {stack.key}"}
    stack.make_policy("typed", revisions=1)

    def read() -> None:
        with httpx.stream("GET", address, headers=headers, timeout=20) as answer:
            for line in answer.iter_lines():
                opened.set()
                found.append(line)
                if line == "event: revision.restored":
                    return

    reader = threading.Thread(target=read)
    reader.start()
    assert opened.wait(20)
    with stack.client() as mint:
        mint.put("/policies/typed/aliases/seen", json={"revision": 1}).raise_for_status()
        mint.delete("/policies/typed/aliases/seen").raise_for_status()
        for change in ("retire", "restore"):
            mint.post(f"/policies/typed/revisions/1/{change}").raise_for_status()
    reader.join(20)
    assert [line for line in found if line.startswith("event: ")] == [
        "event: revision.retired",
        "event: revision.restored",
    ]


def test_a_type_that_no_event_has_is_refused_with_those_that_there_are(stack):
    with stack.client() as mint:
        refused = mint.get("/events", params={"type": "revision.retired>"})
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "type"
    assert "alias.moved" in refused.json()["error"]["message"]


def _own_event(stack, other: httpx.Client) -> None:
    other.post("/policies", json={"name": "theirs", "base": "tiny", "lora": {"rank": 2}}).raise_for_status()
    body = {"policy": "theirs", "task": "mode:copy", "steps": 1, "prompts_per_step": 1, "group_size": 2}
    job = other.post("/jobs", json={**body, "seed": 4242})
    assert job.status_code == 202, job.text


def _frames(stack, count: int, *, after: str | None = None, query: bool = False) -> list[tuple[str, dict]]:
    """Read (place, envelope) of some moves of the alias; the first frame tells the place alone."""
    headers = {"authorization": f"Bearer {stack.key}"}
    params = {"after": after} if query and after else {}
    if after and not query:
        headers["last-event-id"] = after
    url, found = f"{stack.url}/mint/v1/events", []
    with httpx.stream("GET", url, headers=headers, params=params, timeout=20) as answer:
        answer.raise_for_status()
        place, envelope = "", {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                place = value
            elif name == "data":
                envelope = json.loads(value)
            elif not line and place:
                # What other tests have begun may end now and tell of a revision as well.
                if not envelope or envelope["data"].get("alias") == "resumed":
                    found.append((place, envelope))
                if len(found) == count:
                    break
    return found


def _move(stack, *revisions: int) -> None:
    with stack.client() as mint:
        for revision in revisions:
            mint.put("/policies/counter/aliases/resumed", json={"revision": revision}).raise_for_status()


@pytest.mark.parametrize("query", [False, True])
def test_reading_goes_on_after_the_last_event_id(stack, counter, query):
    ((start, nothing),) = _frames(stack, 1)
    assert nothing == {}
    _move(stack, 1, 2, 3)
    _, *events = _frames(stack, 4, after=start, query=query)
    assert [event["data"]["revision"]["number"] for _, event in events] == [1, 2, 3], events
    for at, (place, _) in enumerate(events[:2]):
        _, *rest = _frames(stack, 3 - at, after=place, query=query)
        assert rest == events[at + 1 :]


@pytest.mark.parametrize("place", ["x", "0-0", "evt_123", "1-99999999999999999999"])
def test_a_place_that_is_not_kept_is_gone(stack, place):
    with stack.client() as mint:
        answer = mint.get("/events", headers={"last-event-id": place})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "events_expired")


def test_engines(stack):
    with stack.client() as mint:
        (engine,) = mint.get("/engines").json()
    assert (engine["engine_id"], engine["base"], engine["slots"]) == ("scripted", "tiny", 4)


def test_a_tenant_without_an_operators_key_sees_its_own_load_alone(stack, counter):
    stack.loader.resident[:] = [ready_status(counter.latest.digest)]
    with stack.client() as operator:
        (engine,) = operator.get("/engines").json()
        assert engine["load"] == asdict(stack.loader.load)
        scoped = operator.post("/keys", json={"name": "scoped", "scopes": ["read"]}).json()["key"]
    stack.loader.asked_for.clear()
    with stack.client(key=scoped) as mint:
        (engine,) = mint.get("/engines").json()
    assert set(stack.loader.asked_for) - {None} == {
        stack.tenant_id
    }  # None: the gateway itself, for its routes
    assert (engine["load"]["in_slots"], engine["load"]["in_host"]) == (1, 1)


def test_a_tenant_sees_its_own_adapters_only(stack, counter):
    mine = ready_status(counter.latest.digest)
    stack.loader.resident[:] = [mine, ready_status(Digest("sha256:" + "e" * 64))]
    with stack.client() as mint:
        (entry,) = mint.get("/adapters").json()
    assert (entry["policy"], entry["number"], entry["tier"]) == ("counter", 3, "slot")
    assert entry["digest"] == counter.latest.digest
    stack.loader.asked_for.clear()
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.get("/adapters").json() == []
    assert stack.tenant_id not in stack.loader.asked_for
    assert set(stack.loader.asked_for) - {None}, "the loader is asked for the stranger's own part"


@pytest.mark.parametrize("digest", ["%00", "sha256:zz", "sha256:" + "0" * 64])
@pytest.mark.parametrize("change", ["pin", "unpin", "evict", "prewarm"])
def test_an_unknown_digest_is_not_found(stack, change, digest):
    with stack.client() as mint:
        answer = mint.post(f"/adapters/{digest}/{change}")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "revision")


def test_a_list_of_engines_does_not_wait_for_one_that_does_not_answer(stack):
    stack.loader.may_report.clear()
    try:
        with stack.client() as mint:
            began = time.monotonic()
            (engine,) = mint.get("/engines").json()
            assert time.monotonic() - began < 2 * ANSWER_SECONDS
        assert (engine["engine_id"], engine["state"], engine["load"]) == ("scripted", "silent", None)
        assert engine["retry_after_seconds"] is None
    finally:
        stack.loader.may_report.set()
    with stack.client() as mint:
        (engine,) = mint.get("/engines").json()
    assert engine["state"] == "serving"


def test_an_engine_that_restarts_is_told_as_such_and_when_to_try_again(stack, counter):
    digest = counter.latest.digest
    stack.loader.resident[:] = [ready_status(digest)]
    with stack.client() as mint:
        (engine,) = mint.get("/engines").json()
        assert (engine["state"], engine["retry_after_seconds"]) == ("serving", None)
        stack.loader.stop()
        try:
            (engine,) = mint.get("/engines").json()
            assert (engine["engine_id"], engine["state"], engine["load"]) == ("scripted", "restarting", None)
            assert 2 <= engine["retry_after_seconds"] <= 20
            answers = [mint.post(f"/adapters/{digest}/{change}") for change in ("pin", "prewarm", "evict")]
            chat = {"model": "counter", "messages": [{"role": "user", "content": "f ab="}]}
            answers.append(mint.post(f"{stack.url}/v1/chat/completions", json=chat))
        finally:
            stack.loader.start()
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "engine_restarting")
            assert error["message"].startswith("The engine is restarting: try again in ")
            assert 2 <= int(answer.headers["retry-after"]) <= 20
        deadline = time.monotonic() + 20
        while mint.get("/engines").json()[0]["state"] != "serving":
            assert time.monotonic() < deadline
            time.sleep(0.1)
