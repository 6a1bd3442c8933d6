"""Why a wave can't be trained on. None of these gets better by repeating; each ends the wave's job."""

from mint_common.errors import MintError


class TrainingRefused(MintError):  # named as in errors.py, by what happened
    """The wave cannot be trained on: {problem}"""

    code = "training_refused"
    http_status = 422


class RecordInvalid(TrainingRefused):
    """The rollout record is not usable at {where}: {problem}"""

    code = "record_invalid"


class WaveForeign(TrainingRefused):
    """The wave does not belong to this policy's session: {problem}"""

    code = "wave_foreign"


class LoraInvalid(TrainingRefused):
    """LoRA field {field!r} does not fit the base: {problem}"""

    code = "lora_invalid"


class NotFinite(TrainingRefused):
    """The {what} of step {step} is {value}; the policy stays at step {kept}."""

    code = "not_finite"


class WaveStopped(TrainingRefused):
    """Wave {wave_id} was cancelled while it was trained on."""

    code = "wave_stopped"


class NoGradient(TrainingRefused):
    """Step {step} has no gradient: the pass before it was refused."""

    code = "no_gradient"


class RevisionForeign(TrainingRefused):
    """Revision {digest!r} cannot be trained on: {problem}"""

    code = "revision_foreign"


class CheckpointLost(TrainingRefused):
    """Checkpoint {uri!r} of the policy cannot be restored: {problem}"""

    code = "checkpoint_lost"
