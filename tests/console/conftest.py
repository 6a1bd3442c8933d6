"""A stack with a running job, and Chromium in front of it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest
from e2e.stack import RunningStack, start_stack

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-console` installs Playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STEPS = 40


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """`mint up` on the base tiny."""
    with tempfile.TemporaryDirectory(prefix="mint-console-", ignore_cleanup_errors=True) as name:
        running = start_stack(Path(name) / "stack")
        yield running
        running.stop()


@pytest.fixture(scope="session")
def job(stack: RunningStack) -> str:
    """A job that has made two revisions and goes on."""
    stack.make_policy("shown")
    job_id = stack.submit("shown", steps=STEPS, prompts_per_step=4, group_size=4)
    stack.wait_for_step(job_id, 2)
    return job_id


@pytest.fixture(scope="session")
def tuning(stack: RunningStack) -> str:
    """A fine-tuning job on a file of the tenant's."""
    rows = "".join(
        json.dumps({"prompt": f"f {letter}b=", "completion": f"{letter}b"}) + "\n" for letter in "acde"
    )
    sent = {"file": ("rows.jsonl", rows.encode())}
    file = stack.http.post("/v1/files", files=sent, data={"purpose": "fine-tune"}).raise_for_status().json()
    body = {"model": "tiny", "training_file": file["id"], "suffix": "browsed"}
    made = stack.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()
    return str(made["id"])


@pytest.fixture(scope="session")
def rule(stack: RunningStack, job: str) -> str:
    """A rule of the policy that ``job`` trains."""
    limits = {"at_least": 0.5, "roll_back_below": 0.25}
    body = {"suite": "heldout", "metric": "accuracy", "alias": "ruled", **limits}
    made = stack.http.post("/mint/v1/policies/shown/rules", json=body).raise_for_status().json()
    return str(made["rule_id"])


@pytest.fixture(scope="session")
def answers(stack: RunningStack, job: str) -> dict[str, str]:
    """The ids of answers of the second revision, by the API of the official client that asked."""
    for revision in (2, 1):
        move = {"revision": revision, "reason": "seen by a few"}
        stack.http.put("/mint/v1/policies/shown/aliases/canary", json=move).raise_for_status()
    model, messages = "shown@2", [{"role": "user", "content": "f abcd="}]
    with openai.OpenAI(base_url=f"{stack.http.base_url}/v1", api_key=stack.api_key) as client:
        found = {
            "chat": client.chat.completions.create(model=model, messages=messages, max_tokens=4).id,
            "completion": client.completions.create(model=model, prompt="f abcd=", max_tokens=4).id,
            "response": client.responses.create(model=model, input="f abcd=", max_output_tokens=4).id,
        }
    with anthropic.Anthropic(base_url=str(stack.http.base_url), api_key=stack.api_key) as client:
        found["message"] = client.messages.create(model=model, messages=messages, max_tokens=4).id
    return found


@pytest.fixture(scope="session")
def ids(job: str, tuning: str, rule: str, answers: dict[str, str]) -> dict[str, str]:
    """The ids in addresses of pages."""
    return {"job": job, "tuning": tuning, "rule": rule, "answer": answers["chat"]}


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(stack: RunningStack, chromium: object) -> Iterator[object]:
    """A page of a browser that has signed in; errors of scripts and of the policy fail the test."""
    context = chromium.new_context(base_url=f"http://127.0.0.1:{stack.port}", locale="en-GB")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and problems.append(said.text))
    opened.goto("/console")
    opened.get_by_label("API key").fill(stack.api_key)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url("**/console")
    opened.problems = problems
    yield opened
    context.close()
