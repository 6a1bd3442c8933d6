"""Settings: every service reads the environment once, into a frozen object.

Shared blocks have one name for all services (``MINT_NATS_URL``); a service's own fields stand under its name
(``MINT_TRAINER_BASE_DIR``). An unknown name under a known prefix is an error, because a setting that takes no
effect is worse than none. A variable that is set to the empty text counts as not set.
"""

from mint_common.settings.blocks import (
    DSN_FORM,
    SHARED,
    AlgorithmSettings,
    BasePeers,
    BlobSettings,
    Block,
    GraderSettings,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PeerSettings,
    PostgresSettings,
    RegistryPeer,
    ServiceSettings,
    TelemetrySettings,
)
from mint_common.settings.read import SettingDoc, describe_settings, read_settings

__all__ = [
    "DSN_FORM",
    "SHARED",
    "AlgorithmSettings",
    "BasePeers",
    "BlobSettings",
    "Block",
    "GraderSettings",
    "HttpSettings",
    "InternalSettings",
    "NatsSettings",
    "PeerSettings",
    "PostgresSettings",
    "RegistryPeer",
    "ServiceSettings",
    "SettingDoc",
    "TelemetrySettings",
    "describe_settings",
    "read_settings",
]
