"""Rank and scaling of each module, as PEFT's `adapter_config.json` has them.

Invariant: a config that changes the model by more than ``scaling * B @ A`` is refused, and says why.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mint_common.adapters_format.config import FREE_KEYS, is_neutral, read_config
from mint_common.adapters_format.patterns import NamePatterns, ends_of
from mint_common.adapters_format.refusal import Reason, refusal, shown

_MAX_NUMBER = 1e300
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
"""Leaf names of embeddings and of the head that is often tied to them."""

_METHODS: Mapping[str, str] = {
    "ADALORA": "AdaLoRA multiplies A by trained singular values and prunes ranks as it trains",
    "IA3": "IA3 scales activations and has no A and B",
    "LOHA": "LoHa's update is a Hadamard product of two products",
    "LOKR": "LoKr's update is a Kronecker product",
    "VERA": "VeRA scales random A and B that all modules share",
    "OFT": "OFT rotates the base's weights",
    "BOFT": "BOFT rotates the base's weights",
    "XLORA": "X-LoRA mixes several adapters token by token",
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT"),
        "prompt tuning trains tokens in front of the prompt and no weights",
    ),
}
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` that take a part out of the base's weights; some are followed by a number."""
_CONVERSION = "save_pretrained(path_initial_model_for_weight_conversion=...)"
_OPTIONS: Mapping[str, tuple[Reason, str]] = {
    "use_dora": (Reason.DORA, "use_dora scales each row of the weights by a trained magnitude"),
    "lora_bias": (Reason.BIAS, "lora_bias adds a bias to B"),
    "modules_to_save": (Reason.EXTRA_MODULES, "modules_to_save has whole modules in place of the base's"),
    "trainable_token_indices": (Reason.EMBEDDINGS, "trainable_token_indices changes tokens' embeddings"),
    "layer_replication": (Reason.UNSUPPORTED_CONFIG, "layer_replication repeats layers of the base"),
    "alora_invocation_tokens": (
        Reason.UNSUPPORTED_CONFIG,
        "alora_invocation_tokens turns the adapter on in the middle of a prompt",
    ),
    "use_qalora": (Reason.UNSUPPORTED_CONFIG, "use_qalora pools the inputs of A"),
    "use_bdlora": (Reason.UNSUPPORTED_CONFIG, "use_bdlora makes A or B block-diagonal"),
    "arrow_config": (Reason.UNSUPPORTED_CONFIG, "arrow_config mixes several adapters token by token"),
    "kasa_config": (Reason.UNSUPPORTED_CONFIG, "kasa_config takes a part out of the base's weights"),
}
"""Options that do more than LoRA, each with why."""
_PLAIN = frozenset(
    {
        # How the weights began, which changes nothing once they are trained.
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "velora_config",
        # Read below, or seen in the tensors' names.
        "alpha_pattern",
        "base_model_name_or_path",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "use_rslora",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLora:
    """The rank and alpha of every module, by PEFT's patterns.

    ``targets`` are the names of modules that must be there, none where the config says so in another way
    (a regular expression, layers, exclusions): the tensors' names decide then.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    ranks: NamePatterns
    alphas: NamePatterns
    targets: frozenset[str]

    def rank_of(self, module: str) -> int:
        """Return the rank of a module."""
        return int(self.ranks.find(module, self.rank))

    def scaling_of(self, module: str) -> float:
        """Return the factor of a module's B @ A."""
        return self._factor(self.alphas.find(module, self.alpha), self.rank_of(module))

    @property
    def scaling(self) -> float:
        """Return the factor of modules that no pattern names."""
        return self._factor(self.alpha, self.rank)

    def _factor(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def requires(self, module: str) -> bool:
        """Return whether the config names a module, so that its weights must be there."""
        return any(end in self.targets for end in ends_of(module))


def read_peft_config(data: bytes) -> PlainLora:
    """Return what a config says of plain LoRA. Raises AdapterInvalid."""
    values = read_config(data)
    _check_method(values)
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not _is_rank(rank) or not _is_number(alpha):
        problem = f"r is {shown(str(rank))} and lora_alpha {shown(str(alpha))}, needed two numbers"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    _check_options(values)
    targets = values.get("target_modules")
    narrowed = values.get("layers_to_transform") is not None or values.get("exclude_modules")
    names = targets if isinstance(targets, list) and not narrowed else ()
    return PlainLora(
        rank=rank,
        alpha=float(alpha),
        is_rank_stabilized=bool(values.get("use_rslora")),
        ranks=_patterns(values, "rank_pattern", _is_rank, "a rank"),
        alphas=_patterns(values, "alpha_pattern", _is_number, "a number"),
        targets=frozenset(name for name in names if isinstance(name, str)),
    )


def _check_method(values: Mapping[str, object]) -> None:
    method = values.get("peft_type")
    if method == "LORA":
        return
    if not isinstance(method, str):
        raise refusal(Reason.UNSUPPORTED_CONFIG, "peft_type is missing: this is no config of PEFT")
    why = _METHODS.get(method, f"peft_type is {shown(method)}, which is another method than LoRA")
    raise refusal(Reason.OTHER_METHOD, why)


def _check_options(values: Mapping[str, object]) -> None:
    start = str(values.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_BASE):
        why = "which takes a part out of the base's weights: convert the adapter with peft's own"
        problem = f"init_lora_weights is {shown(start)}, {why} {_CONVERSION}"
        raise refusal(Reason.CHANGED_BASE, problem)
    for key, value in values.items():
        if key in _PLAIN | FREE_KEYS or is_neutral(key, value):
            continue
        if key == "bias":
            raise refusal(Reason.BIAS, f"bias is {shown(str(value))}, which trains the base's biases too")
        reason, why = _OPTIONS.get(
            key, (Reason.UNSUPPORTED_CONFIG, f"{shown(key)} is set, only plain LoRA is supported")
        )
        raise refusal(reason, why)
    targets = values.get("target_modules")
    named = sorted(set(EMBEDDINGS) & set(map(str, targets if isinstance(targets, list) else ())))
    if named:
        raise refusal(Reason.EMBEDDINGS, f"target_modules has {', '.join(named)}")


def _patterns(
    values: Mapping[str, object], key: str, is_valid: Callable[[object], bool], what: str
) -> NamePatterns:
    found = values.get(key) or {}
    if not isinstance(found, dict) or not all(map(is_valid, found.values())):
        raise refusal(Reason.UNSUPPORTED_CONFIG, f"{key} is no map of names to {what}")
    return NamePatterns.of(found, field=key)


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
