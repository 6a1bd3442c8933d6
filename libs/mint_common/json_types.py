"""Types of JSON values that leave the process."""

JsonObject = dict[str, object]
"""A JSON object of an answer, made field by field next to where it is sent."""
