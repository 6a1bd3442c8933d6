"""The demo's requests to the public API; unknown fields of an answer are ignored."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from mint_client.adapters.public_api import Completed, PublicApi, path_of

PARALLEL_REQUESTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The hyper-parameters that a task recommends."""

    steps: int
    max_new_tokens: int
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutPrompt:
    """A held-out prompt; ``entry`` goes back to the scorer."""

    text: str
    reference: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One row of an alias's history."""

    sequence: int
    previous: str | None
    digest: str
    number: int
    reason: str = ""
    actor: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model over all held-out prompts: an answer and a reward for each, in their order."""

    answers: tuple[Completed, ...]
    rewards: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Return the mean reward."""
        return sum(self.rewards) / len(self.rewards)


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


def submit_job(api: PublicApi, policy: str, task: str, *, steps: int, seed: int = 0, ahead: int = 0) -> str:
    """Submit a job with the task's recipe and return its id: GRPO, or DPPO if it samples waves ahead."""
    algorithm = "dppo" if ahead else "grpo"
    body = {"policy": policy, "task": task, "algorithm": algorithm, "steps": steps, "seed": seed}
    body |= {"staleness": ahead} if ahead else {}
    return str(api.post("/jobs", body)["job_id"])


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
    return Evaluation(answers=answers, rewards=tuple(rewards))
