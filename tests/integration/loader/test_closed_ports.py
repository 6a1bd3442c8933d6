"""A process group of one process has no port that others could exhaust, and works and ends as before."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine
pytest.importorskip("torch")

_PROGRAM = """
import os, socket, sys, tempfile, torch
import torch.distributed as dist
from services.loader.adapters.vllm.closed_ports import _listeners, close_ports

store = dist.FileStore(os.path.join(tempfile.mkdtemp(), "store"), 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
groups = [dist.new_group([0], backend="gloo") for _ in range(3)]
before = list(_listeners())
assert before, "gloo no longer listens: this may go"
ports = [socket.socket(fileno=os.dup(each)).getsockname() for each in before]
assert close_ports() == len(before)
assert not list(_listeners())
for port in ports:
    try:
        socket.create_connection(port, timeout=1)
    except ConnectionRefusedError:
        continue
    raise AssertionError(port)
values = torch.ones(2)
gathered = [torch.zeros(2)]
for group in groups:
    dist.all_reduce(values, group=group)
    dist.all_gather(gathered, values, group=group)
    dist.barrier(group=group)
assert torch.equal(gathered[0], torch.ones(2))
assert close_ports() == 0
dist.destroy_process_group()
print("ended")
"""


def test_the_ports_of_a_group_of_one_are_closed_and_it_works_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
