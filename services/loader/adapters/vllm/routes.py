"""Routes: the experts of each token of a request, in each routed layer, for requests that ask (R3).

vLLM returns them from its second model runner alone (`returned_routes`), CUDA's default. For the first one,
a CPU's default, vLLM's capturer for the second is bound to the routers, and a step's captured routes are
distributed to its requests in the order of the step's tokens. Invariants: nothing is bound before a request
asks; routes that are not fetched are bounded. A token whose step did not run here, because its block was in
the prefix cache, has the route `UNKNOWN`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ASKED = "mint_routes"
"""Key in ``SamplingParams.extra_args`` of the name under which a request's routes are fetched, and of its
``n``."""
UNKNOWN = 0xFFFF
_KEPT_BYTES = 256 << 20

Rows = npt.NDArray[np.uint16]


def note_routes() -> None:
    """Extend the model runner. Idempotent."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if GPUModelRunner.execute_model.__module__ != __name__:
        GPUModelRunner.execute_model = _noting(GPUModelRunner.execute_model)


# Any: the model runner, its requests and methods; vllm has no types.
def _noting(stock: Any) -> Any:
    def execute_model(runner: Any, step: Any, *args: Any, **options: Any) -> Any:
        if any(_asked(request) for request in step.scheduled_new_reqs):
            book_of(runner, make=True)
        result = stock(runner, step, *args, **options)
        book = book_of(runner)
        if book is not None:
            book.note(runner, step)
        return result

    return execute_model


def book_of(runner: Any, *, make: bool = False) -> "RouteBook | None":
    """Return a runner's book, None if it has none yet."""
    book: RouteBook | None = runner.__dict__.get("mint_routes")
    if book is None and make:
        book = runner.__dict__["mint_routes"] = RouteBook(runner)
    return book


def _asked(request: Any) -> tuple[str, int] | None:
    options = getattr(request.sampling_params, "extra_args", None) or {}
    if ASKED not in options:
        return None
    name, count = options[ASKED]
    return str(name), int(count)


class RouteBook:
    """The routes of one worker's requests, by name and completion, until they are fetched."""

    def __init__(self, runner: Any) -> None:
        from vllm.model_executor.layers.fused_moe.layer import MoERunner
        from vllm.model_executor.layers.fused_moe.routed_experts_capturer import (
            RoutedExpertsCapturer,
            bind_routed_experts_capturer,
        )

        model = runner.get_model()
        self._capturer = RoutedExpertsCapturer(runner.max_num_tokens, runner.vllm_config)
        bind_routed_experts_capturer(model, self._capturer)
        self._layers = sorted({one.layer_id for one in model.modules() if isinstance(one, MoERunner)})
        self._parts: OrderedDict[str, dict[int, list[tuple[int, Rows]]]] = OrderedDict()
        self._bytes = 0

    @property
    def shape_per_token(self) -> tuple[int, int]:
        """Return routed layers and experts of a token in each."""
        return len(self._layers), int(self._capturer.shape_per_token[1])

    def note(self, runner: Any, step: Any) -> None:
        """Distribute a step's captured routes, whose tokens are ordered by request."""
        begin, captured = 0, None
        for index, name in enumerate(runner.input_batch.req_ids):
            count = int(step.num_scheduled_tokens.get(name, 0))
            asked = _asked(runner.requests[name])
            if asked and count:
                if captured is None:
                    total = step.total_num_scheduled_tokens
                    captured = self._capturer.device_buffer[:total, self._layers].cpu().numpy()
                first = int(runner.input_batch.num_computed_tokens_cpu[index])
                completion = int(name.partition("_")[0]) if asked[1] > 1 else 0
                self._keep(asked[0], completion, first, captured[begin : begin + count].astype(np.uint16))
            begin += count

    def _keep(self, name: str, completion: int, first: int, rows: Rows) -> None:
        self._parts.setdefault(name, {}).setdefault(completion, []).append((first, rows))
        self._bytes += rows.nbytes
        while self._bytes > _KEPT_BYTES and len(self._parts) > 1:
            self._drop(next(iter(self._parts)))

    def _drop(self, name: str) -> dict[int, list[tuple[int, Rows]]]:
        parts = self._parts.pop(name, {})
        self._bytes -= sum(rows.nbytes for pieces in parts.values() for _, rows in pieces)
        return parts

    def fetch(self, name: str) -> Mapping[int, Rows]:
        """Return and forget the routes ``[tokens, layers, experts of a token]`` of each completion."""
        return {completion: self._joined(pieces) for completion, pieces in self._drop(name).items()}

    def _joined(self, pieces: list[tuple[int, Rows]]) -> Rows:
        length = max(first + len(rows) for first, rows in pieces)
        whole = np.full((length, *self.shape_per_token), UNKNOWN, np.uint16)
        for first, rows in pieces:
            whole[first : first + len(rows)] = rows
        return whole


def noted_routes(output: Any, reply: Mapping[str, Any]) -> Mapping[int, bytes]:
    """Return the routes of every token of a final output but the completions' last, from a reply."""
    found, token_bytes = reply["routes"], int(reply["token_bytes"])
    return {
        index: _exactly(found.get(str(index), b""), tokens=count, token_bytes=token_bytes)
        for index, count in _tokens(output).items()
    }


def returned_routes(output: Any, *, layers: Sequence[int]) -> Mapping[int, bytes]:
    """Return them as vLLM's second model runner has put them into the output, of these layers alone.

    There they are ``[tokens, all layers, experts of a token]``.
    """
    found: dict[int, bytes] = {}
    tokens = _tokens(output)
    for one in output.outputs:
        rows = np.asarray(one.routed_experts)[:, list(layers)].astype("<u2")
        token_bytes = rows[0].nbytes if len(rows) else 0
        found[one.index] = _exactly(rows.tobytes(), tokens=tokens[one.index], token_bytes=token_bytes)
    return found


def _tokens(output: Any) -> Mapping[int, int]:
    return {one.index: len(output.prompt_token_ids) + len(one.token_ids) - 1 for one in output.outputs}


def _exactly(rows: bytes, *, tokens: int, token_bytes: int) -> bytes:
    """Return the routes of exactly so many tokens: missing ones are unknown."""
    needed = tokens * token_bytes
    return rows[:needed] + b"\xff" * (needed - len(rows))
