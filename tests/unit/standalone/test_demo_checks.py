"""What the demo concludes from what it saw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mint_client.adapters.public_api import Completed
from mint_client.core.jobs import JobNow, Ref, StepNow
from services.standalone.demo.checks import AliasAnswer, DemoResult, check_all, contrasting_prompt
from services.standalone.demo.report import make_report, write_report
from services.standalone.demo.requests import Evaluation, HeldoutPrompt, Move

D1, D2, D3 = (f"sha256:{letter * 64}" for letter in "abc")
REVISIONS = tuple(Ref(number=number, digest=digest) for number, digest in enumerate((D1, D2, D3), 1))


def answer(text: str, digest: str) -> Completed:
    """Return an answer that names one digest in both places."""
    return Completed(text=text, header=digest, fingerprint=digest)


def evaluation(texts: str, rewards: tuple[float, ...], digest: str) -> Evaluation:
    """Return an evaluation with one letter per answer."""
    return Evaluation(answers=tuple(answer(text, digest) for text in texts), rewards=rewards)


def step(ref: Ref) -> StepNow:
    """Return the step that trained a revision."""
    return StepNow(
        step=ref.number,
        state="published",
        reward_mean=0.3 * ref.number,
        revision=ref,
        ratio_max_error=1e-5,
    )


def good_result() -> DemoResult:
    """Return a result in which everything went well."""
    moves = [(1, D1), (3, D3), (1, D1), (3, D3)]
    return DemoResult(
        dtype="auto",
        base="tiny",
        task="mode:copy",
        job=JobNow(
            state="succeeded",
            steps=tuple(
                StepNow(
                    step=ref.number,
                    state="published",
                    reward_mean=0.3 * ref.number,
                    revision=ref,
                    ratio_max_error=1e-5,
                )
                for ref in REVISIONS
            ),
        ),
        revisions=REVISIONS,
        prompts=tuple(HeldoutPrompt(text=f"f {letter}=", reference=letter, entry=letter) for letter in "pq"),
        evaluations=(
            evaluation("xx", (0.0, 0.0), "base:tiny"),
            evaluation("xq", (0.0, 1.0), D1),
            evaluation("pq", (1.0, 1.0), D3),
        ),
        contrast=0,
        alias_answers=tuple(
            AliasAnswer(
                alias_target=str(number), number=number, answer=answer("p" if number == 3 else "x", digest)
            )
            for number, digest in moves
        ),
        alias_history=tuple(
            Move(sequence=index, previous=None, digest=digest, number=number)
            for index, (number, digest) in enumerate(moves)
        ),
    )


def test_a_good_result_passes_every_check() -> None:
    assert set(check_all(good_result()).values()) == {True}


def _with_answer(result: DemoResult, bad: Completed) -> DemoResult:
    first, *others = result.alias_answers
    return replace(result, alias_answers=(replace(first, answer=bad), *others))


def _with_last(result: DemoResult, last: Evaluation) -> DemoResult:
    return replace(result, evaluations=(*result.evaluations[:2], last))


GOOD = good_result()
BAD_STORIES = {
    "job_succeeded": replace(GOOD, job=replace(GOOD.job, state="failed")),
    "revisions_numbered_without_gap": replace(GOOD, revisions=(REVISIONS[0], REVISIONS[2])),
    "revisions_are_the_jobs": replace(GOOD, job=replace(GOOD.job, steps=GOOD.job.steps[:2])),
    "accuracy_rose": _with_last(GOOD, replace(GOOD.evaluations[2], rewards=(0.19, 0.19))),
    "rollout_and_trainer_agree": replace(
        GOOD,
        job=replace(GOOD.job, steps=(replace(GOOD.job.steps[0], ratio_max_error=2e-3), *GOOD.job.steps[1:])),
    ),
    "base_answers_name_the_base": replace(
        GOOD, evaluations=(evaluation("xx", (0.0, 0.0), D1), *GOOD.evaluations[1:])
    ),
    "last_answers_name_its_digest": _with_last(GOOD, evaluation("pq", (1.0, 1.0), D2)),
    "prod_answers_name_its_digest": _with_answer(GOOD, Completed(text="x", header=D1, fingerprint=D2)),
    "prod_answers_as_each_revision_did": _with_answer(GOOD, answer("z", D1)),
    "history_has_every_move": replace(GOOD, alias_history=GOOD.alias_history[:3]),
}


@pytest.mark.parametrize("check", BAD_STORIES)
def test_each_check_fails_when_its_promise_is_broken(check: str) -> None:
    assert check_all(BAD_STORIES[check])[check] is False


def test_in_bfloat16_the_divergence_counts_and_not_the_largest_ratio() -> None:
    wild = tuple(replace(step, ratio_max_error=1.4, sampler_kl=0.003) for step in GOOD.job.steps)
    narrow = replace(GOOD, dtype="bfloat16", job=replace(GOOD.job, steps=wild))
    assert all(check_all(narrow).values())
    apart = tuple(replace(step, sampler_kl=0.02) for step in wild)
    assert not check_all(replace(narrow, job=replace(GOOD.job, steps=apart)))["rollout_and_trainer_agree"]
    assert not check_all(replace(narrow, dtype="auto"))["rollout_and_trainer_agree"]


def test_a_job_without_ratios_does_not_pass_for_agreement() -> None:
    silent = tuple(replace(step, ratio_max_error=None) for step in GOOD.job.steps)
    assert not check_all(replace(GOOD, job=replace(GOOD.job, steps=silent)))["rollout_and_trainer_agree"]


def test_the_contrasting_prompt_is_one_that_only_the_better_revision_answers() -> None:
    first = evaluation("abcd", (0.0, 1.0, 0.0, 0.0), D1)
    best = evaluation("xbyd", (0.0, 1.0, 1.0, 0.0), D3)
    assert contrasting_prompt(first, best) == 2
    assert contrasting_prompt(first, first) is None


def test_the_report_has_the_promised_fields_and_a_plot(tmp_path: Path) -> None:
    report = make_report(GOOD, check_all(GOOD), wall_seconds=61.23, rss_peak_mb=2048.0)
    write_report(report, GOOD, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["accuracy"] == {"base": 0.0, "first": 0.5, "last": 1.0, "n": 2}
    assert written["steps"] == 3
    assert written["revisions"][2] == {"number": 3, "digest": D3, "reward": pytest.approx(0.9)}
    assert [each["digest"] for each in written["answers"]] == [D1, D3, D1, D3]
    assert {"base", "task", "wall_seconds", "alias_history", "checks", "rss_peak_mb"} <= set(written)
    assert "demo@3 | 1.000" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")
