"""Clients as people have them, unmodified, each in an environment of its own, against a stack of `smollm2`.

No tool here says ``strict``: a model of 135 million parameters writes a city into the wrong place of its
arguments unless the engine keeps to the schema.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import anthropic
import pytest
from clients.environments import ROOT, make_environment, make_node_environment
from e2e.stack import RunningStack, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

SCRIPTS = ROOT / "tests/clients"
MODEL = "smollm2"
CITIES = {"Rome", "Oslo"}
CONTEXT = 8192
needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="Node's clients need npm")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose base can call tools, with room for the prompts of coding agents."""
    room = {"MINT_LOADER_MAX_CONTEXT": str(CONTEXT), "MINT_LOADER_KV_CACHE_BYTES": str(1 << 30)}
    running = start_stack(tmp_path_factory.mktemp("clients"), room, base=MODEL)
    yield running
    running.stop()


def run(command: Sequence[object], folder: Path, *, codes: Collection[int] = (0,), **env: str) -> str:
    """Run a client; return what it printed. It must end with one of some codes."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MINT_", "OPENAI_", "ANTHROPIC_", "CLAUDE"))
    }
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**own, "HOME": str(folder), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode in codes, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def url_of(stack: RunningStack) -> str:
    return str(stack.http.base_url).rstrip("/")


def check(told: str, *, texts: int, cities: int) -> None:
    """Check that all texts of one question are the same, and that each structured way named a city."""
    seen = json.loads(told.splitlines()[-1])
    assert len(seen["texts"]) == texts
    assert len(set(seen["texts"])) == min(texts, 1), seen
    assert "" not in seen["texts"]
    assert len(seen["cities"]) == cities
    assert set(seen["cities"].values()) <= CITIES, seen


class PythonClient(NamedTuple):
    """A package, the script that uses it, and how many texts and cities the script tells."""

    package: str
    script: str
    feature: str
    texts: int
    cities: int
    extras: str = ""

    @property
    def name(self) -> str:
        return self.package.partition("==")[0]


PYTHON_CLIENTS = (
    PythonClient(
        "litellm==1.110.2",
        "litellm_chat.py",
        "chat and messages: whole, streamed, a tool; structured output",
        texts=4,
        cities=3,
    ),
    PythonClient(
        "langchain-anthropic==1.7.10",
        "langchain_messages.py",
        "ChatAnthropic: whole, streamed, a tool, structured output by either method",
        texts=2,
        cities=3,
    ),
    PythonClient(
        "pydantic-ai-slim==2.62.0",
        "pydantic_agents.py",
        "agents over chat, responses and messages: text, ToolOutput, NativeOutput",
        texts=3,
        cities=4,
        extras="[openai,anthropic]",
    ),
    PythonClient(
        "instructor==1.17.0",
        "instructor_modes.py",
        "TOOLS, RESPONSES_TOOLS, JSON_SCHEMA",
        texts=0,
        cities=3,
    ),
    PythonClient(
        "llama-index-llms-openai-like==0.8.1",
        "llama_index_chat.py",
        "chat, streamed, structured output by a function call",
        texts=2,
        cities=1,
    ),
)


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(
            each, marks=pytest.mark.client(each.package.replace("==", " "), each.feature), id=each.name
        )
        for each in PYTHON_CLIENTS
    ],
)
def test_a_python_client(stack: RunningStack, tmp_path: Path, client: PythonClient) -> None:
    python = make_environment(
        client.package.replace("==", "-"), client.package.replace("==", f"{client.extras}==")
    )
    told = run([python, SCRIPTS / client.script, url_of(stack), stack.api_key, MODEL], tmp_path)
    check(told, texts=client.texts, cities=client.cities)


@needs_node
@pytest.mark.client("openai (Node) 6.49.0", "chat, streamed, a tool, structured output, responses")
def test_openai_for_node(stack: RunningStack) -> None:
    folder = make_node_environment("node-openai-6.49.0", "openai@6.49.0")
    told = run(["node", SCRIPTS / "node_openai.mjs", url_of(stack), stack.api_key, MODEL], folder)
    check(told, texts=3, cities=2)


@needs_node
@pytest.mark.client("@ai-sdk/openai-compatible 2.0.92", "generateText, streamText, a tool, generateObject")
def test_vercels_ai_sdk(stack: RunningStack) -> None:
    packages = ("@ai-sdk/openai-compatible@2.0.92", "ai@6.0.326", "zod@4.1.8")
    folder = make_node_environment("node-ai-sdk-2.0.92", *packages)
    told = run(["node", SCRIPTS / "node_ai_sdk.mjs", url_of(stack), stack.api_key, MODEL], folder)
    check(told, texts=2, cities=2)


@needs_node
@pytest.mark.client("Claude Code 2.1.197", "claude -p, with its own tools and its own prompt")
def test_claude_code(stack: RunningStack, tmp_path: Path) -> None:
    folder = make_node_environment("node-claude-code-2.1.197", "@anthropic-ai/claude-code@2.1.197")
    command = [folder / "node_modules/.bin/claude", "-p", "Say hello.", "--model", MODEL]
    told = run(
        [*command, "--output-format", "json", "--tools", "Read"],
        tmp_path,
        codes=(0, 1),
        ANTHROPIC_BASE_URL=url_of(stack),
        ANTHROPIC_API_KEY=stack.api_key,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        CLAUDE_CODE_MAX_OUTPUT_TOKENS="64",
    )
    answer = json.loads(told)
    # It asks at temperature 1, and takes an answer that is cut for an error.
    assert answer["type"] == "result"
    assert not answer["is_error"] or "output token maximum" in answer["result"], answer
    assert MODEL in answer["modelUsage"]
    assert answer["usage"]["output_tokens"] > 0


@pytest.mark.client(f"anthropic {anthropic.__version__}", "tool_runner: a tool runs, its result is sent back")
def test_anthropics_tool_runner(stack: RunningStack) -> None:
    asked_for = []

    @anthropic.beta_tool(
        input_schema={
            "type": "object",
            "properties": {"city": {"type": "string", "enum": sorted(CITIES)}},
            "required": ["city"],
        }
    )
    def weather(city: str) -> str:
        """Weather of a city."""
        asked_for.append(city)
        return f"sunny in {city}"

    with anthropic.Anthropic(base_url=url_of(stack), api_key=stack.api_key, max_retries=0) as client:
        runner = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=60,
            messages=[{"role": "user", "content": "Which is warmer: Rome or Oslo?"}],
            tools=[weather],
            tool_choice={"type": "tool", "name": "weather"},
            max_iterations=2,
        )
        first, second = list(runner)
    assert [block.type for block in first.content] == ["tool_use"]
    assert asked_for
    assert set(asked_for) <= CITIES
    assert second.usage.input_tokens > first.usage.input_tokens, "the whole conversation is sent again"


@pytest.mark.client("guidellm 0.8.1", "a benchmark, with its check of the backend")
def test_guidellm(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("guidellm-0.8.1", "guidellm==0.8.1")
    report = tmp_path / "report.json"
    told = run(
        [
            *(python.with_name("guidellm"), "run", "--disable-console", "--profile", "kind=synchronous"),
            *("--backend", f"kind=openai_http,target={url_of(stack)},model={MODEL},api_key={stack.api_key}"),
            *("--constraint", "kind=max_requests,count=3"),
            *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8"),
            *("--tokenizer", f"kind=huggingface_auto,model={stack.folder / 'bases' / MODEL}"),
            *("--output", f"kind=json,path={report}"),
        ],
        tmp_path,
    )
    (found,) = json.loads(report.read_text())["benchmarks"]
    answered = found["requests"]["successful"]
    assert len(answered) == 3, told
    assert {request["output_tokens"] for request in answered} == {8}
