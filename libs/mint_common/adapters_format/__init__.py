"""The adapter file: base facts, manifest, canonical names, reading, writing and checking. No torch here."""

from mint_common.adapters_format.base_facts import BaseFacts, ExpertsFacts
from mint_common.adapters_format.base_folder import BASE_FILE, read_base_facts
from mint_common.adapters_format.build import AdapterFiles, build_adapter
from mint_common.adapters_format.check import check_adapter, check_folder, check_manifest
from mint_common.adapters_format.convert import convert_adapter
from mint_common.adapters_format.manifest import Manifest, read_manifest, write_manifest
from mint_common.adapters_format.names import DENSE, FUSED, PACKED, packed_name, peft_name
from mint_common.adapters_format.refusal import Reason
from mint_common.adapters_format.sites import has_experts, served_targets
from mint_common.adapters_format.storage import fetch_manifest, stage_adapter, stage_files, store_adapter
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
