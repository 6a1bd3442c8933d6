"""The compose stack as it comes: up, a job, answers, rolled back; each part killed; down and up again."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.compose.stack import PARTS, ROOT, ComposeStack, eventually, missing, open_stack, sizes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(bool(missing()), reason=f"no compose stack here: {missing()}"),
]
STEPS = 10
JOB_SECONDS = 240
TABLE = ROOT / "out" / "compose.json"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    with open_stack(ROOT / "out" / "compose") as opened:
        _note(up_seconds=opened.up(), image_bytes=sizes(opened.environ))
        yield opened


@pytest.fixture
def client(stack: ComposeStack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def _note(**found: Any) -> None:
    TABLE.parent.mkdir(exist_ok=True)
    noted = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    TABLE.write_text(json.dumps(noted | found, indent=2, sort_keys=True) + "\n")


def _submit(client: httpx.Client, policy: str) -> str:
    body: dict[str, Any] = {"name": policy, "base": "tiny", "lora": {"rank": 8, "alpha": 16, "seed": 0}}
    assert client.post("/mint/v1/policies", json=body).status_code == 201
    body = {
        "policy": policy,
        "task": "mode:copy",
        "steps": STEPS,
        "prompts_per_step": 2,
        "group_size": 4,
    }
    answer = client.post("/mint/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def _job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Return a job; empty while the gateway does not answer, as when it or what it asks was killed."""
    try:
        answer = client.get(f"/mint/v1/jobs/{job_id}", timeout=5)
    except httpx.TransportError:
        return {}
    job: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return job


