"""Bases of the benches: one of the repository, one converted once and kept under out/bases."""

from pathlib import Path

from benches.machine import ROOT

TINY = ROOT / "bases" / "tiny"
MADE = ROOT / "out" / "bases"


def base_folder(name: str) -> Path:
    """Return the folder of ``tiny`` or ``smollm2`` (SmolLM2-135M, which is converted once: 15 s)."""
    return TINY if name == "tiny" else _smollm2()


def _smollm2() -> Path:
    from services.standalone.adapters.base_import import Wish, import_smollm2

    folder = MADE / "smollm2"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        import_smollm2(Wish(target=folder, name="smollm2", max_rank=32, report=print))
    return folder
