"""The promises of the registry's store about bases."""

from dataclasses import replace

import asyncpg
import pytest
from contract.catalog_rig import BASE, NOW, Store

from mint_common.adapters_format import BaseFacts
from mint_common.adapters_format.base_facts import ProbeLine, ProbeResult
from mint_common.errors import BaseChanged, NotFound
from mint_common.ids import sha256_digest
from tests.testing.adapters import make_base_facts

pytestmark = pytest.mark.integration


async def test_base_never_changes_its_content(store: Store) -> None:
    assert await store.catalog.put_base(BASE, now=NOW + 1) == BASE
    with pytest.raises(BaseChanged, match=BASE.digest):
        await store.catalog.put_base(replace(BASE, digest=sha256_digest(b"new")), now=NOW)
    other: BaseFacts = make_base_facts(name="boulder")
    await store.catalog.put_base(other, now=NOW)
    assert await store.catalog.bases() == [other, BASE]
    assert await store.catalog.base("boulder") == other
    with pytest.raises(NotFound, match="gravel"):
        await store.catalog.base("gravel")


async def test_a_base_learns_what_an_earlier_version_did_not_store_once(store: Store) -> None:
    norms = dict.fromkeys(BASE.modules, 1.5)
    measured = replace(BASE, norms=norms, layer_kinds=("full_attention",), window=8)
    assert await store.catalog.put_base(measured, now=NOW) == measured
    assert await store.catalog.put_base(replace(BASE, norms={"other": 2.0}), now=NOW) == measured
    assert await store.catalog.put_base(BASE, now=NOW) == measured
    assert await store.catalog.base(BASE.name) == measured


async def test_choices_for_a_base_of_the_same_files_are_the_newest(store: Store) -> None:
    norms = dict.fromkeys(BASE.modules, 1.5)
    measured = replace(BASE, norms=norms, refused={"q_proj": "left out"}, served_only=True)
    assert await store.catalog.put_base(measured, now=NOW) == measured
    lines = (ProbeLine(part="engine", status="ok", nats=1e-6),)
    probe = ProbeResult(lines=lines, dtype="float32", small="2 layers", seconds=9.5)
    chosen = replace(BASE, refused={"v_proj": "left out"}, trained_only=True, probe=probe)
    told = replace(chosen, modules={"model.layers.0.self_attn.q_proj": (1, 1)}, max_rank=512)
    assert await store.catalog.put_base(told, now=NOW) == replace(chosen, norms=norms)
    assert await store.catalog.put_base(BASE, now=NOW) == replace(BASE, norms=norms)


async def test_a_base_that_is_registered_as_it_is_stored_is_not_written(
    store: Store, shared_database: str
) -> None:
    await store.catalog.put_base(replace(BASE, served_only=True), now=NOW)
    connection = await asyncpg.connect(shared_database)
    try:
        query = f"SELECT xmin::text FROM registry.bases WHERE name = '{BASE.name}'"  # a constant
        before = await connection.fetchval(query)
        await store.catalog.put_base(replace(BASE, served_only=True), now=NOW + 1)
        assert await connection.fetchval(query) == before
    finally:
        await connection.close()
