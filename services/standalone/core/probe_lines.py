"""The lines of a probe: what each part of it found, whether that is right, and what may be done otherwise.

Limits are in nats. float32 rounds log-probabilities of these sizes by less than 1e-5 over attention, and by
5e-4 in vLLM's scans of states on a CPU. In 16 bits transformers itself is some way from float32, and a limit
is twice that.
"""

from collections.abc import Collection, Mapping, Sequence

from mint_common.adapters_format.base_facts import ProbeLine, ProbeResult
from mint_common.adapters_format.layer_kinds import INDEXED, MASKED, TOKENWISE
from mint_common.probing import BARE, BOTH, Difference, EngineFindings, HandOver, TrainerFindings

ATTENTION_LIMIT, SCAN_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3, 1e-3
_OWN_SHARE, _NARROW_FLOOR = 2.0, 0.02
_ATTENTION = MASKED | TOKENWISE | {INDEXED}
EACH = "each target"
TRAINING = ("trainer", "shared prompts", "hand-over", "routes", "chat template")
"""Parts that say nothing of a base that is only served."""
SERVING = ("engine", EACH, "hand-over", "routes", "chat template")
"""Parts that say nothing of a base that is only trained."""


def failed_lines(
    result: ProbeResult, *, serve_only: bool = False, train_only: bool = False
) -> tuple[ProbeLine, ...]:
    """Return the lines that failed, of those that matter for what a base is used for."""
    left_out = {*(TRAINING if serve_only else ()), *(SERVING if train_only else ())}
    return tuple(line for line in result.lines if line.status == "failed" and line.part not in left_out)


def probe_lines(
    trainer: TrainerFindings, engine: EngineFindings, compared: HandOver | None, *, kinds: Collection[str]
) -> tuple[ProbeLine, ...]:
    """Return the lines of a probe of layers of some kinds."""
    limit = ATTENTION_LIMIT if set(kinds) <= _ATTENTION else SCAN_LIMIT
    found = compared.differences if compared else {}
    problem = engine.problem or (
        compared.problem if compared else trainer.problem or "the trainer has not run"
    )
    return (
        *_trainer_lines(trainer, limit),
        *_engine_lines(engine, found, trainer.targets, limit=limit, problem=problem),
        *_unreplayed(trainer),
        _chat_line(trainer, engine),
    )


def _trainer_lines(trainer: TrainerFindings, limit: float) -> Sequence[ProbeLine]:
    if trainer.problem or trainer.outputs is None:
        return [ProbeLine(part="trainer", status="failed", note=trainer.problem or "it ended")]
    alone = _trained("trainer", trainer.outputs, trainer.gradients, limit)
    if trainer.shared is None:
        note = "each row is a line of its own: its layers read a line as a whole"
        return [alone, ProbeLine(part="shared prompts", status="left out", note=note)]
    return [alone, _trained("shared prompts", trainer.shared, trainer.shared_gradients, limit)]


def _trained(part: str, nats: float, gradients: float | None, limit: float) -> ProbeLine:
    if gradients is None or gradients <= GRADIENT_LIMIT:
        return _judged(part, nats, limit)
    note = f"gradients are {gradients:.0e} of the largest off"
    return ProbeLine(part=part, status="failed", nats=nats, note=note)


def _engine_lines(
    engine: EngineFindings,
    found: Mapping[str, Difference],
    targets: Sequence[str],
    *,
    limit: float,
    problem: str,
) -> Sequence[ProbeLine]:
    if problem:
        return [ProbeLine(part="engine", status="failed", note=problem)]
    limits = {name: _limit(each, engine.dtype, limit) for name, each in found.items()}
    wrong = [name for name in targets if name in engine.refused or not _is_right(found, name, limits)]
    batch = [BARE, *BOTH]
    refused = next((engine.refused[name] for name in batch if name in engine.refused), "")
    worst = max((found[name].reference for name in batch if name in found), default=0.0)
    apart = max((found[name].trainer or 0.0 for name in batch if name in found), default=0.0)
    is_right = not refused and all(_is_right(found, name, limits) for name in batch)
    is_same = not refused and all((found[name].trainer or 0.0) <= limits[name] for name in batch)
    lines = [
        ProbeLine(
            part="engine",
            status="ok" if is_right and not engine.one_token else "failed",
            nats=worst,
            note=refused or _engine_note(engine, found, limits),
        ),
        _targets_line(engine, found, targets, wrong)
        if _is_right(found, BARE, limits)
        else ProbeLine(part=EACH, status="left out", note="the base without an adapter is wrong"),
        ProbeLine(part="hand-over", status="ok" if is_same else "failed", nats=apart, note=refused)
        if any(each.trainer is not None for each in found.values())
        else ProbeLine(part="hand-over", status="left out", note="the trainer does not run"),
    ]
    routed = [each.routed for each in found.values() if each.routed is not None]
    if routed:
        # A router picks otherwise where two experts are as good: replaying it moves what rounding does.
        lines.append(_judged("routes", max(routed), max(limits.values())))
    return lines


