"""The console: pages of the gateway that show what its public API answers, and forms that call it."""
