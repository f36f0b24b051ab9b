"""Errors of a sweep that a caller tells apart, by what it can do about them."""


class RefusedError(RuntimeError):
    """A check refused: a preflight, a gate, a lock. The command line exits with 3; nothing was changed."""
