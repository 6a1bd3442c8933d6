"""Keys of episodes: each opens its own episode, and nothing that was not signed here."""

import pytest

from mint_common.errors import Unauthorized
from mint_common.ids import TenantId
from services.gateway.core.episode_keys import PREFIX, EpisodeKeys

KEYS = EpisodeKeys(secret=b"ours")
TENANT = TenantId("ten_a")


def test_a_key_is_of_its_tenant_and_its_episode() -> None:
    key = KEYS.make(TENANT, "ep_a_1")
    caller = KEYS.caller_of(key, episode="ep_a_1")
    assert (caller.tenant_id, caller.key_id) == (TENANT, "ep_a_1")
    assert caller.authority.scopes == {"train"}
    with pytest.raises(Unauthorized, match="of episode ep_a_1"):
        KEYS.caller_of(key, episode="ep_a_2")


def test_what_was_not_signed_here_opens_nothing() -> None:
    key = KEYS.make(TENANT, "ep_a_1")
    body, _, proof = key.partition(".")
    other = EpisodeKeys(secret=b"theirs").make(TENANT, "ep_a_1")
    forged = EpisodeKeys(secret=b"ours").make(TenantId("ten_b"), "ep_a_1").partition(".")[0]
    for wrong in (
        other,
        body,
        f"{body}.",
        f"{forged}.{proof}",
        f"{key}A",
        f"{PREFIX}é.é",
        PREFIX,
        f"{PREFIX}..",
    ):
        with pytest.raises(Unauthorized):
            KEYS.caller_of(wrong, episode="ep_a_1")
