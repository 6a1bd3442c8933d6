"""``python -m services.standalone`` is the command `mint`."""

from services.standalone.cli import main

main()
