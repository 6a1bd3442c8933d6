"""A gateway under floods of one tenant, or of nobody: its memory is bounded, and others are answered.

How long others wait is in ``out/bench/attacks.json`` and not judged here: the attacker's own work counts too,
on a machine of few cores.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.gateway.attacks import ATTACKS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECONDS = 12.0
MAX_BYTES = 400_000_000
OUT = Path(__file__).parents[3] / "out/bench/attacks.json"


@pytest.mark.timeout(900)
def test_memory_stays_bounded_and_others_are_answered_under_every_attack(stack) -> None:
    rows = {}
    failures: list[str] = []
    with httpx.Client(base_url=stack.url, headers={"authorization": f"Bearer {stack.other_key}"}) as victim:
        measure(victim, 2, failures)
        quiet = measure(victim, 5, failures)
        for name in ATTACKS:
            command = [sys.executable, str(Path(__file__).with_name("attacks.py"))]
            attack = subprocess.Popen([*command, name, stack.url, stack.key, str(SECONDS)])
            time.sleep(2)
            waits = measure(victim, SECONDS - 3, failures)
            peak = resident_bytes(stack.processes["gateway"].pid, "VmHWM")
            attack.wait(120)
            time.sleep(3)
            rows[name] = {
                "p95_ms": round(waits * 1e3, 1),
                "ratio": round(waits / quiet, 2),
                "peak_rss_mb": round(peak / 1e6),
                "rss_after_mb": round(resident_bytes(stack.processes["gateway"].pid, "VmRSS") / 1e6),
            }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"quiet_p95_ms": round(quiet * 1e3, 1), "attacks": rows}, indent=2) + "\n")
    assert not failures, "of the other tenant's requests"
    for name, row in rows.items():
        assert row["peak_rss_mb"] * 1e6 <= MAX_BYTES, name


def measure(client: httpx.Client, seconds: float, failures: list[str]) -> float:
    """Return the 95th percentile of one-token requests, one behind the other."""
    waits = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at or len(waits) < 3:
        began = time.monotonic()
        try:
            client.post(
                "/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1}, timeout=30
            ).raise_for_status()
        except (httpx.HTTPError, OSError) as error:
            failures.append(repr(error)[:200])
        waits.append(time.monotonic() - began)
        time.sleep(0.02)
    return sorted(waits)[int(0.95 * (len(waits) - 1))]


def resident_bytes(pid: int, what: str) -> int:
    """Return a process's memory: now (VmRSS) or at its highest (VmHWM)."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(what))
    return int(line.split()[1]) << 10
