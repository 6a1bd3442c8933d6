"""The group of ranks: its members, their devices, and how orders and tensors are broadcast.

Orders and scores travel by gloo, tensors of the base's device by NCCL where that is CUDA. Every exchange is
bounded by a timeout: a rank that hangs is an error for the others, as a dead one is at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from mint_common.errors import SettingInvalid
from services.trainer.core.ranks import ProcessRank, RankSetup

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process as one of ``count`` ranks."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def say(self, order: object) -> None:
        """Give an order to the other ranks."""
        dist.broadcast_object_list([order], src=0, device=torch.device("cpu"))

    def hear(self) -> object:
        """Return rank 0's next order."""
        heard: list[object] = [None]
        dist.broadcast_object_list(heard, src=0, device=torch.device("cpu"))
        return heard[0]

    def hand_out(self, tensor: Tensor | None, size: int) -> Tensor:
        """Return rank 0's flat float32 tensor, on the device."""
        handed = torch.empty(size, device=self.device) if tensor is None else self._sent(tensor)
        dist.broadcast(handed, src=0)
        return handed

    def _sent(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, sent from pinned memory: the host waits for a copy from other."""
        if self.device.type == "cuda" and not tensor.is_cuda:
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def gather(self, rows: Tensor, widths: list[int]) -> Tensor | None:
        """Return at rank 0 what all ranks have, side by side; ``widths`` are their last dimensions."""
        padded = torch.zeros(*rows.shape[:-1], max(widths), device=self.device)
        padded[..., : rows.shape[-1]] = rows
        pieces = [torch.empty_like(padded) for _ in widths] if self.leads else None
        dist.gather(padded, pieces, dst=0)
        if pieces is None:
            return None
        return torch.cat([piece[..., :width] for piece, width in zip(pieces, widths, strict=True)], dim=-1)

    def failed(self, *, here: bool) -> int | None:
        """Return a rank that has failed, None if there is none; each rank says whether it has."""
        last = torch.tensor(self.rank if here else -1)
        dist.all_reduce(last, op=dist.ReduceOp.MAX)
        return None if int(last) < 0 else int(last)

    def sum_up(self, tensor: Tensor) -> None:
        """Add the ranks' tensors into rank 0's."""
        dist.reduce(tensor, dst=0)


@contextmanager
def joined_ranks(
    setup: RankSetup, process: ProcessRank, *, store: dist.Store | None = None
) -> Iterator[Ranks]:
    """Join the group of a store, None: the one that torchrun's environment names; leave it in the end.

    On GPUs a rank takes the one of its number on its machine.
    """
    device = torch.device("cpu")
    backend = "gloo"
    if setup.placement.device_type == "cuda":
        if process.local >= torch.cuda.device_count():
            problem = f"no GPU for rank {process.rank}: {torch.cuda.device_count()} here"
            raise SettingInvalid(name="MINT_TRAINER_RANKS", problem=problem)
        device = torch.device("cuda", process.local)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        store=_launchers_store() if store is None else store,
        rank=process.rank,
        world_size=process.count,
        timeout=timedelta(seconds=setup.timeout_seconds),
    )
    try:
        yield Ranks(rank=process.rank, count=process.count, device=device)
    finally:
        dist.destroy_process_group()


def _launchers_store() -> dist.Store:
    """Return torchrun's store.

    It has one store for all restarts of a machine's ranks, which still contains addresses of dead ranks
    (torch 2.13): each attempt uses other names. On several machines attempts are not counted together:
    there torchrun must make a new store itself (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1).
    """
    store, _, _ = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return store
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def host_store(count: int, *, timeout_seconds: float) -> dist.TCPStore:
    """Return a store where ranks of this machine meet, on a loopback port that the kernel chooses."""
    return dist.TCPStore(
        LOOPBACK,
        0,
        world_size=count,
        is_master=True,
        timeout=timedelta(seconds=timeout_seconds),
        wait_for_workers=False,
    )


def find_store(port: int, count: int, *, timeout_seconds: float) -> dist.TCPStore:
    """Return the store that rank 0 hosts on this machine."""
    return dist.TCPStore(
        LOOPBACK, port, world_size=count, is_master=False, timeout=timedelta(seconds=timeout_seconds)
    )
