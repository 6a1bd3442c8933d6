"""Managed algorithms: a module each, which `mint_common.algorithms` names."""
