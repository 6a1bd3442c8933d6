"""Run a recipe of tinker-cookbook as it is, without the hub (docs/guides/cookbook.md).

``python examples/cookbook_offline.py FOLDER sl_loop base_url=... model_name=mint/smollm2 max_steps=4`` runs
the module ``tinker_cookbook.recipes.sl_loop``. FOLDER stands for the hub: a model's or data set's name is the
path of a folder in it. What the recipe looks up in tables of hosted models is set here: the renderer.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import chz
from tinker_cookbook import model_info

RENDERER = os.environ.get("COOKBOOK_RENDERER", "role_colon")
"""`role_colon` fits any tokenizer."""


def share_of_letters(response: str, _answer: str) -> float:
    """Reward plain text. With gsm8k's own reward a small model earns nothing, and so it learns nothing."""
    return sum(letter.isalpha() for letter in response) / max(len(response), 1)


def main(folder: Path, recipe: str) -> None:
    """Run it from inside the folder, so that names are paths."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.chdir(folder)
    model_info.get_recommended_renderer_name = lambda _model_name: RENDERER
    module = importlib.import_module(f"tinker_cookbook.recipes.{recipe}")
    if "--own-reward" in sys.argv:
        sys.argv.remove("--own-reward")
    elif hasattr(module, "get_reward"):
        module.get_reward = share_of_letters
    run: Callable[..., None] = module.main
    chz.nested_entrypoint(run)


if __name__ == "__main__":
    hub, name = Path(sys.argv.pop(1)), sys.argv.pop(1)
    main(hub, name)
