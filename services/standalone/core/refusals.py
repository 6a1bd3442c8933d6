"""Why `mint` refuses to go on; each says what to do."""

from collections.abc import Sequence

from mint_common.datasets import Problem
from mint_common.errors import MintError


class StackRunningError(MintError):
    """A stack runs on {folder} already (pid {pid}). Stop it with `mint down --dir {folder}`, or use another --dir."""  # noqa: E501  # the docstring is the message

    code = "already_running"


class StackNotRunningError(MintError):
    """No stack runs on {folder}. Start one with `mint up --dir {folder}`."""

    code = "not_running"


class AddressIncompleteError(MintError):
    """{missing} is not set: MINT_URL and MINT_API_KEY go together. With neither it is the stack of --dir."""

    code = "address_incomplete"


class GatewayPortBusyError(MintError):
    """Port {port} is taken by {holder}. Stop that, or choose another one: `mint up --port N`."""

    code = "gateway_port_busy"


class FolderUnusableError(MintError):
    """{folder} cannot be a state folder: {problem}. Use another --dir."""

    code = "folder_unusable"


class StackFileInvalidError(MintError):
    """{file}, line {line}: {field}: {problem}"""

    code = "stack_file_invalid"


class SettingsInvalidError(MintError):
    """{count} settings are wrong.\n{problems}"""

    code = "settings_invalid"


class EvaluationFailedError(MintError):
    """{name} could not be scored on {on}: {problem}"""

    code = "evaluation_failed"


class BaseMissingError(MintError):
    """No base {name!r} in {folder}, which has {known}: `mint base add tiny|smollm2|PATH`, or --dir."""

    code = "base_missing"


class BaseNameTakenError(MintError):
    """The name {name!r} is taken by another base, {found}; this one is {expected}. Choose another --name."""

    code = "base_name_taken"


class BaseInUseError(MintError):
    """A stack runs with the base {name!r}. Stop it with `mint down --dir {folder}` first."""

    code = "base_in_use"


class HubRefusedError(MintError):
    """{repo} of {endpoint}: {problem}."""

    code = "hub_refused"


class HubUnreachableError(MintError):
    """The download from {endpoint} broke ({problem}). What is complete is kept: try again."""

    code = "hub_unreachable"


class NoRoomError(MintError):
    """{what} needs {need}, and {place} has {free}. {advice}"""

    code = "no_room"


class FleetTooSmallError(MintError):
    """{fleet} is too small: {problem}."""

    code = "fleet_too_small"


class ExtraMissingError(MintError):
    """{option} needs {package}, which is not installed: `pip install {package}` where `mint` is."""

    code = "extra_missing"


class RowsRefusedError(MintError):
    """{what} is refused: {count} problems in its rows."""

    code = "rows_refused"

    def __init__(self, *, what: str, count: int, problems: Sequence[Problem]) -> None:
        super().__init__(what=what, count=count)
        self.problems = tuple(problems)
