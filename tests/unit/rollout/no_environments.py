"""Environments of tests that need none: a job that names one is refused."""

from typing import NoReturn

from mint_common.errors import NotFound
from mint_common.events import EnvironmentSpec


class NoEnvironments:
    """Knows no environment, whichever a job names."""

    async def describe(self, environment: EnvironmentSpec, *_: object, **__: object) -> NoReturn:
        """Raise NotFound."""
        raise NotFound(kind="environment", name=environment.id)

    draw = describe
    run = describe
