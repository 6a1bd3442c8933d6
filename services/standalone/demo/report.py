"""Writes the report of the demo: report.json, report.md and reward.png."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.standalone.demo.checks import DemoResult
from services.standalone.demo.requests import Move


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Held-out greedy accuracy of the base, the first and the last revision over the same ``n`` prompts."""

    base: float
    first: float
    last: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRevision:
    """A revision and the mean reward of the wave that it was trained on."""

    number: int
    digest: str
    reward: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedAnswer:
    """What `prod` answered to one prompt after a move, and the digest that the answer names."""

    alias_target: str
    digest: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``report.json``."""

    base: str
    task: str
    steps: int
    wall_seconds: float
    accuracy: Accuracy
    revisions: tuple[ReportedRevision, ...]
    alias_history: tuple[Move, ...]
    prompt: str
    answers: tuple[ReportedAnswer, ...]
    checks: dict[str, bool]
    ratio_max_error: float
    sampler_kl: float
    rss_peak_mb: float

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the names of the checks that are false."""
        return tuple(name for name, passed in self.checks.items() if not passed)


def make_report(
    result: DemoResult, checks: dict[str, bool], *, wall_seconds: float, rss_peak_mb: float
) -> Report:
    """Return the report of a result."""
    base, first, last = result.evaluations
    rewards = {step.revision.number: step.reward_mean for step in reversed(result.job.steps) if step.revision}
    return Report(
        base=result.base,
        task=result.task,
        steps=len(result.job.steps),
        wall_seconds=round(wall_seconds, 1),
        accuracy=Accuracy(
            base=base.accuracy, first=first.accuracy, last=last.accuracy, n=len(result.prompts)
        ),
        revisions=tuple(
            ReportedRevision(number=ref.number, digest=ref.digest, reward=rewards.get(ref.number))
            for ref in result.revisions
        ),
        alias_history=result.alias_history,
        prompt=result.prompts[result.contrast or 0].text,
        answers=tuple(
            ReportedAnswer(alias_target=each.alias_target, digest=each.answer.header, text=each.answer.text)
            for each in result.alias_answers
        ),
        checks=checks,
        ratio_max_error=result.ratio_max_error,
        sampler_kl=result.sampler_kl,
        rss_peak_mb=round(rss_peak_mb, 1),
    )


def write_report(report: Report, result: DemoResult, folder: Path) -> None:
    """Write the three files into a folder."""
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
    (folder / "report.json").write_bytes(encoded + b"\n")
    (folder / "report.md").write_text(_markdown(report))
    _plot(report, [step.reward_mean for step in result.job.steps], folder / "reward.png")


def _markdown(report: Report) -> str:
    accuracy = report.accuracy
    run = f"{report.steps} GRPO steps, {report.wall_seconds:.0f} s, {report.rss_peak_mb:.0f} MB resident"
    lines = [
        f"# MinT demo: {report.task} on {report.base}",
        "",
        f"{run} at the peak (all processes together).",
        "",
        f"| model | held-out accuracy (greedy, n = {accuracy.n}) |",
        "|---|---|",
        f"| {report.base} | {accuracy.base:.3f} |",
        f"| demo@{report.revisions[0].number} | {accuracy.first:.3f} |",
        f"| demo@{report.revisions[-1].number} | {accuracy.last:.3f} |",
        "",
        f"What `demo@prod` answered to {report.prompt!r} after each move of the alias:",
        "",
        "| prod | answer | by |",
        "|---|---|---|",
        *(f"| {each.alias_target} | {each.text!r} | `{each.digest}` |" for each in report.answers),
        "",
        f"Largest distance from 1 of an importance ratio of fresh rollouts: {report.ratio_max_error:.1e}.",
        f"Divergence of the sampler from the trainer: {report.sampler_kl:.1e} a token.",
        "",
        "| check | |",
        "|---|---|",
        *(f"| {name} | {'ok' if passed else 'FAILED'} |" for name, passed in report.checks.items()),
        "",
        "![reward](reward.png)",
        "",
    ]
    return "\n".join(lines)


def _plot(report: Report, rewards: Sequence[float | None], file: Path) -> None:
    from matplotlib.figure import Figure  # half a second that no other command needs

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    known = [(index + 1, reward) for index, reward in enumerate(rewards) if reward is not None]
    axes.plot([index for index, _ in known], [reward for _, reward in known], label="reward of the wave")
    accuracy = report.accuracy
    axes.plot(
        [0, 1, len(rewards)],
        [accuracy.base, accuracy.first, accuracy.last],
        "o",
        label=f"held-out accuracy, greedy, n = {accuracy.n}",
    )
    axes.set(xlabel="step", ylabel="mean reward", ylim=(0, 1.02), title=f"{report.task} on {report.base}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)
