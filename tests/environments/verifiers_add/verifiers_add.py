"""A taskset of verifiers 0.4, as its users write them: sums, with a tool that adds or without."""

import verifiers.v1 as vf
from verifiers_add_tools import Adder


class SumData(vf.TaskData):
    """A sum with its answer."""

    answer: str


class SumConfig(vf.TaskConfig):
    """Whether there is a tool."""

    with_tool: bool = False
    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class Sum(vf.Task[SumData, vf.State, SumConfig]):
    """Say a sum's answer."""

    @classmethod
    def toolsets(cls, config: SumConfig) -> list[vf.Toolset]:
        """Return the tool."""
        return [Adder(config.tools)] if config.with_tool else []

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """Reward an episode whose last answer has the sum."""
        last = trace.assistant_messages[-1].content if trace.assistant_messages else ""
        return float(self.data.answer in str(last).split())

    @vf.reward(weight=0.1)
    async def short(self, trace: vf.Trace) -> float:
        """Reward short answers."""
        said = str(trace.assistant_messages[-1].content) if trace.assistant_messages else ""
        return 1.0 / (1.0 + len(said))

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        """Count the answers."""
        return float(trace.num_turns)


class SumsConfig(vf.TasksetConfig):
    """How many sums, from which number on."""

    n: int = 8
    begin: int = 1
    task: SumConfig = SumConfig()


class Sums(vf.Taskset[Sum, SumsConfig]):
    """Sums of a number with itself."""

    def load(self) -> list[Sum]:
        """Return the tasks."""
        config = self.config
        return [
            Sum(SumData(prompt=f"What is {n} + {n}?", answer=str(2 * n)), config.task)
            for n in range(config.begin, config.begin + config.n)
        ]


__all__ = ["Sums"]
