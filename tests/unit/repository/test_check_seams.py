"""The comparison of vLLM's releases finds what was moved, renamed or taken away."""

from pathlib import Path

import pytest

from tools import check_seams
from tools.check_seams import compare, read_source
from tools.vllm_releases import Release

OURS = """
import os
from vllm.engine import Engine, start
from vllm.lora import Manager

os.environ.update(VLLM_KNOWN="1")

class Ours(Manager):
    def activate(self, number):
        return self._slots[number]

Engine.step = None
start(1, quiet=True)
"""
VLLM = {
    "envs": 'variables = {"VLLM_KNOWN": 1}\n',
    "engine": "class Engine:\n    def step(self, now): ...\ndef start(at, *, quiet): ...\n",
    "lora": "class Root:\n    def activate(self, number): self._slots = 1\n"
    "class Manager(Root):\n    def clear(self): pass\n",
}


def release(folder: Path, **changes: tuple[str, str]) -> Release:
    (folder / "vllm").mkdir(parents=True)
    for name, text in VLLM.items():
        before, after = changes.get(name, ("", ""))
        assert before in text
        (folder / "vllm" / f"{name}.py").write_text(text.replace(before, after))
        (folder / "vllm" / name).mkdir()
        (folder / "vllm" / name / "all.py").write_text(text.replace(before, after))
    return Release(folder)


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"engine": ("def start", "def begin")}, "name", "vllm.engine.start"),
        ({"engine": ("quiet", "silent")}, "keyword", "vllm.engine.start(quiet=)"),
        ({"engine": ("now", "then")}, "signature", "vllm.engine.Engine.step"),
        ({"lora": ("number", "lora_id")}, "signature", "vllm.lora.Manager.activate"),
        ({"lora": ("_slots", "_places")}, "attribute", "_slots"),
        ({"lora": ("class Manager", "class Other")}, "name", "vllm.lora.Manager"),
        ({"lora": ("pass", "return 1")}, "body", "vllm.lora.Manager.clear"),
        ({"envs": ("VLLM_KNOWN", "VLLM_OTHER")}, "variable", "VLLM_KNOWN"),
    ],
)
def test_each_kind_of_difference_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, tuple[str, str]], kind: str, what: str
) -> None:
    monkeypatch.setattr(check_seams, "ROOT", tmp_path)
    monkeypatch.setattr(check_seams, "COUNTED_ON", (("vllm.lora", "Manager.clear"),))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "code.py").write_text(OURS)
    source, before = read_source(tmp_path / "ours"), release(tmp_path / "before")
    assert compare(source, before, release(tmp_path / "same")) == []
    found = compare(source, before, release(tmp_path / "after", **changes))
    assert (kind, what) in {(each.kind, each.what) for each in found}
