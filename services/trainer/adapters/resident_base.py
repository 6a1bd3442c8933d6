"""The base model in memory, read-only, in float32 on one device.

Invariant: with no policy applied its log-probabilities are those of the untouched model.
B = lines of a micro-batch, L = its longest line, T = its target tokens, D = model width, V = vocabulary.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from mint_common.adapters_format import read_base_facts
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import SettingInvalid
from services.trainer.adapters.line_tensors import lay_out
from services.trainer.adapters.lora import LoraTensors
from services.trainer.adapters.lora_modules import applied, plan_mix, wrap_modules
from services.trainer.core.lines import Line
from services.trainer.core.losses.tokens import token_logprobs

SPARSE_ATTENTION = frozenset({"DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"})
"""Their indexers pick keys of a whole line, so that rows of one line would see each other."""
_PROBE_TOLERANCE = 1e-3


class ResidentBase:
    """A causal language model whose modules can carry several policies at a time."""

    def __init__(self, model: nn.Module, facts: BaseFacts) -> None:
        self.facts = facts
        self.shares_prompts = facts.architecture not in SPARSE_ATTENTION
        self._model = model.requires_grad_(requires_grad=False).eval()
        self._body: nn.Module = model.base_model
        self._head: nn.Module = model.get_output_embeddings()
        self._check_head()
        self._slots = wrap_modules(model, facts)

    def logprobs(self, lines: Sequence[Line], policies: Sequence[LoraTensors] | None = None) -> Tensor:
        """Return logp_T of the lines' target tokens, row after row.

        ``policies`` are those that the lines number, and the lines are in their order; without them the base
        answers. Logits exist for target tokens only: those of the prompts would not fit a large vocabulary.
        """
        laid = lay_out(lines)
        counts = [
            (number, len(list(group)) * laid.inputs_BL.shape[1])
            for number, group in groupby(line.policy for line in lines)
        ]
        mixed = (
            nullcontext()
            if policies is None
            else applied(self._slots, plan_mix([(policies[number], count) for number, count in counts]))
        )
        with mixed:
            hidden_BLD = self._body(
                input_ids=laid.inputs_BL,
                attention_mask=laid.mask_B1LL,
                position_ids=laid.positions_BL,
                use_cache=False,
            ).last_hidden_state
        hidden_TD = hidden_BLD.flatten(0, 1).index_select(0, laid.where_T)
        return token_logprobs(self._head(hidden_TD), laid.targets_T)

    def _check_head(self) -> None:
        """Refuse architectures that do more to logits than a linear head does."""
        ids = torch.arange(min(4, self.facts.vocab_size))[None]
        with torch.no_grad():
            whole = self._model(input_ids=ids, use_cache=False).logits
            parts = self._head(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        if not torch.allclose(whole, parts, atol=_PROBE_TOLERANCE):
            problem = f"{self.facts.architecture} changes its logits after the head: not trainable here"
            raise SettingInvalid(name="MINT_TRAINER_BASE_DIR", problem=problem)


def load_base(folder: Path) -> ResidentBase:
    """Load a base folder (Hugging Face files and `mint_base.json`)."""
    facts = read_base_facts(folder)
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return ResidentBase(model, facts)
