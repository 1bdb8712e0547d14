"""Callbacks of `fit` that tell TensorBoard or MLflow. Both packages are optional.

fit(..., callbacks=[TensorBoard(Path(out) / "tensorboard")])
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from sftkit.fit_settings import FitState

SHOWN = ("loss", "lr", "gradient_norm")  # of each step


class TensorBoard:
    """Writes event files into a folder: ``tensorboard --logdir FOLDER`` shows them.

    Args:
        folder: One per run.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self.writer = SummaryWriter(str(folder))

    def on_step(self, model: torch.nn.Module, state: FitState) -> None:
        row = state.history[-1]
        for name in SHOWN:
            self.writer.add_scalar(f"training/{name}", row[name], state.step)

    def on_evaluate(self, model: torch.nn.Module, state: FitState) -> None:
        for name, value in _numbers(state.evaluations[-1]).items():
            self.writer.add_scalar(f"evaluation/{name}", value, state.step)
        self.writer.flush()


class MLflow:
    """Writes a run into MLflow's store in a folder: ``mlflow ui`` shows it.

    Args:
        folder: Of the store, which many runs share.
        name: Of this run.
        parameters: Shown beside the numbers.
    """

    def __init__(
        self, folder: str | Path, name: str = "", parameters: dict[str, Any] | None = None
    ) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder, no database
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise _missing("mlflow-skinny") from None
        self.client = MlflowClient(Path(folder).resolve().as_uri())
        found = self.client.get_experiment_by_name("sftkit")
        experiment = found.experiment_id if found else self.client.create_experiment("sftkit")
        self.run = self.client.create_run(experiment, run_name=name or None).info.run_id
        for key, value in (parameters or {}).items():
            self.client.log_param(self.run, key, value)

    def on_step(self, model: torch.nn.Module, state: FitState) -> None:
        row = state.history[-1]
        for name in SHOWN:
            self.client.log_metric(self.run, name, row[name], step=state.step)

    def on_evaluate(self, model: torch.nn.Module, state: FitState) -> None:
        for name, value in _numbers(state.evaluations[-1]).items():
            self.client.log_metric(self.run, f"evaluation_{name}", value, step=state.step)


def _numbers(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


def _missing(package: str) -> ParameterError:
    return ParameterError(
        f"This logger needs the package {package}, which is not installed.",
        "pip install 'sftkit[loggers]'   (in a checkout: pip install -c constraints.txt "
        "-e '.[loggers]')",
    )
