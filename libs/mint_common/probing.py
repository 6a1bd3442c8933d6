"""Files that the two sides of a probe exchange in one folder.

A probe runs a small base through the trainer's and the engine's own code before the real one is served. The
trainer's side writes adapters and its findings, the engine's side answers with them, and the trainer's side
compares. Sequences are token ids; log-probabilities are those of every token but the first.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

BASE, ADAPTERS, REQUEST, TRAINER, ENGINE, COMPARED = (
    "base",
    "adapters",
    "request.msgpack",
    "trainer.msgpack",
    "engine.msgpack",
    "compared.msgpack",
)
"""Names in the folder of a probe."""
BOTH = ("a", "b")
"""Two adapters on every target; there is one for each target alone as well, named by it."""
BARE = ""
"""The name of no adapter."""

T = TypeVar("T")


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a probe: rows behind one prompt, longer with it than every window, and conversations."""

    prompt: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    chats: tuple[tuple[dict[str, str], ...], ...] = ()
    rank: int = 4


class TrainerFindings(msgspec.Struct, frozen=True, kw_only=True):
    """Largest differences of the trainer to transformers.

    ``outputs`` are in nats, of two policies in one pass, rows alone; ``shared`` the same with prompts shared,
    None where the base has a row a line. Gradients are relative to the largest of each adapter.
    ``effect`` is how far adapters move log-probabilities. ``chats`` are the conversations' tokens, None where
    the template refuses them. ``route_problem`` says why routes are not replayed. ``problem`` ended the work.
    """

    outputs: float | None = None
    shared: float | None = None
    gradients: float | None = None
    shared_gradients: float | None = None
    effect: float = 0.0
    chats: tuple[tuple[int, ...] | None, ...] = ()
    targets: tuple[str, ...] = ()
    route_problem: str = ""
    problem: str = ""


class EngineAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that the engine read and sampled with an adapter, and their experts if it tells them."""

    adapter: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    routes: bytes = b""


class EngineFindings(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of the engine, one batch; ``refused`` has the reason for each adapter that it does not load."""

    dtype: str = "float32"
    answers: tuple[EngineAnswer, ...] = ()
    refused: dict[str, str] = {}
    chats: tuple[tuple[int, ...] | None, ...] = ()
    one_token: str = ""
    problem: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine's answer is from transformers, and from the trainer at the same adapter, in nats.

    ``own`` is the difference of transformers itself in the engine's dtype, and ``effect`` what the adapter
    moves. ``routed`` is how far the trainer moves where it replays the engine's experts, in float32.
    In 16 bits it replays them for both differences.
    """

    reference: float
    trainer: float | None = None
    own: float = 0.0
    effect: float = 0.0
    routed: float | None = None


class HandOver(msgspec.Struct, frozen=True, kw_only=True):
    """The differences of every answer, by its adapter."""

    differences: dict[str, Difference] = {}
    problem: str = ""


def read_probe(folder: Path, name: str, kind: type[T]) -> T | None:
    """Return what a side has written, None if it has not."""
    path = folder / name
    return msgspec.msgpack.decode(path.read_bytes(), type=kind) if path.is_file() else None


def write_probe(folder: Path, name: str, found: Any) -> None:  # any of the above
    """Write what a side has found. JSON has no NaN, which a wrong base computes."""
    (folder / name).write_bytes(msgspec.msgpack.encode(found))
