"""Runs a probe: a small base, the trainer's and the engine's side as processes, and the verdict."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from mint_common.adapters_format import BASE_FILE, BaseFacts
from mint_common.adapters_format.base_facts import ProbeResult
from mint_common.adapters_format.layer_kinds import CHUNKED
from mint_common.probing import (
    BASE,
    COMPARED,
    ENGINE,
    REQUEST,
    TRAINER,
    EngineFindings,
    HandOver,
    ProbeRequest,
    TrainerFindings,
    read_probe,
    write_probe,
)
from services.standalone.adapters.base_description import describe_base
from services.standalone.adapters.base_import import Report, restricted
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.probing.small_base import make_small_base
from services.standalone.adapters.sessions import kill_sessions
from services.standalone.core.probe_lines import probe_lines
from services.standalone.core.small_config import CHUNK, WINDOW

MAX_SECONDS = 300.0
"""Maximum time of the engine's side. The trainer's side, which waits for it, has twice as much."""
_SHOWN = 400
_RANK = 4
_CHATS = (
    ({"role": "user", "content": "What is 2 + 2?"},),
    (
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 + 3?"},
    ),
)
_ERROR = re.compile(r"(?:\([^)]*\) |ERROR [^]]*\] )*([\w.]*(?:Error|Exception)(?:: .+)?)$")
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


def run_probe(source: Path, *, targets: Sequence[str] = (), report: Report) -> ProbeResult:
    """Probe what a folder's config and tokenizer describe; its weights are not read."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="mint-probe-") as scratch:
        folder = Path(scratch)
        small = make_small_base(source, folder / BASE)
        facts = describe_base(folder / BASE, name="probe", max_rank=_RANK)
        if targets:
            facts = restricted(facts, targets)
        (folder / BASE / BASE_FILE).write_bytes(msgspec.json.encode(facts))
        write_probe(folder, REQUEST, probe_request(facts))
        report(f"probing {small}, through a trainer and an engine")
        trainer, engine, compared = _both_sides(folder)
        lines = probe_lines(trainer, engine, compared, kinds=facts.layer_kinds)
    for line in lines:
        report(f"probe, {line.part}: {line.told()}")
    seconds = round(time.monotonic() - began, 1)
    return ProbeResult(lines=lines, dtype=engine.dtype, small=small, seconds=seconds)


def probe_request(facts: BaseFacts) -> ProbeRequest:
    """Return rows that are longer than every window and chunk of a small base."""
    rng = random.Random(0)  # any tokens

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, min(256, facts.vocab_size)) for _ in range(count))

    is_chunked = CHUNKED in facts.layer_kinds
    prompt = (CHUNK if is_chunked else WINDOW) + WINDOW
    return ProbeRequest(
        prompt=drawn(prompt), rows=(drawn(WINDOW), drawn(WINDOW - 3)), chats=_CHATS, rank=_RANK
    )


def _both_sides(folder: Path) -> tuple[TrainerFindings, EngineFindings, HandOver | None]:
    with _side("trainer", folder, seconds=2 * MAX_SECONDS) as trainer:
        with _side("loader", folder, seconds=MAX_SECONDS) as loader:
            if _await_line(trainer):  # the adapters are there
                _go_on(loader)
                _await_line(trainer)  # it has checked itself
            else:
                loader.terminate()
        _go_on(trainer)
    found = read_probe(folder, TRAINER, TrainerFindings)
    answered = read_probe(folder, ENGINE, EngineFindings)
    if answered is None or answered.problem:
        told = first_error(folder / "loader.log") or (answered.problem if answered else "it ended")
        answered = EngineFindings(problem=" ".join(told.split())[:_SHOWN])
    trained = found or TrainerFindings(problem=first_error(folder / "trainer.log") or "it ended")
    return trained, answered, read_probe(folder, COMPARED, HandOver)


@contextmanager
def _side(service: str, folder: Path, *, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run a side. It is killed after some seconds, and when this process is; nothing of it is left."""
    # -P: a file in the current folder must not shadow a module.
    module = [sys.executable, "-P", "-m", f"services.{service}.adapters.probing", str(folder)]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with (folder / f"{service}.log").open("w") as log:
        process = subprocess.Popen(
            module,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if service == "trainer" else log,
            stderr=log,
            text=True,
            env={**os.environ, **quiet},
            preexec_fn=child_setup(None, parent=os.getpid()),  # noqa: PLW1509  # it allocates nothing
        )
        # It ends what waits for the side, whose children hold its pipe too.
        limit = threading.Timer(seconds, kill_sessions, ({process.pid},))
        limit.start()
        try:
            yield process
            process.wait()
        finally:
            kill_sessions({process.pid})  # its children too, such as an engine
            limit.cancel()
            process.communicate()


def _await_line(process: subprocess.Popen[str]) -> bool:
    """Wait for a line of a side; return whether one came before the side ended."""
    assert process.stdout is not None
    return bool(process.stdout.readline())


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended
        process.stdin.write("\n")
        process.stdin.flush()


def first_error(log: Path) -> str:
    """Return the first error that a process or its children wrote, and where: later ones follow from it."""
    place = ""
    for line in log.read_text(errors="replace").splitlines():
        if found := _PLACE.search(line):
            place = f"{found[1].rpartition('site-packages/')[2]}:{found[2]}"
        if found := _ERROR.match(line):
            return f"{found[1]} (at {place})" if place else found[1]
    return ""
