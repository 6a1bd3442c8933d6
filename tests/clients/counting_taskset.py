"""A taskset of verifiers 0.4, as its users write them: two prompts, and a reward for any answer."""

import verifiers.v1 as vf


class CountingTask(vf.Task[vf.TaskData]):
    """Continue a row of numbers."""

    @vf.reward
    async def answered(self, trace: vf.Trace) -> float:
        """Return 1 when the model has said anything."""
        return float(any(node.sampled for node in trace.nodes))


class CountingTaskset(vf.Taskset[CountingTask, vf.TasksetConfig]):
    """Rows of numbers."""

    def load(self) -> list[CountingTask]:
        """Return the tasks."""
        config = CountingTask.config_type()()
        return [CountingTask(vf.TaskData(prompt=prompt), config) for prompt in ("2 4 6 8", "1 2 3")]


__all__ = ["CountingTaskset"]
