"""`mint key`: who may do what."""

from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import Listing, api_command, group
from mint_client.commands.options import AfterOption, LimitOption, names_in
from mint_client.core.columns import FIELD, KEY
from mint_client.core.tables import field_rows

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="A key's id (mint key list).")]
KeyNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the key in histories and in the audit log.")
]
ScopesOption = Annotated[
    str, typer.Option(metavar="LIST", help="Scopes of the key: some of read,infer,train,admin.")
]


def list_keys(api: PublicApi, *, limit: LimitOption = 1000, after: AfterOption = None) -> Listing:
    """List keys by id, revoked ones too.

    Example: mint key list
    """
    return Listing(answer=api.get("/keys", {"limit": limit, "after": after}), columns=KEY)


def create_key(api: PublicApi, name: KeyNameArgument, *, scopes: ScopesOption = "read,infer,train") -> str:
    """Create an API key and print it. It is shown only once.

    Example: mint key create ci --scopes read,infer
    """
    return str(api.post("/keys", {"name": name, "scopes": names_in(scopes)})["key"])


def rotate_key(api: PublicApi, key: KeyArgument) -> str:
    """Replace a key by a new one with the same id and print it. It is shown only once.

    Example: mint key rotate key_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return str(api.post(path_of("keys", key, "rotate"))["key"])


def revoke_key(api: PublicApi, key: KeyArgument) -> str:
    """Revoke a key permanently.

    Example: mint key revoke key_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    api.delete(path_of("keys", key))
    return f"revoked {key}"


@api_command
def whoami(api: PublicApi) -> Listing:
    """Show which stack commands use, and the tenant, name and scopes of the key.

    Example: mint whoami
    """
    found = {"stack": api.url, **api.get("/whoami")}
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


key_app = group("List, create, rotate or revoke API keys.", list_keys, create_key, rotate_key, revoke_key)
