"""Losses over packed target tokens: values and gradients only, no model.

Every loss is a sum over tokens, so that the parts of a step add up however it is cut; managed jobs divide by
the completion tokens of the step.
"""