def _answer(client: httpx.Client, model: str) -> httpx.Response | None:
    """Return an answer, None while connections to what was killed are made anew."""
    body = {"model": model, "prompt": "f abcd=", "max_tokens": 6, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code in (200, 503), answer.text
    return answer if answer.status_code == 200 else None


def _published(job: dict[str, Any]) -> int:
    return sum(step["revision"] is not None for step in job.get("steps", ()))


def _ask(client: httpx.Client, model: str) -> tuple[str, str]:
    """Return an answer and the digest that gave it."""
    answer = _answer(client, model)
    assert answer is not None, "a stack of healthy parts answers"
    return answer.json()["choices"][0]["text"], answer.headers["x-mint-revision"]


def test_every_part_is_healthy(stack: ComposeStack) -> None:
    assert {part: stack.health(part) for part in PARTS} == dict.fromkeys(PARTS, "healthy")


def test_both_engines_serve_and_texts_are_tokenized(client: httpx.Client) -> None:
    engines = client.get("/mint/v1/engines").json()
    assert {engine["engine_id"] for engine in engines} == {"loader-1", "loader-2"}


def test_engines_are_added_and_taken_away_by_number(stack: ComposeStack, client: httpx.Client) -> None:
    def serving() -> set[str]:
        engines = client.get("/mint/v1/engines").json()
        return {engine["engine_id"] for engine in engines if engine["state"] == "serving"}

    scaled = ("up", "--detach", "--no-build", "--wait", "--no-recreate", "--scale")
    stack.compose(*scaled, "loader=3")
    eventually(lambda: serving() == {"loader-1", "loader-2", "loader-3"}, seconds=30)
    stack.compose(*scaled, "loader=2")
    eventually(lambda: len(serving()) == 2, seconds=30)


def test_a_job_trains_a_policy_that_answers_and_rolls_back(client: httpx.Client) -> None:
    job_id = _submit(client, "life")
    eventually(lambda: _job(client, job_id).get("state") == "succeeded", seconds=JOB_SECONDS)
    numbers = sorted(one["number"] for one in client.get("/mint/v1/policies/life/revisions").json())
    served = []
    for number in (numbers[0], numbers[-1]):
        body = {"revision": number, "reason": "test", "wait_ready": True}
        moved = client.put("/mint/v1/policies/life/aliases/live", json=body)
        assert moved.status_code == 200, moved.text
        served.append(_ask(client, "life@live"))
    assert served[0][1] != served[1][1]
    rolled = client.post("/mint/v1/policies/life/aliases/live/rollback", json={"reason": "test"})
    assert rolled.status_code == 200
    eventually(lambda: _ask(client, "life@live")[1] == served[0][1], seconds=30)


@pytest.mark.parametrize("part", PARTS)
def test_a_job_outlives_the_crash_of_a_part(stack: ComposeStack, client: httpx.Client, part: str) -> None:
    job_id = _submit(client, f"crash-{part}")
    eventually(lambda: _published(_job(client, job_id)) >= 2, seconds=JOB_SECONDS)
    stack.kill(part)
    killed = time.monotonic()
    eventually(lambda: _job(client, job_id).get("state") in ("succeeded", "failed"), seconds=JOB_SECONDS)
    ended = time.monotonic() - killed
    assert _job(client, job_id)["state"] == "succeeded", _job(client, job_id)["reason"]
    assert _published(_job(client, job_id)) == STEPS
    eventually(lambda: stack.health(part) == "healthy", seconds=JOB_SECONDS)
    _note(**{f"crash_{part}": {"job_ended_seconds": ended, "healthy_seconds": time.monotonic() - killed}})
    eventually(lambda: bool(_answer(client, f"crash-{part}")), seconds=60)


def test_down_and_up_again_is_the_same_stack(stack: ComposeStack) -> None:
    def state(client: httpx.Client) -> list[Any]:
        paths = ("/mint/v1/policies", "/mint/v1/jobs", "/mint/v1/policies/life/aliases/live/history")
        return [client.get(path).json() for path in paths]

    with stack.client() as client:
        before, answer = state(client), _ask(client, "life@live")
    began = time.monotonic()
    stack.down()
    between = time.monotonic()
    stack.up()
    _note(down_seconds=between - began, up_again_seconds=time.monotonic() - between)
    with stack.client() as client:
        assert state(client) == before
        assert _ask(client, "life@live") == answer


def test_no_service_can_write_its_root(stack: ComposeStack) -> None:
    for part in ("registry", "rollout", "gateway", "trainer", "loader"):
        command = ("exec", "-T", part, "python", "-c")
        assert "30" in stack.compose(*command, "import os; print(os.statvfs('/').f_flag & 1 and 30)")
        user = stack.compose(*command, "import os; print(os.getuid(), os.getgid())")
        assert user.split() == ["10001", "10001"]


def test_a_container_reads_its_own_secrets_alone(stack: ComposeStack) -> None:
    listing = "import os; print(*sorted(os.listdir('/run/secrets')))"
    own = {part: stack.compose("exec", "-T", part, "python", "-c", listing).split() for part in PARTS[3:]}
    assert "api_key" in own["registry"]
    assert all("api_key" not in names for part, names in own.items() if part != "registry")
    assert all("postgres_password" not in names for names in own.values())
    logins = {part: [name for name in names if name.startswith("postgres")] for part, names in own.items()}
    assert logins == {part: [f"postgres_dsn_{part.partition('-')[0]}"] for part in own}


def test_the_script_of_the_roles_may_run_again(stack: ComposeStack) -> None:
    stack.compose("exec", "-T", "postgres", "/docker-entrypoint-initdb.d/roles.sh")
    with stack.client() as client:
        assert _ask(client, "life@live")


def test_light_services_have_small_images(stack: ComposeStack) -> None:
    assert sizes(stack.environ)["localhost/mint-slim:test"] <= 400e6


def test_the_images_hold_no_compiler(stack: ComposeStack) -> None:
    looked = "import shutil; print(shutil.which('gcc'), shutil.which('uv'))"
    for part in ("gateway", "loader"):
        assert stack.compose("exec", "-T", part, "python", "-c", looked).split() == ["None", "None"]
