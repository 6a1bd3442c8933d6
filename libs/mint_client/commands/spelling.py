"""A revision as an argument: `POLICY@REV`, or as two arguments, `POLICY REV`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from mint_common.errors import InvalidField

NamedRevisionArgument = Annotated[
    str,
    typer.Argument(
        metavar="POLICY@REV",
        help="A revision: its policy's name, @, then a number, digest, alias, latest or best.",
    ),
]
MovedRevisionArgument = Annotated[
    str,
    typer.Argument(
        metavar="POLICY@REV",
        help="The revision to point at: a policy's name, @, then a number, digest, alias, latest or best.",
    ),
]
"""A `NamedRevisionArgument` whose second argument, if there are two, is the command's last."""
EXTRA_ARGUMENTS = {"allow_extra_args": True}
"""Context settings of a command whose revision may be spelt as two arguments."""


def join_name(
    name: str, others: Sequence[str | None], extra: Sequence[str], *, is_last: bool
) -> list[str | None]:
    """Return a command's arguments with ``POLICY@REV`` first; ``extra`` are those beyond its own.

    Raises InvalidField for a superfluous argument.
    """
    given = [*(other for other in others if other is not None), *extra]
    if "@" not in name and given:
        revision = given.pop(-1 if is_last else 0)
        name = f"{name}@{revision}"
    if len(given) > len(others):
        raise InvalidField(field=given[-1], problem=f"is one argument too many for {name}")
    return [name, *given, *[None] * (len(others) - len(given))]


def split_name(name: str) -> tuple[str, str]:
    """Return the policy and the revision of ``POLICY@REV``. Raises InvalidField."""
    policy, _, revision = name.partition("@")
    if not policy or not revision:
        problem = f"{name!r} is not POLICY@REV, where REV is a number, a digest, an alias, latest or best"
        raise InvalidField(field="POLICY@REV", problem=problem)
    return policy, revision
