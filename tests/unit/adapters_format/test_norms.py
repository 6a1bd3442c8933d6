"""Norms of adapters against the products that they stand for."""

from pathlib import Path

import numpy as np
import pytest

from mint_common.adapters_format import AdapterFiles
from mint_common.adapters_format.names import packed_name, peft_name
from mint_common.adapters_format.norms import compare_adapters
from tests.testing.adapters import make_adapter, make_base_facts, make_moe_facts, make_tensors


def saved(folder: Path, files: AdapterFiles) -> Path:
    folder.mkdir()
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


def product(tensors, name_of) -> np.ndarray:
    return (tensors[name_of("B")].astype(np.float64)) @ tensors[name_of("A")]


@pytest.mark.parametrize("rank", [2, 3])
def test_norms_are_those_of_the_products(tmp_path: Path, rank: int) -> None:
    facts = make_base_facts()
    one = saved(tmp_path / "one", make_adapter(facts, seed=1))
    other = saved(tmp_path / "other", make_adapter(facts, seed=2, rank=rank))
    first, second = make_tensors(facts, seed=1), make_tensors(facts, seed=2, rank=rank)

    changes = compare_adapters(facts, one, other)

    assert {change.module for change in changes} == set(facts.modules)
    for change in changes:
        before = product(first, lambda half, module=change.module: peft_name(module, half))
        after = product(second, lambda half, module=change.module: peft_name(module, half))
        assert change.before == pytest.approx(np.linalg.norm(before))
        assert change.after == pytest.approx(np.linalg.norm(after))
        assert change.change == pytest.approx(np.linalg.norm(after - before))


def test_experts_of_a_projection_are_one_module(tmp_path: Path) -> None:
    facts = make_moe_facts()
    one = saved(tmp_path / "one", make_adapter(facts, seed=1))
    other = saved(tmp_path / "other", make_adapter(facts, seed=2))
    tensors = make_tensors(facts, seed=1)
    changes = {change.module: change for change in compare_adapters(facts, one, other)}
    module = next(iter(facts.experts))
    experts = product(tensors, lambda half: packed_name(module, "up_proj", half))
    assert changes[f"{module}.up_proj"].before == pytest.approx(np.linalg.norm(experts))


def test_an_adapter_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    facts = make_base_facts()
    one = saved(tmp_path / "one", make_adapter(facts, seed=1))
    for change in compare_adapters(facts, one, one):
        assert change.before == change.after > 0
        assert change.change == pytest.approx(0.0, abs=1e-6)
