"""A large upload through the real gateway and registry: neither holds it, whatever its size."""

import asyncio
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, BaseFacts, peft_name
from mint_common.adapters_format.tensor_file import header_bytes, place
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.ids import Digest
from tests.integration.gateway.conftest import TOKEN, Stack

pytestmark = pytest.mark.integration

MIB = 1 << 20
CONSTANT_BYTES = 32 * MIB
"""What a registry takes beside tensors: chunks of body and file, pages let go by the 16 MiB, its heap."""
GATEWAY_BYTES = 8 * MIB
RANK, WIDTH = 32, 4096


def wide_base(layers: int, widest: int) -> BaseFacts:
    """Return a base of ``layers`` square attentions and one projection of ``widest`` features."""
    modules = {
        f"model.layers.{layer}.self_attn.{name}": (WIDTH, WIDTH)
        for layer in range(layers)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    return BaseFacts(
        name=f"wide-{layers}",
        digest=Digest(f"sha256:{layers:064x}"),
        architecture="WideForCausalLM",
        vocab_size=16,
        max_context=16,
        targets=("down_proj", "k_proj", "o_proj", "q_proj", "v_proj"),
        modules={**modules, "model.layers.0.mlp.down_proj": (widest, WIDTH)},
        max_rank=RANK,
    )


def body_of(facts: BaseFacts) -> tuple[Iterator[bytes], int, int]:
    """Return a tar of an adapter, made as it is sent, its size, and that of its largest tensor in bytes."""
    shapes = [
        (peft_name(module, half), "F32", (RANK, width) if half == "A" else (height, RANK))
        for module, (width, height) in facts.modules.items()
        for half in ("A", "B")
    ]
    entries = place(shapes, aligned=False)
    head, size = header_bytes(entries), entries[-1].end
    config = json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}).encode()
    chunk = np.random.default_rng(0).normal(size=MIB // 4).astype(np.float32).tobytes()

    def chunks() -> Iterator[bytes]:
        yield member(WEIGHTS_FILE, len(head) + size) + head
        for begin in range(0, size, MIB):
            yield chunk[: min(MIB, size - begin)]
        yield bytes(-(len(head) + size) % 512) + member(CONFIG_FILE, len(config)) + config
        yield bytes(-len(config) % 512 + 1024)

    return chunks(), size, max(entry.end - entry.begin for entry in entries)


def member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


async def prepare(stack: Stack, facts: BaseFacts, policy: str) -> None:
    async with InternalHttp(stack.registry_url, token=TOKEN) as http:
        registry = RegistryClient(http)
        await registry.put_base(facts)
        await registry.create_policy(
            stack.tenant_id, name=policy, base=facts.name, lora={"rank": RANK, "alpha": RANK, "seed": 0}
        )


class Peak:
    """How far a process grows beyond what it has now."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the high-water mark begins anew
        self._before = self._read("VmRSS")

    def grown(self) -> int:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize(("layers", "widest"), [(24, 32_768), (80, 262_144)], ids=["100_mib", "352_mib"])
def test_memory_is_bounded_by_two_tensors(stack: Stack, layers: int, widest: int) -> None:
    facts, policy = wide_base(layers, widest), f"wide-{layers}-policy"
    asyncio.run(prepare(stack, facts, policy))
    chunks, size, largest = body_of(facts)
    assert size > 1.5 * (2 * largest + CONSTANT_BYTES), "no bound is shown by an upload that fits into it"
    registry, gateway = (Peak(stack.processes[name].pid) for name in ("registry", "gateway"))
    with stack.client() as mint:
        answer = mint.post(f"/policies/{policy}/revisions", content=chunks)
    assert answer.status_code == 201, answer.text
    grown = registry.grown(), gateway.grown()
    assert grown[0] <= 2 * largest + CONSTANT_BYTES, grown
    assert grown[1] <= GATEWAY_BYTES, grown
