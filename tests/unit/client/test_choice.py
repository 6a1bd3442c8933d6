"""When the prompt of a request is read for the choice of its engine."""

import json

from mint_common.client.choice import EngineChoice
from mint_common.generation import CallFacts, SampleRequest, Sampling
from mint_common.ids import BaseName, TenantId
from mint_common.inference.operations import ApiOperation

BASE, TENANT = BaseName("tiny"), TenantId("t")
FACTS = CallFacts(model="m", request_id="r", tenant_id=TENANT, revision=None)
BODY = json.dumps({"messages": [{"role": "user", "content": "hello " * 200}]}).encode()
SAMPLE = SampleRequest(
    request_id="r",
    tenant_id=TENANT,
    revision=None,
    tokens=tuple(range(1000)),
    sampling=Sampling(max_new_tokens=8, temperature=0.0, n=2),
)


def test_a_prompt_is_read_only_where_engines_can_be_chosen_from():
    choice = EngineChoice()
    one = choice.of_call(BASE, ApiOperation.CHAT, BODY, FACTS, tokens=7, is_choice=False)
    several = choice.of_call(BASE, ApiOperation.CHAT, BODY, FACTS, tokens=7, is_choice=True)
    assert one.beginnings is None
    assert several.beginnings is not None
    assert several.beginnings.marks
    assert one.tokens == several.tokens > 7


def test_a_sample_is_counted_alike_whether_its_prompt_is_read_or_not():
    choice = EngineChoice()
    one, several = (choice.of_sample(BASE, SAMPLE, is_choice=each) for each in (False, True))
    assert one.beginnings is None
    assert several.beginnings is not None
    assert several.beginnings.marks
    assert one.tokens == several.tokens == 2 * (1000 + 8)
