"""What one SDK version can do: every public method and every behaviour, as seen while the checks ran.

Runs inside each version's own environment, so it imports nothing but the standard library and the SDK.
"""

import asyncio
import importlib
import time
import traceback
from collections.abc import Callable
from typing import Any

WORKS, REFUSED, ABSENT, FAILED, UNTESTED = "works", "refused", "absent", "failed", "untested"
BROKEN = "broken"
"""It fails inside the SDK, whatever the server is."""
REFUSAL_SECONDS = 5.0
"""A refusal that takes longer was tried again by the client: its status code is wrong then."""
MODULES = {
    "ServiceClient": "tinker.lib.public_interfaces.service_client",
    "TrainingClient": "tinker.lib.public_interfaces.training_client",
    "SamplingClient": "tinker.lib.public_interfaces.sampling_client",
    "RestClient": "tinker.lib.public_interfaces.rest_client",
    "AdminClient": "tinker.lib.public_interfaces.admin_client",
}
SENT_NOWHERE = {"get_telemetry", "on_queue_state_change"}
"""Methods that every version answers by itself, whatever the server is."""


class Absent(Exception):
    """This version has no such method or argument."""


class Broken(Exception):
    """The SDK fails by itself."""


class Refused(Exception):
    """This server leaves it out, and says so with a 4xx."""


def public_classes() -> dict[str, type]:
    """Return the classes of the public interface that this version has."""
    found = {}
    for name, module in MODULES.items():
        try:
            found[name] = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    return found


def done(value: Any) -> Any:
    """Return what a future, of whichever kind, comes to."""
    return value.result() if hasattr(value, "result") else value


class Recorder:
    """Calls methods of the SDK and keeps what became of them."""

    def __init__(self) -> None:
        self.classes = public_classes()
        self.methods: dict[str, str] = {}
        self.checks: dict[str, dict[str, Any]] = {}
        for name, kind in self.classes.items():
            for method in dir(kind):
                if not method.startswith("_") and callable(getattr(kind, method)):
                    status = WORKS if method in SENT_NOWHERE else UNTESTED
                    self.methods[f"{name}.{method}"] = status

    def call(self, target: Any, name: str, *args: Any, **options: Any) -> Any:
        """Call a method, wait for its result, and note that it works."""
        result = done(self.start(target, name, *args, **options))
        self._note(target, name, WORKS)
        return result

    def start(self, target: Any, name: str, *args: Any, **options: Any) -> Any:
        """Call a method and return its future; `call` of another one waits for it."""
        method = getattr(target, name, None)
        if method is None:
            raise Absent(f"{type(target).__name__}.{name}")
        return method(*args, **options)

    def call_async(self, target: Any, name: str, *args: Any, **options: Any) -> Any:
        """Await the method's twin for coroutines, if this version has one, and return its result."""
        twin = f"{name}_async"
        if getattr(target, twin, None) is None:
            return None

        async def run() -> Any:
            value = await getattr(target, twin)(*args, **options)
            return await value.result_async() if hasattr(value, "result_async") else value

        result = asyncio.run(run())
        self._note(target, twin, WORKS)
        return result

    def both(self, target: Any, name: str, *args: Any, **options: Any) -> Any:
        """Call a method and its twin for coroutines; return what the method gave."""
        result = self.call(target, name, *args, **options)
        self.call_async(target, name, *args, **options)
        return result

    def note_works(self, *names: str) -> None:
        """Note methods that were called in another way."""
        for name in names:
            if name in self.methods:
                self.methods[name] = WORKS

    def refuse(self, target: Any, name: str, *args: Any, **options: Any) -> None:
        """Call a method that this server leaves out: it must say so at once, and so must its twin."""
        for method in (name, f"{name}_async"):
            if getattr(target, method, None) is None:
                continue
            caller = self.call_async if method.endswith("_async") else self.call
            began = time.monotonic()
            try:
                caller(target, name, *args, **options)
            except AssertionError as error:
                if "incorrect event loop" not in str(error):
                    raise
                self._note(target, method, BROKEN)
            except Exception as error:
                status = getattr(error, "status_code", None)
                is_refusal = status is not None and 400 <= status < 500
                if not is_refusal or time.monotonic() - began > REFUSAL_SECONDS:
                    raise
                self._note(target, method, REFUSED)
            else:
                raise AssertionError(f"{name} was expected to be refused")

    def check(self, name: str, run: Callable[[], Any]) -> None:
        """Run a check; what it raises is kept, and the next one runs."""
        began = time.monotonic()
        status, detail = WORKS, ""
        try:
            run()
        except Absent as absent:
            status, detail = ABSENT, str(absent)
        except Broken as broken:
            status, detail = BROKEN, str(broken)
        except Refused as refused:
            status, detail = REFUSED, str(refused)
        except Exception:  # noqa: BLE001  (a check may fail in any way)
            status, detail = FAILED, traceback.format_exc()[-3000:]
        seconds = round(time.monotonic() - began, 2)
        self.checks[name] = {"status": status, "seconds": seconds, "detail": detail}
        print(
            f"{status:8} {seconds:6.2f} s  {name}" + (f"\n{detail}" if status == FAILED else ""), flush=True
        )

    def _note(self, target: Any, name: str, status: str) -> None:
        for kind in type(target).__mro__:
            if f"{kind.__name__}.{name}" in self.methods:
                self.methods[f"{kind.__name__}.{name}"] = status
