"""One call as vLLM's serving classes see it: an engine, a renderer and a list of models of its own.

Invariants: every request of a call runs as its tenant, at the adapter that was admitted for it, under an id
that no other request has; nothing runs before the call is admitted, nor after it is closed.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from mint_common.errors import RequestRefused
from mint_common.ids import Digest
from mint_common.runtime.fair_gate import LoopGate
from services.loader import metrics
from services.loader.adapters.vllm.compile_checks import CompileChecks
from services.loader.adapters.vllm.engine_errors import check_lives, lost_engine, unanswered
from services.loader.adapters.vllm.lora_requests import lora_request_of
from services.loader.adapters.vllm.openai.request_outputs import RequestOutputs, read_ahead
from services.loader.adapters.vllm.openai.tools import Renderers, check_compiled_tools
from services.loader.adapters.vllm.openai.work import check_prompt_bytes, work_of
from services.loader.core.requests import check_characters
from services.loader.ports import Admission, ApiCall

_PROMPT_TOKENS = metrics.TOKENS.labels(kind="prompt")
_GENERATED_TOKENS = metrics.TOKENS.labels(kind="generated")


class CallEngine:
    """A stand-in for the AsyncLLM in one call. Any, here and below: vllm has no types."""

    def __init__(
        self,
        llm: Any,
        call: ApiCall,
        *,
        base: str,
        admission: Admission,
        starts: LoopGate,
        compile_checks: CompileChecks,
    ) -> None:
        self._llm = llm
        self._call = call
        self._base = base
        self._admission = admission
        self._starts = starts
        self._compile_checks = compile_checks
        self._held = AsyncExitStack()
        self._requests = 0
        self._lora_request: Any = None
        self.served: str | None = None
        """What answers: the name in the engine's own LoRARequest, or ``base:<name>``; None: not admitted."""
        self.is_read = False
        """Whether vLLM has read the request and its prompts."""
        self.has_begun = False
        """Whether the engine has brought something."""
        self.running = 0
        """Requests that may still bring something."""
        self.failure: Exception | None = None
        """What ended a request: vLLM writes it into a stream as an error of its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    async def admit(self, request: Any, prompts: Sequence[Any]) -> None:
        """Count a request's maximum work, and hold its adapter until the call is closed.

        Raises InvalidField for one that would repeat too much of its prompts in its answer.
        """
        assert self.served is None, "a call is admitted once"
        self.is_read = True
        lengths = [len(prompt["prompt_token_ids"]) for prompt in prompts]
        work = work_of(request, lengths, max_context=self._llm.model_config.max_model_len)
        check_prompt_bytes(request, work)
        adapter = await self._held.enter_async_context(self._admission(work))
        _PROMPT_TOKENS.inc(work.prompt_tokens)
        if adapter is not None:
            self._lora_request = lora_request_of(adapter)
        self.served = self._lora_request.lora_name if adapter else f"base:{self._base}"

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        _request_id: str,
        *,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: Any = None,
        **_set_by_mint: Any,
    ) -> RequestOutputs:
        """Start a request when its first output is requested, in its tenant's turn."""
        assert self.served is not None, "a request of a call that is not admitted"
        prompt["cache_salt"] = self._call.tenant_id
        sampling_params.routed_experts_prompt_start = len(prompt["prompt_token_ids"])
        outputs = self._llm.generate(
            prompt,
            sampling_params,
            f"{self._call.request_id}-{self._requests}",
            lora_request=self._lora_request,
            reasoning_ended=reasoning_ended,
            reasoning_parser_kwargs=reasoning_parser_kwargs,
        )
        if sampling_params.logprobs is not None:
            outputs = read_ahead(outputs)
        self._requests += 1
        self.running += 1
        request = RequestOutputs(self._checked(outputs, sampling_params.structured_outputs))
        self._held.push_async_callback(request.aclose)
        return request

    async def _checked(self, outputs: Any, structure: Any) -> AsyncGenerator[Any, None]:
        try:
            if structure is not None:
                await self._compile_checks.check(structure, tenant=self._call.tenant_id)
            async with self._starts.turn(self._call.tenant_id):
                pass  # vLLM is given the request in the same step, which is the turn's
            check_lives(self._llm)
            with lost_engine(runs=True, refuses=not self.has_begun):
                async with aclosing(outputs):
                    async for output in outputs:
                        self._check(output, is_structured=structure is not None)
                        _drop_routes(output)
                        self.has_begun = True
                        yield output
        except Exception as error:
            if self.failure is not None:
                return  # the first failure is told; vLLM would leave this one to asyncio's log
            self.failure = error
            raise
        finally:
            self.running -= 1

    def _check(self, output: Any, *, is_structured: bool) -> None:
        assert output.lora_request == self._lora_request, "vLLM answered with another adapter"
        for completion in output.outputs:
            _GENERATED_TOKENS.inc(len(completion.token_ids))
            if completion.finish_reason == "error":
                served = Digest(self._lora_request.lora_name) if self._lora_request else None
                error = unanswered(completion, served=served)
                if is_structured and completion.stop_reason is None:
                    # vLLM compiles and follows grammars in the engine, and says no more of a wrong one.
                    problem = "the engine cannot compile this grammar, schema or pattern, or not in time"
                    raise RequestRefused(field="structured_outputs", problem=problem) from error
                raise error

    async def aclose(self) -> None:
        """End what still runs, then let the adapter go. Idempotent."""
        await self._held.aclose()


