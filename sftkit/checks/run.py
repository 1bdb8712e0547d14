"""Look at a training run before it starts, in seconds.

Most of what ruins a fine-tuning run raises no error: the loss falls, and the number at the end
is worse than it should be. Each check here sees one such fault on the real model and the real
batches. The model is left as it was: same weights, same mode, no gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sftkit.batches import Batches
from sftkit.checks.looked_at import LOOK, OK, WRONG, Run
from sftkit.checks.probes import CHECKS
from sftkit.errors import FitError, ParameterError
from sftkit.losses import Loss, classification
from sftkit.modes import evaluated
from sftkit.teach import show

OVERRIDDEN = "overridden"
LAST_WHEN_WRONG = ("ids", "labels", "precision", "repeats")  # the others need these


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    verdict: str  # ok, look (think about it), wrong (training is pointless) or overridden
    message: str


@dataclass
class RunReport:
    """What `check_run` found. ``show`` draws it in a notebook, ``print`` gives plain text."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> list[Finding]:
        """Findings with which training must not start."""
        return [finding for finding in self.findings if finding.verdict == WRONG]

    def table(self) -> show.Table:
        """The findings as a table, the worst first."""
        order = [WRONG, OVERRIDDEN, LOOK, OK]
        rows = sorted(self.findings, key=lambda f: order.index(f.verdict))
        marks = {OK: "✓ ok", LOOK: "! look", WRONG: "✗ wrong", OVERRIDDEN: "✗ overridden"}
        return show.Table(
            [[marks[f.verdict], f.check, f.message] for f in rows],
            ["", "check", "what was found"],
        )

    def show(self) -> None:
        """Show the table in a notebook."""
        from IPython.display import display

        display(self.table())

    def __repr__(self) -> str:
        return repr(self.table())


def check_run(
    model: torch.nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    *,
    labels: Sequence[str] | None = None,
    stop_id: int | None = None,
    corpus: Any = None,
    lr: float = 2e-4,
    overfit_steps: int = 20,
    override: Collection[str] = (),
) -> RunReport:
    """Look at a run before it starts.

    Args:
        model: As `fit` will get it.
        batches: As `fit` will get them.
        loss: As `fit` will get it; classification unless given.
        labels: The class names in the order of the data's labels.
        stop_id: The token that ends an answer, where labels are tokens.
        corpus: The ``DatasetDict`` behind the batches, to look for copies across splits.
        lr: Learning rate for the attempt to learn one batch by heart.
        overfit_steps: Steps of that attempt; 0 leaves it out.
        override: Names of checks whose "wrong" is accepted.

    Returns:
        A `RunReport`, when nothing is certainly wrong.

    Raises:
        FitError: Something is certainly wrong; the message says what, and how to override it.
        ParameterError: ``override`` names a check that does not exist.
    """
    if unknown := sorted(set(override) - CHECKS.keys()):
        raise ParameterError(
            f"override={', '.join(unknown)}: no such check.", f"There are {', '.join(CHECKS)}."
        )
    run = Run(
        model, batches, loss or classification(), labels, stop_id, corpus, lr, overfit_steps
    )
    report = RunReport()
    with evaluated(model):
        for name, check in CHECKS.items():
            model.eval()
            for verdict, message in check(run):
                if verdict == WRONG and name in override:
                    verdict = OVERRIDDEN
                report.findings.append(Finding(name, verdict, message))
            if report.wrong and name in LAST_WHEN_WRONG:
                break
    if report.wrong:
        names = sorted({finding.check for finding in report.wrong})
        raise FitError(
            "this run is certainly wrong:\n"
            + "\n".join(f"  {finding.check}: {finding.message}" for finding in report.wrong),
            f"Mend it, or accept it with override={names}.",
        )
    return report
