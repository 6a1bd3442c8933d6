"""One running stack, traced, for all tests of this folder; the test that kills its parts comes last."""

import gc
import warnings
from collections.abc import Iterator

import pytest
from e2e.stack import RunningStack


@pytest.fixture(scope="session")
def stack(whole_stack: RunningStack) -> RunningStack:
    """A stack that tests leave in order."""
    return whole_stack


@pytest.fixture
def tinker_warnings() -> Iterator[None]:
    """Tinker's client leaves its connections to the garbage collector, which warns of each: here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()
