"""Event files of TensorBoard, by tensorboardX, which is an extra of the installation."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mint_client.core.job_curves import Scalar
from mint_client.core.refusals import ExtraMissingError


def write_tensorboard(folder: Path, scalars: Iterable[Scalar], settings: Mapping[str, Any]) -> int:  # JSON
    """Write scalars and a job's settings into a folder; return how many scalars. Raises ExtraMissingError."""
    try:
        from tensorboardX import SummaryWriter  # an extra: nothing else of `mint` needs it
    except ImportError as error:
        raise ExtraMissingError(option="--tensorboard", package="tensorboardX") from error
    count = 0
    with SummaryWriter(logdir=str(folder), flush_secs=3600) as writer:
        writer.add_text("job", f"```json\n{json.dumps(settings, indent=2)}\n```")
        for scalar in scalars:
            writer.add_scalar(scalar.name, scalar.value, global_step=scalar.step, walltime=scalar.at)
            count += 1
    return count
