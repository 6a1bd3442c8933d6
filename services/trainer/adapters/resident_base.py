"""The base model in memory, read-only, in float32 on one device.

Invariant: with no policy applied its log-probabilities are those of the untouched model.
B = rows of a micro-batch, L = its longest row, T = its completion tokens, D = model width, V = vocabulary.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from mint_common.adapters_format import read_base_facts
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import SettingInvalid
from services.trainer.adapters.lora import LoraTensors, applied, wrap_linears
from services.trainer.core.batch import Row
from services.trainer.core.losses import token_logprobs

_PROBE_TOLERANCE = 1e-3


class ResidentBase:
    """A causal language model whose linears can carry one policy at a time."""

    def __init__(self, model: nn.Module, facts: BaseFacts) -> None:
        self.facts = facts
        self._model = model.requires_grad_(requires_grad=False).eval()
        self._body: nn.Module = model.base_model
        self._head: nn.Module = model.get_output_embeddings()
        self._check_head()
        self._linears = wrap_linears(model, facts)

    def applied(self, tensors: LoraTensors) -> AbstractContextManager[None]:
        """Answer as the policy within the block, as the base outside it."""
        return applied(self._linears, tensors)

    def logprobs(self, rows: Sequence[Row]) -> Tensor:
        """Return logp_T of the rows' completion tokens, row after row.

        Rows are padded on the right, where causal attention hides the padding from every real token. Logits
        exist for completion tokens only: those of the prompts would not fit a large vocabulary.
        """
        longest = max(row.length for row in rows)
        inputs_BL = torch.zeros(len(rows), longest, dtype=torch.long)
        where: list[Tensor] = []
        for index, row in enumerate(rows):
            inputs_BL[index, : row.length] = torch.tensor((*row.prompt, *row.tokens)[:-1])
            first = index * longest + len(row.prompt) - 1
            where.append(torch.arange(first, first + len(row.tokens)))
        hidden_BLD = self._body(input_ids=inputs_BL, use_cache=False).last_hidden_state
        hidden_TD = hidden_BLD.flatten(0, 1).index_select(0, torch.cat(where))
        targets_T = torch.tensor([token for row in rows for token in row.tokens])
        return token_logprobs(self._head(hidden_TD), targets_T)

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
