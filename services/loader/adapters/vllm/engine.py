"""The engine: vLLM's AsyncLLM with runtime LoRA.

Invariants:
- An adapter is in a slot before the first request that names it, under an int id, name and path of its own;
  no id is ever reused and nothing is replaced in place. vLLM's prefix cache keys on name, path and the
  tenant's salt, so two revisions or tenants never share a block, and a lazy load, whose failure would kill
  the engine, is never needed.
- Log-probabilities are the model's own (``raw_logprobs``): before temperature, top-k and top-p. A sample may
  ask for those at its temperature (`processed_logprobs`), which is what training needs.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from mint_common.errors import AdapterInvalid, EngineFailed, Unavailable
from mint_common.generation import CacheUse, SampleRequest
from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import LoopGate
from services.loader import metrics
from services.loader.adapters.builder.client import Builder
from services.loader.adapters.builder.wire import LaidOut
from services.loader.adapters.vllm.engine_errors import check_lives, dead_engine, translated
from services.loader.adapters.vllm.engine_stats import LatestUse
from services.loader.adapters.vllm.lora_requests import lora_request_of
from services.loader.adapters.vllm.openai.serving import VllmServing
from services.loader.adapters.vllm.routes import noted_routes, returned_routes
from services.loader.adapters.vllm.samples import final_output, pack_sample, sample_params
from services.loader.adapters.vllm.tokenizing import Tokenizing, remember_texts
from services.loader.adapters.vllm.worker_extension import Reply
from services.loader.core.background import BACKGROUND, INTERACTIVE
from services.loader.core.parsing import Parsing
from services.loader.core.routes import RouteSource
from services.loader.ports import Admission, AnswerHead, ApiCall, LoadedAdapter, Slice, WholeSample

_BUILDERS = 3
_MAX_UNMAPPED = 64
"""Maximum adapters laid out but not mapped: each holds a file descriptor of the builder."""
_MAX_SHAPES = 64
_MAX_LEAVING = 8
_LEAVING_BYTES = 4 << 20
"""Maximum size of an adapter whose removal may wait until the next call into the engine's loop."""
_STOP_SECONDS = 2.0  # then it is killed: it has nothing to save


