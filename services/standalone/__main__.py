"""``python -m services.standalone`` is the command `mint`."""

from mint_client.cli import main

main()
