"""Ids of answers, and the digests in what people paste."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.answer_ids import answer_id, digest_prefix_in, is_base_answer
from mint_common.claims import Claim, RevisionRef
from mint_common.ids import sha256_digest

DIGEST = "0f" * 32
OWN = f"gen_{'a2' * 13}"


@given(st.binary(), st.sampled_from(["chatcmpl-{}", "cmpl-{}", "resp_{}", '{{"id": "chatcmpl-{}-0"}}', "{}"]))
def test_the_id_of_an_answer_leads_to_its_revision(weights, form):
    digest = sha256_digest(weights)
    claim = Claim(uri="u", sha256=digest, size_bytes=1)
    text = form.format(answer_id(RevisionRef(digest=digest, number=1, manifest=claim)))
    assert digest_prefix_in(text) == digest.removeprefix("sha256:")[:16]
    assert not is_base_answer(text)


@pytest.mark.parametrize("text", [f"chatcmpl-{OWN}", "x-mint-revision: base:tiny", "base:tiny"])
def test_a_bases_answer_leads_to_none(text):
    assert len(answer_id(None)) == len(OWN)
    assert digest_prefix_in(text) == ""
    assert is_base_answer(text)


@pytest.mark.parametrize(
    "text", [DIGEST, f"sha256:{DIGEST}", f'"x-mint-revision": "SHA256:{DIGEST.upper()}"', f" {DIGEST}\n"]
)
def test_a_digest_is_found_in_what_is_pasted(text):
    assert digest_prefix_in(text) == DIGEST


@pytest.mark.parametrize("text", ["0f" * 8, f"sha256:{'0f' * 9}", "0F" * 8])
def test_the_first_digits_of_a_digest_suffice(text):
    assert digest_prefix_in(text) == text.lower().removeprefix("sha256:")


@pytest.mark.parametrize(
    "text",
    ["", "0f" * 33, "sha256:", "0f" * 7, "hello", f"chatcmpl-{'0f' * 8}", "gen_abc"]
    + [f"chatcmpl-{OWN}{end}" for end in ("_", "_0123456789abcde", "_0123456789abcdef0", "x")],
)
def test_other_texts_have_none(text):
    assert digest_prefix_in(text) == ""
    assert not is_base_answer(text)
