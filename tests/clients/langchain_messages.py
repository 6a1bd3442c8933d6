"""LangChain's ChatAnthropic, run by its own Python: ``langchain_messages.py URL KEY MODEL``."""

import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from pydantic import BaseModel
from shapes import ASKED, City, answer


@tool
def weather(city: City) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


class Answer(BaseModel):
    """An answer."""

    city: City


def main() -> None:
    """Ask, stream, have a tool called, take answers of a class by either method."""
    url, key, model = sys.argv[1:]
    chat = ChatAnthropic(base_url=url, api_key=key, model=model, max_tokens=60, temperature=0, max_retries=0)
    whole = chat.invoke(ASKED).text
    streamed = "".join(part.text for part in chat.stream(ASKED))
    (call,) = chat.bind_tools([weather], tool_choice="weather").invoke(ASKED).tool_calls
    cities = {"a tool": call["args"]["city"]}
    for method in ("function_calling", "json_schema"):
        cities[method] = chat.with_structured_output(Answer, method=method).invoke(ASKED).city
    answer([whole, streamed], cities)


if __name__ == "__main__":
    main()
