"""From a sweep's best student to the model that production loads.

Trials were ranked on validation identities. The benchmark is measured here, on the one student that was
selected, on its teacher and on the present champion: looking further down the ranking for one that passes
would be selecting on the benchmark.
"""

from sweeps.promotion.gates import Verdict
from sweeps.promotion.measuring import Candidate
from sweeps.promotion.promoting import Promotion, Proposal, promote, proposed
from sweeps.promotion.selection import knee, select

__all__ = ["Candidate", "Promotion", "Proposal", "Verdict", "knee", "promote", "proposed", "select"]
