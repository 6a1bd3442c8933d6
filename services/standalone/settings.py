"""What `mint` reads of the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.standalone.core.plan import EXTERNAL, check_overrides

QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Defaults of every part: one thread for each process, no network, no phoning home."""

CLIENT = frozenset({"MINT_URL", "MINT_API_KEY"})
"""Which stack commands speak to: no business of the parts of a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneSettings:
    """``overrides`` are the ``MINT_*`` variables; ``inherited`` is everything else, with quiet defaults."""

    overrides: dict[str, str]
    inherited: dict[str, str]

    def external(self, name: str) -> str:
        """Return the address of a part that is not ours to start, or ``""``; ``name`` is one of EXTERNAL."""
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
