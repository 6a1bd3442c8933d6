"""Record the run that `mint up --demo` replays: `python tools/record_demo.py`, some minutes on two cores.

It starts a stack over the base tiny, trains, scores, promotes and rolls back through the public API, backs
the stack up, and packs the backup with its sha256 below `services/standalone/recordings`. The rows and blobs
are those of the run, but for these changes: the run's API key, the registry's and the trainer's lists of its
processes, and published events are removed, and the records of its jobs are never erased for their age, so
the recording can still be looked at after `MINT_ROLLOUT_KEEP_WAVES_DAYS`.

Record again when the base tiny changes, and when the console shows what the recording lacks. A recording of
an older schema needs no change: the services migrate it as any backup.
"""

import asyncio
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from mint_client.adapters.public_api import PublicApi, path_of
from mint_common.adapters_format import read_base_facts
from services.standalone.adapters.backup import back_up
from services.standalone.adapters.bases import TINY, ensure_base
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import postgres_dsn
from services.standalone.adapters.recording import ARCHIVE, DESCRIPTION, FOLDER, Recording
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.settings import read_standalone_settings

LEARNER, SUFFIX = "recorded-copy", "recorded"
TASK, STEPS, SCORED = "mode:copy", 8, (1, 3, 5, 8)
LORA = {"rank": 2, "alpha": 8.0, "seed": 0, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
"""Small adapters: the archive has every revision."""
ROWS, LONG_LINE = 24, 20
"""Rows of a file, and the line of one that exceeds the base's context: behind the rows checked at first."""
MAX_BYTES = 600_000
WAIT_SECONDS = 600.0
SNAPSHOT_SECONDS = 15.0
"""Time in which the trainer has stored the newest training state of every policy."""
OWN_CHANGES = (
    "DELETE FROM registry.api_keys",
    "DELETE FROM registry.members",
    "DELETE FROM trainer.trainers",
    "DELETE FROM registry.mint_outbox WHERE published_at IS NOT NULL",
    "DELETE FROM trainer.mint_outbox WHERE published_at IS NOT NULL",
    "DELETE FROM rollout.mint_outbox WHERE published_at IS NOT NULL",
    "UPDATE rollout.jobs SET erase_after = 'infinity'",
)
Json = Any  # what the gateway answered


def run(api: PublicApi, recorded_on: str) -> tuple[str, ...]:
    """Do everything that the recording shows; return the policies."""
    note = {
        "description": f"A recording of {recorded_on}, which `mint up --demo` replays.",
        "labels": {"recorded": recorded_on},
    }
    api.post("/policies", {"name": LEARNER, "base": TINY, "lora": LORA, **note})
    here = path_of("policies", LEARNER)
    rule = {"alias": "candidate", "suite": TASK, "metric": "reward", "at_least": 0.3, "choose": "best"}
    api.post(f"{here}/rules", rule)
    sizes = {"steps": STEPS, "prompts_per_step": 8, "group_size": 8, "learning_rate": 0.01}
    job = api.post("/jobs", {"policy": LEARNER, "task": TASK, "seed": 1, **sizes})
    _ended(api, path_of("jobs", job["job_id"]), "succeeded")
    for number in SCORED:
        asked = {"policy": LEARNER, "revision": number, "task": TASK, "n": 48}
        scored = api.post("/evaluations/run", asked)
        _ended(api, path_of("evaluations", "run", scored["run_id"]), "succeeded")
    _move_prod(api, here)
    policies = [_fine_tuned(api, note), LEARNER]
    return tuple(sorted(policies))


def _move_prod(api: PublicApi, here: str) -> None:
    """Point `prod` at the first revision and at the last, roll it back, and point it at the last again."""
    prod = f"{here}/aliases/prod"
    first, last = (api.get(f"{here}/revisions/{number}")["digest"] for number in (1, STEPS))
    api.put(prod, {"revision": 1, "expected": "", "reason": "the first revision"})
    api.put(prod, {"revision": STEPS, "expected": first, "reason": "best held-out reward"})
    api.post(f"{prod}/rollback", {"expected": last, "reason": "answers are looked at first"})
    api.put(prod, {"revision": STEPS, "expected": first, "reason": "answers are good"})


def _fine_tuned(api: PublicApi, note: Json) -> str:
    """Train a new policy on a file, and fail on another file; return the policy's name."""
    good = _sent(api, "sums.jsonl", [_chat(f"{n}+1=", str(n + 1)) for n in range(ROWS)])
    numbers = {"n_epochs": 3, "batch_size": 8}
    extras = {"rank": 1, "targets": LORA["targets"], "learning_rate": 0.01}
    extras["evaluation"] = {"holdout": 0.25, "every": 3}
    body = {"hyperparameters": numbers, "seed": 1, "mint": extras}
    made = api.post_openai(
        "/fine_tuning/jobs", {"model": TINY, "suffix": SUFFIX, "training_file": good, **body}
    )
    policy = str(made["mint"]["policy"])
    api.patch(path_of("policies", policy), note)
    _ended(api, path_of("jobs", made["mint"]["job_id"]), "succeeded")
    rows = [_chat(f"{n}+2=", str(n + 2) if n + 1 != LONG_LINE else "1" * 400) for n in range(ROWS)]
    bad = _sent(api, "too-long.jsonl", rows)
    failing = {"training_file": bad, "hyperparameters": numbers, "mint": {"learning_rate": 0.01}}
    failed = api.post_openai("/fine_tuning/jobs", {"model": policy, **failing})
    _ended(api, path_of("jobs", failed["mint"]["job_id"]), "failed")
    return policy


def _chat(question: str, answer: str) -> Json:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _sent(api: PublicApi, name: str, rows: list[Json]) -> str:
    content = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())
    return str(api.send_form("/files", "file", name, content, purpose="fine-tune")["id"])


