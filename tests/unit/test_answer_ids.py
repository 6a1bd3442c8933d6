"""Ids of answers, and the digests in what people paste."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.answer_ids import answer_id, digest_digits_in, is_base_answer
from mint_common.claims import Claim, RevisionRef
from mint_common.ids import sha256_digest

DIGEST = "0f" * 32


@given(st.binary(), st.sampled_from(["chatcmpl-{}", "cmpl-{}", "resp_{}", '{{"id": "chatcmpl-{}-0"}}', "{}"]))
def test_the_id_of_an_answer_leads_to_its_revision(weights, form):
    digest = sha256_digest(weights)
    claim = Claim(uri="u", sha256=digest, size_bytes=1)
    text = form.format(answer_id(RevisionRef(digest=digest, number=1, manifest=claim)))
    assert digest_digits_in(text) == digest.removeprefix("sha256:")[:16]
    assert not is_base_answer(text)


def test_the_id_of_a_bases_answer_leads_to_none():
    text = f"chatcmpl-{answer_id(None)}"
    assert digest_digits_in(text) == ""
    assert is_base_answer(text)


@pytest.mark.parametrize(
    "text", [DIGEST, f"sha256:{DIGEST}", f'"x-mint-revision": "SHA256:{DIGEST.upper()}"', f" {DIGEST}\n"]
)
def test_a_digest_is_found_in_what_is_pasted(text):
    assert digest_digits_in(text) == DIGEST


@pytest.mark.parametrize("text", ["0f0f0f0f", "sha256:0f0f0f0f0", "0F0F0F0F"])
def test_the_beginning_of_a_digest_is_one(text):
    assert digest_digits_in(text) == text.lower().removeprefix("sha256:")


@pytest.mark.parametrize(
    "text", ["", "0f" * 33, "sha256:", "0f0f0f0", "hello", "chatcmpl-0f0f0f0f", "gen_abc"]
)
def test_other_texts_have_none(text):
    assert digest_digits_in(text) == ""
    assert not is_base_answer(text)