class VllmEngine:
    """One AsyncLLM."""

    def __init__(
        self,
        llm: Any,  # vllm is imported late
        builder: Builder,
        *,
        compile_seconds: int,
        routes: RouteSource = RouteSource.NOTHING,
        routed_layers: Sequence[int] = (),
        no_routes: str = "",
        no_processed: str = "",
        sends_bytes: bool = False,
        base: str = "base",
        parsing: Parsing | None = None,
        dtype: str = "float32",
        latest: LatestUse | None = None,
    ) -> None:
        """``no_routes`` says why routes are missing; ``routed_layers`` which layers have experts.

        ``no_processed`` says why there are no log-probabilities at a request's temperature, if so.
        ``compile_seconds`` of processor time limit the compilation of an answer's structure.
        ``sends_bytes``: workers may be on other machines, where nothing of this one can be mapped.
        """
        self._sends_bytes = sends_bytes
        self._latest = latest or LatestUse()
        self.no_routes = no_routes
        self.dtype = dtype
        self.no_processed = no_processed
        self._llm = llm
        self._route_source = routes
        self._routed_layers = routed_layers
        self._builder = builder
        self._unmapped: dict[int, tuple[LoadedAdapter, LaidOut]] = {}
        self._in_arena: dict[int, LaidOut] = {}
        self._large: set[int] = set()
        self._leaving: list[int] = []
        self._shapes: dict[tuple[int, bytes], None] = {}
        self._tokenizer = llm.get_tokenizer()
        remember_texts(self._tokenizer)
        self._tokenizing = Tokenizing(deepcopy(self._tokenizer))
        self._start_turns = LoopGate()
        self._serving = VllmServing(
            llm,
            base=base,
            parsing=parsing or Parsing(),
            starts=self._start_turns,
            compile_seconds=compile_seconds,
        )

    async def stage(self, adapter: LoadedAdapter, *, victims: Sequence[int] = ()) -> int:
        """Lay an adapter out outside the engine's loop; the engine maps it, soon or at once.

        Each call into the loop delays a step. An adapter of a known shape cannot be
        refused, so the call that gives it a slot, which mostly comes next, maps it; else `residents` does.
        That call also releases small victims.
        """
        staged = False
        try:
            await self._let_leave(victims)
            size_bytes = await self._lay_out(adapter)
            staged = True
            return size_bytes
        finally:
            if not staged:
                self._let_go(adapter.number)
                if not self.dead:
                    await self._drop(adapter.number)

    async def _let_leave(self, victims: Sequence[int]) -> None:
        """Have the engine forget adapters: small ones with the next call, those whose room is needed now."""
        now: list[int] = []
        for number in victims:
            if not self._let_go(number):
                (now if number in self._large or number in self._in_arena else self._leaving).append(number)
        if now or len(self._leaving) > _MAX_LEAVING:
            await self._drop(*now)

    async def _lay_out(self, adapter: LoadedAdapter) -> int:
        laid_out = await self._builder.lay_out(adapter.folder)
        self._unmapped[adapter.number] = adapter, laid_out
        shape = laid_out.rank, laid_out.tensor_index
        if shape not in self._shapes or len(self._unmapped) > _MAX_UNMAPPED:
            await self._enter(adapter.number)
            self._shapes[shape] = None
            if len(self._shapes) > _MAX_SHAPES:
                del self._shapes[next(iter(self._shapes))]
        return laid_out.size_bytes  # of all workers together: they share the memory

    async def _enter(self, number: int, *, builders: int = _BUILDERS) -> None:
        replies = await self._call_with_memory("mint_enter", number, builders=builders)
        metrics.STALL_SECONDS.observe(max(reply["stall_ms"] for reply in replies) / 1e3)

    async def _call_with_memory(
        self, method: str, number: int, *args: object, builders: int = _BUILDERS
    ) -> Sequence[Reply]:
        """Call a method with where an adapter is laid out as well, if the engine has not mapped it yet.

        Raises Unavailable when so many builders end before the engine has done so.
        """
        if number not in self._unmapped:
            return await self._call(method, number, *args, None, self._take_leaving())
        adapter, laid_out = self._unmapped.pop(number)
        try:
            for attempt in range(builders):
                if attempt:
                    laid_out = await self._builder.lay_out(adapter.folder)
                if laid_out.in_arena:
                    self._in_arena[number] = laid_out
                elif laid_out.size_bytes > _LEAVING_BYTES:
                    self._large.add(number)
                where: str | bytes = laid_out.path
                if self._sends_bytes:
                    where = await asyncio.to_thread(_bytes_of, laid_out)
                memory = laid_out.rank, where, laid_out.begin, laid_out.tensor_index
                replies = await self._call(method, number, *args, memory, self._take_leaving())
                if not any("gone" in reply for reply in replies):
                    return replies
        finally:
            if not laid_out.in_arena:
                self._builder.release(laid_out)
        raise Unavailable(what="the builder", problem=f"{builders} ended before the engine had its adapter")

    def _let_go(self, number: int) -> bool:
        """Give up the memory of an adapter that the engine is not to have; return False if it may have it."""
        if number not in self._unmapped:
            return False
        self._builder.release(self._unmapped.pop(number)[1])
        return True

    def _take_leaving(self) -> list[int]:
        leaving, self._leaving = self._leaving, []
        return leaving

    async def activate(
        self, adapter: LoadedAdapter, *, victim: LoadedAdapter | None, slice_ms: float
    ) -> Slice:
        """Copy an adapter into a slot."""
        number = victim.number if victim else None
        replies = await self._call_with_memory("mint_activate", adapter.number, number, slice_ms)
        return Slice(
            done=all(reply["done"] for reply in replies),
            stall_ms=max(reply["stall_ms"] for reply in replies),
            waits=any(reply.get("waits") for reply in replies),
            lost=any(reply.get("lost") for reply in replies),
        )

    async def unload(self, number: int) -> None:
        """Remove an adapter from host memory and its slot."""
        self._let_go(number)
        await self._drop(number)

    async def _drop(self, *numbers: int) -> None:
        """Have the workers forget adapters, and those that leave; only then is their memory given up."""
        await self._call("mint_drop", [*self._take_leaving(), *numbers])
        for number in numbers:
            self._large.discard(number)
            laid_out = self._in_arena.pop(number, None)
            if laid_out is not None:
                self._builder.release(laid_out)

    async def open_arena(self, path: str) -> None:
        """Let each worker map the arena, and its device read from it, before anything is served."""
        await self._call("mint_arena", path)

    async def residents(self) -> Mapping[int, bool]:
        """Return the workers' adapters; those that can no longer be mapped are missing."""
        if self._leaving:
            await self._drop()
        for number in list(self._unmapped):
            with suppress(AdapterInvalid, Unavailable):
                await self._enter(number, builders=1)
        found: dict[int, bool] = {}
        for reply in await self._call("mint_residents"):
            found |= {int(number): number in reply["slots"] for number in reply["host"]}
        return found

    async def _call(self, method: str, *args: object) -> Sequence[Reply]:
        """Call a method of the worker extension; return each worker's reply.

        Raises AdapterInvalid if the method reports it, EngineRestarting for a dead engine, else EngineFailed:
        a failed call is a fault of its adapter, and other adapters are still served.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            replies: Sequence[Reply] = await self._llm.collective_rpc(method, args=args)
        except EngineDeadError as error:
            raise dead_engine() from error
        except Exception as error:  # vLLM raises what it likes
            problem = f"its call {method} failed: {type(error).__name__}: {error}"
            raise EngineFailed(problem=problem) from error
        told = next((reply["problem"] for reply in replies if "problem" in reply), None)
        if told is not None:
            raise AdapterInvalid(reason="engine_refused", problem=str(told))
        return replies

    async def sample(
        self, request: SampleRequest, *, request_id: str, adapter: LoadedAdapter | None
    ) -> WholeSample:
        """Return whole completions."""
        from vllm.inputs.engine import tokens_input

        lora_request = lora_request_of(adapter) if adapter else None
        is_noted = request.routes and self._route_source is RouteSource.PLUGIN
        outputs = self._llm.generate(
            tokens_input(list(request.tokens), cache_salt=request.tenant_id),
            sample_params(request, noted_as=request_id if is_noted else None),
            request_id,
            lora_request=lora_request,
            priority=BACKGROUND if request.is_background else INTERACTIVE,
        )
        # A tenant's jobs and its other requests take turns like two tenants.
        line = f"{request.tenant_id}/background" if request.is_background else request.tenant_id
        async with self._start_turns.turn(line):
            pass  # the request is started in the same step, which is the turn's
        check_lives(self._llm)
        with translated():
            final = await final_output(outputs, lora_request=lora_request)
        routes = await self._routes(request_id, final) if request.routes else {}
        return await pack_sample(final, request, lora_request=lora_request, routes=routes)

    async def _routes(self, request_id: str, output: Any) -> Mapping[int, bytes]:
        """Return the routes of a request's completions, none of a base without experts."""
        if self._route_source is RouteSource.ENGINE:
            return returned_routes(output, layers=self._routed_layers)
        if self._route_source is RouteSource.PLUGIN:
            return noted_routes(output, (await self._call("mint_routes", request_id))[0])  # as every worker
        return {}

    def serve(self, call: ApiCall, *, admission: Admission) -> AsyncGenerator[AnswerHead | bytes, None]:
        """Answer a request of an inference API."""
        return self._serving.answer(call, admission=admission)

    async def tokenize(self, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        """Tokenize off the event loop."""
        return await self._tokenizing.tokenize(text, tenant_id=tenant_id)

    @property
    def eos_token_id(self) -> int:
        """Return the tokenizer's end-of-sequence token."""
        return int(self._tokenizer.eos_token_id)

    @property
    def cache_use(self) -> CacheUse | None:
        """Return the use of the KV cache after the last step."""
        return self._latest.use

    @property
    def dead(self) -> bool:
        """Return whether the engine process is gone or broken."""
        return bool(self._llm.errored)

    def kill(self) -> None:
        """Kill the engine process; vLLM notes that it has ended."""
        for process in self._llm.engine_core.resources.engine_manager.processes:
            process.kill()

    def close(self) -> None:
        """Stop the engine process; blocks for seconds."""
        self._tokenizing.close()
        self._serving.close()
        self._llm.shutdown(timeout=_STOP_SECONDS)
        # Its __del__ shuts down again, and must not run at interpreter exit; the serving classes hold it too.
        self._llm = None
        del self._serving


def _bytes_of(laid_out: LaidOut) -> bytes:
    with Path(laid_out.path).open("rb") as file:
        file.seek(laid_out.begin)
        return file.read(laid_out.size_bytes)
