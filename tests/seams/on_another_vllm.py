"""Run by test_seams.py with the Python files of another vLLM before the installed one's on the path."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_plugin_registers() -> None:
    from services.loader.adapters.vllm_plugin import EXTENSIONS, is_tested, register, vllm_version

    register()
    import vllm

    assert vllm.__version__.startswith("{}.{}.".format(*vllm_version()))
    assert all(map(is_tested, EXTENSIONS))
