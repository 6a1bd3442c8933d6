"""The rollouts of a step as lines of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from mint_client.core.tables import counted

_UNKNOWN = "(no engine of the base answers: texts are not known now)"


def rollout_lines(found: Mapping[str, Any]) -> Iterator[str]:  # JSON
    """Yield a group: its prompt, and each episode with what was sampled (``<``) and its context (``>``)."""
    number = found["revision_number"]
    sampled_at = "the base" if number is None else f"revision {number}"
    if behind := found.get("staleness"):
        sampled_at += f", {counted(behind, 'step')} behind the weights that it trains"
    yield f"step {found['step']}, prompt {found['group']} of {found['groups']}, sampled at {sampled_at}"
    yield from _text(">", found["prompt"]["text"])
    for episode in found["episodes"]:
        yield ""
        yield f"episode {episode['episode']}: {_outcome(episode)}"
        for index, parts in enumerate(episode["segments"]):
            if index:
                yield "  a conversation of its own:"
            for part in parts:
                yield from _text("<" if part["kind"] == "sampled" else ">", part["text"])


def _outcome(episode: Mapping[str, Any]) -> str:
    if episode["reward"] is None:
        return f"{episode['outcome']}: {episode['error']}"
    scores = "".join(f", {name} {value:g}" for name, value in sorted(episode["scores"].items()))
    cut = ", cut off at a limit" if episode["outcome"] == "truncated" else ""
    left_out = f", {count} of its segments not trained on" if (count := episode.get("left_out")) else ""
    return f"reward {episode['reward']:g}{scores}{cut}{left_out}"


def _text(mark: str, text: str | None) -> Iterator[str]:
    lines = (_UNKNOWN if text is None else text).splitlines() or [""]
    yield from (f"  {mark} {line}" for line in lines)
