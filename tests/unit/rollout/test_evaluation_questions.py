"""What an evaluation run asks of a file's rows."""

from mint_common.datasets import Format
from mint_common.job_requests import Questions
from services.rollout.core.evaluation_plan import plan_file
from tests.testing.factories import EXACT
from tests.unit.rollout.fine_tuning.making import file


def suite_of(grader):
    kind = Format.COMPLETION if grader is None else Format.REWARD
    return plan_file(Questions(file="file-train", grader=grader), file(kind), max_context=64)["suite"]


def test_scores_of_two_graders_are_not_of_one_suite():
    plain, equal, other = map(suite_of, (EXACT, dict(reversed(EXACT.items())), {**EXACT, "name": "b"}))
    assert plain == equal != other
    assert suite_of(None) == "file:file-train"
    assert plain.startswith("file:file-train:")
