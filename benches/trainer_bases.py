"""Bases of the trainer's benches: made once, kept under out/bases."""

from pathlib import Path

from benches.machine import ROOT
from services.standalone.adapters.base_import import import_smollm2
from services.trainer.adapters.model.resident_base import ResidentBase, load_base

TINY = ROOT / "bases" / "tiny"
_MADE = ROOT / "out" / "bases"


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2-135M; converts it the first time (15 s)."""
    folder = _MADE / "smollm2"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        import_smollm2(folder, name="smollm2", max_rank=32, report=print)
    return folder


def load_bench_base(name: str) -> ResidentBase:
    """Return a resident base, ``tiny`` or ``smollm2``."""
    return load_base(TINY if name == "tiny" else smollm2_folder())
