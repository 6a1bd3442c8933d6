"""The thin client of MinT: the commands that speak to a running stack, and the Python client behind them."""
