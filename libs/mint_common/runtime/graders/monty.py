"""Source in pydantic-monty: an interpreter of a part of Python, in worker processes that it restarts.

The interpreter has no files, network, environment or processes unless its host answers for them, and this
host answers for none. Every call has an interpreter of its own.
"""

import datetime as dt
import importlib
import threading
from collections.abc import Mapping
from typing import Any, Protocol, Self

import msgspec

from mint_common.graders import GradedSample, GraderFault
from mint_common.runtime.graders.python import MAX_VALUE, call_json, reward_of, runtime_fault, sample_fields

_CALL = f"\nf'{{grade(sample, item)!r}}'[:{MAX_VALUE}]"
_CHECK = f"\nf'{{type(grade).__name__}}'[:{MAX_VALUE}]"
_PRINTED_BYTES = 1 << 20
_GRACE_SECONDS = 1.0
"""Time that a worker may run past its limit before it is killed."""
_POLICY = {
    "datetime": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "sleep": "zero",
    "random_start": {"seed": 0},
}
"""The same reward every time: time stands still, and what is random is the same."""


class _Session(Protocol):
    """A fresh interpreter; see `pydantic_monty.MontySession`."""

    def feed_run(self, code: str, *, inputs: dict[str, Any], print_callback: object) -> object: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class MontySandbox:
    """See `PythonSandbox`. The workers start with the first call."""

    def __init__(self, *, workers: int, seconds: float, memory_bytes: int) -> None:
        self._limits = {"max_feed_duration_secs": seconds, "max_memory": memory_bytes, "max_suspensions": 100}
        self._seconds = seconds
        self._workers = workers
        self._opening = threading.Lock()
        self._opened: Any = None  # pydantic_monty.Monty

    def check(self, source: str) -> None:
        """Run a source without grading."""
        if self._run(source + _CHECK, {}) != "function":
            raise runtime_fault("the source has no function grade(sample, item)")

    def grade(self, source: str, sample: GradedSample) -> float:
        """Return the result of the source's function."""
        inputs = msgspec.json.decode(call_json({"sample": sample_fields(sample), "item": sample.item}))
        return reward_of(self._run(source + _CALL, inputs))

    def close(self) -> None:
        """End the workers."""
        with self._opening:
            if self._opened is not None:
                self._opened.__exit__(None, None, None)

    def _run(self, code: str, inputs: Mapping[str, Any]) -> str:
        """Return what code ends with, a text."""
        monty = _package()
        printed = monty.CollectString(max_bytes=_PRINTED_BYTES)
        try:
            with self._session() as session:
                return str(session.feed_run(code, inputs=dict(inputs), print_callback=printed))
        except monty.MontyCrashedError as error:
            problem = f"took more than {self._seconds:g} s" if error.timed_out else "ended its interpreter"
            raise runtime_fault(f"the source {problem}") from error
        except (monty.MontyRuntimeError, monty.MontySyntaxError) as error:
            raise runtime_fault(error.display()) from error
        except monty.MontyError as error:
            raise runtime_fault(str(error)) from error
        except (ValueError, RecursionError, OSError, RuntimeError) as error:
            problem = f"the interpreter does not run: {error}"
            raise GraderFault("python_grader_server_error", problem) from error

    def _session(self) -> _Session:
        session: _Session = self._pool().checkout(
            limits=self._limits, os_policy=_POLICY, assert_message_annotations=False
        )
        return session

    def _pool(self) -> Any:  # pydantic_monty.Monty
        with self._opening:
            if self._opened is None:
                self._opened = _package().Monty(
                    max_processes=self._workers,
                    request_timeout=self._seconds + 2 * _GRACE_SECONDS,
                    feed_duration_limit_grace=_GRACE_SECONDS,
                )
                self._opened.__enter__()
            return self._opened


def _package() -> Any:  # pydantic_monty, without its types
    """Return the package: 10 MB of memory, which few stacks use."""
    return importlib.import_module("pydantic_monty")
