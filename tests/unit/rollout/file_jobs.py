"""Jobs on files, over the real renderer of the base tiny."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import msgspec

from mint_common.algorithms import BUILT_IN
from mint_common.claims import Claim
from mint_common.datasets import FORMATS, Rendering, RenderRequest
from mint_common.datasets.reading import told_format
from mint_common.events import (
    EvaluationPlan,
    JobData,
    JobFile,
    JobSubmitted,
    RevisionPublished,
    WaveCancelled,
    WaveCompleted,
    WaveRequested,
)
from mint_common.ids import BaseName
from mint_common.records import WaveRecord, decode_record
from services.standalone.adapters.bases import tiny_folder
from services.trainer.adapters.rendering.rendering import BaseRendering
from tests.testing.factories import EXACT, JOB
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import published, submitted

EVALUATION = EvaluationPlan(
    every=2, rows=3, file=None, holdout=0.2, metric="valid_loss", keep="best", early_stopping=None
)


@cache
def tiny_renderer() -> BaseRendering:
    """Return the renderer, which reads its tokenizer once."""
    return BaseRendering(tiny_folder(), max_context=64)


@dataclass
class TinyRendering:
    """The trainer's renderer in this process; ``troubles`` are raised one a call."""

    requests: list[RenderRequest] = field(default_factory=list)
    troubles: list[Exception] = field(default_factory=list)

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Return what becomes of rows."""
        assert base == "tiny"
        if self.troubles:
            raise self.troubles.pop(0)
        self.requests.append(request)
        return await tiny_renderer().render(request)


def completions(count: int, *, begin: int = 0) -> list[dict[str, Any]]:
    """Return rows of plain text, each another one."""
    return [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(begin, begin + count)]


async def store(rig: Rig, rows: Sequence[object], name: str = "train.jsonl") -> JobFile:
    """Store rows as a file, with a blank line at its beginning."""
    data = b"\n" + b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    content = await rig.blobs.put(f"files/{name}", data)
    kind = told_format(rows[0])  # type: ignore[arg-type]  # a row is a mapping
    return JobFile(file_id=f"file-{name}", filename=name, content=content, format=kind, rows=len(rows))


def on_file(
    file: JobFile,
    *,
    algorithm: str = "",
    epochs: int = 1,
    batch: int = 4,
    on_long: str = "refuse",
    evaluation: EvaluationPlan | None = None,
    **changes: Any,
) -> JobSubmitted:
    """Return a job on a file, as the gateway submits it."""
    algorithm = algorithm or next(one.name for one in BUILT_IN if file.format in FORMATS[one.rows])
    share = evaluation.holdout if evaluation and evaluation.file is None else 0.0
    data = JobData(
        training=file,
        epochs=epochs,
        on_long=on_long,  # type: ignore[arg-type]  # one of its values
        grader=EXACT if algorithm == "grpo" else None,
        evaluation=evaluation,
    )
    spec: dict[str, Any] = {
        "algorithm": algorithm,
        "task": "",
        "steps": -(-(file.rows - int(share * file.rows)) * epochs // batch),
        "prompts_per_step": batch,
        "group_size": 4 if algorithm == "grpo" else 1,
        "data": data,
        **changes,
    }
    event = submitted()
    return replace(event, spec=replace(event.spec, **spec))


async def complete(rig: Rig, wave: WaveRequested) -> WaveCompleted:
    """Work on a wave, which is expected to be completed."""
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    done = (await rig.led_to(wave))[0]
    assert isinstance(done, WaveCompleted), done
    return done


async def refused(rig: Rig, wave: WaveRequested) -> WaveCancelled:
    """Work on a wave, which is expected to be cancelled."""
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    cancelled = (await rig.led_to(wave))[0]
    assert isinstance(cancelled, WaveCancelled), cancelled
    return cancelled


async def train(rig: Rig, wave: WaveRequested, **metrics: float) -> list[object]:
    """Publish what training on a completed wave led to; return what follows."""
    fact: RevisionPublished = replace(published(wave.step), metrics=metrics)
    await rig.of_jobs.on_revision_published(fact)
    return list(await rig.led_to(fact))


async def run_through(rig: Rig, event: JobSubmitted, **metrics: float) -> list[WaveCompleted]:
    """Run a job to its end; return its waves."""
    wave: object = await rig.begin(event)
    waves = []
    while isinstance(wave, WaveRequested):
        waves.append(await complete(rig, wave))
        led_to = await train(rig, wave, **metrics)
        wave = led_to[0] if led_to else None
    return waves


async def record_of(rig: Rig, claim: Claim) -> WaveRecord:
    """Return a stored record."""
    return decode_record(await rig.blobs.get(claim))


async def job_of(rig: Rig) -> Any:
    """Return the job."""
    return await rig.jobs.job(JOB)
