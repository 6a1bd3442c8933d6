"""A request for a job that is sent again, by OpenAI's client or with an Idempotency-Key, is one job."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import httpx2
import openai
import pytest

from mint_common.ids import derive_id
from services.gateway.core.idempotency import keyed_request
from services.rollout.handlers.file_job_requests import JOB_LABEL
from tests.integration.gateway.test_fine_tuning import ROWS, client_of, end, query

pytestmark = pytest.mark.integration

PATH = "/v1/fine_tuning/jobs"


@pytest.fixture(scope="module")
def client(stack, counter) -> Iterator[openai.OpenAI]:
    assert counter.name == "counter"
    with client_of(stack) as made:
        yield made


@pytest.fixture
def file(client) -> Iterator[str]:
    """A file; its jobs are ended with the test."""
    made = client.files.create(file=("chat.jsonl", ROWS["chat"]), purpose="fine-tune").id
    yield made
    jobs = client.fine_tuning.jobs.list(limit=100)
    end(client, *(job.id for job in jobs if job.training_file == made))
    client.files.delete(made)


def post(stack, body: dict, **headers: str) -> httpx.Response:
    auth = {"authorization": f"Bearer {stack.key}", "content-type": "application/json"}
    return httpx.post(stack.url + PATH, content=json.dumps(body), headers=auth | headers, timeout=60)


def try_number(count: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(count)}


def of_file(client: openai.OpenAI, file: str) -> list[str]:
    return [job.id for job in client.fine_tuning.jobs.list(limit=100) if job.training_file == file]


class LosesTheFirstAnswer(httpx2.BaseTransport):
    """Delivers every request; the first answer about a job never comes back."""

    def __init__(self) -> None:
        self._way = httpx2.HTTPTransport()
        self.tries: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the answer. Raises ReadTimeout."""
        answer = self._way.handle_request(request)
        if request.url.path == PATH and request.method == "POST":
            self.tries.append(request.headers["x-stainless-retry-count"])
            if len(self.tries) == 1:
                answer.read()
                raise httpx2.ReadTimeout("the answer is lost", request=request)
        return answer

    def close(self) -> None:
        """Close what it goes through."""
        self._way.close()


def test_openai_s_client_that_misses_an_answer_gets_the_job_that_was_made(stack, client, file) -> None:
    transport = LosesTheFirstAnswer()
    with openai.OpenAI(
        base_url=f"{stack.url}/v1",
        api_key=stack.key,
        http_client=openai.DefaultHttpxClient(transport=transport),
    ) as losing:
        job = losing.fine_tuning.jobs.create(model="counter", training_file=file)
    assert transport.tries == ["0", "1"]
    assert of_file(client, file) == [job.id]


def test_a_repeat_is_one_job_and_another_request_is_not(stack, client, file) -> None:
    body = {"model": "counter", "training_file": file}
    first, second = (post(stack, body, **try_number(0)).json()["id"] for _ in range(2))
    assert first != second, "two requests are two jobs"
    again = post(stack, body, **try_number(1))
    assert (again.status_code, again.json()["id"]) == (200, second)
    other = {**body, "seed": 5}
    lost = post(stack, other, **try_number(1)).json()["id"]
    assert lost not in {first, second}, "its first try never arrived"
    assert post(stack, other, **try_number(2)).json()["id"] == lost
    keyed = [post(stack, body, **{"idempotency-key": "tuned-once"}).json()["id"] for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert of_file(client, file) == [keyed[0], lost, second, first]


def test_repeats_are_of_one_api_key(stack, client, file) -> None:
    body = {"model": "counter", "training_file": file}
    mine = post(stack, body, **try_number(0)).json()["id"]
    with stack.client() as mint:
        made = mint.post("/keys", json={"name": "second", "scopes": ["train"]}).json()
        headers = {"authorization": f"Bearer {made['key']}", **try_number(1)}
        theirs = post(stack, body, **headers).json()["id"]
        mint.delete(f"/keys/{made['key_id']}")
    assert theirs != mine


def test_repeats_that_come_while_the_first_is_at_work_are_one_job(stack, client, file) -> None:
    body = {"model": "tiny", "training_file": file, "suffix": "raced"}

    def send(count: int) -> str:
        return post(stack, body, **try_number(count)).json()["id"]

    known = begun(stack)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(send, 0)
        deadline = time.monotonic() + 60
        while begun(stack) == known:
            assert time.monotonic() < deadline
        repeats = pool.map(send, [1] * 7)
        made = {first.result(), *repeats}
    assert of_file(client, file) == [*made]
    assert policies(stack, "tiny-raced") == ["tiny-raced"]


def test_a_request_that_was_cut_off_in_the_middle_finds_its_policy(stack, client, file) -> None:
    body = {"model": "tiny", "training_file": file, "suffix": "cut"}
    keyed = keyed_request(
        stack.tenant_id, "cut off", method="POST", target=f"{PATH}?", body=json.dumps(body).encode()
    )
    label = {JOB_LABEL: derive_id("job", keyed.request_id)}
    with stack.client() as mint:
        policy = mint.post("/policies", json={"name": "tiny-cut", "base": "tiny", "labels": label}).json()
    job = post(stack, body, **{"idempotency-key": "cut off"}).json()
    assert (job["mint"]["policy_id"], job["mint"]["job_id"]) == (policy["policy_id"], label[JOB_LABEL])
    assert policies(stack, "tiny-cut") == ["tiny-cut"]


def begun(stack) -> int:
    """Return how many first tries have arrived."""
    return query(stack, "SELECT count(*) AS n FROM gateway.requests WHERE key LIKE 'sdk:%'")[0]["n"]


def policies(stack, prefix: str) -> list[str]:
    with stack.client() as mint:
        found = mint.get("/policies", params={"limit": 1000}).json()
    return [policy["name"] for policy in found if policy["name"].startswith(prefix)]
