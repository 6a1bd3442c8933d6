"""vLLM's serving classes, built once; and one call through them.

Invariants: a request that the engine cannot begin is an error, not a stream with an error in it; an error of
the engine midway ends the stream with an error.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

import msgspec

from mint_common.errors import InvalidField, MintError, NotFound, RequestRefused
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.fair_gate import LoopGate
from mint_common.waiting import raise_if_cancelled
from services.loader.adapters.vllm.compile_checks import CompileChecks
from services.loader.adapters.vllm.engine_errors import lost_engine
from services.loader.adapters.vllm.openai.call import CallEngine, CallRenderer
from services.loader.adapters.vllm.openai.operations import ServingMethod, build_operations
from services.loader.adapters.vllm.openai.whole_answers import WholeAnswer
from services.loader.core.inference.check import read_checked
from services.loader.core.parsing import Parsing
from services.loader.core.requests import check_characters
from services.loader.ports import Admission, AnswerHead, ApiCall

_log = logging.getLogger(__name__)

_STREAM_BYTES = 4096
"""Bytes that a tenant's streams bring in one iteration of the event loop before they take turns. vLLM makes
all events that are due without a pause, and answers no other request meanwhile."""

_READERS = (
    "vllm.entrypoints.openai.responses.utils",
    "vllm.renderers.chat_utils",
    "vllm.renderers.hf",
    "vllm.renderers.params",
)
"""Loggers with which vLLM warns of parts of requests, once for each part: clients could fill a disk."""


class VllmServing:
    """vLLM's serving classes around one AsyncLLM. Any, here and below: vllm has no types."""

    def __init__(
        self, llm: Any, *, base: str, parsing: Parsing, starts: LoopGate, compile_seconds: int
    ) -> None:
        """``starts`` are the turns in which requests are given to the engine, samples' too."""
        self._llm = llm
        self._base = base
        self._starts = starts
        self._renders = LoopGate()
        self._compile_checks = CompileChecks(
            tokenizer=str(llm.model_config.tokenizer),
            vocab_size=llm.model_config.get_vocab_size(),
            seconds=compile_seconds,
        )
        self._streams = LoopGate(free=_STREAM_BYTES)
        self._whole_answers = LoopGate()
        self._renderers, self._methods = build_operations(llm, parsing)
        quiet = _Unanswered()
        for module in {each.method_module for each in self._methods.values()}:
            logging.getLogger(module).addFilter(quiet)
        for module in _READERS:
            logging.getLogger(module).setLevel(logging.ERROR)

    async def answer(
        self, call: ApiCall, *, admission: Admission
    ) -> AsyncGenerator[AnswerHead | bytes, None]:
        """See `Engine.serve`."""
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        method = self._methods.get(call.operation)
        if method is None:
            raise NotFound(kind="operation", name=call.operation)
        checked = read_checked(call.operation, call.body, max_context=self._llm.model_config.max_model_len)
        request = _read(call, method.request, checked.fields)
        engine = CallEngine(
            self._llm,
            call,
            base=self._base,
            admission=admission,
            starts=self._starts,
            compile_checks=self._compile_checks,
        )
        async with aclosing(engine):
            serving = self._for_call(method, call, engine)
            whole = WholeAnswer(method)
            if not getattr(request, "stream", False):
                whole.keep_for_later(serving)
            answering = getattr(serving, method.name)
            try:
                with lost_engine():
                    if call.operation.generates:
                        result = await answering(request, None)
                    else:
                        self._check_size(call, request)
                        async with self._renders.turn(call.tenant_id):
                            result = await answering(request, None)
            except Exception as error:
                raise _told(error) if engine.is_read else _unread(error) from error
            raise_if_cancelled()  # vLLM answers a cancellation as an error
            if isinstance(result, ErrorResponse):
                raise _refused(result)
            if not hasattr(result, "__aiter__"):
                yield AnswerHead(is_stream=False, served=engine.served, ignored=checked.ignored)
                yield await whole.encode(result, tenant=call.tenant_id, turns=self._whole_answers)
                return
            async with aclosing(result):
                async for part in _events(result, engine, ignored=checked.ignored):
                    yield part
                    # Its end, which lets the adapter go, waits for nobody.
                    if isinstance(part, bytes) and engine.running:
                        await self._streams.admit(call.tenant_id, len(part))

    def close(self) -> None:
        """End the check of structures."""
        self._compile_checks.close()

    def _for_call(self, method: ServingMethod, call: ApiCall, engine: CallEngine) -> Any:
        serving = copy(method.serving)
        serving.models = _models_of(serving.models, call.model)
        serving.engine_client = engine
        if call.operation.generates:
            # vLLM's Messages API builds its own chat request, so the client's request cannot carry the id.
            serving._base_request_id = lambda *_, **__: call.request_id  # noqa: SLF001
            admit = _Admitting(serving, engine)
            renderer = CallRenderer(self._renderers, call, admit=admit, turns=self._renders)
            serving.online_renderer = renderer
            if call.operation is ApiOperation.CHAT_BATCH:
                serving.render_batch_chat_request = renderer.batch(serving.render_batch_chat_request)
        return serving

    def _check_size(self, call: ApiCall, request: Any) -> None:
        """Check what vLLM would tokenize or decode at any size. Raises InvalidField."""
        field = next((name for name in ("prompt", "tokens", "messages") if hasattr(request, name)), "model")
        max_context = self._llm.model_config.max_model_len
        check_characters(len(call.body), field=field, max_context=max_context)


