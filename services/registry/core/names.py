"""Model names: ``base``, ``policy``, ``policy@alias``, ``policy@<number>``, ``policy@sha256:<hex>``."""

from dataclasses import dataclass

from mint_common.errors import NotFound
from mint_common.ids import Digest
from mint_common.names import is_name, number_or_digest

DEFAULT_ALIAS = "prod"
"""The alias that a bare policy name resolves to, when it exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A parsed model name. At most one of ``alias`` and ``revision`` (number or digest) is given."""

    name: str
    alias: str | None = None
    revision: int | Digest | None = None

    @property
    def is_bare(self) -> bool:
        """Return whether it has neither alias nor revision."""
        return self.alias is None and self.revision is None


def parse_model(model: str) -> ModelName:
    """Split a model name. Raises NotFound when it does not match the grammar."""
    name, at, selector = model.partition("@")
    if not is_name(name):
        raise NotFound(kind="model", name=model[:200])
    if not at:
        return ModelName(name=name)
    key = number_or_digest(selector)
    if key is not None:
        return ModelName(name=name, revision=key)
    if not is_name(selector) or selector.isdecimal():
        raise NotFound(kind="model", name=model[:200])
    return ModelName(name=name, alias=selector)
