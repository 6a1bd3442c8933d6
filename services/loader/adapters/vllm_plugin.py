"""MinT's repairs and extensions inside vLLM, in every process of MinT's engines.

The entry points of the group ``vllm.general_plugins``. vLLM calls them in every process where MinT is
installed; each acts only where ``VLLM_PLUGINS`` names it, which the loader sets, so that another vLLM
server in the same installation is unchanged. Each repair names the platform and versions that need it and
where it is reported; on any other it is not applied. tests/integration/loader/test_vllm_plugin.py
shows that the unrepaired code is still wrong and that vLLM still lacks the extensions, and so fails when one
of them is obsolete. An extension applies everywhere, or on the platform that it names, and lists the tested
versions; one without ``apply`` is loaded by vLLM's own ``worker_extension_cls`` or ``scheduler_cls``.
"""

import atexit
import gc
import logging
import multiprocessing
import os
import re
import threading
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name

_log = logging.getLogger(__name__)

PLUGIN = "mint_engine_fixes"
"""The name of the entry point `register`."""
REPAIRS_PLUGIN = "mint_engine_repairs"
"""The name of the entry point `register_repairs`."""
RESERVED = "mint_reserved_sequences"
"""Key in vLLM's ``additional_config`` of the part of ``max_num_seqs`` that is reserved for tenants with few
running sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One repair; ``fixed_in`` is the first version that does without, None if there is none yet.

    ``apply`` names an idempotent function below `adapters`, which is imported only where it applies.
    """

    name: str
    platform: str
    fixed_in: tuple[int, int] | None
    upstream: str
    apply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Something that vLLM lacks; ``tested_on`` are versions whose seam it fits; ``apply`` as a repair's."""

    name: str
    tested_on: tuple[tuple[int, int], ...]
    apply: str | None = None
    platform: str = "any"


def register() -> None:
    """Apply what this platform and version need. Idempotent; called once by vLLM in each process."""
    if not _is_named(PLUGIN):
        return
    _collect_rarely()
    _repair()
    platform = _platform()
    for extension in EXTENSIONS:
        if extension.platform in {platform, "any"} and not is_tested(extension):
            found = {"extension": extension.name, "vllm": ".".join(map(str, vllm_version()))}
            _log.warning("an extension of vLLM was not tested on this version", extra=found)
        if extension.apply is not None and extension.platform in {platform, "any"}:
            _apply(extension.apply)


def register_repairs() -> None:
    """Apply the repairs alone: vLLM as it is, but right. Another entry point, for comparisons."""
    if _is_named(REPAIRS_PLUGIN):
        _repair()


def _is_named(plugin: str) -> bool:
    """Return whether a plugin was requested by its name; without the variable vLLM calls all of them."""
    return plugin in os.environ.get("VLLM_PLUGINS", "").split(",")


def _collect_rarely() -> None:
    """Leave what was imported so far out of collections, and at exit all that is left.

    vLLM unfreezes its objects when an engine ends, and Python's exit would scan them for 1.5 s.
    """
    gc.freeze()
    atexit.register(gc.freeze)


def _repair() -> None:
    die_with_parent()
    for repair in REPAIRS:
        if is_needed(repair, platform=_platform(), vllm_version=vllm_version()):
            _apply(repair.apply)


def _apply(name: str) -> None:
    resolve_name(f"services.loader.adapters.{name}")()


def _platform() -> str:
    from vllm.platforms import current_platform

    return "cpu" if current_platform.is_cpu() else "other"


def die_with_parent() -> None:
    """End an engine process when the loader that started it is killed: vLLM would leave it running."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_end, name="die-with-parent", daemon=True).start()


def is_tested(extension: Extension) -> bool:
    """Return whether an extension's seam was tested on the vLLM that is imported here."""
    return vllm_version() in extension.tested_on


