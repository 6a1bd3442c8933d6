"""A request for a job on a file becomes a complete job, or an error that names the parameter."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from examples.ipo.algorithm import ALGORITHM as IPO
from mint_common.algorithms import BUILT_IN, Algorithms
from mint_common.datasets import Format
from mint_common.errors import InvalidField
from mint_common.events import EarlyStopping
from services.rollout.core.fine_tuning.methods import checked_integrations
from services.rollout.core.fine_tuning.plan import JobFiles
from services.rollout.core.row_order import held_out
from tests.testing.factories import EXACT
from tests.unit.rollout.fine_tuning.making import DPO, REINFORCEMENT, body, file, plan

PAIRS = JobFiles(training=file(Format.PAIRS))
REWARD = JobFiles(training=file(Format.REWARD))
SOURCE = "def grade(sample, item): return 1.0  #"
LARGE = {"type": "python", "name": "p", "source": SOURCE.ljust(65_536, "-")}


def test_a_bare_request_gets_complete_numbers():
    planned = plan(body())
    spec = planned.spec
    assert (spec.algorithm, spec.task, spec.steps, spec.prompts_per_step) == ("sft", "", 38, 8)
    assert (spec.group_size, spec.learning_rate, spec.schedule, spec.seed) == (1, 2e-4, "linear", 7)
    assert planned.hyperparameters == {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
    data = spec.data
    assert (data.epochs, data.on_long, data.grader, data.evaluation) == (3, "refuse", None, None)
    assert (data.training.file_id, data.training.rows, data.training.format) == ("file-train", 100, "chat")
    assert planned.warnings == ()


@example(rows=10, epochs=50, batch=1, holdout=0.19)
@example(rows=100_000, epochs=50, batch=256, holdout=None)
@given(
    rows=st.integers(1, 100_000),
    epochs=st.integers(1, 50),
    batch=st.integers(1, 256),
    holdout=st.sampled_from([None, 0.1, 0.19, 0.29, 0.5]),
)
def test_steps_draw_every_row_that_rollout_does_not_hold_out_in_each_epoch(rows, epochs, batch, holdout):
    settings = {"hyperparameters": {"n_epochs": epochs, "batch_size": batch}}
    extras = {} if holdout is None else {"mint": {"evaluation": {"holdout": holdout}}}
    asked = body(method={"type": "supervised", "supervised": settings}, **extras)
    try:
        steps = plan(asked, files=JobFiles(training=file(rows=rows))).spec.steps
    except InvalidField as error:
        too_many = (
            error.field == f"method.supervised.hyperparameters.{'n_epochs' if batch == 256 else 'batch_size'}"
        )
        assert too_many or rows * holdout < 1
        return
    held = 0 if holdout is None else held_out(np.arange(rows, dtype=np.uint64), holdout).sum()
    assert steps == math.ceil((rows - held) * epochs / batch)


def test_a_large_file_gets_a_larger_batch_unless_it_is_given():
    many = JobFiles(training=file(rows=200_000))
    assert plan(body(hyperparameters={"n_epochs": 3}), files=many).spec.prompts_per_step == 60
    with pytest.raises(InvalidField, match="25000 steps") as refused:
        plan(body(hyperparameters={"batch_size": 8}), files=many)
    assert refused.value.field == "hyperparameters.batch_size"
    with pytest.raises(InvalidField, match="fewer epochs") as refused:
        plan(body(hyperparameters={"n_epochs": 3}), files=JobFiles(training=file(rows=900_000)))
    assert refused.value.field == "hyperparameters.n_epochs"


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(1, 25), (4, 25), (12, 8), (33, 3), (34, 3), (8_333, 3), (8_334, 2), (20_000, 1), (200_000, 1)],
)
def test_epochs_follow_the_rows_unless_they_are_given(rows, epochs):
    files = JobFiles(training=file(rows=rows))
    assert plan(body(), files=files).hyperparameters["n_epochs"] == epochs
    assert plan(body(hyperparameters={"n_epochs": 4}), files=files).hyperparameters["n_epochs"] == 4


def test_auto_is_as_if_nothing_was_said():
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert plan(body(hyperparameters=auto)) == plan(body())
    assert plan(body(method={"type": "supervised"})) == plan(body())


@pytest.mark.parametrize(("wish", "optimizer"), [({}, "keep"), ({"optimizer": "reset"}, "reset")])
def test_moments_of_earlier_jobs_are_kept_unless_they_are_to_be_reset(wish, optimizer):
    assert plan(body(mint=wish)).spec.optimizer == optimizer


def test_dpo_and_kto_have_a_beta():
    planned = plan(body(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5}}}), files=PAIRS)
    assert (planned.spec.algorithm, planned.spec.kl_coefficient) == ("dpo", 0.5)
    assert plan(body(method=DPO), files=PAIRS).hyperparameters["beta"] == 0.1
    kto = plan(body(mint={"method": "kto", "beta": 0.2}), files=JobFiles(training=file(Format.KTO)))
    assert (kto.spec.algorithm, kto.spec.kl_coefficient, kto.algorithm.method) == ("kto", 0.2, "kto")


@pytest.mark.parametrize(("compute", "group"), [("auto", 8), (1.0, 8), (2, 16), (0.001, 2), (10, 80)])
def test_the_compute_multiplier_is_the_size_of_a_group(compute, group):
    settings = {"grader": EXACT, "hyperparameters": {"compute_multiplier": compute}}
    planned = plan(body(method={"type": "reinforcement", "reinforcement": settings}), files=REWARD)
    assert (planned.spec.algorithm, planned.spec.group_size) == ("grpo", group)
    assert planned.spec.data.grader == EXACT
    assert planned.spec.max_new_tokens == 128


def test_a_validation_file_is_evaluated_about_ten_times():
    files = JobFiles(training=file(rows=800), validation=file(name="valid", rows=20))
    planned = plan(body(validation_file="file-valid"), files=files)
    found = planned.spec.data.evaluation
    assert (planned.spec.steps, found.every, found.rows, found.holdout) == (300, 30, 1000, 0.0)
    assert (found.file.file_id, found.metric, found.keep) == ("file-valid", "valid_loss", "best")


def test_an_evaluation_says_all_that_it_can():
    wish = {
        "holdout": 0.25,
        "every": 5,
        "rows": 50,
        "metric": "valid_mean_token_accuracy",
        "keep": "last",
        "early_stopping": {"patience": 3, "min_delta": 0.01},
    }
    found = plan(body(mint={"evaluation": wish})).spec.data.evaluation
    assert (found.every, found.rows, found.holdout, found.keep) == (5, 50, 0.25, "last")
    assert found.metric == "valid_mean_token_accuracy"
    assert found.early_stopping == EarlyStopping(patience=3, min_delta=0.01, warmup=1)


def test_reinforcement_is_evaluated_as_openai_s_numbers_say():
    numbers = {"eval_interval": 4, "eval_samples": 16}
    settings = {"grader": EXACT, "hyperparameters": numbers}
    files = JobFiles(training=file(Format.REWARD), validation=file(Format.REWARD, name="valid"))
    asked = body(method={"type": "reinforcement", "reinforcement": settings}, validation_file="file-valid")
    planned = plan(asked, files=files)
    found = planned.spec.data.evaluation
    assert (found.every, found.rows, found.metric) == (4, 16, "valid_reward_mean")
    assert planned.hyperparameters.items() >= {**numbers, "reasoning_effort": "default"}.items()


def test_what_may_go_wrong_is_told():
    again = JobFiles(training=file(rows=5, repeats=2), validation=file(rows=5))
    told = plan(body(validation_file="file-train", mint={"learning_rate": 0.05}), files=again).warnings
    assert [warning.split(":")[0][:40] for warning in told] == [
        "learning_rate 0.05 is above 0.01",
        "the training file has 5 rows",
        "2 rows of the training file are equal to",
        "the validation file is the training file",
    ]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"model": 5}, "model"),
        ({"training_file": None}, "training_file"),
        ({"trainingfile": "file-a"}, "trainingfile"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": True}, "seed"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"metadata": {str(n): "a" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "b\0"}}, "metadata.a"),
        ({"metadata": {"a\0": "b"}}, "metadata.a\0.[key]"),
        ({"suffix": "a\0"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "3"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"learning_rate": 1e-4}}, "hyperparameters.learning_rate"),
        ({"method": {"type": "ppo"}}, "method.type"),
        ({"method": {"type": "dpo", "dpo": {"beta": 0.1}}}, "method.dpo.beta"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
            "method.dpo.hyperparameters.beta",
        ),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, "method.reinforcement.grader"),
        ({"mint": {"lora": {"rank": 8}}}, "mint.lora"),
        ({"mint": {"schedule": "step"}}, "mint.schedule"),
        ({"mint": {"on_long": "cut"}}, "mint.on_long"),
        ({"mint": {"evaluation": {"holdout": 0.9}}}, "mint.evaluation.holdout"),
        (
            {"mint": {"evaluation": {"early_stopping": {"patience": 0}}}},
            "mint.evaluation.early_stopping.patience",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_path(fields, where):
    with pytest.raises(ValidationError) as refused:
        body(**fields)
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == where


@pytest.mark.parametrize(
    ("fields", "where", "code"),
    [
        ({"method": DPO}, "training_file", "wrong_format"),
        ({"method": REINFORCEMENT}, "training_file", "wrong_format"),
        ({"mint": {"method": "kto"}}, "training_file", "wrong_format"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement", "invalid_field"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo", "invalid_field"),
        ({"method": DPO, "mint": {"method": "kto"}}, "method", "invalid_field"),
        ({"mint": {"beta": 0.1}}, "mint.beta", "invalid_field"),
        ({"mint": {"max_new_tokens": 5}}, "mint.max_new_tokens", "invalid_field"),
        ({"mint": {"learning_rate": 0.2}}, "mint.learning_rate", "invalid_field"),
        ({"mint": {"warmup_steps": 39}}, "mint.warmup_steps", "invalid_field"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 1}, "mint": {"learning_rate": 1e-3}},
            "mint.learning_rate",
            "invalid_field",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 1e5}},
            "hyperparameters.learning_rate_multiplier",
            "invalid_field",
        ),
        (
            {"hyperparameters": {}, "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}},
            "hyperparameters",
            "invalid_field",
        ),
        ({"mint": {"evaluation": {"every": 5}}}, "mint.evaluation", "invalid_field"),
        ({"mint": {"evaluation": {"holdout": 0.001}}}, "mint.evaluation.holdout", "invalid_field"),
        (
            {"mint": {"evaluation": {"holdout": 0.1, "metric": "valid_reward_mean"}}},
            "mint.evaluation.metric",
            "invalid_field",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_code(fields, where, code):
    with pytest.raises(InvalidField) as refused:
        plan(body(**fields))
    assert (refused.value.field, refused.value.code) == (where, code)


def test_no_share_is_held_out_of_equal_rows():
    asked = body(mint={"evaluation": {"holdout": 0.5}})
    with pytest.raises(InvalidField, match="equal") as refused:
        plan(asked, files=JobFiles(training=file(rows=10, repeats=9)))
    assert refused.value.field == "mint.evaluation.holdout"
    assert plan(asked, files=JobFiles(training=file(rows=10, repeats=8))).spec.data is not None


@pytest.mark.parametrize(
    ("settings", "where", "code"),
    [
        (
            {"hyperparameters": {"reasoning_effort": "low"}},
            ".hyperparameters.reasoning_effort",
            "reasoning_effort_not_supported",
        ),
        (
            {"hyperparameters": {"reasoning_effort": []}},
            ".hyperparameters.reasoning_effort",
            "reasoning_effort_not_supported",
        ),
        ({"response_format": {"type": "json_schema"}}, ".response_format", "response_format_not_supported"),
        ({"hyperparameters": {"eval_interval": 4}}, ".hyperparameters.eval_interval", "invalid_field"),
        ({"grader": {**EXACT, "operation": "is"}}, ".grader.operation", "invalid_field"),
        ({"grader": {**EXACT, "weight": math.nan}}, ".grader", "invalid_field"),
        ({"grader": {**EXACT, "input": [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}}, ".grader.input", "invalid_field"),
        ({"grader": {"type": "label_model", "name": "a"}}, ".grader", "grader_not_supported"),
        ({"grader": LARGE}, ".grader", "invalid_field"),
    ],
)
def test_what_reinforcement_cannot_do_is_refused(settings, where, code):
    wish = {"type": "reinforcement", "reinforcement": {"grader": EXACT, **settings}}
    with pytest.raises(InvalidField) as refused:
        plan(body(method=wish), files=REWARD)
    assert (refused.value.field, refused.value.code) == (f"method.reinforcement{where}", code)


def test_a_step_of_more_sampled_tokens_than_fit_in_memory_is_refused_with_its_fields():
    numbers = {"batch_size": 256, "compute_multiplier": 10}
    wish = {"type": "reinforcement", "reinforcement": {"grader": EXACT, "hyperparameters": numbers}}
    assert plan(body(method=wish), files=REWARD).spec.group_size == 80
    with pytest.raises(InvalidField, match=r"80 and mint.max_new_tokens 205, is 4,198,400 tokens") as refused:
        plan(body(method=wish, mint={"max_new_tokens": 205}), files=REWARD)
    assert refused.value.field == "method.reinforcement.hyperparameters.batch_size"


def test_files_are_of_the_purpose_and_not_too_large():
    from dataclasses import replace

    other = replace(file(), purpose="evals", format=None, rows=None, repeats=None)
    with pytest.raises(InvalidField) as refused:
        plan(body(), files=JobFiles(training=other))
    assert (refused.value.field, refused.value.code) == ("training_file", "wrong_purpose")
    with pytest.raises(InvalidField) as refused:
        plan(body(), files=JobFiles(training=file(), validation=file(Format.KTO), validation_field="v"))
    assert (refused.value.field, refused.value.code) == ("v", "wrong_format")
    many = JobFiles(training=file(Format.REWARD, rows=50_001))
    with pytest.raises(InvalidField) as refused:
        plan(body(method=REINFORCEMENT), files=many)
    assert refused.value.code == "too_many_rows"


OWN = Algorithms(
    [
        *BUILT_IN,
        IPO,
        replace(Algorithms().named("grpo"), name="own_grpo", learning_rate=1e-4, default_pull=0.01),
    ]
)
PAIRS = JobFiles(training=file(Format.PREFERENCE))
GRADED = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}


def test_a_stack_s_own_algorithm_is_a_method_with_its_defaults() -> None:
    planned = plan(body(mint={"method": "ipo", "beta": 0.3}), files=PAIRS, algorithms=OWN)
    assert (planned.spec.algorithm, planned.spec.kl_coefficient, planned.spec.group_size) == ("ipo", 0.3, 1)
    assert (planned.algorithm.method, planned.hyperparameters["beta"]) == ("ipo", 0.3)
    beside = plan(body(mint={"method": "ipo"}, method={"type": "dpo"}), files=PAIRS, algorithms=OWN)
    assert (beside.spec.learning_rate, beside.spec.kl_coefficient) == (1e-5, 0.1)
    sampled = plan(
        body(mint={"method": "own_grpo"}, method=GRADED),
        files=JobFiles(training=file(Format.REWARD)),
        algorithms=OWN,
    )
    assert (sampled.spec.algorithm, sampled.spec.group_size, sampled.spec.learning_rate) == (
        "own_grpo",
        8,
        1e-4,
    )
    assert (sampled.spec.kl_coefficient, sampled.grader is not None) == (0.01, True)


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"mint": {"method": "cpo"}}, "mint.method", "dppo, kto, ipo, own_grpo, got 'cpo'"),
        ({"mint": {"method": "dpo"}}, "mint.method", "dppo, kto, ipo, own_grpo, got 'dpo'"),
        ({"mint": {"method": "own_grpo"}}, "method.reinforcement", "is missing: it has the grader"),
        (
            {"mint": {"method": "ipo"}, "method": GRADED},
            "method",
            "is OpenAI's: mint.method ipo stands alone",
        ),
        (
            {"mint": {"method": "own_grpo", "beta": 0.1}, "method": GRADED},
            "mint.beta",
            "is of mint.method kto",
        ),
        (
            {
                "mint": {"method": "ipo", "beta": 0.1},
                "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 1}}},
            },
            "mint.beta",
            "is method.dpo.hyperparameters.beta, which is there too",
        ),
    ],
)
def test_a_method_that_does_not_fit_is_refused_by_its_field(
    fields: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(InvalidField, match=re.escape(problem)) as refused:
        plan(body(**fields), files=PAIRS, algorithms=OWN)
    assert refused.value.field == field


def test_integrations_are_taken_where_the_tenants_jobs_are_recorded():
    asked = {"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}
    (taken,) = checked_integrations(body(integrations=[asked]), is_recorded=True)
    assert taken == {"type": "wandb", "wandb": {"project": "p", "name": None, "entity": None, "tags": ["a"]}}
    assert checked_integrations(body(), is_recorded=False) == ()
    with pytest.raises(InvalidField) as refused:
        checked_integrations(body(integrations=[asked]), is_recorded=False)
    assert (refused.value.field, refused.value.code) == ("integrations", "integration_not_supported")
