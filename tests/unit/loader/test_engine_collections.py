"""An engine process scans no objects as it exits."""

import subprocess
import sys

PLUGIN_ALONE = """
import atexit, gc, os
os.environ["VLLM_PLUGINS"] = "mint_engine_fixes"
from services.loader.adapters import vllm_plugin
vllm_plugin.REPAIRS = vllm_plugin.EXTENSIONS = ()
vllm_plugin.register()
gc.unfreeze()  # as vLLM does
atexit._run_exitfuncs()
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def test_objects_are_frozen_at_exit() -> None:
    done = subprocess.run([sys.executable, "-c", PLUGIN_ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
