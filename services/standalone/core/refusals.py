"""Refusals of `mint`, each with advice. They are printed, never sent, and have no codes."""

from mint_common.errors import MintError


class StackRunningError(MintError):
    """A stack runs on {folder} already (pid {pid}). Stop it with `mint down --dir {folder}`, or use another --dir."""  # noqa: E501  # the docstring is the message


class StackHasDataError(MintError):
    """The stack on {folder} has data, and --demo fills a new one: use another --dir, or start it without --demo."""  # noqa: E501  # the docstring is the message


class GatewayPortBusyError(MintError):
    """Port {port} is taken by {holder}. Stop that process, or use another port: `mint up --port N`."""


class FolderUnusableError(MintError):
    """{folder} cannot be a state folder: {problem}. Use another --dir."""


class StackFileInvalidError(MintError):
    """{file}, line {line}: {field}: {problem}"""


class SettingsInvalidError(MintError):
    """Wrong settings: {count}.\n{problems}"""


class BaseMissingError(MintError):
    """No base {name!r} in {folder}, which has {known}: `mint base add tiny|smollm2|ORG/NAME|FOLDER`, or --dir."""  # noqa: E501  # the docstring is the message


class BaseNameTakenError(MintError):
    """The name {name!r} is taken by another base, {found}; this one is {expected}. Choose another --name."""


class BaseInUseError(MintError):
    """A stack runs with the base {name!r}. Stop it with `mint down --dir {folder}` first."""


class ProbeFailedError(MintError):
    """The probe of {source} failed, so it is not added. {lines}. What may be done: {advice}."""


class HubRefusedError(MintError):
    """{repo} of {endpoint}: {problem}."""


class HubUnreachableError(MintError):
    """The hub at {endpoint} cannot be reached, or the download broke ({problem}). Complete files are kept: try again, set HF_ENDPOINT to another hub, or name a folder of the model's files."""  # noqa: E501  # the docstring is the message


class EnvironmentNotInstalledError(MintError):
    """The environment {name!r} is not installed, and nothing is left of it: {problem}"""


class UvMissingError(MintError):
    """`uv` installs environments, and is not there: put it on PATH (https://docs.astral.sh/uv)."""


class NoRoomError(MintError):
    """{what} needs {need}, and {place} has {free}. {advice}"""


class FleetTooSmallError(MintError):
    """{fleet} is too small: {problem}."""
