"""The card of an adapter on a model hub: what it is of, where it comes from, and how it scored."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Json = Any  # the gateway's
_NUMBERS = ("steps", "learning_rate", "prompts_per_step", "group_size")


def model_card(
    policy: Json, revision: Json, base: Json, job: Json | None, scores: Sequence[Json], *, hub_base: str
) -> str:
    """Return a README.md; ``hub_base`` is the base's name on the hub, "" for none."""
    lora = policy["lora"]
    front = [f"base_model: {json.dumps(hub_base)}"] if hub_base else []
    front += ["library_name: peft", "pipeline_tag: text-generation", "tags: [lora, mint]"]
    facts = {
        "base": f"{hub_base or base['name']} (`{base['digest']}`)",
        "policy": policy["name"],
        "revision": f"{revision['number']} (`{revision['digest']}`)",
        "parent": f"`{revision['parent']}`" if revision["parent"] else "the base",
        "optimizer step": revision["step"],
        "LoRA": f"rank {lora['rank']}, alpha {lora['alpha']:g}, {', '.join(lora['targets'])}",
        **(_job_facts(job) if job else {}),
    }
    lines = ["---", *front, "---", "", f"# {policy['name']}", ""]
    if policy["description"]:
        lines += [policy["description"], ""]
    lines += [
        "| what | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in facts.items()),
    ]
    lines += [
        "",
        "The update is `B @ A`: alpha / rank is multiplied into B, so that `lora_alpha` equals `r`.",
    ]
    if scores:
        lines += ["", "## Scores", "", "| suite | metric | value | n |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(row['suite'])} | {_cell(row['metric'])} | {_value(row)} | {row['n']} |"
            for row in scores
        ]
    return "\n".join(lines) + "\n"


def _job_facts(job: Json) -> Mapping[str, object]:
    spec = job.get("spec", {})
    settings = [f"{name} {spec[name]:g}" for name in _NUMBERS if spec.get(name)]
    trained_on = spec.get("task") or ((spec.get("data") or {}).get("training") or {}).get("filename", "")
    named = {
        "trained on": trained_on,
        "algorithm": spec.get("algorithm", ""),
        "settings": ", ".join(settings),
    }
    return {"job": job["job_id"], **{name: value for name, value in named.items() if value}}


def _value(row: Json) -> str:
    stderr = row.get("stderr")
    return f"{row['value']:.4g}" + (f" ± {stderr:.2g}" if stderr else "")


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
