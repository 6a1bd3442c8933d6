"""IPO as an algorithm of a stack's own: `MINT_ALGORITHMS_CUSTOM=examples.ipo.algorithm:ALGORITHM`."""
