"""Jobs on files through OpenAI's own client: made, listed, read and steered."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import openai
import pytest

from tests.testing.factories import EXACT

pytestmark = pytest.mark.integration


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def asking(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


ROWS = {
    "chat": lines(*(chat(f"{n}+1?", str(n + 1)) for n in range(20))),
    "valid": lines(*(chat(f"{n}+2?", str(n + 2)) for n in range(4))),
    "pairs": lines(
        *(
            {
                "input": {"messages": asking(f"{n}?")},
                "preferred_output": [{"role": "assistant", "content": "yes"}],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            }
            for n in range(12)
        )
    ),
    "kto": lines(*({"prompt": f"{n}?", "completion": "yes", "label": n % 2 == 0} for n in range(12))),
    "reward": lines(*({"messages": asking(f"{n}?"), "answer": str(n)} for n in range(12))),
}


def client_of(stack, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key or stack.key, max_retries=8)


def end(client: openai.OpenAI, *jobs: str) -> None:
    """Cancel jobs that have not ended: there is no trainer here."""
    for job_id in jobs:
        try:
            client.fine_tuning.jobs.cancel(job_id)
        except openai.BadRequestError as error:
            assert error.code == "job_ended"  # noqa: PT017  # the other outcome is as good


@pytest.fixture(scope="module")
def client(stack) -> Iterator[openai.OpenAI]:
    with client_of(stack) as made:
        yield made


@pytest.fixture(scope="module")
def files(client, counter) -> Iterator[dict[str, str]]:
    """Files of each format, by its name; the policy counter is there to be trained on."""
    assert counter.name == "counter"
    made = {
        name: client.files.create(file=(f"{name}.jsonl", data), purpose="fine-tune").id
        for name, data in ROWS.items()
    }
    yield made
    end(client, *(job.id for job in client.fine_tuning.jobs.list(limit=100)))
    for file_id in made.values():
        client.files.delete(file_id)


@pytest.fixture
def jobs(client, files):
    return client.fine_tuning.jobs


def query(stack, statement: str, *args):
    async def ask():
        connection = await asyncpg.connect(stack.dsn)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return asyncio.run(ask())


def spec_of(stack, job_id: str) -> dict:
    row = query(
        stack,
        "SELECT spec FROM rollout.jobs WHERE job_id = $1",
        job_id.replace("ftjob-", "job_"),
    )
    return json.loads(row[0]["spec"])


def test_rows_in_both_files_are_told_as_a_warning(client, jobs, files) -> None:
    other = [{"content": "3+1?", "role": "user"}, {"content": "4", "role": "assistant"}]
    leaking = [chat("0+2?", "2"), {"messages": other}, chat("9+1?", "10")]
    validation = client.files.create(file=("leaking.jsonl", lines(*leaking)), purpose="fine-tune").id
    job = jobs.create(model="tiny", training_file=files["chat"], validation_file=validation, suffix="leak")
    told = "2 rows of the validation file are in the training file too: lines 2 (4 there), 3 (10 there)"
    assert told in job.mint["warnings"]
    events = [event for event in jobs.list_events(job.id) if event.message == told]
    assert [event.level for event in events] == ["warn"]
    end(client, job.id)
    client.files.delete(validation)


def test_a_supervised_job_is_made_with_every_number_resolved(stack, client, jobs, files) -> None:
    numbers = {"n_epochs": 2, "batch_size": "auto"}
    job = jobs.create(
        model="tiny",
        training_file=files["chat"],
        validation_file=files["valid"],
        suffix="Sums",
        seed=7,
        metadata={"team": "a"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": numbers},
        },
        extra_body={"mint": {"rank": 4, "learning_rate": 0.003, "evaluation": {"every": 2}}},
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "queued", "tiny", 7)
    assert (job.training_file, job.validation_file) == (files["chat"], files["valid"])
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 8)
    assert (job.fine_tuned_model, job.finished_at, job.error, job.result_files) == (None, None, None, [])
    assert (job.metadata, job.suffix) == ({"team": "a"}, "Sums")
    assert job.mint["policy"] == "tiny-sums"
    assert (job.mint["rank"], job.mint["total_steps"], job.mint["evaluation"]["every"]) == (4, 5, 2)
    again = jobs.retrieve(job.id)
    assert (again.id, again.created_at, again.mint["policy_id"]) == (
        job.id,
        job.created_at,
        job.mint["policy_id"],
    )
    spec = spec_of(stack, job.id)
    assert (spec["algorithm"], spec["steps"], spec["learning_rate"]) == ("sft", 5, 0.003)
    with stack.client() as mint:
        policy = mint.get("/policies/tiny-sums").json()
        assert (policy["lora"]["rank"], policy["base"], policy["latest"]) == (4, "tiny", None)
        for name in (job.id, job.mint["job_id"]):
            shown = mint.get(f"/jobs/{name}").json()
            assert (shown["job_id"], shown["policy"]) == (job.mint["job_id"], "tiny-sums")
            assert shown["fine_tuning"]["hyperparameters"]["n_epochs"] == 2
        assert job.mint["job_id"] in [each["job_id"] for each in mint.get("/jobs").json()]
    texts = [event.message for event in jobs.list_events(job.id)]
    assert texts[-3:] == [
        "Files validated, moving job to queued state",
        f"Validating training file: {files['chat']} and validation file: {files['valid']}",
        f"Created fine-tuning job: {job.id}",
    ]
    assert list(jobs.checkpoints.list(job.id)) == []
    end(client, job.id)


@pytest.mark.parametrize(
    ("rows", "algorithm", "extra"),
    [
        ("chat", "sft", {"hyperparameters": {"n_epochs": 1}}),
        ("pairs", "dpo", {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}}),
        ("kto", "kto", {"extra_body": {"mint": {"method": "kto"}}}),
        ("reward", "grpo", {"method": {"type": "reinforcement", "reinforcement": {"grader": EXACT}}}),
    ],
)
def test_each_method_is_made(stack, client, jobs, files, *, rows, algorithm, extra) -> None:
    job = jobs.create(model="tiny", training_file=files[rows], **extra)
    try:
        spec = spec_of(stack, job.id)
        assert spec["algorithm"] == algorithm
        assert spec["data"]["training"]["format"] == rows
        assert job.mint["policy"].startswith("tiny-")
        assert 0 <= job.seed < 2**31
    finally:
        end(client, job.id)


def test_a_policy_goes_on_from_its_newest_revision_only(stack, client, jobs, files, counter) -> None:
    stack.move_alias("counter", "tuned", 3)
    stack.move_alias("counter", "old", 1)
    for model in ("counter", "counter@3", f"counter@{counter.latest.digest}", "counter@tuned"):
        job = jobs.create(model=model, training_file=files["chat"])
        assert job.mint["policy_id"] == counter.policy_id
        end(client, job.id)
    for model, code in (
        ("counter@1", "not_newest"),
        ("counter@old", "not_newest"),
        ("counter@99", "model_not_found"),
        ("counter@nobody", "model_not_found"),
        ("nobody", "model_not_found"),
        ("tiny@1", "model_not_found"),
        ("../../healthz", "model_not_found"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            jobs.create(model=model, training_file=files["chat"])
        assert (refused.value.code, refused.value.param) == (code, "model"), model
    for extra, param in (({"suffix": "a"}, "suffix"), ({"extra_body": {"mint": {"rank": 8}}}, "mint.rank")):
        with pytest.raises(openai.BadRequestError) as refused:
            jobs.create(model="counter", training_file=files["chat"], **extra)
        assert refused.value.param == param


def test_equal_suffixes_are_two_policies(client, jobs, files) -> None:
    made = [jobs.create(model="tiny", training_file=files["chat"], suffix="twice") for _ in range(2)]
    assert made[0].mint["policy"] == "tiny-twice"
    assert made[1].mint["policy"].startswith("tiny-twice-")
    for job in made:
        end(client, job.id)


def test_jobs_are_listed_by_age_and_metadata(client, jobs, files) -> None:
    made = []
    for number in range(3):
        extra = {"metadata": {"run": "list", "n": str(number)}} if number else {}
        made.append(jobs.create(model="counter", training_file=files["chat"], **extra).id)
    assert [job.id for job in jobs.list(limit=1)][:3] == made[::-1]
    assert [job.id for job in jobs.list(metadata={"run": "list"})] == made[:0:-1]
    assert [job.id for job in jobs.list(metadata={"run": "list", "n": "1"})] == [made[1]]
    bare = jobs.list(extra_query={"metadata": "null"}, limit=100)
    assert made[0] in [job.id for job in bare]
    assert made[1] not in [job.id for job in bare]
    with pytest.raises(openai.NotFoundError):
        jobs.list(after="ftjob-" + "a" * 26)
    end(client, *made)


def test_what_has_ended_is_not_steered(client, jobs, files) -> None:
    job = jobs.create(model="counter", training_file=files["chat"])
    end(client, job.id)
    end(client, job.id)
    for verb in (jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError) as refused:
            verb(job.id)
        assert refused.value.code == "job_ended"


def test_mint_s_own_route_takes_the_same_body(stack, jobs, files) -> None:
    body = {"model": "counter", "training_file": files["chat"], "metadata": {"run": "own"}}
    with stack.client() as mint:
        answer = mint.post("/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert (job["state"], job["spec"]["algorithm"], job["policy"]) == ("submitted", "sft", "counter")
        assert jobs.retrieve(job["job_id"]).metadata == {"run": "own"}
        refused = mint.post("/jobs", json={**body, "mint": {"rank": "8"}})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "mint.rank")
        refused = mint.post("/jobs", json={**body, "training_file": "file-none"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "file_not_found")
        assert jobs.cancel(job["job_id"]).mint is not None  # tried again until rollout has the job
