"""The base model in memory, read-only, on one device.

Invariant: with no policy applied its log-probabilities are those of the untouched model. Whatever the base's
dtype, logits are float32: softmax over a large vocabulary loses most in fewer bits.
B = lines of a micro-batch, L = its longest line, T = its target positions, D = model width, V = vocabulary.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from mint_common.adapters_format import read_base_facts
from mint_common.adapters_format.base_facts import BaseFacts, picked_experts
from mint_common.errors import SettingInvalid
from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.mixes import plan_mix
from services.trainer.adapters.lora.modules import Slot, applied, wrap_modules
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.checkpointing import checkpoint_layers
from services.trainer.adapters.model.decoder import choose_attention, find_decoder, rules_of
from services.trainer.adapters.model.inputs import model_inputs
from services.trainer.adapters.model.loading import load_model
from services.trainer.adapters.model.routing import (
    RoutedGate,
    RouteReplay,
    RouterOpaque,
    read_routes,
    replayed,
    wrap_routers,
)
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.adapters.model.target_scores import TargetScores
from services.trainer.core.lines import Line, LineTokens, widest
from services.trainer.core.microbatches import (
    LOGITS_COPIES,
    TokenNumbers,
    fitting_targets,
    fitting_tokens,
    longest_kept,
    token_numbers,
)
from services.trainer.core.placement import ON_CPU, Placement, recomputes

_PROBE_TOLERANCE = 1e-3
_log = logging.getLogger(__name__)


class ResidentBase:
    """A causal language model whose modules can carry several policies at a time."""

    def __init__(self, model: nn.Module, facts: BaseFacts) -> None:
        self.facts = facts
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.replays_routes = True
        self.recomputes = False
        """Whether layers are computed again in every backward pass."""
        self.kept_tokens: int | None = None
        """Most tokens of a pass whose layers are not computed again; None: however many."""
        self._is_long = False
        self._model = model.requires_grad_(requires_grad=False).eval()
        choose_attention(model)
        decoder = find_decoder(model)
        self.rules = rules_of(model, decoder)
        self.layers = decoder.layers
        self.slots: list[Slot] = wrap_modules(model, facts)
        self._check_experts()
        self._experts = max((experts.count for experts in facts.experts.values()), default=0)
        self.route_problem = ""
        self._gates: list[RoutedGate] = []
        try:
            self._gates = wrap_routers(model, facts)
        except RouterOpaque as error:
            self.route_problem = str(error)
        self.target_scores = TargetScores(model, decoder)
        self._top_k = self._check_parts()
        self.target_scores.widen_head()
        self.token_numbers = self._count_numbers()

    @property
    def free_bytes(self) -> int | None:
        """Return the memory of the base's GPU that this process may still take, None on the CPU."""
        if self.device.type != "cuda":
            return None
        free, whole = torch.cuda.mem_get_info(self.device)
        share: float = torch.cuda.get_per_process_memory_fraction(self.device)
        own: int = torch.cuda.memory_allocated(self.device)
        kept: int = torch.cuda.memory_reserved(self.device) - own
        return min(int(free) + kept, int(share * whole) - own)

    @property
    def microbatch_tokens(self) -> int:
        """Return the default padded tokens of a micro-batch."""
        kept = self.token_numbers.kept_bytes(self.dtype.itemsize, recomputed=self.recomputes)
        return fitting_tokens(kept, free_bytes=self.free_bytes)

    def choose_checkpointing(self, placement: Placement) -> None:
        """Compute layers again from now on, if that is asked for or needed."""
        if recomputes(
            placement.checkpointing,
            self.token_numbers,
            item_bytes=self.dtype.itemsize,
            context=self.facts.max_context,
            free_bytes=self.free_bytes,
        ):
            self.checkpoint_layers()

    @property
    def logits_targets(self) -> int:
        """Return of how many targets the logits fit into memory now."""
        return fitting_targets(self.facts.vocab_size, free_bytes=self.free_bytes)

    def checkpoint_layers(self) -> None:
        """Compute layers again in the backward pass from now on."""
        checkpoint_layers(self.layers, lambda: True)
        self.recomputes = True

    def checkpoint_long_lines(self) -> None:
        """Compute layers again from now on in the pass of a line whose activations take much memory."""
        kept_bytes = self.token_numbers.kept_bytes(self.dtype.itemsize, recomputed=False)
        self.kept_tokens = longest_kept(kept_bytes)
        checkpoint_layers(self.layers, lambda: self._is_long)

    def score(
        self,
        lines: Sequence[Line],
        policies: Mapping[int, LoraTensors] | Sequence[LoraTensors] | None = None,
        *,
        width: int | None = None,
        chunks: int | None = None,
    ) -> TokenScores:
        """Return the scores of the lines' targets, line after line: see `ScoringBase`."""
        read = [line.read() for line in lines]
        width = widest(read) if width is None else width
        laid = model_inputs(read, width=width, rules=self.rules, dtype=self.dtype, device=self.device)
        longest = laid.inputs_BL.shape[1]
        replay = self._replay(read, longest)
        mixed: AbstractContextManager[None] = nullcontext()
        if policies is not None:
            counts = groupby(line.policy for line in read)
            mix = [(policies[number], len(list(group)) * longest) for number, group in counts]
            mixed = applied(self.slots, plan_mix(mix))
        is_alone = len(lines) == 1 and self.kept_tokens is not None
        self._is_long = is_alone and longest > (self.kept_tokens or 0)
        with mixed, replayed(self._gates, replay):
            # In a long line the logits, of which several copies are alive, have to be few as well.
            copies = LOGITS_COPIES if self._is_long else 1
            chunks = chunks or self.chunks_of(copies * len(laid.targets))
            logprobs_T, hit_T = self.target_scores(laid, chunks)
        scored = TokenScores(logprobs_T=logprobs_T, hit_T=hit_T if laid.counts_hits else None)
        if replay is None:
            return scored
        where_T = laid.where_T
        if where_T is None:
            where_T = torch.arange(laid.inputs_BL.numel(), device=self.device)
        routed_T, off_route_T = replay.judge(where_T, experts=self._experts)
        return replace(scored, routed_T=routed_T, off_route_T=off_route_T)

    def chunks_of(self, targets: int) -> int:
        """Return into how many parts the logits of so many targets are cut."""
        return -(-targets // self.logits_targets) or 1

    def _replay(self, lines: Sequence[LineTokens], longest: int) -> RouteReplay | None:
        """Return the recorded routes of the lines, padding included, None if nothing was recorded."""
        if not self._gates or not any(line.is_routed for line in lines):
            return None
        routes_BLYK = torch.full((len(lines), longest, len(self._gates), self._top_k), -1)
        read = partial(read_routes, layers=len(self._gates), top_k=self._top_k)
        for index, line in enumerate(lines):
            routes = torch.cat([read(data, tokens=tokens) for data, tokens in line.routes])
            routes_BLYK[index, : len(routes)] = routes
        routes_XYK = routes_BLYK.flatten(0, 1).to(self.device)
        return RouteReplay(routes_XYK=routes_XYK, replays=self.replays_routes)

    def _count_numbers(self) -> TokenNumbers:
        picked = self._experts
        if not any(isinstance(slot, LoraExperts) and slot.is_dense for slot in self.slots):
            picked = picked_experts(self._model.config.get_text_config()) or picked
        width = self.target_scores.head.weight.shape[1]
        return token_numbers(self.facts, layers=len(self.layers), width=width, picked=picked)

    def _check_experts(self) -> None:
        """Raise SettingInvalid where experts do more with their weights than their layout says."""
        slot = next((one for one in self.slots if isinstance(one, LoraExperts)), None)
        if slot is not None and not slot.is_as_laid_out():
            problem = (
                f"{type(slot.base).__name__} computes in a way that is not known here: add the base again, "
                "with --targets that leave its experts out"
            )
            raise SettingInvalid(name="MINT_TRAINER_BASE_DIR", problem=problem)

    def _check_parts(self) -> int:
        """Check decoder and head apart, and routers that replay their own choice, against the whole model.

        Return how many experts a token has, 0 where routes are not replayed, for ``route_problem``. Raises
        SettingInvalid where the parts say something else.
        """
        own = RouteReplay(routes_XYK=torch.zeros(0), replays=False)
        again: RouteReplay | None = None
        try:
            with replayed(self._gates, own):
                whole = self._logits()
            if self._gates:
                again = RouteReplay(routes_XYK=own.chosen_routes(), replays=True)
        except RouterOpaque as error:
            self.route_problem = str(error)
            whole = self._logits()
        with replayed(self._gates, again):
            is_same = self._parts_say(whole)
        if not is_same and again is not None:
            self.route_problem, again = "a router's own choice, replayed, changes its answer", None
            is_same = self._parts_say(whole)
        if not is_same:
            problem = f"{self.facts.architecture} does more than its head behind its layers: not trainable"
            raise SettingInvalid(name="MINT_TRAINER_BASE_DIR", problem=problem)
        if again is not None:
            return int(again.routes_XYK.shape[2])
        self._gates = []
        if self.route_problem:
            told = {"base": self.facts.name, "problem": self.route_problem}
            _log.warning("routes are not replayed", extra=told)
        return 0

    def _logits(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(input_ids=self._few_tokens(), use_cache=False).logits[0]
        return logits

    def _parts_say(self, whole: Tensor) -> bool:
        """Return whether decoder and head apart say what the whole model does."""
        with torch.no_grad():
            body = self.target_scores.body(input_ids=self._few_tokens(), use_cache=False)
            found = self.target_scores.logits(body.last_hidden_state[0])
        return bool(torch.allclose(whole, found, atol=_PROBE_TOLERANCE))

    def _few_tokens(self) -> Tensor:
        return torch.arange(min(4, self.facts.vocab_size), device=self.device)[None]


def load_base(folder: Path, placement: Placement = ON_CPU) -> ResidentBase:
    """Load a base folder (Hugging Face files and `mint_base.json`)."""
    facts = read_base_facts(folder)
    disable_progress_bar()
    device = torch.device(placement.device)
    bound_memory(placement, device)
    model = load_model(folder, dtype=getattr(torch, placement.dtype))
    base = ResidentBase(model.to(device), facts)
    base.choose_checkpointing(placement)
    if placement.checkpointing == "auto" and placement.device_type == "cpu":
        base.checkpoint_long_lines()
    return base


def bound_memory(placement: Placement, device: torch.device) -> None:
    """Let this process take no more of its GPU than the share that it was given, if it was given one."""
    if placement.memory_share is not None:
        torch.cuda.set_per_process_memory_fraction(placement.memory_share, device)
