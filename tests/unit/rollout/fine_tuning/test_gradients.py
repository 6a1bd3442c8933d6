"""The policy gradient of a job on graded rows."""

import pytest

from mint_common.datasets import Format
from mint_common.errors import InvalidField
from mint_common.events import Overlong, PolicyGradient
from services.rollout.core.fine_tuning.plan import JobFiles
from tests.testing.factories import EXACT
from tests.unit.rollout.fine_tuning.making import body, file, plan

GRADED = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}


def test_a_job_on_graded_rows_may_change_its_policy_gradient() -> None:
    files = JobFiles(training=file(Format.REWARD))
    assert plan(body(method=GRADED), files=files).spec.gradient == PolicyGradient()
    wishes = {"method": "dapo", "gradient": {"advantage": "maxrl", "overlong": {"mask": True}}}
    spec = plan(body(mint=wishes, method=GRADED), files=files).spec
    assert (spec.algorithm, spec.gradient) == (
        "dapo",
        PolicyGradient(
            advantage="maxrl", loss="clip", clip_low=0.8, clip_high=1.28, overlong=Overlong(mask=True)
        ),
    )
    with pytest.raises(InvalidField, match="is not a bound") as refused:
        plan(body(mint={"gradient": {"clip_low": 0.5}}, method=GRADED), files=files)
    assert refused.value.field == "mint.gradient.clip_low"
    pulled = plan(
        body(mint={"kl_coefficient": 0.1, "gradient": {"kl": "reward"}}, method=GRADED), files=files
    )
    assert (pulled.spec.kl_coefficient, pulled.spec.gradient) == (0.1, PolicyGradient(kl="reward"))
    for name, wish in (("gradient", {}), ("kl_coefficient", 0.1)):
        with pytest.raises(InvalidField, match="has no policy gradient") as refused:
            plan(body(mint={name: wish}))
        assert refused.value.field == f"mint.{name}"
