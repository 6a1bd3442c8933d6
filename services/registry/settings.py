"""Settings of the registry, read once from the environment."""

from pydantic import Field

from mint_common.settings import ServiceSettings
from services.registry.core.quotas import CatalogQuotas

TENANT_KEYS, TENANT_ADAPTERS = 1000, 1_000_000
"""Maximum unrevoked keys and stored adapters of a tenant whose row has no limits of its own."""


class RegistrySettings(ServiceSettings):
    """The registry needs Postgres, the bus, and the blobs that it checks."""

    bootstrap_key: str = Field(
        "",
        pattern=r"^(\S{20,200})?$",
        repr=False,
        description="API key of the tenant 'default', made at the start; empty: none is made",
    )
    reconcile_bytes_per_second: int = Field(
        20_000_000,
        ge=0,
        description="rate at which stored adapters are read again and compared with the catalog; 0: never",
    )
    max_update_ratio: float = Field(
        1000.0,
        ge=0,
        description=(
            "maximum norm of an adapter's update of a module, in multiples of the norm of the base's "
            "own weight; 0: no limit, nor one of single weights"
        ),
    )
    tenant_policies: int = Field(
        100_000, ge=0, description="maximum policies of a tenant; 0, here and below: no limit"
    )
    tenant_adapter_bytes: int = Field(
        2 << 40, ge=0, description="maximum bytes of a tenant's stored adapters"
    )
    collection_grace_seconds: float = Field(
        1_209_600.0,
        ge=0,
        description="retention of bytes whose revision is retired or missing; longer than the bus's week",
    )

    @property
    def quotas(self) -> CatalogQuotas:
        """Return a tenant's default quotas, which its row may override."""
        return CatalogQuotas(
            policies=self.tenant_policies,
            keys=TENANT_KEYS,
            adapters=TENANT_ADAPTERS,
            adapter_bytes=self.tenant_adapter_bytes,
        )
