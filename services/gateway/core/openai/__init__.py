"""The OpenAI API as a translation: its requests into generation requests, chunks into its answers.

Invariants: every answer names the revision that the engine said it used, never the one that was asked for; a
field that cannot take effect is refused by name.
"""
