"""No structure of an answer holds an engine's step, whatever a single call of xgrammar takes."""

import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from services.loader.adapters.vllm import freed_memory, structures
from services.loader.adapters.vllm.structures import bound_structures, share_time
from services.loader.core import structure_time
from services.loader.core.structure_time import RequestTime, StructureTimes
from tests.integration.loader.slow_structures import AMBIGUOUS_RULES

if TYPE_CHECKING:
    import torch

pytestmark = [
    pytest.mark.engine,
    # torch's, when vLLM's modules are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PATTERN = "(" * 60 + "a" + "+)" * 60
"""Ambiguous: each step takes longer than the one before, from the 40th on more than a second."""
ADDRESS = r"[a-z0-9]+(-[a-z0-9]+)*@[a-z]{1,20}(\.[a-z]{2,9}){1,3}"
VOCABULARY = [*map(chr, range(32, 127)), "a" * 16, "</s>"]


@pytest.fixture
def ending() -> Iterator[None]:
    """Wait for the threads that were abandoned to their call: Python must not end with one in xgrammar."""
    yield
    for each in list(structures._abandoned):
        each.thread.join()
    assert not structures._abandoned


def _compiler() -> Any:
    import xgrammar as xgr

    size = len(VOCABULARY)
    info = xgr.TokenizerInfo(VOCABULARY, vocab_size=size, stop_token_ids=[size - 1])
    return xgr.GrammarCompiler(info, max_threads=1)


def _grammar(*, pattern: str = "", rules: str = "", time_of_request: RequestTime | None = None) -> Any:
    """Return what vLLM follows a structure with, which is bounded."""
    import xgrammar as xgr
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

    bound_structures()
    compiler = _compiler()
    compiled = compiler.compile_regex(pattern) if pattern else compiler.compile_grammar(rules)
    matcher = xgr.GrammarMatcher(compiled)
    grammar = XgrammarGrammar(vocab_size=len(VOCABULARY), matcher=matcher, ctx=compiled)
    if time_of_request is not None:
        share_time(grammar, time_of_request)
    return grammar


def _row() -> "torch.Tensor":
    import torch

    return torch.zeros(1, -(-len(VOCABULARY) // 32), dtype=torch.int32)


def _follow(text: str, pattern: str) -> int:
    """Return how many characters of a text are accepted, a token each."""
    grammar, row = _grammar(pattern=pattern), _row()
    for place, character in enumerate(text):
        grammar.fill_bitmask(row, 0)
        if not grammar.accept_tokens("r", [VOCABULARY.index(character)]):
            return place
    return len(text)


@pytest.mark.usefixtures("ending")
def test_a_structure_that_takes_too_long_is_followed_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _follow("a" * 1000, PATTERN) < 100
    address = f"{'a-b' * 300}@example.org"
    assert _follow(address, ADDRESS) == len(address)
    # However long tokens may take: no more than at the beginning is saved up.
    monkeypatch.setattr(structure_time, "SECONDS_A_TOKEN", 1e9)
    assert _follow("b" * 100 + "a" * 1000, f"b*{PATTERN}") < 200


@pytest.mark.usefixtures("ending")
def test_a_single_token_that_takes_too_long_is_refused() -> None:
    long = VOCABULARY.index("a" * 16)
    for check in (False, True):
        grammar = _grammar(pattern="(" * 160 + "a" + "+)" * 160)
        if check:
            assert grammar.validate_tokens([long]) == []
        assert not grammar.accept_tokens("r", [long])
        # Its thread is still at work on it.
        assert grammar.validate_tokens([long]) == []
        grammar.rollback(1)


@pytest.mark.usefixtures("ending")
def test_where_the_next_tokens_take_too_long_to_find_all_may_come_and_are_refused() -> None:
    grammar, row = _grammar(rules=AMBIGUOUS_RULES), _row()
    grammar.fill_bitmask(row, 0)
    assert (row == -1).all()
    assert not grammar.accept_tokens("r", [VOCABULARY.index("a")])


def test_a_token_that_is_refused_for_the_time_before_it_is_not_followed() -> None:
    """Drafts of tokens are taken back by how many were accepted."""
    grammar = _grammar(pattern="ab*")
    first, then = map(VOCABULARY.index, "ab")
    assert grammar.accept_tokens("r", [first])
    grammar._mint_time.seconds_left = 0.0
    assert not grammar.accept_tokens("r", [then])
    grammar.rollback(1)
    assert grammar.num_processed_tokens == 0
    assert grammar.matcher.accept_token(first)


@pytest.mark.parametrize(
    ("kind", "text", "is_plain"),
    [
        ("JSON", '{"type": "string", "maxLength": 9}', True),
        ("JSON_OBJECT", "", True),
        ("JSON", '{"type": "string", "pattern": "(a+)+"}', False),
        ("JSON", '{"type": "object", "patternProperties": {"(a+)+": {}}}', False),
        ("JSON", r'{"type": "string", "\u0070attern": "(a+)+"}', False),
        ("REGEX", "(a+)+", False),
        ("GRAMMAR", 'root ::= "a"', False),
    ],
)
def test_only_schemas_without_patterns_are_followed_without_a_thread(
    kind: str, text: str, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    backend: Any = object.__new__(XgrammarBackend)
    backend.compiler, backend.vocab_size = _compiler(), len(VOCABULARY)
    backend.disable_any_whitespace, backend.num_speculative_tokens = False, -1
    bound_structures()
    grammar = backend.compile_grammar(StructuredOutputOptions[kind], text)
    threads: list[structures._CallThread] = []
    monkeypatch.setattr(structures, "_idle", threads)
    row = _row()
    grammar.fill_bitmask(row, 0)
    assert row.any()
    assert (not threads) is is_plain
    assert grammar._mint_time.seconds_left < structure_time.MAX_SECONDS


@pytest.mark.usefixtures("ending")
def test_a_tenant_with_abandoned_calls_keeps_no_other_from_following_patterns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structures, "MAX_ABANDONED", 1)
    times, row, usual = StructureTimes(), _row(), VOCABULARY.index("b")

    def accepts(tenant: str) -> bool:
        time_of_request = times.of_request(tenant, "r", now=0.0)
        accepted: bool = _grammar(pattern="b*", time_of_request=time_of_request).accept_tokens("r", [usual])
        return accepted

    dear = _grammar(rules=AMBIGUOUS_RULES, time_of_request=times.of_request("many", "dear", now=0.0))
    dear.fill_bitmask(row, 0)
    assert not accepts("many")
    assert accepts("few")
    for each in list(structures._abandoned):
        each.thread.join()
    assert accepts("many")


@pytest.mark.usefixtures("ending")
def test_all_sequences_of_a_request_have_one_allowance() -> None:
    """128 of them had 0.1 s each."""
    times, row, token = StructureTimes(), _row(), VOCABULARY.index("a")
    time_of_request = times.of_request("many", "r", now=0.0)
    sequences = [_grammar(pattern=PATTERN, time_of_request=time_of_request) for _ in range(32)]
    spent = 0.0
    for _ in range(60):
        for each in sequences:
            each.fill_bitmask(row, 0)
        going_on = [each for each in sequences if each.accept_tokens("r", [token])]
        spent += sum(seconds for _, seconds in times.settle(now=0.0))
        if not going_on:
            break
    assert not going_on
    # 2 ms for each token of those that it took to find out, and what a request has at first.
    assert spent < 32 * 10 * structure_time.SECONDS_A_TOKEN + 2 * structure_time.MAX_SECONDS


@pytest.mark.usefixtures("ending")
def test_a_tenants_calls_take_a_bounded_part_of_a_step() -> None:
    times, row = StructureTimes(), _row()
    for number in range(20):
        time_of_request = times.of_request("many", str(number), now=0.0)
        _grammar(rules=AMBIGUOUS_RULES, time_of_request=time_of_request).fill_bitmask(row, 0)
    [(_, spent)] = times.settle(now=0.0)
    assert spent < structure_time.STEP_SECONDS + 20 * structure_time.SECONDS_A_TOKEN


def test_an_error_of_a_structure_is_its_callers() -> None:
    import torch

    with pytest.raises(RuntimeError):
        _grammar(pattern="a").fill_bitmask(torch.zeros(1, 1, dtype=torch.int64), 0)


@pytest.mark.parametrize(("name", "beginning"), structures._REPORTS.items())
def test_tokens_that_a_structure_refuses_are_not_logged(name: str, beginning: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert f'"{beginning}' in Path(module.__file__).read_text(encoding="utf-8")
    bound_structures()
    logger = logging.getLogger(name)
    for message, is_logged in ((f"{beginning} %s", False), ("Another %s", True)):
        record = logger.makeRecord(name, logging.ERROR, "", 0, message, ("17",), None)
        assert bool(logger.filter(record)) is is_logged


_MEMORY_PROGRAM = """
from pathlib import Path
import xgrammar
from services.loader.adapters.vllm.freed_memory import give_back

def used_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

info = xgrammar.TokenizerInfo(["a", "</s>"], vocab_size=2, stop_token_ids=[1])
grammar = "root ::= " + "(" * 900 + '"a"' + "+)" * 900
compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(grammar)
before, kept = used_mib(), []
sequences = [xgrammar.GrammarMatcher(compiled) for _ in range(64)]
for number, each in enumerate(sequences):
    each.accept_token(0)
    kept.append(bytearray(10_000))
most = used_mib()
del sequences, each
give_back()
print(before, most, used_mib())
"""


def test_what_structures_have_used_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY_PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    before, most, after = map(int, done.stdout.split())
    assert most > before + 50
    assert after < before + (most - before) / 4


def test_memory_is_given_back_once_an_engine_that_followed_structures_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back = Event()
    monkeypatch.setattr(freed_memory, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(freed_memory, "give_back", given_back.set)
    requests = {"r"}
    memory = freed_memory.FreedMemory(lambda: not requests)
    memory.note_step(0.0)
    memory.note_structure()
    memory.note_step(1.0)
    requests.clear()
    memory.note_step(2.0)
    assert given_back.wait(10)
    given_back.clear()
    memory.note_structure()
    memory.note_step(3.0)
    assert not given_back.wait(0.1), "a minute has not passed"
    memory.note_step(100.0)
    assert given_back.wait(10)
