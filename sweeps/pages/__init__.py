"""What a study found, explained on one page: `sweeps report`."""

from sweeps.pages.write import write_report

__all__ = ["write_report"]
