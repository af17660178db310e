"""hfvision against transformers (or timm) side by side: equal first, then faster.

    from hfvision.bench import Setting, run
    report = run(["forward"], Setting(rounds=7), pattern="vit-*")
    print(report.to_markdown())

A case builds both sides with the same random weights and inputs. Their answers are compared first; those that differ
are not timed. Then theirs and ours take turns in one process, so that both meet the same load of the machine, and the
ratio is the median over the pairs of neighbours. Peak memory is measured in child processes, one for each side; what
the machine can do at most (products of matrices through each kernel that torch has) in the same run.

Importing this package brings neither torch nor transformers.
"""

from hfvision.bench.case import Case, Goal, Pair, Setting, Unavailable
from hfvision.bench.report import Report, Row
from hfvision.bench.runner import run
from hfvision.bench.suites import SUITES

__all__ = ["SUITES", "Case", "Goal", "Pair", "Report", "Row", "Setting", "Unavailable", "run"]
