"""The settings of `mint` from the environment, read once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mint_common.errors import MintError, SettingInvalid
from mint_common.settings import HttpSettings, ServiceSettings, describe_settings, read_settings
from services.gateway.settings import GatewaySettings
from services.loader.settings import LoaderSettings
from services.registry.settings import RegistrySettings
from services.rollout.settings import RolloutSettings
from services.standalone.core.plan import EXTERNAL, ServicePart, check_overrides
from services.standalone.core.refusals import SettingsInvalidError
from services.trainer.settings import TrainerSettings

READ_BY: Mapping[str, type[ServiceSettings]] = {
    "registry": RegistrySettings,
    "trainer": TrainerSettings,
    "loader": LoaderSettings,
    "rollout": RolloutSettings,
    "gateway": GatewaySettings,
}


def setting_keys(service: str) -> list[str]:
    """Return the service's own settings as keys of a `mint.yaml`."""
    prefix = f"MINT_{service.upper()}_"
    described = describe_settings(READ_BY[service], service)
    return [one.variable.removeprefix(prefix).lower() for one in described if one.variable.startswith(prefix)]


QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Defaults of all parts: one thread per process, no network, no telemetry of libraries."""

CLIENT = frozenset({"MINT_URL", "MINT_API_KEY"})
"""Settings that name the stack for commands; the parts of a stack do not read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneSettings:
    """``overrides`` are the ``MINT_*`` variables; ``inherited`` is everything else, with quiet defaults."""

    overrides: dict[str, str]
    inherited: dict[str, str]

    def external(self, name: str) -> str:
        """Return the address of an external part, or ``""``; ``name`` is one of EXTERNAL."""
        assert name in EXTERNAL
        return self.overrides.get(name, "")


def read_standalone_settings(environ: Mapping[str, str]) -> StandaloneSettings:
    """Split an environment. Raises SettingInvalid for a ``MINT_*`` variable that nothing reads."""
    overrides = {
        name: value for name, value in environ.items() if name.startswith("MINT_") and name not in CLIENT
    }
    check_overrides(overrides)
    others = {name: value for name, value in environ.items() if not name.startswith("MINT_")}
    return StandaloneSettings(overrides=overrides, inherited={**QUIET, **others})


def check_settings(services: Sequence[ServicePart]) -> None:
    """Read the settings of every part, as the part does.

    Raises SettingInvalid, or SettingsInvalidError for several.
    """
    wrong = {str(error.name): error for part in services for error in _wrong_settings(part)}
    if len(wrong) == 1:
        raise next(iter(wrong.values()))
    if wrong:
        problems = "\n".join(f"  {error}" for error in wrong.values())
        raise SettingsInvalidError(count=len(wrong), problems=problems)


def read_part(part: ServicePart) -> ServiceSettings:
    """Return the settings of a part, read as the part does. Raises SettingInvalid."""
    return read_settings(READ_BY[part.service], part.env, service=part.service)


def with_time_to_stop(part: ServicePart) -> ServicePart:
    """Return a part with the stop timeout that its settings give its clients."""
    http, usual = read_part(part).http, HttpSettings.model_fields["drain_seconds"].default
    more_seconds = http.accept_seconds + http.drain_seconds - usual
    return replace(part, stop_seconds=part.stop_seconds + max(0.0, more_seconds))


def _wrong_settings(part: ServicePart) -> Iterator[MintError]:
    """Yield the errors of a part's settings; each wrong setting is removed to find the next error."""
    environ = dict(part.env)
    while True:
        try:
            read_settings(READ_BY[part.service], environ, service=part.service)
        except SettingInvalid as error:
            yield error
            if environ.pop(str(error.name), None) is None:
                return
        else:
            return
