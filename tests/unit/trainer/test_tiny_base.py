"""The committed tiny base is what its maker says."""

import random
from pathlib import Path

from mint_common.adapters_format import read_base_facts
from services.standalone.adapters.base_description import describe_base
from tools.make_tiny_base import check, draw_batch, is_held_out, make_tokenizer


def test_files_are_as_committed(tiny_folder: Path) -> None:
    assert check(tiny_folder) == []


def test_a_changed_or_extra_file_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "extra.bin").write_bytes(b"")
    assert check(tmp_path) == ["config.json", "extra.bin"]


def test_facts_are_those_of_the_files(tiny_folder: Path) -> None:
    facts = read_base_facts(tiny_folder)
    assert facts == describe_base(tiny_folder, name="tiny", max_rank=16)
    assert sum(path.stat().st_size for path in tiny_folder.iterdir()) < 2_000_000


def test_held_out_words_are_never_trained_on() -> None:
    tokenizer = make_tokenizer()
    inputs, labels = draw_batch(tokenizer, random.Random(3))
    for text in tokenizer.batch_decode(inputs, skip_special_tokens=True):
        word = text.partition(" ")[2].partition("=")[0]
        assert 3 <= len(word) <= 6
        assert not is_held_out(word)
    assert ((labels == inputs) | (labels == -100)).all()
