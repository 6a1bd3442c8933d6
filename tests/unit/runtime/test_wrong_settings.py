"""A service whose settings are wrong ends before it does anything."""

import pytest

from mint_common.runtime.service import run_main
from mint_common.settings import ServiceSettings
from services.gateway.settings import GatewaySettings
from services.registry.settings import RegistrySettings
from services.rollout.settings import RolloutSettings


@pytest.mark.parametrize(
    ("shape", "service"),
    [(GatewaySettings, "gateway"), (RegistrySettings, "registry"), (RolloutSettings, "rollout")],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    shape: type[ServiceSettings],
    service: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(_settings: ServiceSettings) -> None:
        pytest.fail("it runs")

    monkeypatch.setenv(f"MINT_{service.upper()}_WALLPAPER", "1")
    assert run_main(shape, run, service=service) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"Setting MINT_{service.upper()}_WALLPAPER: is not known")
    assert told.count("\n") == 1
