"""Settings: every service reads the environment once, into a frozen object.

Shared blocks have one name for all services (``MINT_NATS_URL``); a service's own fields have its prefix
(``MINT_TRAINER_BASE_DIR``). An unknown name under a known prefix is an error, because a setting without
effect is worse than none. An empty variable counts as unset.
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
    MemberSettings,
    NatsSettings,
    PeerSettings,
    PostgresSettings,
    RegistryPeer,
    ServiceSettings,
    TelemetrySettings,
)
from mint_common.settings.read import SettingDoc, describe_settings, read_settings
