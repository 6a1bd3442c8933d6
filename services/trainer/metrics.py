"""The trainer's metrics at `/metrics`."""

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from mint_common.telemetry.series import begin
from services.trainer.core.wave_operations import LoggedOperation

LEASE_HELD = Gauge(
    "mint_trainer_lease_held", "1 while this trainer is in the pool of its base, 0 while it waits"
)
OPERATIONS = Counter(
    "mint_trainer_operations", "Operations by kind and outcome: done, refused", ["kind", "outcome"]
)
SNAPSHOT_BYTES = Counter("mint_trainer_snapshot_bytes", "Bytes of automatic snapshots")
STEPS = Counter(
    "mint_trainer_steps", "Waves of jobs by outcome: trained, skipped (no signal), failed", ["outcome"]
)
TOKENS = Counter("mint_trainer_tokens", "Completion tokens of trained waves")
RATIO_ERROR = Histogram(
    "mint_trainer_ratio_error",
    "Largest distance from 1 of the importance ratio of a step, trainer to sampler: 0 where both agree",
    buckets=(1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3),
)
STEP_SECONDS = Histogram("mint_trainer_step_seconds", "Seconds of one training step, export included")
BATCH_POLICIES = Histogram(
    "mint_trainer_batch_policies", "Policies trained together in one step", buckets=(1, 2, 4, 8, 16, 32)
)
SWAPS = Counter(
    "mint_trainer_swaps",
    "Policies moved between device and host memory, by direction: in, out",
    ["direction"],
)
SWAP_SECONDS = Counter(
    "mint_trainer_swap_seconds", "Seconds spent moving policies between device and host memory", ["direction"]
)
SWAP_BYTES = Counter(
    "mint_trainer_swap_bytes",
    "Bytes of adapters and optimizer states moved between device and host memory",
    ["direction"],
)

_KINDS = [str(kind.__struct_config__.tag) for kind in get_args(LoggedOperation)]
begin(OPERATIONS, _KINDS, ["done", "refused"])
begin(STEPS, ["trained", "skipped", "failed"])
for _swaps in (SWAPS, SWAP_SECONDS, SWAP_BYTES):
    begin(_swaps, ["in", "out"])
