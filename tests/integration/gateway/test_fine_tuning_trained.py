"""A job on a file with the trainer behind it: trained, evaluated, told, and what is left of it."""

import csv
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.integration.gateway.console_rig import browser
from tests.integration.gateway.test_fine_tuning import chat, client_of, end, lines, query

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

JOB_SECONDS = 420.0


PEERS = "MINT_PEERS_TRAINER_URLS"


@pytest.fixture(scope="module")
def client(stack) -> Iterator[openai.OpenAI]:
    """OpenAI's client, while there is a trainer that gateway and rollout know."""
    stack.environ[PEERS] = f"http://127.0.0.1:{stack.environ['MINT_TRAINER_HTTP_PORT']}"
    try:
        restart(stack)
        stack.start("trainer")
        with client_of(stack) as made:
            yield made
    finally:
        if "trainer" in stack.processes:
            stack.kill("trainer")
            del stack.processes["trainer"]
        del stack.environ[PEERS]
        restart(stack)


def restart(stack) -> None:
    """Start the services that ask trainers anew."""
    for name in ("rollout", "gateway"):
        stack.kill(name)
        stack.start(name)


def upload(client: openai.OpenAI, *rows: object) -> str:
    return client.files.create(file=("rows.jsonl", lines(*rows)), purpose="fine-tune").id


@pytest.fixture(scope="module")
def files(client) -> tuple[str, str]:
    """A training file and a validation file."""
    training = upload(client, *(chat(f"{n}+1=", str(n + 1)) for n in range(16)))
    return training, upload(client, *(chat(f"{n}+2=", str(n + 2)) for n in range(4)))


@pytest.fixture(scope="module")
def job(client, files) -> FineTuningJob:
    """A job that has ended."""
    training, validation = files
    made = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training,
        validation_file=validation,
        suffix="trained",
        hyperparameters={"n_epochs": 2, "batch_size": 8},
        extra_body={"mint": {"rank": 4, "learning_rate": 0.002, "evaluation": {"every": 2}}},
    )
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.delete(training)
    assert (refused.value.code, refused.value.param) == ("file_in_use", "file_id")
    return wait_for(client, made)


def wait_for(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    """Return a job once it has ended."""
    deadline = time.monotonic() + JOB_SECONDS
    while (found := client.fine_tuning.jobs.retrieve(job.id)).finished_at is None:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def promoting(client: openai.OpenAI, *, epochs: int = 1, **wish: object) -> FineTuningJob:
    """Begin a job that promotes its result."""
    training = upload(client, *(chat(f"{n}+3=", str(n + 3)) for n in range(16)))
    validation = upload(client, *(chat(f"{n}+4=", str(n + 4)) for n in range(4)))
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training,
        validation_file=validation,
        suffix="promoted",
        hyperparameters={"n_epochs": epochs, "batch_size": 8},
        extra_body={"mint": {"rank": 4, "promote": wish}},
    )


def forget_files(client: openai.OpenAI, job: FineTuningJob) -> None:
    """Delete the files of a job that has ended."""
    for file in (job.training_file, job.validation_file):
        client.files.delete(file)


def promotion_of(client: openai.OpenAI, job: FineTuningJob) -> dict[str, object]:
    """Return what came of a job's promotion."""
    deadline = time.monotonic() + JOB_SECONDS
    while (found := client.fine_tuning.jobs.retrieve(job.id).mint["promote"])["state"] == "open":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def moves_of(stack, policy: str, alias: str) -> list[tuple[int, str]]:
    """Return where an alias was pointed, and by whom, newest first."""
    with stack.client() as mint:
        answer = mint.get(f"/policies/{policy}/aliases/{alias}/history")
    return [(move["number"], move["actor"]) for move in answer.raise_for_status().json()]


