"""`python -m services.trainer.adapters.probing FOLDER`: the trainer's side of a probe.

It writes adapters, says so in a line, writes its findings, waits for a line, and compares the engine's
answers if there are any.
"""

import sys
from pathlib import Path

import msgspec
from transformers.utils.logging import disable_progress_bar

from mint_common.adapters_format import read_base_facts, served_targets
from mint_common.probing import (
    BASE,
    COMPARED,
    ENGINE,
    REQUEST,
    TRAINER,
    EngineFindings,
    HandOver,
    ProbeRequest,
    TrainerFindings,
    read_probe,
    write_probe,
)
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.probing.checks import check_trainer, compare, make_adapters, rendered
from services.trainer.adapters.probing.reference import Reference


def main() -> int:
    """Run the trainer's side. An error of the trainer is written into its findings."""
    folder = Path(sys.argv[1])
    disable_progress_bar()
    request = read_probe(folder, REQUEST, ProbeRequest)
    assert request is not None
    facts = read_base_facts(folder / BASE)
    adapters = make_adapters(facts, folder, rank=request.rank)
    print("adapters", flush=True)  # noqa: T201  # the protocol
    reference = Reference(folder / BASE, facts)
    base: ResidentBase | None = None
    try:
        base = load_base(folder / BASE)
        findings = check_trainer(base, reference, adapters, request)
    except Exception as error:  # noqa: BLE001  # a family may break in any way, which is what is asked
        base, findings = None, TrainerFindings(problem=_problem_of(error), targets=served_targets(facts))
    try:
        findings = msgspec.structs.replace(findings, chats=rendered(folder / BASE, request.chats))
    except Exception as error:  # noqa: BLE001  # a tokenizer may break in any way as well
        findings = msgspec.structs.replace(findings, problem=findings.problem or _problem_of(error))
    write_probe(folder, TRAINER, findings)
    print("checked", flush=True)  # noqa: T201  # the protocol
    sys.stdin.readline()
    engine = read_probe(folder, ENGINE, EngineFindings)
    if engine is None or not engine.answers:
        return 0
    try:
        compared = compare(base, folder / BASE, reference, adapters, engine)
    except Exception as error:  # noqa: BLE001  # as above
        compared = HandOver(problem=_problem_of(error))
    write_probe(folder, COMPARED, compared)
    return 0


def _problem_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
