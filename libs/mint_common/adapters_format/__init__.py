"""The adapter file: base facts, manifest, canonical names, reading, writing and checking. No torch here."""

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.adapters_format.base_folder import BASE_FILE, describe_base, read_base_facts
from mint_common.adapters_format.build import AdapterFiles, build_adapter
from mint_common.adapters_format.check import check_adapter, check_folder, check_manifest, check_values
from mint_common.adapters_format.config import check_config
from mint_common.adapters_format.convert import Progress, convert_adapter
from mint_common.adapters_format.manifest import Manifest, adapter_digest, read_manifest, write_manifest
from mint_common.adapters_format.merge import merge_adapter
from mint_common.adapters_format.names import (
    CONFIG_FILE,
    DENSE,
    FUSED,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    packed_name,
    peft_name,
)
from mint_common.adapters_format.norms import ModuleChange, compare_adapters
from mint_common.adapters_format.origin import Origin, base_name_of, read_origin
from mint_common.adapters_format.refusal import Reason
from mint_common.adapters_format.relayout import packed_again
from mint_common.adapters_format.sites import has_experts, served_targets
from mint_common.adapters_format.storage import (
    adapter_prefix,
    fetch_manifest,
    stage_adapter,
    stage_files,
    store_adapter,
    store_folder,
)

__all__ = [
    "BASE_FILE",
    "CONFIG_FILE",
    "DENSE",
    "FUSED",
    "MANIFEST_FILE",
    "PACKED",
    "WEIGHTS_FILE",
    "AdapterFiles",
    "BaseFacts",
    "ExpertsFacts",
    "Manifest",
    "ModuleChange",
    "Origin",
    "Progress",
    "Reason",
    "adapter_digest",
    "adapter_prefix",
    "base_name_of",
    "build_adapter",
    "check_adapter",
    "check_config",
    "check_folder",
    "check_manifest",
    "check_values",
    "compare_adapters",
    "convert_adapter",
    "describe_base",
    "fetch_manifest",
    "has_experts",
    "merge_adapter",
    "packed_again",
    "packed_name",
    "peft_name",
    "read_base_facts",
    "read_manifest",
    "read_origin",
    "served_targets",
    "stage_adapter",
    "stage_files",
    "store_adapter",
    "store_folder",
    "write_manifest",
]
