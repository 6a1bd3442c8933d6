"""A short text waits for no thread; long ones, and many, do."""

import asyncio
from typing import Any

import pytest

from services.loader.adapters.vllm.tokenizing import tokenizing_short_texts_at_once

SHORT, LONG = {"prompt": "f abcdefgh="}, {"prompt": "a" * 4096}


class Renderer:
    """What vLLM's renderer has of its own."""

    def __init__(self) -> None:
        self._tokenize_prompt_async = self._beside

    def _tokenize_prompt(self, prompt: Any, params: Any) -> str:
        return f"at once, {params}"

    async def _beside(self, prompt: Any, params: Any) -> str:
        return f"beside, {params}"


@pytest.mark.parametrize(("prompt", "how"), [(SHORT, "at once"), (LONG, "beside")])
async def test_a_short_text_alone_is_tokenized_at_once(prompt: Any, how: str) -> None:
    quick = tokenizing_short_texts_at_once(Renderer())
    assert await quick._tokenize_prompt_async(prompt, "as asked") == f"{how}, as asked"


async def test_many_short_texts_of_one_iteration_go_to_the_thread() -> None:
    quick = tokenizing_short_texts_at_once(Renderer())
    found = await asyncio.gather(*(quick._tokenize_prompt_async(SHORT, "") for _ in range(12)))
    assert found == ["at once, "] * 8 + ["beside, "] * 4
    await asyncio.sleep(0)
    assert await quick._tokenize_prompt_async(SHORT, "") == "at once, "


async def test_the_renderer_itself_stays_as_it_is() -> None:
    renderer = Renderer()
    tokenizing_short_texts_at_once(renderer)
    assert await renderer._tokenize_prompt_async(SHORT, "") == "beside, "
