"""Refusals under /v1 have OpenAI's shape, whoever refuses: route, router, body or what answers for bugs."""

import pytest
from security.gateway_rig import Answer, make_rig

CHAT = "/v1/chat/completions"
TOO_LARGE = [("content-length", str(1 << 30))]


def is_openai(answer: Answer) -> bool:
    (error,) = answer.json().values()
    return set(error) == {"message", "type", "param", "code"}


def is_tinker(answer: Answer) -> bool:
    return set(answer.json()) == {"detail", "code", "fields"}


def is_mint(answer: Answer) -> bool:
    return {"code", "message", "retryable"} <= set(answer.json()["error"])


@pytest.mark.parametrize(
    ("chat", "tinker", "mint"),
    [(CHAT, "/api/v1/client/config", "/mint/v1/keys"), ("/v1/x", "/api/v1/x", "/x")],
)
async def test_every_refusal_has_the_shape_of_its_api(chat, tinker, mint):
    rig = make_rig()
    for path, is_shaped in ((chat, is_openai), (tinker, is_tinker), (mint, is_mint)):
        answers = [
            await rig.ask("POST", path),
            await rig.ask("POST", path, "unknown"),
            await rig.ask("POST", path, "operator"),
            await rig.ask("PATCH", path, "all"),
            await rig.ask("POST", path, "all", headers=TOO_LARGE),
            await rig.ask("POST", path, "all", body=b'{"model": "\\ud800"}'),
            await rig.ask("POST", path, "all", body=b"{"),
            await rig.ask("POST", path + "%0a", "all"),
        ]
        for answer in (each for each in answers if each.status >= 400):
            assert is_shaped(answer), (path, answer)


async def test_too_large_bodies_and_half_surrogates_keep_their_statuses():
    rig = make_rig()
    assert (await rig.ask("POST", CHAT, "all", headers=TOO_LARGE)).status == 413
    assert (await rig.ask("POST", CHAT, "all", body=b'{"model": "\\ud800"}')).status == 400


async def test_a_bug_is_told_in_the_shape_of_its_api():
    rig = make_rig()
    rig.http.state.gateway.resolver = None
    answer = await rig.ask("GET", "/v1/models/m", "all")
    assert answer.status == 500
    assert is_openai(answer)
