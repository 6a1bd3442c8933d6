"""Tests of one engine over a base of 8 experts: as a package, the folder is a scope of fixtures."""
