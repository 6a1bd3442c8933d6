"""A process that compiles structures of answers to see whether they compile, each in a child that it forks.

Invariants: it has one thread, or nothing could be forked; a child's time on a processor and its memory are
bounded by the kernel, and it ends alone; the process ends when its socket does, and so with the loader.
"""

import gc
import json
import os
import resource
import socket
import sys
from contextlib import suppress
from enum import IntEnum
from typing import Any

from mint_common.runtime.frames import frame, receive_frame
from mint_common.runtime.graders.confinement import address_space_bytes
from mint_common.runtime.low_priority import make_way

READY = b"ready"
"""The first message to the loader; another one says why nothing can be compiled here."""


class CompileOutcome(IntEnum):
    """The result of compiling a structure, in one byte."""

    COMPILED = 0
    """It compiles."""
    WRONG = 1
    """xgrammar refuses it."""
    TOO_MUCH = 2
    """It takes more than the time or the memory that is allowed, or it ended its process."""


def main(descriptor: int, tokenizer: str, vocab_size: int, seconds: int, memory_bytes: int) -> None:
    """Answer until the loader ends; ``seconds`` and ``memory_bytes`` are each child's own."""
    make_way()
    connection = socket.socket(fileno=descriptor)
    with suppress(EOFError, ConnectionError):
        try:
            info = _tokenizer_info(tokenizer, vocab_size)
        except Exception as error:  # noqa: BLE001  # told to the loader
            connection.sendall(frame(f"{type(error).__name__}: {error}".encode()))
            return
        gc.freeze()
        connection.sendall(frame(READY))
        while True:
            kind, text = json.loads(receive_frame(connection))
            outcome = _outcome(info, kind, text, seconds=seconds, memory_bytes=memory_bytes)
            connection.sendall(frame(bytes([outcome])))


def _tokenizer_info(tokenizer: str, vocab_size: int) -> Any:  # Any, here and below: of xgrammar
    import xgrammar
    from transformers import PreTrainedTokenizerFast

    try:
        read = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    except Exception:  # noqa: BLE001  # no tokenizer.json: the general way takes twice the time, and 100 MB more
        from transformers import AutoTokenizer

        read = AutoTokenizer.from_pretrained(tokenizer)
    return xgrammar.TokenizerInfo.from_huggingface(read, vocab_size=vocab_size)


def _outcome(info: Any, kind: str, text: str, *, seconds: int, memory_bytes: int) -> CompileOutcome:
    pid = os.fork()
    if not pid:
        outcome = CompileOutcome.TOO_MUCH
        with suppress(BaseException):
            _limit(seconds=seconds, memory_bytes=memory_bytes)
            outcome = _compiled(info, kind, text)
        os._exit(outcome)
    status = os.waitpid(pid, 0)[1]
    return CompileOutcome(os.WEXITSTATUS(status)) if os.WIFEXITED(status) else CompileOutcome.TOO_MUCH


def _limit(*, seconds: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes() + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _compiled(info: Any, kind: str, text: str) -> CompileOutcome:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    try:
        xgrammar.GrammarMatcher(_compile(compiler, kind, text))
    except MemoryError:
        return CompileOutcome.TOO_MUCH
    except Exception as error:  # noqa: BLE001  # xgrammar raises what it likes
        return CompileOutcome.TOO_MUCH if "bad_alloc" in str(error) else CompileOutcome.WRONG
    return CompileOutcome.COMPILED


def _compile(compiler: Any, kind: str, text: str) -> Any:
    """Compile as vLLM's `XgrammarBackend.compile_grammar`."""
    match kind:
        case "json":
            return compiler.compile_json_schema(text)
        case "regex":
            return compiler.compile_regex(text)
        case "lark":
            return compiler.compile_lark(text)
        case "grammar":
            return compiler.compile_grammar(text)
        case "structural_tag":
            return compiler.compile_structural_tag(*_structural_tag(text))
    raise AssertionError(kind)


def _structural_tag(text: str) -> tuple[Any, ...]:
    import xgrammar

    tag = json.loads(text)
    if "structures" not in tag:
        return (text,)
    items = [
        xgrammar.StructuralTagItem(begin=each["begin"], schema=json.dumps(each["schema"]), end=each["end"])
        for each in tag["structures"]
    ]
    return items, tag["triggers"]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
