"""Tensors of any sizes lie in memory as the file holds them, each at a multiple of 64 bytes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.dtypes import Dtype
from services.loader.adapters.builder.laying_out import lay_out
from services.loader.adapters.builder.wire import read_index

WIDTHS = st.lists(st.sampled_from([1, 3, 16, 32]), min_size=1, max_size=5)


@given(widths=WIDTHS, packed=st.booleans())
def test_every_tensor_is_found_at_its_place(
    widths: list[int], packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(len(widths))
    tensors = {f"t{at}": rng.standard_normal((2, width)).astype("<f4") for at, width in enumerate(widths)}
    path: Path = tmp_path_factory.mktemp("laid-out") / WEIGHTS_FILE
    path.write_bytes(write_tensors(tensors, packed=packed))
    laid_out = lay_out(path, rank=2)
    try:
        memory = np.fromfile(laid_out.path, dtype="<f4")
        places = read_index(laid_out.tensor_index)
        assert {place.name for place in places} == tensors.keys()
        for place in places:
            values = tensors[place.name]
            assert place.begin % 16 == 0
            assert place.shape == values.shape
            assert np.array_equal(memory[place.begin : place.begin + values.size], values.reshape(-1))
    finally:
        os.close(laid_out.handle)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_values_are_rounded_once_as_torch_rounds_them(tmp_path: Path, dtype: Dtype, stored: str) -> None:
    rng = np.random.default_rng(7)
    values = torch.from_numpy(rng.standard_normal(999).astype("<f4") * 10.0 ** rng.integers(-30, 5, 999))
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 2**-130, -(2**-140), 65519.0, -0.0])
    tensor = torch.cat([values.float(), halfway]).to(getattr(torch, stored))
    path = tmp_path / WEIGHTS_FILE
    save_file({"a": tensor, "b": tensor[:3].clone()}, path)
    laid_out = lay_out(path, rank=2, dtype=dtype)
    try:
        assert laid_out.size_bytes == Path(laid_out.path).stat().st_size
        memory = torch.frombuffer(bytearray(Path(laid_out.path).read_bytes()), dtype=getattr(torch, dtype))
        for place in read_index(laid_out.tensor_index):
            found = memory[place.begin :][: place.shape[0]]
            expected = tensor[: place.shape[0]].to(getattr(torch, dtype))
            assert torch.equal(found.view(torch.int16), expected.view(torch.int16))
    finally:
        os.close(laid_out.handle)