def _unreplayed(trainer: TrainerFindings) -> Sequence[ProbeLine]:
    if not trainer.route_problem:
        return []
    note = f"not replayed in training: {trainer.route_problem}"
    return [ProbeLine(part="routes", status="left out", note=note)]


def _engine_note(engine: EngineFindings, found: Mapping[str, Difference], limits: Mapping[str, float]) -> str:
    if engine.one_token:
        return f"a prompt of one token: {engine.one_token}"
    if BARE in found and not _is_right(found, BARE, limits):
        return f"the base without an adapter is {found[BARE].reference:.1e} off"
    return ""


def _targets_line(
    engine: EngineFindings, found: Mapping[str, Difference], targets: Sequence[str], wrong: Sequence[str]
) -> ProbeLine:
    alone = [found[name].reference for name in targets if name in found]
    worst = max(alone, default=None)
    right = tuple(name for name in targets if name not in wrong)
    if not wrong:
        return ProbeLine(part=EACH, status="ok", nats=worst, note=", ".join(right), right=right)
    told = [
        engine.refused.get(name)
        or f"{name} is {found[name].reference:.1e} off, where it moves {found[name].effect:.1e}"
        if name in found or name in engine.refused
        else f"{name}: no answer"
        for name in wrong
    ]
    return ProbeLine(part=EACH, status="failed", nats=worst, note="; ".join(told), right=right)


def _limit(difference: Difference, dtype: str, limit: float) -> float:
    if dtype == "float32":
        return limit
    return max(_NARROW_FLOOR, _OWN_SHARE * difference.own)


def _is_right(found: Mapping[str, Difference], name: str, limits: Mapping[str, float]) -> bool:
    return name in found and found[name].reference <= limits[name]


def _judged(part: str, nats: float, limit: float) -> ProbeLine:
    return ProbeLine(part=part, status="ok" if nats <= limit else "failed", nats=nats)


def _chat_line(trainer: TrainerFindings, engine: EngineFindings) -> ProbeLine:
    part = "chat template"
    if not engine.chats or not trainer.chats:
        return ProbeLine(part=part, status="left out", note="one of the two has not run")
    pairs = list(zip(trainer.chats, engine.chats, strict=True))
    if all(one is None for one, _ in pairs):
        return ProbeLine(
            part=part, status="left out", note="the base has none: train on prompt and completion"
        )
    different = [number for number, (one, other) in enumerate(pairs) if one is not None and one != other]
    if different:
        note = f"conversation {different[0] + 1} is trained as other tokens than the engine is given"
        return ProbeLine(part=part, status="failed", note=note)
    return ProbeLine(part=part, status="ok", note=f"{len(pairs)} conversations, token by token")


def advice(result: ProbeResult) -> str:
    """Return what a user may do about a base that failed."""
    alone = next((line for line in result.lines if line.part == EACH), None)
    ways = []
    if alone is not None and alone.status == "failed" and alone.right:
        ways.append(f"`--targets {','.join(alone.right)}` leaves out what is wrong")
    if not failed_lines(result, serve_only=True):
        ways.append("`--serve-only` adds it without a trainer")
    if not failed_lines(result, train_only=True):
        ways.append("`--train-only` adds it without an engine")
    return "; ".join(ways) or "`--no-probe` adds it as it is, at your own risk"
