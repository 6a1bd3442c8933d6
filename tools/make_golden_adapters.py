"""Write the golden adapters over a base with experts: one adapter in three layouts."""

import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from mint_common.adapters_format import BASE_FILE, DENSE, FUSED, PACKED, build_adapter, convert_adapter
from mint_common.ids import PolicyId
from tests.testing.adapters import make_moe_facts, make_tensors

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "adapters"
TARGETS = ("q_proj.lora_", "experts.")


def main() -> None:
    """Write all three; they are overwritten."""
    facts = make_moe_facts()
    tensors = {name: array for name, array in make_tensors(facts).items() if any(t in name for t in TARGETS)}
    for name in tensors:
        if "up_proj.lora_A" in name:  # shared, so that the adapter has a fused form
            tensors[name] = np.array(tensors[name.replace("up_proj", "gate_proj")])
    files = build_adapter(
        facts=facts, policy_id=PolicyId("pol_golden"), step=3, parent=None, rank=2, tensors=tensors
    )
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        for name, data in files.files.items():
            (source / name).write_bytes(data)
        for word, layout in (("packed", PACKED), ("per-expert", DENSE), ("fused", FUSED)):
            target = GOLDEN / f"gravel-r2-{word}"
            shutil.rmtree(target, ignore_errors=True)
            manifest = convert_adapter(facts, source, target, layout=layout)
            (target / BASE_FILE).write_bytes(msgspec.json.encode(facts))
            sys.stdout.write(f"{target.name}: {manifest.digest}\n")


if __name__ == "__main__":
    main()
