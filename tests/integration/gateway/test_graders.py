"""Graders through OpenAI's own client."""

import openai
import pytest

from tests.testing.factories import EXACT

pytestmark = pytest.mark.integration

ALIKE = {**EXACT, "type": "text_similarity", "name": "alike", "evaluation_metric": "fuzzy_match"}
ALIKE.pop("operation")
PYTHON = {
    "type": "python",
    "name": "long",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['length']",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "judging@1",
    "input": [{"role": "user", "content": "It is {{ item.score }}"}],
}
BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "alike": ALIKE},
    "calculate_output": "0.5 * exact + 0.5 * alike",
}


def test_graders_are_validated_and_run(stack) -> None:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        graders = client.fine_tuning.alpha.graders
        # Raw: the client reads a multi grader back as another type, and warns of it.
        assert graders.with_raw_response.validate(grader=BOTH).http_response.json() == {"grader": BOTH}
        done = graders.run(grader=BOTH, model_sample="abcd", item={"answer": "abce"})
        assert (done.reward, done.sub_rewards) == (0.375, {"exact": 0.0, "alike": 0.75})
        assert not any(value for value in done.metadata.errors.to_dict().values())
        fault = graders.run(grader=EXACT, model_sample="a", item={})
        assert (fault.reward, fault.metadata.errors.invalid_variable_error) == (0.0, True)
        for grader, code in (
            ({**ALIKE, "evaluation_metric": "meteor"}, "metric_not_supported"),
            ({"type": "label_model", "name": "l"}, "grader_not_supported"),
            ({**BOTH, "calculate_output": "().__class__"}, "invalid_field"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                graders.validate(grader=grader)
            assert refused.value.code == code


@pytest.fixture(scope="module")
def graders(stack):
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client.fine_tuning.alpha.graders


def test_source_is_run_and_its_fault_is_told_with_its_line(graders) -> None:
    pytest.importorskip("pydantic_monty")
    graders.validate(grader=PYTHON)
    assert graders.run(grader=PYTHON, model_sample="abc", item={"length": 4}).reward == 0.75
    fault = graders.run(grader=PYTHON, model_sample="abc", item={"length": 0})
    errors = fault.metadata.errors
    assert (fault.reward, errors.python_grader_runtime_error) == (0.0, True)
    assert "line 2" in errors.python_grader_runtime_error_details
    for source in ("def grade(", "x = 1", "while True: pass"):
        for call in (graders.validate, lambda **more: graders.run(model_sample="", **more)):
            with pytest.raises(openai.BadRequestError) as refused:
                call(grader={**PYTHON, "source": source})
            assert refused.value.body["param"] == "grader.source"


def test_a_model_scores_at_the_revision_that_is_named(stack, graders) -> None:
    stack.make_policy("judging", revisions=1)
    stack.move_alias("judging", "best-judge", 1)
    for model in ("judging@1", "tiny"):
        graders.with_raw_response.validate(grader={**JUDGE, "model": model})
        scored = graders.run(grader={**JUDGE, "model": model}, model_sample="", item={"score": 0.25})
        assert scored.reward == 0.25, "the scripted engine repeats what it is asked"
    fault = graders.run(grader=JUDGE, model_sample="", item={"score": "good"})
    assert (fault.reward, fault.metadata.errors.model_grader_parse_error) == (0.0, True)
    for model in ("judging", "judging@best-judge", "judging@9", "nobody@1", "gpt-4o"):
        with pytest.raises(openai.BadRequestError) as refused:
            graders.with_raw_response.validate(grader={**JUDGE, "model": model})
        assert refused.value.body["param"] == "grader.model"


def test_another_tenant_s_revision_scores_nothing(stack) -> None:
    stack.make_policy("judging-alone", revisions=1)
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.other_key, max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        client.fine_tuning.alpha.graders.run(
            grader={**JUDGE, "model": "judging-alone@1"}, model_sample="", item={"score": 1}
        )
    assert refused.value.body["param"] == "grader.model"
