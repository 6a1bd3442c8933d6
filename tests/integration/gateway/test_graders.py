"""Graders through OpenAI's own client."""

import openai
import pytest

pytestmark = pytest.mark.integration

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
ALIKE = {**EXACT, "type": "text_similarity", "name": "alike", "evaluation_metric": "fuzzy_match"}
ALIKE.pop("operation")
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
            (
                {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"},
                "grader_not_supported",
            ),
            ({**BOTH, "calculate_output": "().__class__"}, "invalid_field"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                graders.validate(grader=grader)
            assert refused.value.code == code
