"""`python -m services.loader.adapters.probing FOLDER`: the engine's side of a probe."""

import asyncio
import signal
import sys
from pathlib import Path

from mint_common.probing import ENGINE, REQUEST, EngineFindings, ProbeRequest, read_probe, write_probe
from services.loader.adapters.probing.answering import answer_probe


def main() -> int:
    """Run the engine's side. An error of the engine is written into its findings."""
    # Leaving by an exception ends the engine too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    folder = Path(sys.argv[1])
    request = read_probe(folder, REQUEST, ProbeRequest)
    assert request is not None
    try:
        found = asyncio.run(answer_probe(folder, request))
    except Exception as error:  # noqa: BLE001  # a family may break in any way, which is what is asked
        found = EngineFindings(problem=f"{type(error).__name__}: {error}")
    write_probe(folder, ENGINE, found)
    return 1 if found.problem else 0


if __name__ == "__main__":
    sys.exit(main())
