"""LiteLLM over the OpenAI and the Anthropic API, run by its own Python: ``litellm_chat.py URL KEY MODEL``."""

import json
import sys

import litellm
from pydantic import BaseModel
from shapes import ASKED, CITIES, City, answer, tool_of


class Answer(BaseModel):
    """An answer."""

    city: City


def main() -> None:
    """Ask, stream, have a tool called through either API, take an answer of a class."""
    url, key, model = sys.argv[1:]
    messages = [{"role": "user", "content": ASKED}]
    common = {"messages": messages, "api_key": key, "max_tokens": 60, "temperature": 0, "num_retries": 0}
    openai = {**common, "model": f"openai/{model}", "api_base": f"{url}/v1"}
    anthropic = {**common, "model": f"anthropic/{model}", "api_base": url}
    forced = {
        "tools": [tool_of(CITIES)],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }
    texts, cities = [], {}
    for to in (openai, anthropic):
        texts.append(litellm.completion(**to).choices[0].message.content)
        parts = litellm.completion(**to, stream=True)
        texts.append("".join(part.choices[0].delta.content or "" for part in parts))
        (call,) = litellm.completion(**to, **forced).choices[0].message.tool_calls
        cities[f"a tool, {to['model'].split('/')[0]}"] = json.loads(call.function.arguments)["city"]
    parsed = litellm.completion(**openai, response_format=Answer).choices[0].message.content
    cities["a schema"] = Answer.model_validate_json(parsed).city
    answer(texts, cities)


if __name__ == "__main__":
    main()
