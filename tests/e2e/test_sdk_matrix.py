"""Every SDK version works unpatched, against one running gateway that is restarted in between."""

from pathlib import Path

import pytest
from e2e.stack import start_stack
from sdk.matrix import VERSIONS, drive, problems, write

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(3600)]


def test_every_sdk_version_works(stack_folder: Path, tmp_path: Path):
    stack = start_stack(stack_folder / "sdk")
    try:
        url, key = f"http://127.0.0.1:{stack.port}", stack.api_key
        matrix = {version: drive(version, url, key, tmp_path) for version in VERSIONS}
        for part in stack.parts():
            if part.startswith(("gateway", "trainer")):
                stack.kill(part)
        stack.wait_until_ready()
        for version, seen in matrix.items():
            if seen.get("kept"):
                matrix[version] = drive(version, url, key, tmp_path, after=True)
        write(matrix)
    finally:
        stack.stop()
    assert not problems(matrix), "\n".join(problems(matrix))
