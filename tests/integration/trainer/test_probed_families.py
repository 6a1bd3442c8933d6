"""The trainer's side of a probe over every family: what it computes is what transformers computes."""

from pathlib import Path

import msgspec
import pytest

from mint_common.adapters_format import BASE_FILE
from mint_common.probing import BASE
from services.standalone.adapters.base_description import describe_base
from services.standalone.adapters.probing.running import probe_request
from services.standalone.adapters.probing.small_base import make_small_base
from services.standalone.core.probe_lines import ATTENTION_LIMIT, GRADIENT_LIMIT
from services.trainer.adapters.model.resident_base import load_base
from services.trainer.adapters.probing.checks import check_trainer, make_adapters
from services.trainer.adapters.probing.reference import Reference
from tests.families import FAMILIES, save_tiny

pytestmark = [pytest.mark.integration, pytest.mark.slow]
RANK = 4
WITHOUT_LINEARS = "gpt2"
"""Its layers are transposed convolutions, which LoRA is not beside."""


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != WITHOUT_LINEARS])
def test_a_family_is_trained_as_transformers_computes_it(name: str, tmp_path: Path) -> None:
    make_small_base(save_tiny(tmp_path / "source", name), tmp_path / BASE)
    facts = describe_base(tmp_path / BASE, name="probe", max_rank=RANK)
    (tmp_path / BASE / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    adapters = make_adapters(facts, tmp_path, rank=RANK)
    reference = Reference(tmp_path / BASE, facts)
    found = check_trainer(load_base(tmp_path / BASE), reference, adapters, probe_request(facts))
    assert found.effect > 100 * ATTENTION_LIMIT
    assert (found.outputs or 0.0) < ATTENTION_LIMIT
    assert (found.shared or 0.0) < ATTENTION_LIMIT
    assert (found.gradients or 0.0) < GRADIENT_LIMIT
    assert (found.shared_gradients or 0.0) < GRADIENT_LIMIT
