"""Uploads through the public API: a PEFT folder becomes a revision, or is refused with what to do."""

import io
import json
import tarfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mint_common.adapters_format import build_adapter, peft_name
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.ids import PolicyId
from tests.testing.adapters import tar_of

pytestmark = pytest.mark.integration

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
RANK = 2


@pytest.fixture
def mint(stack: Any, counter: Any) -> Any:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def policy(stack: Any) -> str:
    stack.make_policy("uploaded")
    return "uploaded"


def tensors(stack: Any, *, seed: Any = 0, rank: Any = RANK) -> Any:
    random = np.random.default_rng(seed)
    made = {}
    for module, (width, height) in stack.facts.modules.items():
        made[peft_name(module, "A")] = random.normal(size=(rank, width)).astype(np.float32)
        made[peft_name(module, "B")] = random.normal(size=(height, rank)).astype(np.float32)
    return made


def config(**changes: Any) -> bytes:
    values = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": "/some/where/tiny"}
    return json.dumps(values | changes).encode()


def tar_link(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


def adapter(stack: Any, **changes: Any) -> dict[str, bytes]:
    return {WEIGHTS: write_tensors(tensors(stack, **changes)), CONFIG: config()}


def chunks(data: bytes, size: int = 10_000) -> Any:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_folder_becomes_a_revision_and_the_same_weights_the_same_one(
    stack: Any, mint: Any, policy: Any
) -> None:
    url = f"/policies/{policy}/revisions"
    first = mint.post(url, content=chunks(tar_of(adapter(stack))), params={"step": 7})
    assert first.status_code == 201, first.text
    revision = first.json()
    assert (revision["step"], revision["parent"], revision["state"]) == (7, None, "published")
    again = mint.post(url, content=chunks(tar_of(adapter(stack))), params={"step": 9})
    assert again.json() == revision
    child = mint.post(
        url, content=tar_of(adapter(stack, seed=1)), params={"parent": revision["number"]}
    ).json()
    assert child["number"] == revision["number"] + 1
    assert child["parent"] == revision["digest"]
    assert mint.get(f"{url}/{child['number']}").json() | {"warnings": []} == child


@pytest.mark.parametrize("named", ["org/another-model", "tiny", "/some/where/tiny/", "", None])
def test_a_config_that_names_another_base_is_taken_with_a_warning(
    stack: Any, mint: Any, policy: Any, named: Any
) -> None:
    files = adapter(stack) | {CONFIG: config(base_model_name_or_path=named)}
    answer = mint.post(f"/policies/{policy}/revisions", content=tar_of(files))
    assert answer.status_code == 201
    warnings = answer.json()["warnings"]
    if named == "org/another-model":
        assert warnings == [
            "adapter_config.json names 'org/another-model' as its base; the adapter was taken as one of tiny."
        ]
    else:
        assert not warnings


def test_an_upload_with_a_known_key_is_answered_once_and_other_bytes_are_refused(
    stack: Any, mint: Any, policy: Any
) -> None:
    url, headers = f"/policies/{policy}/revisions", {"idempotency-key": "nightly"}
    body = tar_of(adapter(stack, seed=21))
    refused = mint.post(url, content=chunks(body[:5000]), headers=headers)
    assert refused.status_code == 422, "an error leaves its key free"
    first = mint.post(url, content=chunks(body), headers=headers)
    again = mint.post(url, content=chunks(body, 777), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    known = mint.get(url).json()
    for other in (tar_of(adapter(stack, seed=22)), body + b"\0" * 512, b""):
        conflict = mint.post(url, content=chunks(other), headers=headers)
        assert (conflict.status_code, conflict.json()["error"]["code"]) == (422, "idempotency_conflict")
    elsewhere = mint.post(url, content=chunks(body), headers=headers, params={"step": 3})
    assert elsewhere.json()["error"]["code"] == "idempotency_conflict"
    assert mint.get(url).json() == known, "a conflict changes nothing"


def refusals(stack: Any) -> Any:
    good = adapter(stack)
    broken = tensors(stack)
    name = next(iter(broken))
    with_nan = {**broken, name: broken[name] * np.float32("nan")}
    too_large = {**broken, name: broken[name] * np.float32(1e6)}
    short = {key: value for key, value in broken.items() if key != name}
    weights = good[WEIGHTS]
    other = build_adapter(
        facts=replace(stack.facts, name="other"),
        policy_id=PolicyId("any"),
        step=0,
        parent=None,
        rank=RANK,
        tensors=broken,
    )
    return {
        "not_tar": b"hello",
        "missing_file": tar_of({WEIGHTS: weights}),
        "pickle": tar_of({"adapter_model.bin": b"\x80\x02", CONFIG: config()}),
        "unknown_file": tar_of({**good, "notes.txt": b"hi"}),
        "disguised_pickle": tar_of({**good, WEIGHTS: b"\x80\x04\x95\x10\0\0\0\x01" + bytes(40)}),
        "traversal": tar_of({"../" + WEIGHTS: weights, CONFIG: config()}),
        "link": tar_link(WEIGHTS),
        "too_large": tar_of({**good, CONFIG: bytes(2 << 20)}),
        "bad_manifest": tar_of({**good, "mint_manifest.json": b"{}"}),
        "dora": tar_of({**good, CONFIG: config(use_dora=True)}),
        "other_method": tar_of({**good, CONFIG: config(peft_type="IA3")}),
        "bias": tar_of({**good, CONFIG: config(bias="all")}),
        "extra_modules": tar_of({**good, CONFIG: config(modules_to_save=["norm"])}),
        "embeddings": tar_of({**good, CONFIG: config(target_modules=["q_proj", "lm_head"])}),
        "changed_base": tar_of({**good, CONFIG: config(init_lora_weights="pissa_niter_4")}),
        "unsupported_config": tar_of({**good, CONFIG: config(layer_replication=[[0, 1]])}),
        "not_safetensors": tar_of({**good, WEIGHTS: b"\x10\0\0\0\0\0\0\0{}" + bytes(40)}),
        "header_too_large": tar_of({**good, WEIGHTS: (10**9).to_bytes(8, "little") + bytes(40)}),
        "gaps_or_overlaps": tar_of({**good, WEIGHTS: weights + bytes(8)}),
        "not_finite": tar_of({**good, WEIGHTS: write_tensors(with_nan)}),
        "update_too_large": tar_of({**good, WEIGHTS: write_tensors(too_large)}),
        "wrong_base": tar_of(dict(other.files)),
        "wrong_dtype": tar_of({**good, WEIGHTS: weights.replace(b'"F32"', b'"I32"')}),
        "wrong_shape": tar_of({**good, WEIGHTS: write_tensors({**broken, name: np.ones((RANK, 3), "<f4")})}),
        "unknown_tensor": tar_of({**good, WEIGHTS: write_tensors({**broken, "x": broken[name]})}),
        "missing_tensor": tar_of({**good, WEIGHTS: write_tensors(short)}),
        "no_modules": tar_of({**good, WEIGHTS: write_tensors({"a.lora_A.weight": broken[name]})}),
        "wrong_rank": tar_of({WEIGHTS: write_tensors(tensors(stack, rank=4)), CONFIG: config(r=4)}),
    }


def test_what_is_wrong_is_refused_by_a_word_and_with_what_to_do(stack: Any, mint: Any, policy: Any) -> None:
    before = len(mint.get(f"/policies/{policy}/revisions").json())
    for reason, body in refusals(stack).items():
        answer = mint.post(f"/policies/{policy}/revisions", content=body)
        assert answer.status_code == 422, (reason, answer.text)
        error = answer.json()["error"]
        assert (error["code"], error["reason"]) == (f"upload_refused.{reason}", reason)
        assert error["fix"].endswith(".")
        assert error["fix"] in error["message"]
    assert len(mint.get(f"/policies/{policy}/revisions").json()) == before


def test_a_policy_that_is_not_there_is_made_over_the_base(stack: Any, mint: Any) -> None:
    url, params = "/policies/brought/revisions", {"base": "tiny"}
    some = {name: each for name, each in tensors(stack).items() if "layers.0.self_attn.q_proj" in name}
    body = tar_of({WEIGHTS: write_tensors(some), CONFIG: config(lora_alpha=3, layers_to_transform=[0])})
    bad = tar_of({**adapter(stack), CONFIG: config(bias="all")})
    assert mint.post(url, content=bad, params=params).status_code == 422
    assert mint.get("/policies/brought").status_code == 404, "a refused adapter leaves no policy"
    first = mint.post(url, content=body, params=params)
    assert first.status_code == 201, first.text
    assert [each.split(",")[0] for each in first.json()["warnings"]] == ["1 of 3 modules have an update"]
    made = mint.get("/policies/brought").json()
    assert (made["base"], made["latest"]["number"]) == ("tiny", 1)
    assert made["lora"] == {"rank": RANK, "alpha": 3.0, "targets": ["q_proj"], "seed": 0}
    assert mint.post(url, content=body, params=params).json()["digest"] == first.json()["digest"]
    assert mint.post(url, content=body).status_code == 201
    wide = mint.post(url, content=tar_of(adapter(stack)), params=params)
    assert wide.json()["error"]["reason"] == "wrong_targets"


def test_a_policy_to_be_made_needs_a_base_that_is_there_and_no_parent(
    stack: Any, mint: Any, policy: Any
) -> None:
    body = tar_of(adapter(stack))
    unknown = mint.post("/policies/brought2/revisions", content=body, params={"base": "huge"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    orphan = mint.post("/policies/brought2/revisions", content=body, params={"base": "tiny", "parent": "1"})
    assert orphan.json()["error"]["reason"] == "unknown_parent"
    named = mint.post("/policies/Brought/revisions", content=body, params={"base": "tiny"})
    assert named.status_code in {404, 422}
    assert mint.get("/policies/brought2").status_code == 404


def test_an_adapter_is_filled_up_to_a_larger_policy(stack: Any, mint: Any) -> None:
    body = {"name": "roomy", "base": "tiny", "lora": {"rank": 4}}
    assert mint.post("/policies", json=body).status_code == 201
    answer = mint.post("/policies/roomy/revisions", content=tar_of(adapter(stack)))
    assert answer.status_code == 201, answer.text
    assert answer.json()["warnings"] == [
        "Ranks from 2 were filled up to 4 with zeros: the update is the same."
    ]


def test_unknown_parent_policy_and_strangers_are_refused(stack: Any, mint: Any, policy: Any) -> None:
    body = tar_of(adapter(stack, seed=5))
    answer = mint.post(f"/policies/{policy}/revisions", content=body, params={"parent": "999"})
    assert answer.json()["error"]["reason"] == "unknown_parent"
    assert mint.post("/policies/nobody/revisions", content=body).status_code == 404
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.post(f"/policies/{policy}/revisions", content=body).status_code == 404
