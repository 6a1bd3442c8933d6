"""inspect-ai with a tool, run by its own Python: ``inspect_tools.py URL KEY MODEL FOLDER [TOKEN ...]``."""

import json
import os
import sys
from typing import Literal


def main() -> None:
    """Evaluate one sample whose solver must call a tool first."""
    url, key, model, folder, *blanks = sys.argv[1:]
    os.environ |= {"MINT_API_KEY": key, "MINT_BASE_URL": f"{url}/v1", "INSPECT_LOG_DIR": folder}

    from inspect_ai import Task, eval  # noqa: A004  # its name
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import ToolFunction, tool

    @tool
    def weather():
        async def execute(city: Literal["Rome", "Oslo"]) -> str:
            """Weather of a city.

            Args:
                city: Where.
            """
            return f"sunny in {city}"

        return execute

    task = Task(
        dataset=MemoryDataset([Sample(input="2 4 6", target="sunny")]),
        solver=[use_tools(weather(), tool_choice=ToolFunction("weather")), generate(tool_calls="single")],
        scorer=includes(),
    )
    (log,) = eval(
        task,
        model=f"openai-api/mint/{model}",
        max_tokens=100,
        temperature=0,
        logit_bias=dict.fromkeys(map(int, blanks), -100),
        display="none",
        max_retries=0,
    )
    sample = log.samples[0] if log.samples else None
    roles = [message.role for message in sample.messages] if sample else []
    problem = str(log.error or (sample.error if sample else ""))[:2000]
    print(json.dumps({"status": log.status, "roles": roles, "problem": problem}))


if __name__ == "__main__":
    main()
