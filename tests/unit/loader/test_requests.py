"""A bad request is refused before the engine sees it, and the refusal names the field."""

from dataclasses import replace
from typing import Any

import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import InvalidField
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import Digest, TenantId
from services.loader.core.requests import Limits, check_characters, check_sample, check_tokens

LIMITS = Limits(max_context=64, vocab_size=100, max_completions=8, max_logprobs=20)
GOOD = SampleRequest(
    request_id="r",
    tenant_id=TenantId("t"),
    revision=None,
    sampling=Sampling(max_new_tokens=4, temperature=1.0),
    tokens=(1, 2),
)


def test_a_good_request_passes() -> None:
    check_sample(GOOD, LIMITS)
    check_tokens((1, 2), field="tokens", max_new_tokens=62, limits=LIMITS)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": float("nan")}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": 1.1}),
        ("top_k", {"top_k": -1}),
        ("seed", {"seed": -1}),
        ("n", {"n": 0}),
        ("n", {"n": 9}),
        ("n", {"n": 2, "temperature": 0.0}),
        ("stop", {"stop": ("a", "")}),
        ("stop", {"stop": tuple("abcdefghijklmnopq")}),
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
    ],
)
def test_bad_sampling_is_named(field: str, changes: dict[str, Any]) -> None:  # Any: arguments of Sampling
    request = replace(GOOD, sampling=replace(GOOD.sampling, **changes))
    with pytest.raises(InvalidField) as refused:
        check_sample(request, LIMITS)
    assert refused.value.field == f"sampling.{field}"


def test_a_request_without_an_id_is_refused() -> None:
    with pytest.raises(InvalidField, match="request_id"):
        check_sample(replace(GOOD, request_id=""), LIMITS)


def test_a_text_that_cannot_fit_is_refused() -> None:
    with pytest.raises(InvalidField) as refused:
        check_characters(100_000, field="text", max_context=LIMITS.max_context)
    assert refused.value.field == "text"


@pytest.mark.parametrize("digest", ["", "sha256:xyz", "../../etc", "sha256:" + "A" * 64, "a" * 64])
def test_a_digest_that_could_be_a_path_is_refused(digest: str) -> None:
    claim = Claim(uri="revisions/p/x/mint_manifest.json", sha256="0" * 64, size_bytes=1)
    revision = RevisionRef(digest=Digest(digest), number=1, manifest=claim)
    with pytest.raises(InvalidField, match=r"revision\.digest"):
        check_sample(replace(GOOD, revision=revision), LIMITS)


@pytest.mark.parametrize(
    ("field", "tokens", "new"),
    [
        ("tokens", (), 1),
        ("tokens", (1, 100), 1),
        ("tokens", (-1,), 1),
        ("tokens", tuple(range(64)), 1),
        ("sampling.max_new_tokens", (1, 2), 63),
    ],
)
def test_tokens_must_fit_the_base(field: str, tokens: tuple[int, ...], new: int) -> None:
    with pytest.raises(InvalidField) as refused:
        check_tokens(tokens, field="tokens", max_new_tokens=new, limits=LIMITS)
    assert refused.value.field == field