def is_needed(repair: Repair, *, platform: str, vllm_version: tuple[int, int]) -> bool:
    """Return whether a repair applies."""
    broken = repair.fixed_in is None or vllm_version < repair.fixed_in
    return platform == repair.platform and broken


@cache
def vllm_version() -> tuple[int, int]:
    """Return major and minor of the vLLM that is imported here, whatever its package is called.

    (0, 0) for one built without a version: it is taken for older than any.
    """
    import vllm

    found = re.match(r"(\d+)\.(\d+)", vllm.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


REPAIRS = (
    Repair(
        name="rows without an adapter get the last slot's",
        platform="cpu",
        fixed_in=(0, 33),
        upstream="https://github.com/vllm-project/vllm/pull/49656",
        apply="vllm_cpu.bare_rows:ignore_rows_without_adapter",
    ),
    Repair(
        name="experts with LoRA have no implementation on CPU",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/40273",
        apply="vllm_cpu.moe_backend:compute_experts_with_lora",
    ),
    Repair(
        name="a seeded request with a long prompt ends the engine on CPU",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/10097",
        apply="vllm_cpu.seeded_prefill:keep_generators_of_partial_prefills",
    ),
    Repair(
        name="a value that is not finite reaches whoever gets its KV block next",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/50283",
        apply="vllm.repairs.non_finite:keep_blocks_finite",
    ),
    Repair(
        name="rotary embedding mixes tokens of models with latent attention",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/12777",
        apply="vllm_cpu.rotary_heads:rotate_every_token",
    ),
    Repair(
        name="a prompt of one token ends the engine of a base with gated delta nets",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/41025",
        apply="vllm_cpu.one_token:copy_single_tokens",
    ),
)
TESTED = ((0, 32), (0, 33))
"""The version of the CPU build, which the tests run, and the one that `make test-seams` compares with it."""
STAGE = Extension(name="adapters laid out beside the loop, copied in slices", tested_on=TESTED)
CUT_PARTS = Extension(name="adapters cut for their worker when they are laid out", tested_on=TESTED)
CLEAR_SLOTS = Extension(name="experts' slots cleared no more than needed", tested_on=TESTED)
FILL_SLOTS = Extension(name="linear layers' slots filled by one copy", tested_on=TESTED)
GROUPED = Extension(
    name="one LoRA product per adapter of a step",
    tested_on=TESTED,
    apply="vllm_cpu.grouped_lora:group_lora",
    platform="cpu",
)
TARGETS = Extension(
    name="modules named like a target that have no LoRA are left out",
    tested_on=TESTED,
    apply="vllm.lora_targets:wrap_what_can_be",
)
ROUTES = Extension(
    name="routes through experts, of requests that ask", tested_on=TESTED, apply="vllm.routes:note_routes"
)
END_NON_FINITE = Extension(
    name="requests whose numbers are not finite end",
    tested_on=TESTED,
    apply="vllm.repairs.non_finite:end_reported",
)
PROCESSED = Extension(
    name="log-probabilities at the sampling temperature, of requests that ask",
    tested_on=TESTED,
    apply="vllm.processed_logprobs:divide_logits",
)
STRUCTURES = Extension(
    name="answers end whose structure takes too long to follow",
    tested_on=TESTED,
    apply="vllm.structures:bound_structures",
)
FAIR = Extension(name="a waiting queue that is fair to tenants", tested_on=TESTED)
ZERO_BLOCKS = Extension(
    name="KV blocks cleared when they are given out",
    tested_on=TESTED,
    apply="vllm.repairs.non_finite:zero_new_blocks",
    platform="other",
)
EXTENSIONS = (
    FAIR,
    STAGE,
    CUT_PARTS,
    CLEAR_SLOTS,
    FILL_SLOTS,
    GROUPED,
    TARGETS,
    ROUTES,
    PROCESSED,
    END_NON_FINITE,
    STRUCTURES,
    ZERO_BLOCKS,
)
