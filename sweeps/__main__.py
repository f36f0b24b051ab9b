"""`python -m sweeps`: the `sweeps` command where it is not installed, as in a cluster's job."""

from sweeps.cli import main

if __name__ == "__main__":
    main(prog_name="sweeps")
