"""A tokenizer of tiktoken with its pattern in code alone: refused, with the command that converts it."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mint_common.adapters_format.base_files import CONVERSION
from mint_common.errors import InvalidField
from services.standalone.adapters.bases import add_base
from tests.families import save_tiny

pytestmark = pytest.mark.integration

PATTERN = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("[BOS]", "<|im_end|>", "<|reserved_token_9|>")
CODE = f"""
from transformers import PreTrainedTokenizer

class TikTokenTokenizer(PreTrainedTokenizer):
    vocab_files_names = {{"vocab_file": "tiktoken.model"}}
    pat_str = {PATTERN!r}

    def __init__(self, vocab_file, **kwargs):
        self.vocab_file = vocab_file
        count = len(open(vocab_file).readlines())
        self.special_tokens = {{name: count + i for i, name in enumerate({SPECIAL!r})}}
        super().__init__(**kwargs)

    vocab_size = property(lambda self: len(self.get_vocab()))

    def get_vocab(self):
        return dict(self.special_tokens)

    def _convert_token_to_id(self, token):
        return self.special_tokens.get(token, 0)
"""
CONFIG = """{"tokenizer_class": "TikTokenTokenizer",
"auto_map": {"AutoTokenizer": ["tokenization_own.TikTokenTokenizer", null]}}"""
TEXTS = (
    "It's 20260910 tokens,  isn't it?\r\n\n",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01mixed\u4e2d\u6587English \u0e44\u0e17\u0e22 \u00e9\u0301tat",
    "[BOS]a<|im_end|>\t\tb <|reserved_token_9|> ",
)


def ranks_of(text: str) -> dict[bytes, int]:
    """Return mergeable ranks as tiktoken has them, learnt from a text."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learnt.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    bytes_of = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    return {bytes(bytes_of[one] for one in token): rank for token, rank in learnt.get_vocab().items()}


def test_the_command_of_the_refusal_makes_the_same_tokens(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "llama")
    (source / "tokenizer.json").unlink()
    ranks = ranks_of(Path(__file__).read_text() + "\u4e2d\u6587" * 9)
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (source / "tiktoken.model").write_text("".join(lines))
    (source / "tokenization_own.py").write_text(CODE)
    (source / "tokenizer_config.json").write_text(CONFIG)
    with pytest.raises(InvalidField) as refused:
        add_base(tmp_path / "bases", str(source), name="it", max_rank=8, report=lambda _step: None)
    assert str(refused.value).endswith(CONVERSION)
    command = CONVERSION.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=source)
    made = Tokenizer.from_file(str(source / "tokenizer.json"))
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL)}
    own = tiktoken.Encoding("own", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    for text in TEXTS:
        assert made.encode(text, add_special_tokens=False).ids == own.encode(text, allowed_special="all")
