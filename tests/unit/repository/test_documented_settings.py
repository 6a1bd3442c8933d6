"""Documents name settings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KNOWN = set(re.findall(r"`(MINT_[A-Z0-9_]+)`", (ROOT / "docs/reference/settings.md").read_text()))
SERVICES = r"REGISTRY|TRAINER|ROLLOUT|LOADER|GATEWAY|PEERS|ALGORITHMS|POSTGRES|TELEMETRY"
OTHERS = {
    "MINT_LOADER_URLS",  # compose's own, which it passes on as MINT_PEERS_LOADER_URLS
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_settings_that_exist(page: Path) -> None:
    named = set(re.findall(rf"\bMINT_(?:{SERVICES})_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    assert {name.removesuffix("_FILE") for name in named} - KNOWN - OTHERS == set()
