"""Drive a running gateway through the whole API of the SDK version in this environment.

``python driver.py URL KEY STATE.json`` runs every check and writes what was seen; with ``--after``, once the
server was restarted, it adds that what had been kept is still there.
"""

import contextlib
import importlib
import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import tinker
from checks_rest import Rest
from checks_sample import Sampling
from checks_train import Training
from recorder import FAILED, UNTESTED, Recorder


def main(url: str, key: str, state: Path, *, after: bool) -> int:
    """Run the checks; return how many failed."""
    warnings.simplefilter("ignore")
    with contextlib.suppress(ImportError):
        importlib.import_module("mint")  # MinT's own package patches the SDK when it is imported
    recorder = Recorder()
    service = tinker.ServiceClient(base_url=url, api_key=key)
    training = Training(recorder, service)
    sampling = Sampling(recorder, service, training, key=key)
    rest = Rest(recorder, service, training, sampling, url=url, key=key)
    if after:
        seen = json.loads(state.read_text())
        recorder.check("checkpoints answer after a restart", lambda: rest.survived(seen["kept"]))
        seen["checks"] |= recorder.checks
    else:
        training.run()
        sampling.run()
        rest.run()
        recorder.check("a session is closed", rest.closed)
        seen = {
            "sdk": version("tinker"),
            "methods": recorder.methods,
            "checks": recorder.checks,
            "kept": rest.kept,
        }
        for name in [name for name, status in recorder.methods.items() if status == UNTESTED]:
            print(f"untested: {name}", flush=True)
    state.write_text(json.dumps(seen, indent=1))
    return sum(check["status"] == FAILED for check in recorder.checks.values()) + sum(
        status == UNTESTED for status in seen["methods"].values()
    )


if __name__ == "__main__":
    failed = main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), after="--after" in sys.argv)
    sys.stdout.flush()
    # The SDK's threads would keep the process for a while.
    sys.exit(1 if failed else 0)
