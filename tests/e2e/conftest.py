"""One running stack for the tests that only use it; those that break it start their own."""

import pytest
from e2e.stack import RunningStack


@pytest.fixture(scope="session")
def stack(whole_stack: RunningStack) -> RunningStack:
    """A stack that tests leave in order."""
    return whole_stack
