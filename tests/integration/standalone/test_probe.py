"""A base is probed before it is added: families by what is found of their tiny models.

`MINT_GOLDEN=write` writes what was found, of which `tools/make_docs.py` makes the table
of docs/reference/families.md.
"""

import json
import re
from pathlib import Path
from typing import Any  # JSON

import pytest

from mint_common.errors import MintError
from services.standalone.adapters.bases import add_base
from tests.families import FAMILIES, save_tiny
from tests.goldens import WRITES, check_golden

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
GOLDEN = Path(__file__).parents[2] / "golden" / "families"
PROBE = "probe, "
STATUS = re.compile("ok|failed|left out")


def found(name: str, folder: Path) -> dict[str, object]:
    """Return what comes of adding a family's tiny model: the lines of its probe, and why it is refused."""
    save_tiny(folder / "source", name)
    steps: list[str] = []
    refused = ""
    try:
        add_base(
            folder / "bases", str(folder / "source"), name="it", max_rank=8, report=steps.append, probes=True
        )
    except MintError as error:
        refused = str(error).replace(str(folder / "source"), "FOLDER")
    told = (step.removeprefix(PROBE).partition(": ") for step in steps if step.startswith(PROBE))
    lines = {part: rest for part, _, rest in told}
    return {"architecture": architecture(folder / "source"), "refused": refused, "lines": lines}


def architecture(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_bytes())["architectures"][0])


def without_sizes(outcome: dict[str, Any]) -> object:
    """Return what does not depend on the machine: whether it is taken, and which lines are ok."""
    lines = outcome.get("lines", {})
    return bool(outcome.get("refused")), {part: STATUS.findall(told)[0] for part, told in lines.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_added_or_refused_as_it_was(name: str, tmp_path: Path) -> None:
    file = GOLDEN / f"{name}.json"
    outcome = found(name, tmp_path)
    known = json.loads(file.read_text()) if file.exists() else {}
    if not WRITES and without_sizes(outcome) == without_sizes(known):
        outcome = known
    check_golden(file, json.dumps(outcome, indent=1) + "\n")
