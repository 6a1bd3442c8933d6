"""What the demo asks of the public API, as values."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from services.standalone.adapters.public_api import Completed, PublicApi, path_of
from services.standalone.core.jobs import Ref
from services.standalone.demo.records import Alias, Evaluation, HeldoutPrompt, Recipe

PARALLEL_REQUESTS = 16


def recipe_of(api: PublicApi, task: str) -> Recipe:
    """Return what a task recommends."""
    return msgspec.convert(api.get(path_of("tasks", task))["defaults"], Recipe)


def heldout_prompts(api: PublicApi, task: str, n: int, *, seed: int) -> tuple[HeldoutPrompt, ...]:
    """Draw held-out prompts."""
    drawn = api.post(path_of("tasks", task, "prompts"), {"split": "heldout", "n": n, "seed": seed})
    return msgspec.convert(drawn["prompts"], tuple[HeldoutPrompt, ...])


def create_policy(api: PublicApi, name: str, base: str, *, rank: int, alpha: float) -> None:
    """Create a policy."""
    api.post("/policies", {"name": name, "base": base, "lora": {"rank": rank, "alpha": alpha, "seed": 0}})


def submit_job(api: PublicApi, policy: str, task: str, *, steps: int, seed: int = 0) -> str:
    """Submit a GRPO job with the task's recipe and return its id."""
    body = {"policy": policy, "task": task, "algorithm": "grpo", "steps": steps, "seed": seed}
    return str(api.post("/jobs", body)["job_id"])


def revisions_of(api: PublicApi, policy: str) -> tuple[Ref, ...]:
    """Return a policy's revisions by number."""
    refs = msgspec.convert(api.get(path_of("policies", policy, "revisions")), tuple[Ref, ...])
    return tuple(sorted(refs, key=lambda ref: ref.number))


def record_accuracy(api: PublicApi, policy: str, revision: int, *, suite: str, value: float, n: int) -> None:
    """Record a held-out accuracy."""
    body = {"revision": revision, "suite": suite, "metric": "accuracy", "value": value, "n": n}
    api.post(path_of("policies", policy, "evaluations"), body)


def best_revision(api: PublicApi, policy: str, *, suite: str) -> int:
    """Return the number of the revision with the best recorded accuracy; the newest of equals."""
    found = api.get(path_of("policies", policy, "evaluations"))
    scored = [(row["value"], row["number"]) for row in found if row["suite"] == suite]
    return int(max(scored)[1])


def read_prod(api: PublicApi, policy: str) -> Alias:
    """Return where `prod` points, with its history."""
    return msgspec.convert(api.get(_prod(policy)), Alias)


def promote(api: PublicApi, policy: str, revision: int, *, expected: str, reason: str) -> None:
    """Move `prod`; ``expected`` is what it points at now (``""``: it does not exist)."""
    api.put(_prod(policy), {"revision": revision, "expected": expected, "reason": reason})


def roll_back(api: PublicApi, policy: str, *, expected: str, reason: str) -> None:
    """Move `prod` back."""
    api.post(f"{_prod(policy)}/rollback", {"expected": expected, "reason": reason})


def evaluate(
    api: PublicApi, model: str, task: str, prompts: Sequence[HeldoutPrompt], *, max_tokens: int
) -> Evaluation:
    """Answer all prompts greedily, a bounded number at a time, and score the answers."""

    def ask(prompt: HeldoutPrompt) -> Completed:
        return api.complete(model, prompt.text, max_tokens=max_tokens)

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        answers = tuple(pool.map(ask, prompts))
    items = [
        {"entry": prompt.entry, "text": answer.text} for prompt, answer in zip(prompts, answers, strict=True)
    ]
    rewards = api.post(path_of("tasks", task, "score"), {"items": items})["rewards"]
    return Evaluation(model=model, answers=answers, rewards=tuple(rewards))


def _prod(policy: str) -> str:
    return path_of("policies", policy, "aliases", "prod")
