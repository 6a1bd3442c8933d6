"""Measures the part of conversations' prompts that real engines find in their prefix caches.

The same conversations are held through a gateway over several engines, through one that remembers no prompt,
and through one over a single engine with all of the memory, which is what prefix caches can give at most.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import string
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benches.bases import TINY
from benches.report import Report, make_row
from benches.serving import Serving, open_serving
from benches.stacks import scratch_folder
from services.standalone.adapters.base_import import Wish, import_folder
from services.standalone.adapters.launch import free_port
from services.standalone.core.plan import BaseAt, plan_alike

NAME, CONTEXT = "tiny-long", 4096
ENGINES, KV_BYTES = 4, 256 << 20
POLICIES, OF_POLICY, TURNS = 64, 8, 3
INSTRUCTIONS, ASKED, ANSWERED, GENERATED = 2048, 256, 128, 16
"""Lengths in characters, which are this base's tokens: four of them stand for one of a usual base."""
AT_ONCE = 24
READY_SECONDS = 60.0
_QUERIES, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
_TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Counts over all conversations: tokens asked of the prefix caches and found there, and per engine."""

    asked: float
    found: float
    tokens: tuple[float, ...]

    @property
    def hits(self) -> float:
        """Return the part of the prompts' tokens that was found."""
        return self.found / self.asked

    @property
    def imbalance(self) -> float:
        """Return the busiest engine's tokens over the mean."""
        return max(self.tokens) * len(self.tokens) / sum(self.tokens)


def run() -> Report:
    """Measure."""
    by_prefix, by_adapter, alone = asyncio.run(_run())
    rows = [
        make_row(
            "engine_prefix_hit_ratio",
            [by_prefix.hits / alone.hits],
            unit="ratio",
            goal=0.9,
            better="higher",
            limit=1.0,
            how=f"{POLICIES} policies, {OF_POLICY} conversations each, growing from {INSTRUCTIONS + ASKED} to"
            f" {INSTRUCTIONS + TURNS * ASKED + (TURNS - 1) * ANSWERED} tokens, over {ENGINES} engines of"
            f" {NAME}: the part of the prompts found in prefix caches ({by_prefix.hits:.3f}), over that of"
            f" one engine with all of the memory ({alone.hits:.3f});"
            f" {by_adapter.hits / alone.hits:.3f} by a gateway that remembers no prompt",
        ),
        make_row(
            "engine_load_imbalance",
            [by_prefix.imbalance],
            unit="ratio",
            goal=1.3,
            better="lower",
            limit=1.0,
            how="tokens of the busiest of those engines over their mean;"
            f" {by_adapter.imbalance:.2f} by the gateway that remembers no prompt",
        ),
    ]
    return Report(
        bench="engine_prefixes", rows=rows, draw=lambda figure: _draw(figure, by_prefix, by_adapter, alone)
    )


def _draw(figure: Any, *held: Held) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    axes.bar(("by prefix", "by adapter", "one engine"), [one.hits for one in held])
    axes.set(title="part of the prompts found in prefix caches", ylim=(0, 1))


async def _run() -> tuple[Held, Held, Held]:
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    with scratch_folder() as scratch:
        folder = _long_base(scratch)
        async with _serving(folder, engines=ENGINES) as serving:
            by_prefix = await _held(serving, serving.gateway_url, seed=1)
            async with _gateway_by_adapter(serving) as url:
                by_adapter = await _held(serving, url, seed=2)
        async with _serving(folder, engines=1) as serving:
            alone = await _held(serving, serving.gateway_url, seed=1)
    return by_prefix, by_adapter, alone


def _long_base(scratch: Path) -> Path:
    """Make a copy of the tiny base with a longer context: its positions are rotations, not weights."""
    source = scratch / "source"
    shutil.copytree(TINY, source, ignore=shutil.ignore_patterns("mint_base.json", "SHA256SUMS"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    target = scratch / NAME
    import_folder(source, Wish(target=target, name=NAME, max_rank=16, report=lambda _: None), known={})
    return target


@contextlib.asynccontextmanager
async def _serving(folder: Path, *, engines: int) -> AsyncIterator[Serving]:
    overrides = {
        "MINT_LOADER_MAX_CONTEXT": str(CONTEXT),
        "MINT_LOADER_KV_CACHE_BYTES": str(KV_BYTES * ENGINES // engines),
    }
    at = BaseAt(name=NAME, folder=str(folder), plan=plan_alike(engines=engines), trainable=False)
    async with open_serving(overrides, at=at) as serving:
        await serving.publish("talks", POLICIES)
        yield serving


@contextlib.asynccontextmanager
async def _gateway_by_adapter(serving: Serving) -> AsyncIterator[str]:
    environ, port = psutil.Process(serving.stack.pids("gateway")[0]).environ(), free_port()
    environ["MINT_GATEWAY_HTTP_PORT"] = str(port)
    process = subprocess.Popen([sys.executable, "-m", "benches.gateway_by_adapter"], env=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(READY_SECONDS):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, READY_SECONDS)


async def _held(serving: Serving, url: str, *, seed: int) -> Held:
    """Hold all conversations through a gateway, turn after turn, many at once."""
    before = await _counts(serving)
    rng, turns = random.Random(seed), asyncio.Semaphore(AT_ONCE)
    headers = {"authorization": f"Bearer {serving.api_key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as client:

        async def converse(model: str, prompt: str, talk: random.Random) -> None:
            for _ in range(TURNS):
                prompt += _text(talk, ASKED)
                async with turns:
                    body = {"model": model, "prompt": prompt, "max_tokens": GENERATED, "ignore_eos": True}
                    answer = await client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                prompt += _text(talk, ANSWERED)  # in the answer's place

        talks = []
        for number in range(1, POLICIES + 1):
            instructions = _text(rng, INSTRUCTIONS)
            talks += [
                converse(f"talks@{number}", instructions, random.Random(rng.random()))
                for _ in range(OF_POLICY)
            ]
        rng.shuffle(talks)
        await asyncio.gather(*talks)
    after = await _counts(serving)
    grown = [
        {name: one[name] - was.get(name, 0.0) for name in one} for was, one in zip(before, after, strict=True)
    ]
    return Held(
        asked=sum(one[_QUERIES] for one in grown),
        found=sum(one[_HITS] for one in grown),
        tokens=tuple(sum(one[name] for name in _TOKENS) for one in grown),
    )


def _text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=length))


async def _counts(serving: Serving) -> list[Mapping[str, float]]:
    """Return vLLM's counters of each engine."""
    ports = serving.stack.folder.read_state().ports
    found = list[Mapping[str, float]]()
    async with httpx.AsyncClient(timeout=30) as client:
        for name, port in sorted(ports.items()):
            if name.startswith("loader-"):
                counts = defaultdict[str, float](float)
                for line in (await client.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines():
                    series = line.partition("{")[0]
                    if series in {_QUERIES, _HITS, *_TOKENS}:
                        counts[series] += float(line.split()[-1])
                found.append(counts)
    return found
