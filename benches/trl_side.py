"""The other side of bench jobs: TRL's trainers with PEFT, in a virtual environment of their own.

It stands in out/trl, made at the first use, and sees this project's packages behind its own: torch,
transformers and PEFT are the same files on both sides.
"""

import json
import subprocess
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.machine import ROOT

TRL = "1.16.0"
_FOLDER = ROOT / "out" / "trl"
_CHILD = Path(__file__).with_name("trl_child.py")


def trl_python() -> Path:
    """Return the interpreter that has TRL, whose environment is made if it is not there."""
    python = _FOLDER / "bin" / "python"
    done = _FOLDER / ".installed"
    if done.exists() and done.read_text() == TRL:
        return python
    venv.create(_FOLDER, with_pip=True, clear=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(_FOLDER), "platbase": str(_FOLDER)}))
    (own / "_project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # pip leaves what it finds outside its own environment as it is.
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", f"trl=={TRL}"], check=True
    )
    done.write_text(TRL)
    return python


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlRun:
    """A training under way."""

    process: "subprocess.Popen[str]"

    def block(self) -> float:
        """Train a block of steps; return the seconds that it took."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def valid_loss(self) -> float:
        """Return the loss on the validation rows, once all blocks are trained."""
        return float(self._answer()["valid_loss"])

    def _answer(self) -> dict[str, Any]:  # JSON
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"TRL ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def open_trl(folder: Path, config: dict[str, Any]) -> Iterator[TrlRun]:
    """Start a training; see `trl_child` for its ``config``, which is JSON."""
    path = folder / "trl.json"
    path.write_text(json.dumps(config))
    command: Sequence[str | Path] = [trl_python(), _CHILD, path]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder), "PATH": ""},
    ) as process:
        try:
            yield TrlRun(process=process)
        finally:
            process.kill()
