"""The registry's metrics at `/metrics`."""

from typing import get_args

from prometheus_client import Counter, Histogram

from mint_common.events.revision import Fault
from mint_common.telemetry.series import begin

EXPORTS = Counter(
    "mint_registry_exports_total", "Exported adapters by verdict: published, rejected", ["verdict"]
)
CHECK_SECONDS = Histogram(
    "mint_registry_check_seconds",
    "Seconds to read and check one exported adapter",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
UPLOADS = Counter(
    "mint_registry_uploads_total", "Uploaded adapters by outcome: published, refused", ["outcome"]
)
RULE_MOVES = Counter(
    "mint_registry_rule_moves_total", "Alias moves by rules: promoted, rolled_back, refused", ["outcome"]
)
QUARANTINES = Counter(
    "mint_registry_quarantines_total", "Revisions quarantined because their output was not finite"
)
FAULTS = Counter(
    "mint_registry_faults_total", "Revisions whose stored bytes were found missing or wrong", ["fault"]
)
RECONCILED_BYTES = Counter(
    "mint_registry_reconciled_bytes_total",
    "Bytes of stored adapters that were read again and compared with the catalog",
)
FOLDERS_REMOVED = Counter(
    "mint_registry_folders_removed_total", "Adapter folders removed from the blob store"
)

begin(EXPORTS, ["published", "rejected"])
begin(UPLOADS, ["published", "refused"])
begin(RULE_MOVES, ["promoted", "rolled_back", "refused"])
begin(FAULTS, get_args(Fault))