def test_a_job_that_succeeds_promotes_its_result_once_though_the_gateway_is_killed(stack, client) -> None:
    made = promoting(client, alias="live")
    rows = "SELECT state FROM rollout.jobs WHERE job_id = $1"
    deadline = time.monotonic() + JOB_SECONDS
    while not query(stack, rows, made.mint["job_id"]):  # the gateway tells rollout after it has answered
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stack.kill("gateway")
    deadline = time.monotonic() + JOB_SECONDS
    while (found := [row["state"] for row in query(stack, rows, made.mint["job_id"])]) != ["succeeded"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    stack.start("gateway")
    told = promotion_of(client, made)
    assert (told["state"], told["problem"]) == ("moved", None)
    job = client.fine_tuning.jobs.retrieve(made.id)
    policy, _, number = job.fine_tuned_model.partition("@")
    move = (int(number), f"job:{made.mint['job_id']}")
    assert moves_of(stack, policy, "live") == [move]
    newest = client.fine_tuning.jobs.list_events(made.id, limit=1).data[0]
    assert newest.message == f"Alias live was pointed at {job.fine_tuned_model}"
    # Killed after the move and before it was stored: the move is not repeated, wherever the alias points now.
    with stack.client() as mint:
        mint.put(f"/policies/{policy}/aliases/live", json={"revision": 1}).raise_for_status()
    before = moves_of(stack, policy, "live")
    query(
        stack,
        "UPDATE rollout.jobs SET fine_tuning = jsonb_set(fine_tuning, '{promote,ended_at}', 'null')"
        " WHERE job_id = $1",
        made.mint["job_id"],
    )
    restart(stack)
    assert promotion_of(client, made)["state"] == "moved"
    assert moves_of(stack, policy, "live") == before
    forget_files(client, made)


def test_a_key_that_is_revoked_before_the_end_of_its_job_moves_no_alias(stack, client) -> None:
    with stack.client() as mint:
        named = {"name": "leaver", "scopes": ["train", "read"]}
        issued = mint.post("/keys", json=named).raise_for_status().json()
    with openai.OpenAI(api_key=issued["key"], base_url=str(client.base_url)) as leaver:
        made = promoting(leaver, epochs=10, alias="live")  # long enough to be paused on its way
    client.fine_tuning.jobs.pause(made.id)
    with stack.client() as mint:
        mint.delete(f"/keys/{issued['key_id']}").raise_for_status()
    client.fine_tuning.jobs.resume(made.id)
    told = promotion_of(client, made)
    assert told["state"] == "not_moved"
    assert told["problem"] == "the key 'leaver', which asked for it, was revoked"
    forget_files(client, made)


def test_a_result_that_is_not_good_enough_is_not_promoted(stack, client) -> None:
    made = promoting(client, alias="live", at_most=0.001)
    told = promotion_of(client, made)
    assert told["state"] == "not_moved"
    assert told["problem"].endswith("and must be at most 0.001")
    job = client.fine_tuning.jobs.retrieve(made.id)
    assert job.fine_tuned_model is not None
    with stack.client() as mint:
        assert mint.get(f"/policies/{job.mint['policy']}/aliases/live").status_code == 404
    forget_files(client, made)


def test_a_job_ends_with_the_best_revision(client, job) -> None:
    assert job.status == "succeeded", job.error
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [each.step_number for each in checkpoints] == [4, 2]
    best = min(checkpoints, key=lambda each: each.metrics.valid_loss)
    assert job.fine_tuned_model == best.fine_tuned_model_checkpoint
    assert [each.mint["best"] for each in checkpoints] == [each is best for each in checkpoints]
    assert all(0 <= each.metrics.train_mean_token_accuracy <= 1 for each in checkpoints)
    assert job.trained_tokens > 0


def test_the_console_shows_its_curves_checkpoints_and_files(stack, client, job) -> None:
    with browser(stack) as person:
        text = person.get(f"/console/fine_tuning/{job.id}").text
    assert 'aria-label="Loss by step"' in text
    policy, _, number = job.fine_tuned_model.partition("@")
    assert f'href="/console/policies/{policy}/revisions/{number}"' in text
    assert text.count('<span class="state state-best">') == 1
    for file in (job.training_file, job.validation_file, *job.result_files):
        assert f'href="/v1/files/{file}/content"' in text


def test_the_console_shows_the_line_that_failed_a_job(stack, client) -> None:
    rows = [chat(f"{n}+5=", str(n + 5) if n != 11 else "1" * 400) for n in range(16)]
    made = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, *rows), suffix="long", extra_body={"mint": {"rank": 4}}
    )
    ended = wait_for(client, made)
    assert (ended.status, ended.error.param, ended.error.line) == ("failed", "training_file", 12)
    with browser(stack) as person:
        text = person.get(f"/console/fine_tuning/{made.id}").text
    assert f"<b>{ended.error.code}</b> in <code>training_file</code>, line 12" in text
    assert "Line 12 of rows.jsonl" in text


def test_its_events_tell_every_step(client, job) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert len({event.id for event in events}) == len(events)
    told = [event.message for event in reversed(events)]
    steps = [message for message in told if message.startswith("Step ")]
    assert len(steps) == 4
    assert ", validation loss=" in steps[1]
    assert told[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_its_results_are_a_file_that_is_not_stored(stack, client, job) -> None:
    (name,) = job.result_files
    data = client.files.content(name).text
    rows = list(csv.DictReader(data.splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [bool(row["valid_loss"]) for row in rows] == [False, True, False, True]
    file = client.files.retrieve(name)
    assert (file.purpose, file.bytes) == ("fine-tune-results", len(data))
    assert name not in [each.id for each in client.files.list()]
    with pytest.raises(openai.BadRequestError):
        client.files.delete(name)
    with client_of(stack, stack.other_key) as other:
        for call in (other.files.retrieve, other.files.content):
            with pytest.raises(openai.NotFoundError):
                call(name)


def test_the_model_is_listed_and_resolves(client, job) -> None:
    assert client.models.retrieve(job.fine_tuned_model).parent == "tiny"
    assert job.mint["policy"] in [model.id for model in client.models.list()]


def test_a_row_that_is_too_long_is_refused_with_its_line(client, files) -> None:
    long = upload(client, chat("a", "b"), chat("a", "b" * 400))
    wish = {"model": "tiny", "training_file": long, "suffix": "long"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**wish)
    assert (refused.value.code, refused.value.param) == ("too_long", "training_file")
    assert refused.value.body["line"] == 2
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file=files[0], validation_file=long)
    assert (refused.value.code, refused.value.param) == ("too_long", "validation_file")
    dropping = client.fine_tuning.jobs.create(**wish, extra_body={"mint": {"on_long": "drop"}})
    end(client, dropping.id)
    wait_for(client, dropping)
    client.files.delete(long)


def test_a_deletion_tells_what_was_trained_on_the_file(stack, client, files, job) -> None:
    training, validation = files
    policy = job.mint["policy"]
    trained = [f"{policy}@{number}" for number in (4, 3, 2, 1)]
    with stack.client() as mint:
        used = mint.get(f"/files/{training}").json()["used_by"]
        use = {"job": job.id, "status": "succeeded", "policy": policy, "use": "training"}
        assert (used["jobs"], used["revisions"], used["revision_count"]) == ([use], trained, 4)
    assert client.files.delete(validation).mint["revisions"] == []
    assert client.files.delete(training).mint["revisions"] == trained
    assert client.fine_tuning.jobs.retrieve(job.id).training_file == training
