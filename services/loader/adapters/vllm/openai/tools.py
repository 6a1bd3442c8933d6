"""The tools of a request: whose arguments follow their schemas, and the bounds of what is compiled for that.

Invariant: the strictness of a tool changes its grammar and never its prompt, which repeats the tool as sent.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

from mint_common.inference.body import read_text
from services.loader.core.inference.structures import check_structure
from services.loader.core.parsing import FORCED


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderers:
    """vLLM's renderer, and its copy for requests that must call a tool. Any, here and below: vllm has no
    types.
    """

    usual: Any
    forced: Any

    @classmethod
    def around(cls, renderer: Any, *, tool_strict_level: str) -> "Renderers":
        """Return the renderers of a level: `FORCED` or one of vLLM's, which its renderer follows itself."""
        from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

        if tool_strict_level != FORCED or renderer.parser is None:
            return cls(usual=renderer, forced=renderer)
        forced = copy(renderer)
        level = {"tool_strict_level": ToolStrictLevel.PARAMETER}
        forced.parser = type("ForcedToolsParser", (renderer.parser,), level)
        return cls(usual=renderer, forced=forced)

    def of(self, request: Any) -> Any:
        """Return what renders a request."""
        return self.forced if _must_call(request) else self.usual


def _must_call(request: Any) -> bool:
    """Return whether a request must call a tool, and none is said to have free arguments."""
    choice, tools = getattr(request, "tool_choice", None), getattr(request, "tools", None)
    if not tools or getattr(choice, "mode", choice) in (None, "none", "auto"):
        return False
    return all(getattr(getattr(tool, "function", tool), "strict", None) is not False for tool in tools)


def check_compiled_tools(request: Any) -> None:
    """Check the grammar that vLLM made of a rendered request's tools. Raises InvalidField.

    A tool whose arguments are free adds only its name to it, so that its schema may say anything.
    """
    if not getattr(request, "tools", None):
        return
    structure, text = request.structured_outputs, getattr(request, "text", None)
    made = [] if structure is None else [structure.structural_tag, structure.json]
    read = [read_text(each, field="tools") if isinstance(each, str) else each for each in made]
    check_structure("tools", [*read, text and text.model_dump(mode="json", by_alias=True)])
