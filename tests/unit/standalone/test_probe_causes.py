"""The cause of an engine's end is the first error in its log, with its place."""

from pathlib import Path

from services.standalone.adapters.probing.running import first_error

LOG = """(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "/x/site-packages/vllm/platforms/cpu.py", line 150, in check
(EngineCore pid=7)     raise NotImplementedError("Sparse Attention is not supported on CPU.")
(EngineCore pid=7) NotImplementedError: Sparse Attention is not supported on CPU.
RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_first_error_is_the_cause(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    said = "NotImplementedError: Sparse Attention is not supported on CPU. (at vllm/platforms/cpu.py:150)"
    assert first_error(tmp_path / "log") == said


def test_a_log_without_an_error_has_none(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Triton is not installed.\n")
    assert first_error(tmp_path / "log") == ""
