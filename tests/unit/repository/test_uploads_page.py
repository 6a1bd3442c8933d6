"""docs/reference/uploads.md tells every refusal, as the code has them now."""

import subprocess
import sys
from pathlib import Path

from mint_common.uploads import UPLOAD_CODES

ROOT = Path(__file__).parents[3]


def test_the_page_is_current_and_names_every_code() -> None:
    tool = [sys.executable, "tools/make_uploads_doc.py", "--check"]
    assert subprocess.run(tool, cwd=ROOT, check=False).returncode == 0
    page = (ROOT / "docs/reference/uploads.md").read_text()
    assert [code for code in UPLOAD_CODES if f"| `{code}` |" not in page] == []
