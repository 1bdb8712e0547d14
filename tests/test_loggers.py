"""Loggers write what the other tools read back."""

from __future__ import annotations

import builtins

import pytest

from sftkit.errors import ParameterError
from sftkit.fit_settings import FitState
from sftkit.loggers import MLflow, TensorBoard


def state() -> FitState:
    history = [{"loss": 1.5, "lr": 0.1, "gradient_norm": 2.0}]
    return FitState(step=1, history=history, evaluations=[{"step": 1, "accuracy": 0.75}])


def test_tensorboard_reads_back_what_was_logged(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    logger.on_step(None, state())
    logger.on_evaluate(None, state())
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("training/loss")[0].value == 1.5
    assert events.Scalars("evaluation/accuracy")[0].value == 0.75
    assert events.Scalars("evaluation/accuracy")[0].step == 1


def test_mlflow_reads_back_what_was_logged(tmp_path) -> None:
    logger = MLflow(tmp_path, "a run", {"lr": 0.1})
    logger.on_step(None, state())
    logger.on_evaluate(None, state())
    second = MLflow(tmp_path, "another")
    run = logger.client.get_run(logger.run)
    assert run.data.metrics["loss"] == 1.5 and run.data.metrics["evaluation_accuracy"] == 0.75
    assert run.data.params == {"lr": "0.1"} and second.run != logger.run


@pytest.mark.parametrize(("logger", "root"), [(TensorBoard, "torch.utils"), (MLflow, "mlflow")])
def test_a_missing_package_is_named(logger, root, tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith(root):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ParameterError, match="pip install"):
        logger(tmp_path)


def test_a_state_at_the_end_of_a_cell_prints_one_line() -> None:
    long = FitState(step=2, history=[{"loss": 2.0}, {"loss": 0.5}], stopped="no gain")
    assert repr(long) == "<FitState: 2 steps, loss 2.000 to 0.500, no gain>"
    assert repr(FitState()) == "<FitState: 0 steps>"
