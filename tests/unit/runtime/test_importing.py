"""Imports without garbage collection: it goes on afterwards, and leaves out what the imports made."""

import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mint_common.runtime.importing import without_collections


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.enable()


def test_collections_go_on_after_the_block():
    with without_collections():
        assert not gc.isenabled()
        with without_collections():
            pass
        assert not gc.isenabled()
        made = [[]]
    assert gc.isenabled()
    assert not any(each is made for each in gc.get_objects()), "it is left out of collections"


def test_collections_go_on_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError), without_collections():
        importlib.import_module("no_such_module")
    assert gc.isenabled()


def test_collections_stay_off_where_they_were():
    gc.disable()
    with without_collections():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize("service", ["gateway", "loader", "registry", "rollout", "trainer"])
def test_a_service_collects_once_it_is_imported(service):
    code = f"import gc, services.{service}.__main__; print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
