"""Errors of a full disk."""

import errno


def full_disk(error: BaseException | None) -> OSError | None:
    """Return the error of a full disk that another one comes from, if it does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return error
        error = error.__cause__
    return None
