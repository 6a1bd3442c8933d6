"""Requests of the clients' scripts, and how each script reports what it received."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

ASKED = "Say in one word which is warmer today: Rome or Oslo?"


class City(StrEnum):
    """The cities that an answer may name."""

    ROME = "Rome"
    OSLO = "Oslo"


CITIES: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": list(City)}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool in OpenAI's form that does not say ``strict``."""
    function = {"name": "weather", "description": "Weather of a city", "parameters": schema}
    return {"type": "function", "function": function}


def answer(texts: Sequence[str], cities: Mapping[str, str]) -> None:
    """Print the texts of one question, and the city that each structured way named."""
    print(json.dumps({"texts": texts, "cities": cities}))
