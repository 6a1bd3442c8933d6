"""A process that asks for short or batch turns keeps its niceness, and its children have what it has."""

import subprocess
import sys

import pytest

ASK = """
import os, subprocess, sys
from mint_common.runtime.processor_turns import take_batch_turns, take_short_turns
os.nice(3)
heard = {ask}()
show = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"
print(heard, subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout.strip())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone is asked")
@pytest.mark.parametrize(("ask", "policy"), [("take_short_turns", 0), ("take_batch_turns", 3)])
def test_children_inherit_the_policy_and_niceness_stays(ask: str, policy: int) -> None:
    script = ASK.replace("{ask}", ask)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"True {policy} 3"


def test_a_system_that_is_not_known_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from mint_common.runtime import processor_turns

    monkeypatch.setattr(processor_turns.platform, "machine", lambda: "abacus")
    before = sys.getswitchinterval()
    try:
        assert not processor_turns.take_short_turns()
    finally:
        sys.setswitchinterval(before)