def _drop_routes(output: Any) -> None:
    """Leave out the routes through experts, which an engine of its second runner adds to every answer."""
    for completion in output.outputs:
        completion.routed_experts = None


class CallRenderer:
    """A stand-in for vLLM's renderer: tenants take turns, and rendered requests are admitted."""

    def __init__(
        self,
        renderers: Renderers,
        call: ApiCall,
        *,
        admit: Callable[[Any, Sequence[Any]], Awaitable[None]],
        turns: LoopGate,
    ) -> None:
        self._renderers = renderers
        self._renderer = renderers.usual
        self._call = call
        self._admit = admit
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    async def render_chat(self, request: Any, **options: Any) -> Any:
        """Render a conversation; one that comes with its tokens is sampled from these."""
        render = _rendering_from_tokens(self._renderers.of(request))
        return await self._rendered(render, request, options, _second)

    async def render_completion(self, request: Any, **options: Any) -> Any:
        """Render prompts. Raises InvalidField of a text that can't fit, which vLLM might only cut."""
        texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt or ()
        for text in texts:
            if isinstance(text, str):
                max_context = self._renderer.model_config.max_model_len
                check_characters(len(text), field="prompt", max_context=max_context)
        return await self._rendered(self._renderer.render_completion, request, options, list)

    async def render_responses(self, request: Any, **options: Any) -> Any:
        """Render the input of a response."""
        render = self._renderers.of(request).render_responses
        return await self._rendered(render, request, options, _engine_input)

    def batch(self, render: Any) -> Callable[[Any], Awaitable[Any]]:
        """Return vLLM's rendering of a batch, whose conversations are admitted together."""

        async def render_batch(request: Any) -> Any:
            return await self._rendered(render, request, {}, _third)

        return render_batch

    async def _rendered(
        self, render: Any, request: Any, options: Any, prompts_of: Callable[[Any], Sequence[Any]]
    ) -> Any:
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        async with self._turns.turn(self._call.tenant_id):
            rendered = await render(request, **options)
        if not isinstance(rendered, ErrorResponse):
            check_compiled_tools(request)
            await self._admit(request, prompts_of(rendered))
        return rendered


def _rendering_from_tokens(renderer: Any) -> Callable[..., Awaitable[Any]]:
    """Return vLLM's own rendering, whose prompt is replaced by a request's ``tokens`` if it has any."""

    async def render(request: Any, **options: Any) -> Any:
        rendered = await renderer.render_chat(request, **options)
        tokens = getattr(request, "tokens", None)
        if tokens is not None and isinstance(rendered, tuple):
            (prompt,) = rendered[1]
            prompt["prompt_token_ids"] = tokens
            prompt.pop("prompt", None)
        return rendered

    return render


def _second(rendered: Any) -> Sequence[Any]:
    return rendered[1]  # type: ignore[no-any-return]  # of vllm


def _third(rendered: Any) -> Sequence[Any]:
    return rendered[2]  # type: ignore[no-any-return]  # of vllm


def _engine_input(rendered: Any) -> Sequence[Any]:
    return [rendered.engine_input]
