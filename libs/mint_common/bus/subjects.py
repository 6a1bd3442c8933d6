"""Subject filters as NATS reads them: `*` is one token, a final `>` is one or more."""


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject falls under a filter."""
    wanted = pattern.split(".")
    tokens = subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )
