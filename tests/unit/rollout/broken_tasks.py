"""Tasks as a careless package would write them; each member breaks in one place."""

from mint_common.records import Prompt
from services.rollout.core.task import Split, TaskDefaults


class Broken:
    """`broken:<place>` raises there, or answers what no task may."""

    description = "Broken."
    defaults = TaskDefaults(
        steps=1,
        prompts_per_step=1,
        group_size=2,
        max_new_tokens=4,
        temperature=1.0,
        learning_rate=1e-3,
        rank=1,
        alpha=2.0,
    )

    def __init__(self, member: str) -> None:
        self.name = f"broken:{member}"
        self._place = member
        if member == "init":
            raise KeyError("data.json")

    @staticmethod
    def members() -> tuple[str, ...]:
        """Return the places."""
        return ("init", "prompts", "reward", "nan", "inf", "-1e10")

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return prompts, or raise."""
        if self._place == "prompts":
            raise ZeroDivisionError("division by zero")
        return [Prompt(text=f"f {split}{seed % 7}=", reference="a", entry="a")] * n

    def reward(self, entry: str, text: str) -> float:
        """Return a number that is no reward, or raise."""
        if self._place == "reward":
            raise ValueError(f"cannot read {text!r} for {entry!r}")
        return float(self._place)
