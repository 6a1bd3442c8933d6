"""What the trainer counts; exported by `/metrics`."""

from prometheus_client import Counter, Histogram

OPERATIONS = Counter(
    "mint_trainer_operations", "Operations by kind and outcome: done, refused", ["kind", "outcome"]
)
SNAPSHOT_BYTES = Counter("mint_trainer_snapshot_bytes", "Bytes of automatic snapshots")
STEPS = Counter(
    "mint_trainer_steps", "Waves of jobs by outcome: trained, skipped (no signal), failed", ["outcome"]
)
TOKENS = Counter("mint_trainer_tokens", "Completion tokens of trained waves")
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
