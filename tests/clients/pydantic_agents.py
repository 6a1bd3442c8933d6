"""Agents of pydantic-ai over three APIs, run by its own Python: ``pydantic_agents.py URL KEY MODEL``."""

import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from shapes import ASKED, City, answer


class Answer(BaseModel):
    """An answer."""

    city: City


def main() -> None:
    """Ask for a text and for a class, by a tool and by a schema."""
    url, key, model = sys.argv[1:]
    openai = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    models = {
        "chat": OpenAIChatModel(model, provider=openai),
        "responses": OpenAIResponsesModel(model, provider=openai),
        "messages": AnthropicModel(model, provider=AnthropicProvider(base_url=url, api_key=key)),
    }
    settings = {"max_tokens": 60, "temperature": 0}
    texts, cities = [], {}
    for name, each in models.items():
        texts.append(Agent(each, model_settings=settings).run_sync(ASKED).output)
        made = Agent(each, output_type=ToolOutput(Answer), model_settings=settings, retries=0)
        cities[f"{name}: ToolOutput"] = made.run_sync(ASKED).output.city
    made = Agent(models["chat"], output_type=NativeOutput(Answer), model_settings=settings, retries=0)
    cities["chat: NativeOutput"] = made.run_sync(ASKED).output.city
    answer(texts, cities)


if __name__ == "__main__":
    main()
