"""The loader's settings refuse what can't take effect."""

import pytest

from mint_common.errors import SettingInvalid
from mint_common.settings import read_settings
from services.loader.settings import LoaderSettings

ENVIRON = {
    "MINT_NATS_URL": "nats://127.0.0.1:4222",
    "MINT_POSTGRES_DSN": "postgresql://127.0.0.1/mint",
    "MINT_BLOBS_URL": "file:///blobs",
    "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:8101",
    "MINT_INTERNAL_TOKEN": "internal",
    "MINT_LOADER_HTTP_PORT": "8104",
    "MINT_LOADER_ENGINE_ID": "tiny-0",
    "MINT_LOADER_BASE_DIR": "/bases/tiny",
    "MINT_LOADER_CACHE_DIR": "/cache",
}


def test_the_needed_settings_are_enough() -> None:
    settings = read_settings(LoaderSettings, ENVIRON, service="loader")
    assert settings.slots <= settings.host_capacity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINT_LOADER_HOST_CAPACITY", "1"),
        ("MINT_LOADER_SLOTS", "0"),
        ("MINT_LOADER_ENGINE_ID", "no.dots"),
        ("MINT_LOADER_SLOT", "4"),
    ],
)
def test_a_setting_that_cannot_take_effect_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        read_settings(LoaderSettings, ENVIRON | {name: value}, service="loader")
