"""LlamaIndex's OpenAILike, run by its own Python: ``llama_index_chat.py URL KEY MODEL``."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from shapes import ASKED, City, answer


class Answer(BaseModel):
    """An answer."""

    city: City


def main() -> None:
    """Ask, stream, take an answer of a class by a function call."""
    url, key, model = sys.argv[1:]
    llm = OpenAILike(
        model=model,
        api_base=f"{url}/v1",
        api_key=key,
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=60,
        strict=True,  # else it sends ``strict: false``, and arguments are free
        temperature=0,
        max_retries=0,
    )
    messages = [ChatMessage(role="user", content=ASKED)]
    whole = llm.chat(messages).message.content
    streamed = "".join(part.delta or "" for part in llm.stream_chat(messages))
    parsed = llm.as_structured_llm(Answer).chat(messages).raw
    answer([whole, streamed], {"a function call": parsed.city})


if __name__ == "__main__":
    main()
