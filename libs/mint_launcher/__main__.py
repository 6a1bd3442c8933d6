"""``python -P -m mint_launcher`` is the command `mint`."""

from mint_launcher import main

main()
