"""`mint adapter`: what a user of PEFT and of MinT types, and what they are told when it is refused."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.adapters_format import (
    BASE_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    BaseFacts,
    check_folder,
    peft_name,
    read_manifest,
)
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.sites import all_sites, site_names
from mint_common.adapters_format.tensor_file import write_tensors

GOLDEN = Path(__file__).parents[2] / "golden" / "adapters"
PACKED = "gravel-r2-packed"


def mint(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["adapter", *map(str, arguments)])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder with the golden adapters and a state folder `state` that has their base."""
    for folder in GOLDEN.glob("gravel-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    base = tmp_path / "state" / "bases" / "gravel"
    base.mkdir(parents=True)
    shutil.copy(GOLDEN / PACKED / BASE_FILE, base / BASE_FILE)
    return tmp_path


def as_peft_saved_it(folder: Path) -> Path:
    """Take away what only MinT writes."""
    (folder / MANIFEST_FILE).unlink()
    (folder / BASE_FILE).unlink()
    return folder


@pytest.mark.parametrize("name", ["gravel-r2-per-expert", "gravel-r2-fused"])
def test_a_peft_adapter_is_packed_beside_itself(work: Path, name: str) -> None:
    peft = as_peft_saved_it(work / name)
    shutil.rmtree(work / PACKED)
    result = mint("pack", peft, "--dir", work / "state")
    assert result.exit_code == 0, result.output
    assert f"{work / PACKED}: packed/1, rank 2, sha256:" in result.output
    weights = [(folder / PACKED / WEIGHTS_FILE).read_bytes() for folder in (work, GOLDEN)]
    assert weights[0] == weights[1]


def test_packing_and_unpacking_gives_the_golden_files_again(work: Path) -> None:
    out = work / "out"
    assert mint("unpack", work / PACKED, "--out", out / "a", "--dir", work / "state").exit_code == 0
    unpack = mint("unpack", work / PACKED, "--as", "fused", "--out", out / "b", "--dir", work / "state")
    assert unpack.exit_code == 0
    for place, name in (("a", "gravel-r2-per-expert"), ("b", "gravel-r2-fused")):
        found = {file.name: file.read_bytes() for file in (out / place / PACKED).iterdir()}
        assert found == {name_: (GOLDEN / name / name_).read_bytes() for name_ in found}
    again = mint("pack", out / "b" / PACKED, "--base", GOLDEN / PACKED, "--out", out / "c")
    assert again.exit_code == 0, again.output
    facts = msgspec.json.decode((GOLDEN / PACKED / BASE_FILE).read_bytes(), type=BaseFacts)
    manifest = read_manifest((out / "c" / PACKED / MANIFEST_FILE).read_bytes())
    check_folder(facts, manifest, out / "c" / PACKED)
    assert manifest == read_manifest((GOLDEN / PACKED / MANIFEST_FILE).read_bytes())


def test_an_adapter_is_merged_into_its_base(work: Path) -> None:
    base = work / "state" / "bases" / "gravel"
    facts = msgspec.json.decode((base / BASE_FILE).read_bytes(), type=BaseFacts)
    weights = {
        f"{name}.weight": np.zeros((site.width_out, site.width_in), np.float32)
        for site in all_sites(facts)
        for name in site_names(site)[1 if site.count else 0 :]
    }
    (base / "model.safetensors").write_bytes(write_tensors(weights))
    others = ("tokenizer.json", "mtp.safetensors")
    for name in (*others, "SHA256SUMS", "consolidated.safetensors"):
        (base / name).write_text("of the base")
    result = mint("merge", work / PACKED, "--out", work / "full", "--dir", work / "state")
    assert result.exit_code == 0, result.output
    merged = load_file(work / "full" / "model.safetensors")
    unpacked = load_file(work / "gravel-r2-per-expert" / WEIGHTS_FILE)
    name = "model.layers.3.mlp.experts.1.up_proj"
    a, b = (unpacked[peft_name(name, half)] for half in HALVES)
    assert np.allclose(merged[f"{name}.weight"], b @ a)
    assert merged.keys() == weights.keys()
    # Neither the checksums nor the same weights in another layout are true of the merged ones.
    assert {file.name for file in (work / "full").iterdir()} == {"model.safetensors", *others}


def test_merging_without_the_weights_of_the_base_says_so(work: Path) -> None:
    result = mint("merge", work / PACKED, "--out", work / "full", "--dir", work / "state")
    assert result.exit_code == 1
    assert "No weights of the base named" in result.output
    assert not (work / "full").exists()


def test_check_says_what_each_adapter_is(work: Path) -> None:
    peft = as_peft_saved_it(work / "gravel-r2-fused")
    result = mint("check", work / PACKED, work / "gravel-r2-per-expert", peft, "--dir", work / "state")
    assert result.exit_code == 0, result.output
    said = result.output.splitlines()
    assert said[0].startswith(f"ok: {work / PACKED}: packed/1, rank 2, F32, 90 tensors, 0.0 MB, experts.")
    assert said[0].endswith("sha256:d566778b16da3562ae5f635849a2300da90faabf4496836a1773492d2c43653f")
    assert "dense/1, rank 2, F32, 222 tensors" in said[1]
    assert "fused/1, rank 2, F32, 68 tensors" in said[2]
    assert said[2].endswith("no manifest")


def test_one_broken_adapter_does_not_keep_the_others(work: Path) -> None:
    broken = work / "gravel-r2-per-expert"
    (broken / WEIGHTS_FILE).write_bytes((broken / WEIGHTS_FILE).read_bytes()[:-4])
    state = ("--dir", work / "state")
    checked = mint("check", broken, work / PACKED, *state)
    packed = mint("pack", broken, work / "gravel-r2-fused", "--out", work / "out", *state)
    for result in (checked, packed):
        assert result.exit_code == 1
        assert f"refused: {broken}: " in result.output
        assert "gaps_or_overlaps" in result.output
        assert "packed/1" in result.output
    assert [path.name for path in (work / "out").iterdir()] == ["gravel-r2-fused"]


def test_an_existing_target_is_kept(work: Path) -> None:
    before = (work / PACKED / MANIFEST_FILE).read_bytes()
    result = mint("pack", work / "gravel-r2-fused", "--dir", work / "state")
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert (work / PACKED / MANIFEST_FILE).read_bytes() == before


def test_a_base_of_the_hub_must_be_named(work: Path) -> None:
    peft = as_peft_saved_it(work / "gravel-r2-fused")
    config = json.loads((peft / CONFIG_FILE).read_bytes())
    (peft / CONFIG_FILE).write_text(json.dumps({**config, "base_model_name_or_path": "Qwen/Gravel"}))
    result = mint("check", peft, "--dir", work / "state")
    assert result.exit_code == 1
    assert "say which with --base" in result.output
    assert mint("check", peft, "--base", "gravel", "--dir", work / "state").exit_code == 0


@pytest.mark.parametrize("missing", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_folder_that_is_no_adapter_is_told_what_it_lacks(work: Path, missing: str) -> None:
    peft = as_peft_saved_it(work / "gravel-r2-fused")
    (peft / missing).unlink()
    result = mint("check", peft, "--base", "gravel", "--dir", work / "state")
    assert result.exit_code == 1
    assert missing in result.output
