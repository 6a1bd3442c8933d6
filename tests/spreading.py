"""Which tests stay on one worker of pytest-xdist, and in which order tests run."""

from collections.abc import Sequence

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_WHOLE_STACK = "whole stack"
_TOGETHER = {
    _WHOLE_STACK: ("tests/e2e/", "tests/security/test_files.py"),
    "experts": ("tests/integration/loader/experts/",),
    "engine": ("tests/integration/loader/",),
    "tinker": ("tests/integration/tinker/",),
    "gateway": ("tests/integration/gateway/",),
}
"""Tests that share what takes long to start and stay on one worker, which starts it once; the first fits."""
_ALONE = (
    "tests/e2e/test_demo.py",
    "tests/e2e/test_families_stack.py",
    "tests/e2e/test_openapi.py",
    "tests/e2e/test_second_runner_demo.py",
    "tests/e2e/test_upgrade.py",
    "tests/e2e/test_wheel.py",
    "tests/integration/loader/test_fair_scheduler.py",
    "tests/integration/loader/test_process.py",
)
"""Files among those that start what they need themselves."""
_ONE_BY_ONE = (
    "tests/integration/loader/test_second_runner.py",
    "tests/integration/registry/test_kill_at_failpoints.py",
    "tests/integration/trainer/test_operation_crashes.py",
    "tests/integration/trainer/test_wave_crashes.py",
)
"""Files whose tests share nothing that takes long to start: each test goes to any worker."""
_FIRST = (*_TOGETHER.values(), ("tests/integration/trainer",), ("tests/integration", "tests/fleet/"))
"""Where the longest scopes are: with several workers, a long one that starts last is waited for."""
_ENDS = (("tests/e2e/test_mint_up.py::test_kill_9",), ("tests/e2e/test_chaos.py",))
"""What leaves the shared stack as others cannot use it, from the last one on."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest scopes go first, and what kills the shared stack's parts last of those that use it.

    The slow tests that go one by one come last: they fill the workers that are done with the long scopes.
    """
    items.sort(key=lambda item: (_is_filling(item), _place(item.nodeid, _FIRST), -_place(item.nodeid, _ENDS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep the tests of a file on one worker, and all that share what takes long to start."""
    return _BySharedServers(config, log)


def is_on_whole_stack(nodeid: str) -> bool:
    """Return whether a test may use the stack that many share."""
    return _scope(nodeid) == _WHOLE_STACK


class _BySharedServers(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    """Return what all tests of one worker have in common: what they share, their file, or nothing."""
    if nodeid.startswith(_ONE_BY_ONE):
        return nodeid
    if not nodeid.startswith(_ALONE):
        for name, places in _TOGETHER.items():
            if nodeid.startswith(places):
                return name
    return nodeid.partition("::")[0]


def _is_filling(item: pytest.Item) -> bool:
    return item.nodeid.startswith(_ONE_BY_ONE) and item.get_closest_marker("slow") is not None


def _place(nodeid: str, among: Sequence[tuple[str, ...]]) -> int:
    return next((at for at, each in enumerate(among) if nodeid.startswith(each)), len(among))
