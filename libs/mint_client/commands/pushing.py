"""`mint revision push`: a revision as a folder for PEFT with a model card, here or on a model hub."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from mint_client.adapters.adapter_sources import hub_errors, hub_of
from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing
from mint_client.commands.names import revision_path
from mint_client.commands.spelling import NamedRevisionArgument, split_name
from mint_client.core.columns import FIELD
from mint_client.core.model_card import model_card
from mint_client.core.refusals import LocalFailureError
from mint_client.core.source_names import HUB
from mint_client.core.tables import field_rows
from mint_client.views.terminal import receiving
from mint_common.errors import NotFound
from mint_common.model_files import CONFIG_FILE, WEIGHTS_FILE

_PACKED = b".lora_A.packed"
_CARD = "README.md"


def push_revision(
    api: PublicApi,
    revision: NamedRevisionArgument,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="hf:ORG/NAME of a model hub, or a new folder.")
    ],
    *,
    hub_base: Annotated[
        str,
        typer.Option(
            "--base-model",
            metavar="ORG/NAME",
            help="The base's name on the hub, for config and card. Default: its name in this stack.",
        ),
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
) -> Listing:
    """Publish a revision in PEFT's format with a model card: base, digest, job and scores.

    A repository that does not exist is created. HF_TOKEN must be allowed to write it.

    Example: mint revision push support@prod hf:my-org/support-lora --base-model HuggingFaceTB/SmolLM2-135M
    """
    if not target.startswith(HUB):
        folder = Path(target).expanduser()
        digest = _write(api, revision, folder, hub_base=hub_base)
        return _listed({"folder": str(folder), "digest": digest})
    name = target.removeprefix(HUB)
    hub = hub_of(HUB).HfApi()
    with TemporaryDirectory(prefix="mint-push-") as place:
        folder = Path(place) / "adapter"
        digest = _write(api, revision, folder, hub_base=hub_base)
        message = f"{split_name(revision)[0]} {digest}"
        with hub_errors(name):
            hub.create_repo(name, private=private, exist_ok=True)
            commit = hub.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return _listed({"repository": name, "commit": commit.oid, "url": commit.commit_url, "digest": digest})


def _listed(found: Json) -> Listing:
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


def _write(api: PublicApi, revision: str, folder: Path, *, hub_base: str) -> str:
    """Write a revision and its card to a new folder; return its digest."""
    path = revision_path(api, revision)
    found = api.get(path)
    card = _card(api, split_name(revision)[0], found, hub_base=hub_base)
    with receiving(Console(stderr=True)) as report:
        digest = api.download(f"{path}/adapter.tar", folder, report)
    if _is_packed(folder / WEIGHTS_FILE):
        problem = (
            "its experts are packed, and PEFT cannot read them: run"
            f" `mint revision download {revision}`, then `mint adapter unpack` where a whole"
            " installation is, and upload the result"
        )
        raise LocalFailureError(what=revision, problem=problem)
    if hub_base:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        config["base_model_name_or_path"] = hub_base
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / _CARD).write_text(card, encoding="utf-8")
    return digest


def _card(api: PublicApi, policy: str, revision: Json, *, hub_base: str) -> str:
    record = api.get(path_of("policies", policy))
    scores = api.rows(path_of("policies", policy, "evaluations"), by="evaluation_id")
    own = [row for row in scores if row["number"] == revision["number"]]
    latest = {(row["suite"], row["metric"]): row for row in own}
    return model_card(
        record,
        revision,
        api.get(path_of("bases", record["base"])),
        _job(api, revision["job_id"]),
        list(latest.values()),
        hub_base=hub_base,
    )


def _job(api: PublicApi, job_id: str | None) -> Json:
    try:
        return api.get(path_of("jobs", job_id)) if job_id else None
    except NotFound:
        return None


def _is_packed(weights: Path) -> bool:
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return _PACKED in file.read(length)
