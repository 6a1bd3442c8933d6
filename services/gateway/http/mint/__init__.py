"""MinT's own API under ``/mint/v1``, one file per noun."""
