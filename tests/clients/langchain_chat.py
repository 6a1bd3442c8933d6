"""LangChain's ChatOpenAI, run by its own Python: ``langchain_chat.py URL KEY MODEL [TOKEN ...]``."""

import json
import sys
from typing import Literal

from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


class Answer(BaseModel):
    """An answer."""

    city: Literal["Rome", "Oslo"]


def main() -> None:
    """Ask, stream, call a tool, send its result, take an answer of a class."""
    url, key, model, *blanks = sys.argv[1:]
    chat = ChatOpenAI(
        base_url=f"{url}/v1", api_key=key, model=model, max_tokens=100, temperature=0, max_retries=0
    )
    told = chat.invoke("2 4 6 8")
    streamed = "".join(part.content for part in chat.stream("2 4 6 8"))
    bias = {"logit_bias": dict.fromkeys(blanks, -100)}
    called = chat.bind_tools([weather], tool_choice="weather", **bias).invoke("2 4")
    (call,) = called.tool_calls
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    after = chat.invoke([("user", "2 4"), called, result])
    parsed = chat.with_structured_output(Answer, method="json_schema", **bias).invoke("2 4")
    print(
        json.dumps(
            {
                "text": told.content,
                "streamed": streamed,
                "tokens": told.usage_metadata["output_tokens"],
                "called": call["name"],
                "args": call["args"],
                "after": after.content,
                "parsed": parsed.city,
            }
        )
    )


if __name__ == "__main__":
    main()
