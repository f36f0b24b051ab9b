"""The errors a caller may tell apart. Each message is one sentence for the person who made the input."""


class InputError(ValueError):
    """A setting, a file or an argument of the user's is wrong. The command line exits with 2."""


class TeacherError(InputError):
    """A teacher's file is missing, is not the one that was named, or does not fit its network."""


class DivergenceError(RuntimeError):
    """Training met a loss or a metric that is not finite. The trial fails; its numbers are not reported."""


class RefusedError(RuntimeError):
    """A check refused: a preflight, a gate, a lock, an export. Nothing was changed. The command line exits
    with 3."""