def _ended(api: PublicApi, path: str, state: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := api.get(path))["finished_at"] is None:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(0.3)
    assert found["state"] == state, (found["state"], found["reason"])
    print(f"{path}: {state}", flush=True)


async def record(folder: Path) -> None:
    """Record a run into a folder."""
    recorded_on = f"{datetime.now(UTC):%Y-%m-%d}"
    with tempfile.TemporaryDirectory(prefix="mint-record-") as name:
        state, backup = StateFolder(root=Path(name) / "state"), Path(name) / "backup"
        state.create()
        place = ensure_base(state.bases, TINY, report=print)
        settings = read_standalone_settings(_environ())
        opening = open_stack(state, [place], port=free_port(), settings=settings)
        async with opening as stack:
            await stack.supervisor.all_ready()
            with PublicApi(stack.gateway_url, stack.api_key) as api:
                policies = await asyncio.to_thread(run, api, recorded_on)
            await asyncio.sleep(SNAPSHOT_SECONDS)
            dsn = postgres_dsn(state.root / "postgres", state.read_state().ports["postgres"])
            await _change(dsn)
            await asyncio.to_thread(back_up, dsn, state.blobs, backup)
        digest = read_base_facts(Path(place.folder)).digest
        told = {"recorded_on": recorded_on, "version": version("mint-stack"), "base": TINY, "digest": digest}
        _pack(backup, folder, policies=policies, **told)


def _environ() -> dict[str, str]:
    """Return the environment without settings: a recording is of the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}


async def _change(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in OWN_CHANGES:
        await connection.execute(statement)
    await connection.close()


def _pack(backup: Path, folder: Path, **told: Any) -> None:
    """Write the archive and its description."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / ARCHIVE, "w:gz", compresslevel=9) as archive:
        for file in sorted(path for path in backup.rglob("*") if path.is_file()):
            archive.add(file, file.relative_to(backup), filter=_anonymous)
    data = (folder / ARCHIVE).read_bytes()
    assert len(data) <= MAX_BYTES, f"{len(data)} bytes, more than {MAX_BYTES}"
    recording = Recording(sha256=hashlib.sha256(data).hexdigest(), **told)
    encoded = msgspec.json.format(msgspec.json.encode(asdict(recording)), indent=2)
    (folder / DESCRIPTION).write_bytes(encoded + b"\n")
    print(f"{folder / ARCHIVE}: {len(data)} bytes")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
