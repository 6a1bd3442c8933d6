"""Whatever JSON comes as a request for a job: a complete job, or an error that names the field."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mint_common.datasets import Format
from mint_common.errors import InvalidField
from mint_common.events import JobSpec
from mint_common.fine_tuning_requests import FineTuningBody
from services.rollout.core.fine_tuning.evaluations import validation_named
from services.rollout.core.fine_tuning.plan import JobFiles
from tests.testing.factories import EXACT
from tests.unit.rollout.fine_tuning.making import file, plan

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "dpo", "kto", "supervised", "reinforcement", "best", "valid_loss", 0.1, 1, 8])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return objects that have some of the fields, or anything at all."""
    return st.fixed_dictionaries({}, optional=fields) | ANYTHING


NUMBERS = {
    "n_epochs": ANYTHING,
    "batch_size": ANYTHING,
    "learning_rate_multiplier": ANYTHING,
    "beta": ANYTHING,
    "compute_multiplier": ANYTHING,
    "eval_interval": ANYTHING,
    "reasoning_effort": ANYTHING,
}
SETTINGS = some(hyperparameters=some(**NUMBERS), grader=st.just(EXACT) | ANYTHING, response_format=ANYTHING)
BODY = st.fixed_dictionaries(
    {"model": st.just("tiny"), "training_file": st.just("file-train")},
    optional={
        "validation_file": ANYTHING,
        "suffix": ANYTHING,
        "seed": ANYTHING,
        "hyperparameters": some(**NUMBERS),
        "metadata": ANYTHING,
        "integrations": ANYTHING,
        "method": some(
            type=st.sampled_from(["supervised", "dpo", "reinforcement"]) | ANYTHING,
            supervised=SETTINGS,
            dpo=SETTINGS,
            reinforcement=SETTINGS,
        ),
        "mint": some(
            method=st.just("kto") | ANYTHING,
            beta=ANYTHING,
            learning_rate=ANYTHING,
            warmup_steps=ANYTHING,
            max_new_tokens=ANYTHING,
            evaluation=some(
                holdout=ANYTHING, every=ANYTHING, rows=ANYTHING, metric=ANYTHING, early_stopping=ANYTHING
            ),
        ),
    },
)


def answered(asked: dict[str, Any], kind: Format) -> JobSpec | str:
    """Return the job of a body, or the field that is wrong."""
    try:
        body = FineTuningBody.model_validate(asked)
        validation = file(kind, name="valid") if validation_named(body) else None
        return plan(body, files=JobFiles(training=file(kind), validation=validation)).spec
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    except InvalidField as error:
        return str(error.field)


@settings(max_examples=400)
@given(BODY, st.sampled_from([Format.CHAT, Format.PAIRS, Format.KTO, Format.REWARD]))
def test_a_body_is_a_job_that_can_be_stored_or_is_refused_by_field(asked: dict[str, Any], kind: Format):
    spec = answered(asked, kind)
    if isinstance(spec, str):
        assert spec
        return
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec
    assert 1 <= spec.steps <= 10_000
    assert 0 < spec.learning_rate <= 0.1
    assert spec.group_size == 1 or spec.algorithm == "grpo"
