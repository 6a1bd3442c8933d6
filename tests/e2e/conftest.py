"""One running stack for the tests that only use it; those that break it start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.stack import RunningStack, start_stack


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `nobody` can enter: Postgres refuses to run as root."""
    folder = tmp_path_factory.mktemp("stack")
    for parent in (folder, *folder.parents):
        if parent.name.startswith("pytest-") or parent == folder:
            parent.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def stack(stack_folder: Path) -> Iterator[RunningStack]:
    """A stack that tests leave in order."""
    running = start_stack(stack_folder / "shared")
    yield running
    running.stop()
