"""A training by TRL, in a process of its own virtual environment: `python trl_child.py CONFIG`.

CONFIG is JSON: ``base``, ``method``, ``rows``, ``validation``, ``adapter`` (initial weights), ``batch``,
``block``, ``rank``, ``step`` (the fields of `mint_common.training.Step`), ``beta``. It trains ``block`` steps
whenever a line comes in, and answers with the seconds that they took; behind the last block it tells the loss
on the validation rows.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

_TEXT = {
    "sft": {"text": "a"},
    "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
}
"""What the trainers' constructors are shown; the tokens take its place."""


class Blocks(TrainerCallback):  # type: ignore[misc]  # transformers is untyped for mypy here
    """Waits for a line before each block of steps, and tells the seconds of each."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait before the first step of a block."""
        del args, control
        if state.global_step % self._block == 0:
            sys.stdin.readline()
            self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Answer behind the last step of a block."""
        del args, control
        if state.global_step % self._block == 0:
            tell({"seconds": time.perf_counter() - self._began})


def tell(answer: dict[str, object]) -> None:
    """Answer the bench."""
    print(json.dumps(answer), file=sys.__stdout__, flush=True)


def main() -> None:
    """Train."""
    config = json.loads(Path(sys.argv[1]).read_text())
    step = config["step"]
    sys.stdout = sys.stderr  # answers are the only lines on the real one
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(config["base"], dtype=torch.float32)
    lora = LoraConfig(r=config["rank"], lora_alpha=2 * config["rank"], target_modules="all-linear")
    peft_model = get_peft_model(model, lora)
    loaded = set_peft_model_state_dict(peft_model, load_file(config["adapter"]))
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    trainer_type, options_type = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
    }[config["method"]]
    options = options_type(
        output_dir=str(Path(sys.argv[1]).parent / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=config["batch"],
        per_device_eval_batch_size=config["batch"],
        num_train_epochs=1,
        learning_rate=step["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=step["beta1"],
        adam_beta2=step["beta2"],
        adam_epsilon=step["eps"],
        weight_decay=step["weight_decay"],
        max_grad_norm=step["clip_norm"],
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        max_length=None,
        **({"beta": config["beta"]} if config["method"] == "dpo" else {}),
    )
    shown = Dataset.from_list([_TEXT[config["method"]]])
    trainer = trainer_type(
        model=peft_model,
        args=options,
        train_dataset=shown,
        eval_dataset=shown,
        processing_class=AutoTokenizer.from_pretrained(config["base"]),
        callbacks=[Blocks(config["block"])],
    )
    trainer.train_dataset = Dataset.from_list(config["rows"])
    trainer.train()
    # Given to `evaluate`, the rows would be taken for texts.
    trainer.eval_dataset = Dataset.from_list(config["validation"])
    found = trainer.evaluate()
    tell({"valid_loss": found["eval_loss"]})


if __name__ == "__main__":
    main()
