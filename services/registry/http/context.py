"""What every route shares: what it calls, and the types of what requests carry."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, StringConstraints

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.registry.handlers.collector import Collector
from services.registry.handlers.diffs import DiffHandler
from services.registry.handlers.uploads import UploadHandler
from services.registry.ports.accounts import Accounts
from services.registry.ports.aliases import Aliases
from services.registry.ports.catalog import Catalog
from services.registry.ports.evaluations import Evaluations, Rules

MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The ports and handlers that routes call; made by app.py."""

    accounts: Accounts
    catalog: Catalog
    aliases: Aliases
    evaluations: Evaluations
    rules: Rules
    diffs: DiffHandler
    uploads: UploadHandler
    collector: Collector
    clock: Clock


class Body(BaseModel):
    """A request's JSON body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
"""A short text that people read."""
Reason = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""A longer one, which may be empty."""

Tenant = Annotated[TenantId, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
TextCursor = Annotated[str | None, Query(max_length=200, pattern=_NO_CONTROLS)]
"""As long as a `Label`, which it may be."""
TextFilter = TextCursor
Moment = Annotated[float | None, Query(ge=0, le=2**35, allow_inf_nan=False)]
"""Seconds since the epoch."""
NumberCursor = Annotated[int, Query(ge=0, le=2**31 - 1)]
