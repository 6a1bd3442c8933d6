"""Bodies of every kind, right and wrong, over every route of the serving API: no 5xx, no hang."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx
import pytest
from e2e.stack import RunningStack
from serving_bodies import Bodies

from mint_common.inference.operations import ApiOperation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

SEED = 17
REPORTS = Path(__file__).parents[2] / "out/openai"
"""How many answers had which status."""
FEW, MANY = 400, 10_000
AT_ONCE = 8
ANSWER_SECONDS = 60.0
"""An answer has two tokens: whatever takes longer hangs."""
AGAIN = {408, 409, 425, 429}
"""Statuses that clients send again."""


def test_a_few_hundred_bodies(stack: RunningStack) -> None:
    asyncio.run(_try_all(stack, FEW, seed=SEED))


@pytest.mark.slow
def test_ten_thousand_bodies(stack: RunningStack) -> None:
    asyncio.run(_try_all(stack, MANY, seed=SEED + 1))


async def _try_all(stack: RunningStack, count: int, *, seed: int) -> None:
    headers = {"authorization": f"Bearer {stack.api_key}", "content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=stack.http.base_url, headers=headers, timeout=ANSWER_SECONDS, trust_env=False
    ) as http:
        served = (await http.get("/openapi.json")).json()["paths"]
        operations = [operation for operation in ApiOperation if "post" in served.get(operation.path, ())]
        assert operations
        bodies = Bodies(seed, model="tiny")
        calls = iter(
            [(each, bodies.make(each)) for n in range(count) for each in [operations[n % len(operations)]]]
        )
        seen: Counter[tuple[str, int]] = Counter()
        wrong: list[str] = []

        async def work() -> None:
            for operation, body in calls:
                try:
                    answer = await http.post(operation.path, content=body)
                except httpx.HTTPError as error:
                    wrong.append(f"{operation}: {error!r}: {body[:500]!r}")
                    continue
                seen[operation, answer.status_code] += 1
                problem = _problem(answer)
                if problem:
                    wrong.append(f"{operation}: {problem}: {body[:500]!r}")

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    _report(seen, seed=seed)
    assert not wrong, f"{len(wrong)} of {count}, seed {seed}:\n" + "\n".join(wrong[:40])
    for operation in operations:
        assert seen[operation, 200], f"no body of {operation} was answered: {seen}"


def _problem(answer: httpx.Response) -> str:
    """Return what is wrong with an answer, empty if nothing."""
    if answer.status_code == 200:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        return next(
            (f"an error in a stream: {event[:300]}" for event in events if '"error"' in event[:12]), ""
        )
    if answer.status_code >= 500 or answer.status_code in AGAIN:
        return f"{answer.status_code} {answer.text[:300]}"
    error = answer.json().get("error")
    if not isinstance(error, dict) or not error.get("message"):
        return f"no error's shape: {answer.text[:300]}"
    if answer.status_code == 400 and answer.json().get("type") != "error" and not error.get("param"):
        return f"names no field: {answer.text[:300]}"
    return ""


def _report(seen: Counter[tuple[str, int]], *, seed: int) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    told = {f"{operation} {status}": count for (operation, status), count in sorted(seen.items())}
    (REPORTS / f"bodies-{seed}.json").write_text(json.dumps(told, indent=1) + "\n")
