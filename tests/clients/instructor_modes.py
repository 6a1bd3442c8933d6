"""The modes of instructor, run by its own Python: ``instructor_modes.py URL KEY MODEL``."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel
from shapes import ASKED, City, answer

MODES = ("TOOLS", "RESPONSES_TOOLS", "JSON_SCHEMA")


class Answer(BaseModel):
    """An answer."""

    city: City


def main() -> None:
    """Take an answer of a class in each mode that has the server keep to its schema."""
    url, key, model = sys.argv[1:]
    openai = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    messages, cities = [{"role": "user", "content": ASKED}], {}
    for mode in MODES:
        client = instructor.from_openai(openai, mode=getattr(instructor.Mode, mode))
        limit = "max_output_tokens" if mode.startswith("RESPONSES") else "max_tokens"
        made = client.chat.completions.create(
            model=model, messages=messages, response_model=Answer, max_retries=0, temperature=0, **{limit: 60}
        )
        cities[mode] = made.city
    answer([], cities)


if __name__ == "__main__":
    main()
