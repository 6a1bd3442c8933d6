"""Why `mint` refuses to go on; each says what to do. Printed, never sent: none has a code of its own."""

from collections.abc import Sequence
from typing import ClassVar

from mint_common.datasets import Problem
from mint_common.errors import MintError


class StackNotRunningError(MintError):
    """No stack runs on {folder}. Start one with `mint up --dir {folder}`."""


class StackElsewhereError(MintError):
    """No stack of this machine is at {url} (MINT_URL): run `{command}` where it is, or name its --dir."""


class AddressIncompleteError(MintError):
    """{missing} is not set: MINT_URL and MINT_API_KEY go together. With neither it is the stack of --dir."""


class LocalFailureError(MintError):
    """{what}: {problem}"""


class EvaluationFailedError(MintError):
    """{name} could not be scored on {on}: {problem}"""


class WatchLostError(MintError):
    """{problem}. The job is not lost: `mint job show {job_id} --watch` follows it again."""


class ExtraMissingError(MintError):
    """{option} needs {package}, which is not installed: `pip install {package}` where `mint` is."""


class TrackerAwayError(MintError):
    """{tracker} does not answer: {problem}"""

    retryable: ClassVar[bool] = True


class TrackerRefusedError(MintError):
    """{tracker} refuses it: {problem}"""


class TrackedElsewhereError(MintError):
    """Another `mint track` (pid {pid}) records to {tracker} with {file}."""


class AdaptersRefusedError(MintError):
    """Refused adapters: {refused}. Imported now: {taken}. {report} names each."""


class StackNotInstalledError(MintError):
    """`mint {command}` is for a machine that runs a stack, and only the client is installed here: install mint-stack[cpu] or mint-stack[gpu] in an environment of its own."""  # noqa: E501  # the docstring is the message


class RowsRefusedError(MintError):
    """{what} is refused. Problems in its rows: {count}."""

    def __init__(self, *, what: str, count: int, problems: Sequence[Problem]) -> None:
        super().__init__(what=what, count=count)
        self.problems = tuple(problems)
