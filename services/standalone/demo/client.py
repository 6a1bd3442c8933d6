"""The public API of a gateway, as the demo uses it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

import httpx
import msgspec

from mint_common.errors import Unavailable
from services.standalone.demo.records import (
    Adapter,
    Alias,
    Answer,
    Evaluation,
    Job,
    Prompt,
    Recipe,
    Ref,
)

T = TypeVar("T")
PARALLEL_REQUESTS = 16
REQUEST_SECONDS = 120.0


class MintClient:
    """Speaks to one gateway with one key. Every method raises Unavailable with the server's own words."""

    def __init__(self, base_url: str, api_key: str) -> None:
        headers = {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=REQUEST_SECONDS, trust_env=False
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def recipe(self, task: str) -> Recipe:
        """Return what a task recommends."""
        answer = await self._call("GET", f"/mint/v1/tasks/{task}")
        return msgspec.convert(_field(answer, "defaults"), Recipe)

    async def heldout_prompts(self, task: str, n: int, *, seed: int) -> tuple[Prompt, ...]:
        """Draw held-out prompts."""
        body = {"split": "heldout", "n": n, "seed": seed}
        answer = await self._call("POST", f"/mint/v1/tasks/{task}/prompts", body)
        return msgspec.convert(_field(answer, "prompts"), tuple[Prompt, ...])

    async def create_policy(self, name: str, base: str, *, rank: int, alpha: float) -> None:
        """Create a policy."""
        lora = {"rank": rank, "alpha": alpha, "seed": 0}
        await self._call("POST", "/mint/v1/policies", {"name": name, "base": base, "lora": lora})

    async def submit(self, policy: str, task: str, *, steps: int, seed: int = 0) -> str:
        """Submit a GRPO job with the task's recipe and return its id."""
        body = {"policy": policy, "task": task, "algorithm": "grpo", "steps": steps, "seed": seed}
        return msgspec.convert(_field(await self._call("POST", "/mint/v1/jobs", body), "job_id"), str)

    async def job(self, job_id: str) -> Job:
        """Return a job with its steps."""
        return msgspec.convert(await self._call("GET", f"/mint/v1/jobs/{job_id}"), Job)

    async def revisions(self, policy: str) -> tuple[Ref, ...]:
        """Return a policy's revisions by number."""
        found = await self._call("GET", f"/mint/v1/policies/{policy}/revisions")
        refs = msgspec.convert(found, tuple[Ref, ...])
        return tuple(sorted(refs, key=lambda ref: ref.number))

    async def adapters(self) -> tuple[Adapter, ...]:
        """Return the adapters on all engines."""
        return msgspec.convert(await self._call("GET", "/mint/v1/adapters"), tuple[Adapter, ...])

    async def record_evaluation(
        self, policy: str, revision: int, *, suite: str, value: float, n: int
    ) -> None:
        """Record a held-out accuracy."""
        body = {"revision": revision, "suite": suite, "metric": "accuracy", "value": value, "n": n}
        await self._call("POST", f"/mint/v1/policies/{policy}/evaluations", body)

    async def best_revision(self, policy: str, *, suite: str) -> int:
        """Return the number of the revision with the best recorded accuracy; the newest of equals."""
        found = await self._call("GET", f"/mint/v1/policies/{policy}/evaluations")
        rows = [row for row in msgspec.convert(found, list[_Recorded]) if row.suite == suite]
        return max(rows, key=lambda row: (row.value, row.number)).number

    async def prod(self, policy: str) -> Alias:
        """Return where `prod` points, with its history."""
        return msgspec.convert(await self._call("GET", _prod(policy)), Alias)

    async def promote(self, policy: str, revision: int, *, expected: str, reason: str) -> Alias:
        """Move `prod`; ``expected`` is what it points at now (``""``: it does not exist)."""
        body = {"revision": revision, "expected": expected, "reason": reason}
        return msgspec.convert(await self._call("PUT", _prod(policy), body), Alias)

    async def roll_back(self, policy: str, *, expected: str, reason: str) -> Alias:
        """Move `prod` back."""
        body = {"expected": expected, "reason": reason}
        return msgspec.convert(await self._call("POST", f"{_prod(policy)}/rollback", body), Alias)

    async def complete(self, model: str, prompt: str, *, max_tokens: int) -> Answer:
        """Complete a prompt greedily."""
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        response = await self._send("POST", "/v1/completions", body)
        reply = msgspec.json.decode(response.content, type=_Completion)
        header = response.headers.get("x-mint-revision", "")
        return Answer(text=reply.choices[0].text, header=header, fingerprint=reply.system_fingerprint)

    async def evaluate(
        self, model: str, task: str, prompts: Sequence[Prompt], *, max_tokens: int
    ) -> Evaluation:
        """Answer all prompts greedily, a bounded number at a time, and score the answers."""
        gate = asyncio.Semaphore(PARALLEL_REQUESTS)

        async def ask(prompt: Prompt) -> Answer:
            async with gate:
                return await self.complete(model, prompt.text, max_tokens=max_tokens)

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(prompt)) for prompt in prompts]
        answers = tuple(task.result() for task in asked)
        items = [
            {"entry": prompt.entry, "text": answer.text}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        scored = await self._call("POST", f"/mint/v1/tasks/{task}/score", {"items": items})
        rewards = msgspec.convert(_field(scored, "rewards"), tuple[float, ...])
        return Evaluation(model=model, answers=answers, rewards=rewards)

    async def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> object:
        decoded: object = (await self._send(method, path, body)).json()
        return decoded

    async def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(what=f"{method} {path}", problem=repr(error)) from error
        if response.is_error:
            problem = f"status {response.status_code}: {response.text[:500]}"
            raise Unavailable(what=f"{method} {path}", problem=problem)
        return response


class _Recorded(msgspec.Struct, frozen=True):
    number: int
    suite: str
    value: float


class _Choice(msgspec.Struct, frozen=True):
    text: str


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_Choice]
    system_fingerprint: str


def _field(answer: object, name: str) -> object:
    assert isinstance(answer, dict), answer
    return answer[name]


def _prod(policy: str) -> str:
    return f"/mint/v1/policies/{policy}/aliases/prod"
