"""Translate vLLM's errors and request ends to MinT's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mint_common.errors import (
    EngineDied,
    EngineFailed,
    EngineRestarting,
    InvalidField,
    MintError,
    NonFiniteOutput,
)
from mint_common.generation import RESTART_SECONDS
from mint_common.ids import Digest
from services.loader.adapters.vllm.repairs.non_finite import NON_FINITE


def unanswered(completion: Any, *, served: Digest | None) -> MintError:
    """Return why the engine ended a completion: its adapter has no finite numbers, or it is our fault."""
    if completion.stop_reason != NON_FINITE:
        return EngineFailed(problem=f"it ended with {completion.finish_reason}")
    if served is None:
        return EngineFailed(problem="the base computes numbers that are not finite")
    return NonFiniteOutput(digest=served)


@contextmanager
def translated() -> Iterator[None]:
    """Turn vLLM's errors of a request that it runs into ours."""
    from vllm.exceptions import VLLMClientError

    try:
        with lost_engine(runs=True):
            yield
    except VLLMClientError as error:
        raise InvalidField(field="request", problem=str(error)) from error


@contextmanager
def lost_engine(*, runs: bool = False, refuses: bool = False) -> Iterator[None]:
    """Turn vLLM's errors of an engine that fails into ours.

    ``runs``: the engine has the request, which may be why it died; else another engine may have it.
    ``refuses``: a wrong value is the request's fault, and raised as it is.
    """
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        yield
    except EngineDeadError as error:
        raise (EngineDied(retry_after_seconds=RESTART_SECONDS) if runs else dead_engine()) from error
    except EngineGenerateError as error:
        if refuses and isinstance(error.__cause__, ValueError | TypeError | OverflowError):
            raise error.__cause__ from error
        raise EngineFailed(problem=str(error.__cause__ or error)) from error


def check_lives(llm: Any) -> None:
    """Check that an AsyncLLM can take a request. Raises EngineRestarting: another engine may have it."""
    if llm.errored:
        raise dead_engine()


def dead_engine() -> EngineRestarting:
    """Return the error of an engine whose process has ended: its loader ends too, and is started again."""
    return EngineRestarting(retry_after_seconds=RESTART_SECONDS)
