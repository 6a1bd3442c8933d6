"""Requests for jobs on files that are wrong, or another tenant's: refused, with nothing made."""

import json

import httpx
import openai
import pytest

from tests.integration.gateway.test_fine_tuning import EXACT, ROWS, client_of, end, lines, query

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def files(stack):
    with client_of(stack) as client:
        made = {
            name: client.files.create(file=(f"{name}.jsonl", data), purpose="fine-tune").id
            for name, data in ROWS.items()
        }
        made["other"] = client.files.create(file=("a", b"a"), purpose="evals").id
        yield made
        for file_id in made.values():
            client.files.delete(file_id)


def supervised(**numbers: object) -> dict[str, object]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}}


def dpo(**numbers: object) -> dict[str, object]:
    return {"training_file": "pairs", "method": {"type": "dpo", "dpo": {"hyperparameters": numbers}}}


def reinforcement(numbers: object = None, **settings: object) -> dict[str, object]:
    wish = {"grader": EXACT, "hyperparameters": numbers, **settings}
    return {"training_file": "reward", "method": {"type": "reinforcement", "reinforcement": wish}}


IN_SUPERVISED = "method.supervised.hyperparameters"
IN_DPO = "method.dpo.hyperparameters"
IN_RFT = "method.reinforcement.hyperparameters"
BAD = [
    ({"model": None}, "model", "invalid_field"),
    ({"model": ""}, "model", "invalid_field"),
    ({"model": "gpt-4o-mini"}, "model", "model_not_found"),
    ({"model": "a" * 200}, "model", "model_not_found"),
    ({"training_file": "file-none"}, "training_file", "file_not_found"),
    ({"training_file": "../../healthz"}, "training_file", "file_not_found"),
    ({"training_file": 7}, "training_file", "invalid_field"),
    ({"training_file": "other"}, "training_file", "wrong_purpose"),
    ({"training_file": "pairs"}, "training_file", "wrong_format"),
    ({"training_file": "reward"}, "training_file", "wrong_format"),
    ({"validation_file": "file-none"}, "validation_file", "file_not_found"),
    ({"validation_file": "kto"}, "validation_file", "wrong_format"),
    ({"validation_file": "other"}, "validation_file", "wrong_purpose"),
    ({"n_epochs": 3}, "n_epochs", "unknown_field"),
    ({"suffix": ""}, "suffix", "invalid_field"),
    ({"suffix": "s" * 65}, "suffix", "invalid_field"),
    ({"seed": -1}, "seed", "invalid_field"),
    ({"seed": 1.5}, "seed", "invalid_field"),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "invalid_field"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_field"),
    ({"metadata": {"k": "v\0"}}, "metadata.k", "invalid_field"),
    ({"suffix": "s\0"}, "suffix", "invalid_field"),
    ({"model": "m\0"}, "model", "model_not_found"),
    (
        {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
        "integrations",
        "integration_not_supported",
    ),
    (supervised(n_epochs=0), f"{IN_SUPERVISED}.n_epochs", "invalid_field"),
    (supervised(n_epochs=51), f"{IN_SUPERVISED}.n_epochs", "invalid_field"),
    (supervised(n_epochs="many"), f"{IN_SUPERVISED}.n_epochs", "invalid_field"),
    (supervised(batch_size=0), f"{IN_SUPERVISED}.batch_size", "invalid_field"),
    (supervised(batch_size=257), f"{IN_SUPERVISED}.batch_size", "invalid_field"),
    (supervised(learning_rate_multiplier=0), f"{IN_SUPERVISED}.learning_rate_multiplier", "invalid_field"),
    (supervised(learning_rate_multiplier=1e5), f"{IN_SUPERVISED}.learning_rate_multiplier", "invalid_field"),
    (supervised(learning_rate=1e-4), f"{IN_SUPERVISED}.learning_rate", "unknown_field"),
    (supervised(beta=0.1), f"{IN_SUPERVISED}.beta", "unknown_field"),
    (dpo(beta=0), f"{IN_DPO}.beta", "invalid_field"),
    (dpo(beta=2.1), f"{IN_DPO}.beta", "invalid_field"),
    (
        reinforcement({"compute_multiplier": 11}),
        f"{IN_RFT}.compute_multiplier",
        "invalid_field",
    ),
    (
        reinforcement({"eval_interval": 0}),
        f"{IN_RFT}.eval_interval",
        "invalid_field",
    ),
    (reinforcement({"eval_samples": 0}), f"{IN_RFT}.eval_samples", "invalid_field"),
    (
        reinforcement({"reasoning_effort": "high"}),
        f"{IN_RFT}.reasoning_effort",
        "reasoning_effort_not_supported",
    ),
    (
        reinforcement({"reasoning_effort": {}}),
        f"{IN_RFT}.reasoning_effort",
        "reasoning_effort_not_supported",
    ),
    (reinforcement(grader={**EXACT, "reference": "\0"}), "method.reinforcement.grader", "invalid_field"),
    (reinforcement(grader={**EXACT, "reference": "\ud800"}), "body", "invalid_field"),
    (
        reinforcement(response_format={"type": "json_schema"}),
        "method.reinforcement.response_format",
        "response_format_not_supported",
    ),
    (reinforcement(grader=None), "method.reinforcement.grader", "invalid_field"),
    (reinforcement(grader={"type": "label_model"}), "method.reinforcement.grader", "grader_not_supported"),
    (
        reinforcement(grader={**EXACT, "type": "text_similarity", "evaluation_metric": "meteor"}),
        "method.reinforcement.grader",
        None,
    ),
    (
        reinforcement(grader={"type": "python", "name": "p", "source": "def grade(sample, item: return 1"}),
        "method.reinforcement.grader.source",
        "invalid_field",
    ),
    (
        reinforcement(
            grader={
                "type": "score_model",
                "name": "s",
                "model": "gpt-4o",
                "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
            }
        ),
        "method.reinforcement.grader.model",
        "invalid_field",
    ),
    ({"method": {"type": "ppo"}}, "method.type", "invalid_field"),
    ({"method": {"type": "dpo"}}, "training_file", "wrong_format"),
    ({"method": {}}, "method.type", "invalid_field"),
    ({"method": "supervised"}, "method", "invalid_field"),
    ({"mint": {"method": "ppo"}}, "mint.method", "invalid_field"),
    ({"mint": {"method": "kto"}}, "training_file", "wrong_format"),
    ({"mint": {"rank": 0}}, "mint.rank", "invalid_field"),
    ({"mint": {"rank": 4096}}, "mint.rank", "invalid_field"),
    ({"mint": {"alpha": 0}}, "mint.alpha", "invalid_field"),
    ({"mint": {"targets": ["nobody"]}}, "mint.targets", "invalid_field"),
    ({"mint": {"targets": []}}, "mint.targets", "invalid_field"),
    ({"mint": {"learning_rate": 0.2}}, "mint.learning_rate", "invalid_field"),
    ({"mint": {"schedule": "step"}}, "mint.schedule", "invalid_field"),
    ({"mint": {"warmup_steps": 9000}}, "mint.warmup_steps", "invalid_field"),
    ({"mint": {"evaluation": {}}}, "mint.evaluation", "invalid_field"),
    ({"mint": {"evaluation": {"file": "file-none"}}}, "mint.evaluation.file", "file_not_found"),
    ({"mint": {"evaluation": {"holdout": 0.6}}}, "mint.evaluation.holdout", "invalid_field"),
    (
        {"mint": {"evaluation": {"holdout": 0.5, "metric": "accuracy"}}},
        "mint.evaluation.metric",
        "invalid_field",
    ),
    ({"mint": {"nobody": 1}}, "mint.nobody", "unknown_field"),
    ({"mint": {"promote": "prod"}}, "mint.promote", "invalid_field"),
    ({"mint": {"promote": {}}}, "mint.promote.alias", "invalid_field"),
    ({"mint": {"promote": {"alias": "Prod"}}}, "mint.promote.alias", "invalid_field"),
    ({"mint": {"promote": {"alias": "12"}}}, "mint.promote.alias", "invalid_field"),
    ({"mint": {"promote": {"alias": "p", "at_most": 1.0}}}, "mint.promote.at_most", "invalid_field"),
    ({"mint": {"promote": {"alias": "p", "at_most": "1"}}}, "mint.promote.at_most", "invalid_field"),
    (
        {"mint": {"promote": {"alias": "p", "at_least": 1.0}, "evaluation": {"holdout": 0.5}}},
        "mint.promote.at_least",
        "invalid_field",
    ),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD)
def test_a_bad_request_is_400_with_parameter_and_code_and_makes_nothing(stack, files, change, param, code):
    before = made(stack)
    body = {"model": "tiny", "training_file": "chat", **change}
    for name in ("training_file", "validation_file"):
        if body.get(name) in files:
            body[name] = files[body[name]]
    answer = post(stack, json.dumps(body))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert code is None or error["code"] == code
    assert error["message"]
    assert made(stack) == before


def post(stack, text: str | bytes) -> httpx.Response:
    headers = {"authorization": f"Bearer {stack.key}", "content-type": "application/json"}
    return httpx.post(f"{stack.url}/v1/fine_tuning/jobs", content=text, headers=headers, timeout=60)


def made(stack) -> tuple[int, int]:
    """Return how many jobs and policies there are."""
    found = query(
        stack,
        "SELECT (SELECT count(*) FROM rollout.jobs) AS jobs,"
        " (SELECT count(*) FROM registry.policies) AS policies",
    )
    return found[0]["jobs"], found[0]["policies"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"a"',
        "{}",
        '{"model": "tiny", "training_file": "\\u0000"}',
        '{"model": "\\ud800", "training_file": "a"}',
        '{"model": "tiny", "training_file": "a", "mint": {"learning_rate": NaN}}',
        '{"model": "tiny", "training_file": "a", "seed": ' + "9" * 5000 + "}",
        '{"model": "tiny", "training_file": "a", "method": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
        b"\xff",
    ],
)
def test_what_is_no_request_is_400(stack, text):
    answer = post(stack, text)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("rows", "line", "code"),
    [
        (b"not JSON\n", 1, "invalid_json"),
        (ROWS["chat"] + b"[]\n", 21, "not_an_object"),
        (ROWS["chat"] + ROWS["kto"], 21, "mixed_formats"),
        (lines({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}), 1, "missing_field"),
        (
            lines(
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
                            ],
                        },
                        {"role": "assistant", "content": "b"},
                    ]
                }
            ),
            1,
            "unsupported_content",
        ),
        (b"", None, None),
    ],
)
def test_bad_rows_never_become_a_file_of_a_job(stack, rows, line, code):
    with client_of(stack) as client, pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("bad.jsonl", rows), purpose="fine-tune")
    if line is not None:
        assert refused.value.code == "invalid_jsonl"
        assert (refused.value.body["line"], refused.value.body["errors"][0]["code"]) == (line, code)


