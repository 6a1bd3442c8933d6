"""A connection string that cannot be read is refused before anything connects."""

import pytest

from mint_common.errors import SettingInvalid
from mint_common.runtime.postgres import open_pool


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("postgresql://mint:hush/hush@localhost/mint", "percent-encoded$"),
        ("postgresql://mint:hush@localhost/mint?sslmode=always", "sslmode"),
    ],
)
async def test_a_connection_string_is_refused_without_its_password(dsn: str, problem: str) -> None:
    with pytest.raises(SettingInvalid, match=problem) as refused:
        await open_pool(dsn, schema="registry")
    assert refused.value.name == "MINT_POSTGRES_DSN"
    assert "hush" not in str(refused.value)
