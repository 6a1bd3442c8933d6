"""What the trainer counts; exported by `/metrics`."""

from prometheus_client import Counter, Histogram

OPERATIONS = Counter(
    "mint_trainer_operations", "Operations by kind and what came of them.", ["kind", "outcome"]
)
SNAPSHOT_BYTES = Counter("mint_trainer_snapshot_bytes", "Bytes of automatic snapshots.")
STEPS = Counter("mint_trainer_steps", "Waves by what came of them.", ["outcome"])
TOKENS = Counter("mint_trainer_tokens", "Completion tokens of trained waves.")
STEP_SECONDS = Histogram("mint_trainer_step_seconds", "Compute of one step, export included.")
BATCH_POLICIES = Histogram(
    "mint_trainer_batch_policies", "Policies of one batched step.", buckets=(1, 2, 4, 8, 16, 32)
)
SWAPS = Counter("mint_trainer_swaps", "Policies moved between device and host.", ["direction"])
SWAP_SECONDS = Counter("mint_trainer_swap_seconds", "Time spent moving policies.", ["direction"])
SWAP_BYTES = Counter("mint_trainer_swap_bytes", "Bytes of adapters and optimizers moved.", ["direction"])
