"""Requests that name an environment, checked against it before anything is made."""

from collections.abc import Sequence

from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec
from mint_common.ids import TenantId
from services.rollout.core.environment import Environments


async def check_environment(
    environments: Environments,
    environment: EnvironmentSpec,
    splits: Sequence[tuple[str, str]],
    *,
    tenant_id: TenantId,
) -> None:
    """Check that an environment takes its arguments, and that each split has tasks.

    ``splits`` are given with the field of the request that names them. Raises NotFound, InvalidField.
    """
    for split, field in splits:
        try:
            found = await environments.describe(environment, split, tenant_id=tenant_id)
        except InvalidField as error:
            named = str(error.field)
            known = field if named == "environment.split" else named.replace("environment.", "env.", 1)
            raise InvalidField(field=known, problem=str(error.problem)) from error
        if found.tasks == 0:
            raise InvalidField(field=field, problem=f"{split[:64]!r} has no tasks")