@dataclass(frozen=True, slots=True)
class _Admitting:
    """Admits a call, and names the admitted revision in its answer."""

    serving: Any
    engine: CallEngine

    async def __call__(self, request: Any, prompts: Any) -> None:
        await self.engine.admit(request, prompts)
        self.serving.system_fingerprint = self.engine.served


async def _events(
    result: Any, engine: CallEngine, *, ignored: Sequence[str] = ()
) -> AsyncGenerator[AnswerHead | bytes, None]:
    """Yield the head once the engine has returned output, then the events."""
    early: list[bytes] = []
    has_head = is_told = False
    async for event in result:
        if engine.failure is not None:
            is_told = True
            told = _told(engine.failure)
            if not has_head or isinstance(engine.failure, MintError):
                raise told from engine.failure
        part = _encoded(event)
        if not has_head:
            early.append(part)
            if not engine.has_begun:
                continue
            has_head = True
            yield AnswerHead(is_stream=True, served=engine.served, ignored=ignored)
            part = _marked(b"".join(early), engine.served)
        yield part
    if engine.failure is not None and not is_told:
        raise _told(engine.failure) from engine.failure
    if not has_head:
        raise _told_by(early)


class _Event(msgspec.Struct):
    system_fingerprint: str | None = None


def _marked(events: bytes, served: str | None) -> bytes:
    """Return a stream's first events with what answers in the first: vLLM says it late, or never."""
    begin, data, rest = events.partition(b"data: {")
    event, end, more = rest.partition(b"\n")
    # Only its own field counts: a response repeats the client's metadata, which may say anything.
    if not data or msgspec.json.decode(b"{" + event, type=_Event).system_fingerprint == served:
        return events
    return begin + data + f'"system_fingerprint":"{served}",'.encode() + event + end + more


def _encoded(event: Any) -> bytes:
    if isinstance(event, str):
        return event.encode()
    return f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n".encode()


class _Told(msgspec.Struct):
    message: str
    code: int | str = 500
    param: str | None = None


class _ErrorEvent(msgspec.Struct):
    error: _Told


def _told_by(events: list[bytes]) -> Exception:
    """Return vLLM's error of a stream that ended before the engine returned output."""
    for line in b"".join(events).split(b"\n"):
        with suppress(msgspec.DecodeError):
            told = msgspec.json.decode(line.removeprefix(b"data: "), type=_ErrorEvent).error
            if isinstance(told.code, int) and told.code < 500:
                return RequestRefused(field=told.param or "body", problem=told.message)
            return RuntimeError(f"vLLM ended a stream before its first output: {told.message}")
    return RuntimeError("vLLM ended a stream before its first output, and does not say why")


def _models_of(models: Any, name: str) -> Any:
    """Return a list of models with one entry, the requested one."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIModelRegistry

    paths = [BaseModelPath(name=name, model_path=models.base_model_paths[0].model_path)]
    one = copy(models)
    one.base_model_paths = paths
    one.registry = OpenAIModelRegistry(models.model_config, paths)
    one.lora_requests = {}
    return one


def _read(call: ApiCall, kind: Any, fields: dict[str, Any]) -> Any:
    """Return the client's fields as vLLM's request. Raises InvalidField."""
    from pydantic import ValidationError
    from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param

    try:
        request = kind.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        named = getattr(first.get("ctx", {}).get("error"), "parameter", None)
        where = named or clean_loc_for_param(first["loc"]) or "body"
        raise InvalidField(field=where, problem=first["msg"].removeprefix("Value error, ")) from error
    except Exception as error:  # vLLM's own validators raise what they like
        raise _told(error) from error
    request.model = call.model
    if call.operation is ApiOperation.RESPONSE:
        request.request_id = f"resp_{call.request_id}"
    return request


def _told(error: BaseException) -> BaseException:
    """Return an error that says what to answer for one of vLLM's."""
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    if isinstance(error, MintError):
        return error
    assert isinstance(error, Exception)
    response = create_error_response(error)
    return _refused(response) if response.error.code < 500 else error


def _unread(error: BaseException) -> BaseException:
    """Return what to answer for an error of a request that vLLM has not read to its end.

    It reads requests with code that raises whatever a strange one makes it raise.
    """
    told = _told(error)
    if told is not error or isinstance(error, MintError | TimeoutError):
        return told
    _log.warning("request cannot be read", extra={"error": type(error).__name__})
    problem = f"the request cannot be read: {type(error).__name__}: {error}"
    return RequestRefused(field="body", problem=problem)


def _refused(response: Any) -> MintError:
    return RequestRefused(field=response.error.param or "body", problem=response.error.message)


class _Unanswered(logging.Filter):
    """Drops vLLM's log records of errors that the client gets: clients could fill a disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is about something else."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or (_told(error) is error and not isinstance(error, MintError))
