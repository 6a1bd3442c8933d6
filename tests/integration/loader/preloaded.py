"""What an engine's process imports, once for all that are forked from this one."""

import transformers
import vllm.engine.arg_utils
import vllm.model_executor.models
import vllm.v1.engine.llm_engine
import vllm.v1.worker.cpu_worker

__all__ = ["transformers", "vllm"]
