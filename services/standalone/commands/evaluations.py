"""`mint eval`: record and list scores."""

from typing import Annotated

import typer

from services.standalone.adapters.public_api import PublicApi, path_of
from services.standalone.commands.api import Listing, group
from services.standalone.commands.names import resolve_revision
from services.standalone.commands.options import AfterOption, LimitOption, PolicyArgument, RevisionArgument
from services.standalone.core.columns import EVALUATION


def list_evaluations(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 100, after: AfterOption = None
) -> Listing:
    """List the scores of a policy's revisions, oldest first.

    Example: mint eval list counter
    """
    found = api.get(path_of("policies", policy, "evaluations"), {"limit": limit, "after": after})
    return Listing(answer=found, columns=EVALUATION, nothing="no score yet", page_by="evaluation_id")


def record_evaluation(  # noqa: PLR0917  # arguments of a command
    api: PublicApi,
    policy: PolicyArgument,
    revision: RevisionArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="What it was scored on.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="What was measured.")],
    value: Annotated[float, typer.Argument(metavar="VALUE", help="The score.")],
    *,
    n: Annotated[int, typer.Option("--n", min=1, help="Over how many items.")] = 1,
    stderr: Annotated[float | None, typer.Option("--stderr", help="The score's standard error.")] = None,
) -> Listing:
    """Record a score of a revision; rules act upon it.

    Example: mint eval record counter 20 held-out accuracy 0.81 --n 256 --stderr 0.02
    """
    scored = {"revision": resolve_revision(api, policy, revision), "value": value, "n": n, "stderr": stderr}
    body = {**scored, "suite": suite, "metric": metric}
    return Listing(answer=api.post(path_of("policies", policy, "evaluations"), body), columns=EVALUATION)


eval_app = group("List or record scores.", list_evaluations, record_evaluation)
