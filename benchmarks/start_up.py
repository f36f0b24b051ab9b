"""How long importing the packages and `sweeps --help` take, and whether anything heavy comes with them."""

import subprocess
import sys
from pathlib import Path

from benchmarks.row import Goal, Row, seconds

HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "numpy")
IMPORT = "import distill, sweeps, sweeps.cli"
LOOK = f"""
import sys
{IMPORT}
try:
    sweeps.cli.main(["--help"])
finally:
    print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def measure(quick: bool) -> list[Row]:
    """Each in processes of its own, the first of which is not counted: it reads the files from disk."""
    repetitions = 1 if quick else 11
    command = str(Path(sys.executable).parent / "sweeps")
    loaded = _run([sys.executable, "-c", LOOK]).stderr.split()
    return [
        _row("import", "import of distill and sweeps", [sys.executable, "-c", IMPORT], repetitions),
        _row("help", "`sweeps --help`", [command, "--help"], repetitions),
        Row(
            name="heavy_imports",
            what="heavy packages that `sweeps --help` imports",
            unit="packages",
            ours=[float(len(loaded))],
            goal=Goal(side="at most", bound=0),
            note=f"of {', '.join(HEAVY)}: {', '.join(loaded) or 'none'}",
        ),
    ]


def _row(name: str, what: str, command: list[str], repetitions: int) -> Row:
    _run(command)
    return Row(
        name=name,
        what=what,
        unit="s",
        ours=[seconds(lambda: _run(command)) for _ in range(repetitions)],
        goal=Goal(side="at most", bound=0.4),
        note="a process from its start to its end",
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True)
