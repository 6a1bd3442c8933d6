"""An alias that is moved with wait_ready answers with its old revision until the new one is ready."""

import threading
import time

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def loader(stack):
    stack.loader.prewarmed.clear()
    yield stack.loader
    stack.loader.may_load.set()


@pytest.fixture
def mint(stack, counter, loader):
    with stack.client() as client:
        yield client


def answered_by(stack, name):
    """Return the number and the digest of the revision that a name's answer came from."""
    with stack.client() as client:
        body = {"model": name, "prompt": "hi", "max_tokens": 40}
        answer = client.post(f"{stack.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"].partition("/")[0], answer.headers["x-mint-revision"]


def digest_of(mint, number):
    return mint.get(f"/policies/counter/revisions/{number}").json()["digest"]


def await_prewarm(loader, digest):
    deadline = time.monotonic() + 60
    while digest not in loader.prewarmed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_old_revision_answers_until_the_new_one_is_ready(stack, mint, loader):
    url, answers = "/policies/counter/aliases/warm", []
    assert mint.put(url, json={"revision": 1}).status_code == 200
    assert loader.prewarmed == [], "only who asks for it waits"
    loader.may_load.clear()

    def move():
        with stack.client() as client:
            answers.append(client.put(url, json={"revision": 2, "wait_ready": True}))

    moving = threading.Thread(target=move)
    moving.start()
    await_prewarm(loader, digest_of(mint, 2))
    assert answered_by(stack, "counter@warm") == ("r1", digest_of(mint, 1))
    loader.may_load.set()
    moving.join()
    assert (answers[0].status_code, answers[0].json()["revision"]["number"]) == (200, 2)
    assert answered_by(stack, "counter@warm") == ("r2", digest_of(mint, 2))


def test_a_revision_that_is_not_ready_in_time_leaves_the_alias_where_it_was(stack, mint, loader):
    url = "/policies/counter/aliases/slow"
    first = mint.put(url, json={"revision": 1}).json()
    loader.may_load.clear()
    late = mint.put(url, json={"revision": 3, "wait_ready": True})
    error = late.json()["error"]
    assert (late.status_code, error["code"]) == (503, "revision_not_ready")
    assert (error["number"], error["name"], error["seconds"]) == (3, "counter", 20)
    assert "the alias has not moved" in error["message"]
    assert mint.get(url).json() == first
    assert answered_by(stack, "counter@slow") == ("r1", digest_of(mint, 1))
    loader.may_load.set()
    assert mint.put(url, json={"revision": 3, "wait_ready": True}).json()["revision"]["number"] == 3


def test_what_does_not_exist_is_not_waited_for(mint, loader):
    missing = mint.put("/policies/counter/aliases/none", json={"revision": 99, "wait_ready": True})
    assert missing.status_code == 404
    assert loader.prewarmed == []
    assert mint.get("/policies/counter/aliases/none").status_code == 404
