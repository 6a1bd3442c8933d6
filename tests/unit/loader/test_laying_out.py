"""Tensors of any sizes lie in memory as the file holds them, each at a multiple of 64 bytes."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.adapters_format.tensor_file import write_tensors
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
