"""One running stack, traced, for all tests of this folder; the test that kills its parts comes last."""

import pytest
from e2e.stack import RunningStack


@pytest.fixture(scope="session")
def stack(whole_stack: RunningStack) -> RunningStack:
    """A stack that tests leave in order."""
    return whole_stack