def test_what_is_another_tenant_s_is_not_there_and_looks_like_what_nobody_has(stack, files):
    with client_of(stack) as mine, client_of(stack, stack.other_key) as theirs:
        job = mine.fine_tuning.jobs.create(model="tiny", training_file=files["chat"], suffix="secret")
        jobs = theirs.fine_tuning.jobs
        nobody = "ftjob-" + "a" * 26
        for ask in (
            jobs.retrieve,
            jobs.cancel,
            jobs.pause,
            jobs.resume,
            jobs.list_events,
            jobs.checkpoints.list,
        ):
            told = []
            for name in (job.id, nobody):
                with pytest.raises(openai.NotFoundError) as refused:
                    ask(name)
                told.append(str(refused.value).replace(name, "X"))
            assert told[0] == told[1]
        assert list(jobs.list()) == []
        for name in (job.id, nobody):
            with pytest.raises(openai.NotFoundError):
                jobs.list(after=name)
        for wish, code in (
            ({"model": "tiny", "training_file": files["chat"]}, "file_not_found"),
            ({"model": job.mint["policy"], "training_file": "file-none"}, "model_not_found"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                jobs.create(**wish)
            assert refused.value.code == code
        own = theirs.files.create(file=("a.jsonl", ROWS["chat"]), purpose="fine-tune")
        with pytest.raises(openai.BadRequestError) as refused:
            jobs.create(model="tiny", training_file=own.id, validation_file=files["valid"])
        assert refused.value.code == "file_not_found"
        same = jobs.create(model="tiny", training_file=own.id, suffix="secret")
        assert same.mint["policy"] == "tiny-secret", "its name is free where nobody else is"
        assert [each.id for each in jobs.list()] == [same.id]
        end(theirs, same.id)
        end(mine, job.id)
        theirs.files.delete(own.id)


def test_a_job_promises_no_alias_that_its_key_may_not_move(stack, files):
    policy = stack.make_policy("promising", revisions=1)
    wish = {"model": policy.name, "training_file": files["chat"]}
    wish["extra_body"] = {"mint": {"promote": {"alias": "live"}}}
    with stack.client() as mint:
        named = {"name": "a trainer", "scopes": ["train", "read"]}
        key = mint.post("/keys", json=named).raise_for_status().json()["key"]
        aliases = f"/policies/{policy.name}/aliases/live"
        mint.put(aliases, json={"revision": 1}).raise_for_status()
        mint.post(f"{aliases}/protect", json={"protected": True}).raise_for_status()
    with client_of(stack, key) as trainer, client_of(stack) as admin:
        before = made(stack)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            trainer.fine_tuning.jobs.create(**wish)
        assert refused.value.code == "alias_protected"
        assert made(stack) == before
        job = admin.fine_tuning.jobs.create(**wish)
        assert job.mint["promote"]["state"] == "open"
        end(admin, job.id)
        with stack.client() as mint:
            mint.post(f"{aliases}/freeze", json={"frozen": True}).raise_for_status()
        with pytest.raises(openai.BadRequestError) as refused:
            admin.fine_tuning.jobs.create(**wish)
        assert refused.value.param == "mint.promote.alias"
