"""For tests of MinT and of whatever builds on it: contract suites, memory adapters, factories, receivers."""
