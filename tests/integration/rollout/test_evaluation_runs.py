"""Evaluation runs of the rollout service as a process: scored, recorded, and lost to no kill."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from mint_common.authority import Authority, Caller
from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.marker import MarkedBlobs
from mint_common.datasets.reading import told_format
from mint_common.errors import Overloaded
from mint_common.events import JobFile
from mint_common.ids import WaveId
from mint_common.runtime.postgres import open_pool
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.core.evaluation import EvaluationData, EvaluationRun, RunState
from services.rollout.handlers.evaluation_requests import TENANT_RUNS
from tests.integration.rollout.neighbours import Neighbours
from tests.integration.rollout.process import until
from tests.processes import ServiceProcess
from tests.testing.factories import BASE, EXACT, POLICY, TENANT
from tests.unit.rollout.world import revision_of

pytestmark = pytest.mark.integration

RUNS = f"/internal/tenants/{TENANT}/evaluations"
CALLER = Caller(authority=Authority(tenant_id=TENANT, key_id="key_1", scopes=frozenset({"train"})), name="ci")
REVISION = revision_of(WaveId("w"), 7)


def body(run_id: str = "evr_1", **changes: object) -> dict[str, object]:
    claim = REVISION.manifest
    return {
        "run_id": run_id,
        "base": BASE,
        "policy_id": POLICY,
        "policy": "copy",
        "revision": {
            "digest": REVISION.digest,
            "number": 7,
            "manifest": {"uri": claim.uri, "sha256": claim.sha256, "size_bytes": claim.size_bytes},
        },
        "task": "mode:copy",
        "suite": "mode:copy",
        "metric": "reward",
        "data": None,
        "n": 12,
        "seed": 3,
        "temperature": 0.0,
        "max_new_tokens": 8,
        "caller": {
            "authority": {"tenant_id": TENANT, "key_id": "key_1", "scopes": ["train"]},
            "name": CALLER.name,
        },
        **changes,
    }


Begin = Callable[[dict[str, object]], Awaitable[EvaluationRun]]


@pytest.fixture
async def begin(rollout: ServiceProcess, database: str) -> AsyncIterator[Begin]:
    """Store a run, as a request that was checked does."""
    assert rollout.is_running
    pool = await open_pool(database, schema="rollout", max_size=1)

    async def add(run: dict[str, object]) -> EvaluationRun:
        asked = {**run, "tenant_id": TENANT, "created_at": time.time()}
        stored = await PostgresEvaluationRuns(pool).add(
            [msgspec.convert(asked, EvaluationRun)], max_open=TENANT_RUNS
        )
        return stored[0]

    yield add
    await pool.close()


async def ended(client: httpx.AsyncClient, run_id: str = "evr_1") -> dict[str, object]:
    deadline = time.monotonic() + 40
    while (run := (await client.get(f"{RUNS}/run/{run_id}")).json())["state"] == "running":
        assert time.monotonic() < deadline, run
        await asyncio.sleep(0.05)
    found: dict[str, object] = run
    return found


async def test_a_revision_is_scored_and_the_score_recorded(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours
) -> None:
    neighbours.refusals = 2
    assert (await begin(body())).state is RunState.RUNNING
    run = await ended(client)
    # The scripted engine's first completion is wrong.
    assert (run["state"], run["value"], run["stderr"], run["scored"]) == ("succeeded", 0.0, 0.0, 12)
    assert run["revision"] == {"number": 7, "digest": REVISION.digest}
    assert neighbours.scores == [
        (
            POLICY,
            "ci",
            {
                "revision": REVISION.digest,
                "suite": "mode:copy",
                "metric": "reward",
                "value": 0.0,
                "n": 12,
                "stderr": 0.0,
            },
        )
    ]
    assert (await client.get(f"{RUNS}/run")).json() == [{name: run[name] for name in run if name != "grader"}]
    assert (await begin(body())).value == run["value"]
    rows = (await client.get(f"{RUNS}/run/evr_1/rows", params={"limit": 2, "after": 10})).json()
    assert [(row["row"], row["score"], row["answer"]) for row in rows] == [(11, 0.0, "no"), (12, 0.0, "no")]
    for path in (f"evaluations/run/{run['run_id']}", f"evaluations/run/{run['run_id']}/rows"):
        assert (await client.get(f"/internal/tenants/ten_other/{path}")).status_code == 404


async def test_a_bare_base_is_scored_and_compared_and_nothing_is_recorded(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours
) -> None:
    bare = {"revision": None, "policy_id": None, "policy": ""}
    for changes in ({"run_id": "evr_1"}, {"run_id": "evr_2", **bare}):
        await begin(body(**changes))
    base = await ended(client, "evr_2")
    assert (base["state"], base["revision"], base["policy_id"]) == ("succeeded", None, None)
    await ended(client)
    assert [score[0] for score in neighbours.scores] == [POLICY]
    asked = {"run": "evr_1", "baseline": "evr_2", "rows": 3}
    answer = (await client.get(f"{RUNS}/compare", params=asked)).json()
    assert (answer["run"]["run_id"], answer["baseline"]) == ("evr_1", base)
    compared = answer["comparison"]
    assert (compared["n"], compared["difference"], compared["ties"]) == (12, 0.0, 12)
    assert compared["interval"] == {"low": 0.0, "high": 0.0, "confidence": 0.95}
    assert [row["row"] for row in compared["rows"]] == [1, 2, 3]
    await begin(body("evr_3", seed=4))
    refused = await client.get(f"{RUNS}/compare", params={**asked, "baseline": "evr_3"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "baseline")
    foreign = await client.get("/internal/tenants/ten_other/evaluations/compare", params=asked)
    assert foreign.status_code == 404


async def test_a_killed_process_loses_no_run(
    rollout: ServiceProcess, client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours
) -> None:
    neighbours.held.set()
    await begin(body())
    await until(lambda: len(neighbours.requests) >= 8)
    rollout.kill()
    neighbours.held.clear()
    asked = {request.request_id for request in neighbours.requests}
    await asyncio.to_thread(rollout.start)
    assert (await ended(client))["state"] == "succeeded"
    again = {request.request_id: request.sampling.seed for request in neighbours.requests}
    assert len(again) == 12
    assert asked <= again.keys()
    assert len(neighbours.scores) == 1


async def test_a_run_that_cannot_be_scored_fails_with_the_reason(
    client: httpx.AsyncClient, begin: Begin
) -> None:
    await begin(body(task="mode:nothing"))
    run = await ended(client)
    assert run["state"] == "failed"
    assert "mode:nothing" in str(run["reason"])


async def test_a_tenant_has_a_bounded_number_of_open_runs(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours
) -> None:
    neighbours.held.set()
    for n in range(16):
        await begin(body(f"evr_{n}"))
    with pytest.raises(Overloaded):
        await begin(body("evr_16"))
    neighbours.held.clear()
    await ended(client, "evr_15")


async def test_a_cancelled_run_asks_no_more_and_has_no_score(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours
) -> None:
    neighbours.held.set()
    await begin(body())
    await until(lambda: len(neighbours.requests) >= 8)
    assert (await client.post("/internal/tenants/ten_other/evaluations/run/evr_1/cancel")).status_code == 404
    cancelled = (await client.post(f"{RUNS}/run/evr_1/cancel")).json()
    assert (cancelled["state"], cancelled["value"]) == ("cancelled", None)
    # One that ended stays as it is, and the place that it took is free again.
    assert (await client.post(f"{RUNS}/run/evr_1/cancel")).json() == cancelled
    await until(lambda: neighbours.open == 0)
    neighbours.held.clear()
    await begin(body("evr_2"))
    assert (await ended(client, "evr_2"))["state"] == "succeeded"
    assert (await client.get(f"{RUNS}/run/evr_1")).json() == cancelled
    assert len(neighbours.scores) == 1


async def data_of(folder: Path, rows: Sequence[object], **changes: object) -> dict[str, object]:
    """Store rows as a file, and return the data of a run over them."""
    blobs = MarkedBlobs(LocalBlobs(folder / "blobs"))
    content = await blobs.put("files/rows", b"".join(map(_line, rows)))
    kind = told_format(rows[0])  # type: ignore[arg-type]  # a row is a mapping
    file = JobFile(file_id="file-1", filename="rows.jsonl", content=content, format=kind, rows=len(rows))
    data = EvaluationData(file=file, holdout=0.0, grader=EXACT, on_long="refuse")
    found: dict[str, object] = msgspec.to_builtins(data)
    return {"task": "", "suite": "file:file-1", "data": {**found, **changes}}


def _line(row: object) -> bytes:
    return msgspec.json.encode(row) + b"\n"


def reward_rows(count: int) -> list[dict[str, object]]:
    """Return rows of which the scripted engine answers every second one right."""
    return [
        {"messages": [{"role": "user", "content": f"f {n}="}], "answer": "no" if n % 2 else "yes"}
        for n in range(count)
    ]


async def test_rows_of_a_file_are_answered_and_graded_and_their_score_is_recorded(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours, tmp_path: Path
) -> None:
    data = await data_of(tmp_path, reward_rows(150))
    neighbours.refusals = 2
    await begin(body(n=4096, **data))
    run = await ended(client)
    assert (run["state"], run["value"], run["scored"], run["dropped"]) == ("succeeded", 0.5, 150, 0), run
    assert run["file"] == {"file_id": "file-1", "filename": "rows.jsonl"}
    assert [score[2]["suite"] for score in neighbours.scores] == ["file:file-1"]
    rows = (await client.get(f"{RUNS}/run/evr_1/rows", params={"limit": 1000})).json()
    assert [(row["row"], row["score"]) for row in rows] == [(n + 1, float(n % 2)) for n in range(150)]
    # Other revisions are asked the same rows, with the same seeds; fewer rows are some of them.
    seeds = {request.tokens: request.sampling.seed for request in neighbours.requests}
    neighbours.requests.clear()
    bare = {"revision": None, "policy_id": None, "policy": ""}
    await begin(body("evr_2", n=20, **data, **bare))
    assert (await ended(client, "evr_2"))["scored"] == 20
    assert len(neighbours.requests) == 20
    assert all(seeds[request.tokens] == request.sampling.seed for request in neighbours.requests)
    few = (await client.get(f"{RUNS}/run/evr_2/rows")).json()
    assert all(rows[row["row"] - 1] == row for row in few)
    assert {request.revision for request in neighbours.requests} == {None}


async def test_held_out_rows_alone_are_asked(client: httpx.AsyncClient, begin: Begin, tmp_path: Path) -> None:
    data = await data_of(tmp_path, reward_rows(40), holdout=0.25)
    await begin(body(n=4096, **data))
    assert (await ended(client))["scored"] == 10


async def test_grader_errors_are_counted_and_fail_a_run_when_they_are_many(
    client: httpx.AsyncClient, begin: Begin, tmp_path: Path
) -> None:
    rows = reward_rows(12)
    for row in rows[:4]:
        del row["answer"]
    data = await data_of(tmp_path, rows)
    await begin(body(**data))
    run = await ended(client)
    assert (run["state"], run["scored"], run["grader_errors"]) == (
        "succeeded",
        8,
        {"invalid_variable_error": 4},
    )
    grader = {**EXACT, "reference": "{{ item.nothing }}"}
    await begin(body("evr_2", **await data_of(tmp_path, rows, grader=grader)))
    run = await ended(client, "evr_2")
    assert (run["state"], run["value"]) == ("failed", None)
    assert run["reason"] == (
        "the grader failed on 12 of 12 answers; row 1: invalid_variable_error: there is no item.nothing"
    )


async def test_a_row_without_room_for_an_answer_is_named_or_left_out(
    client: httpx.AsyncClient, begin: Begin, tmp_path: Path
) -> None:
    rows = reward_rows(4)
    rows[2]["messages"] = [{"role": "user", "content": "f " + "a" * 100 + "="}]
    await begin(body(**await data_of(tmp_path, rows)))
    run = await ended(client)
    assert run["state"] == "failed"
    assert "Line 3 of rows.jsonl" in str(run["reason"])
    await begin(body("evr_2", **await data_of(tmp_path, rows, on_long="drop")))
    run = await ended(client, "evr_2")
    assert (run["state"], run["scored"], run["dropped"]) == ("succeeded", 3, 1)


async def test_the_loss_of_the_answers_in_a_file_is_their_tokens_mean(
    client: httpx.AsyncClient, begin: Begin, neighbours: Neighbours, tmp_path: Path
) -> None:
    rows = [{"prompt": "1 2", "completion": "3"}, {"prompt": "1 2", "completion": "3 4 5"}]
    data = await data_of(tmp_path, rows, grader=None)
    await begin(body(metric="valid_loss", **data))
    run = await ended(client)
    measured = (await client.get(f"{RUNS}/run/evr_1/rows")).json()
    # The scripted engine gives the last token a log-probability of -1 and the others -0.25.
    weights = [row["weight"] for row in measured]
    assert [row["score"] for row in measured] == [
        pytest.approx((0.25 * (weight - 1) + 1) / weight) for weight in weights
    ]
    assert 1 < weights[0] < weights[1]
    assert run["value"] == pytest.approx((0.25 * (sum(weights) - 2) + 2) / sum(weights))
    assert {request.sampling.max_new_tokens for request in neighbours.requests} == {1}
    assert neighbours.scores[0][2]["metric"] == "valid_loss"


async def test_a_file_that_is_gone_fails_its_run(
    client: httpx.AsyncClient, begin: Begin, tmp_path: Path
) -> None:
    data = await data_of(tmp_path, reward_rows(2))
    (tmp_path / "blobs/files/rows").unlink()
    await begin(body(**data))
    run = await ended(client)
    assert (run["state"], run["reason"]) == (
        "failed",
        "rows.jsonl (file-1) was deleted before the run had read it",
    )
