"""Saving a run and going on with it: who holds the folder, what is kept, what is brought back.

`fit` asks here for everything that outlives a process. A run that goes on has the same model,
data, settings and callbacks as the one that was interrupted; what differs is named, and nothing
has been changed by then.
"""

from __future__ import annotations

import functools
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from sftkit import checkpoints, exact, generators
from sftkit.errors import CheckpointError, FitError, SftError
from sftkit.files import Held, held
from sftkit.states import pack, unpack


class Keeper:
    """The checkpoints of one call of `fit`, for all its processes.

    Args:
        folder: Where they are. With several processes, one that all of them can read.
        callbacks: Those that have a ``state_dict`` are saved and brought back.
        keep: How many checkpoints to keep.
        accelerator: Of accelerate, for what several processes must agree on.
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        callbacks: Sequence[Any],
        keep: int,
        accelerator: Any,
    ) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.callbacks = [c for c in callbacks if hasattr(c, "state_dict")]
        self.keep, self.accelerator = keep, accelerator
        self.id = uuid.uuid4().hex

    @contextmanager
    def held(self, resume: bool) -> Iterator[None]:
        """Hold the folder while the block runs; tidy it first.

        Raises:
            FitError: Another process trains in this folder.
            CheckpointError: The folder cannot be made or written.
        """
        with ExitStack() as stack:
            problem: SftError | None = None
            if self.accelerator.is_main_process:
                try:
                    self._enter(stack, resume)
                except SftError as error:
                    problem = error
            # Processes that wait for each other must stop together.
            problem = next((p for p in self._gather(problem) if p is not None), None)
            if problem is not None:
                raise problem
            yield

    def _enter(self, stack: ExitStack, resume: bool) -> None:
        try:
            stack.enter_context(held(self.folder))
            checkpoints.tidy(self.folder)
            aside = None if resume else checkpoints.put_aside(self.folder)
        except Held as problem:
            raise FitError(
                f"{self.folder} is in use by {problem}.",
                "Wait until it ends, end it, or give another folder.",
            ) from None
        except OSError as problem:
            raise CheckpointError(
                f"{self.folder} cannot hold checkpoints: {problem.strerror or problem}.",
                "Give a folder that can be written.",
            ) from problem
        if aside is not None:
            warnings.warn(
                f"checkpoints of an earlier run are now in {aside}, until this one ends; "
                "resume=True would have gone on from them",
                stacklevel=6,
            )

    def _gather(self, content: Any) -> list[Any]:
        if self.accelerator.num_processes == 1:
            return [content]
        from accelerate.utils import gather_object

        return gather_object([content])

    @functools.cached_property
    def conditions(self) -> dict[str, Any]:
        """Those of this run; asked once, since looking up versions takes 10 ms."""
        return exact.conditions(self.accelerator.num_processes)

    def done(self) -> None:
        """The run has ended: what an earlier one left is not needed any more."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / checkpoints.ASIDE, ignore_errors=True)

    # -- save --------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a checkpoint from the first process, with the generators of all."""
        everyone = self._gather(generators.capture())
        if not self.accelerator.is_main_process:
            return
        files: dict[str, dict[str, torch.Tensor]] = {"generators": {}, "callbacks": {}}
        for index, captured in enumerate(everyone):
            files["generators"] |= {f"{index}.{name}": t for name, t in captured.items()}
        told = []
        for number, callback in enumerate(self.callbacks):
            content = pack(callback.state_dict(), str(number), files["callbacks"], callback)
            told.append({"name": type(callback).__name__, "state": content})
        whole = pack(state, "state", {}, self) | {
            "run": self.id,
            "callbacks": told,
            "conditions": self.conditions,
        }
        checkpoints.save(
            self.folder, step, self.model, self.optimizer, whole, keep=self.keep, more=files
        )

    # -- go on -------------------------------------------------------------------------------

    def newest(self) -> Path | None:
        """The checkpoint to go on from, if there is one.

        Raises:
            CheckpointError: It belongs to another run than the one before it.
        """
        found = checkpoints.existing(self.folder)
        if not found:
            return None
        newest = checkpoints.check(found[-1])
        if len(found) > 1:
            before = checkpoints.run_of(found[-2])
            if before is not None and before != newest["run"]:
                raise CheckpointError(
                    f"{found[-1]} is of another run than {found[-2].name} beside it.",
                    f"Take the one that does not belong there out of {self.folder}.",
                )
        return found[-1]

    def restore(
        self, checkpoint: Path, accept: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Bring back model, optimizer, callbacks and, last, the generators.

        Args:
            accept: Raises when the saved state is of another run.

        Returns:
            What `save` was given.
        """

        def all_accept(state: dict[str, Any]) -> None:
            accept(state)
            was = [told["name"] for told in state["callbacks"]]
            now = [type(callback).__name__ for callback in self.callbacks]
            if was != now:
                raise CheckpointError(
                    f"{checkpoint} belongs to another run: callbacks with a state were {was} "
                    f"and are {now}.",
                    "Give the callbacks that the run began with, or start without resume.",
                )

        state = checkpoints.restore(checkpoint, self.model, self.optimizer, all_accept)
        self.id = state["run"]
        tensors = checkpoints.tensors(checkpoint, "callbacks")
        for callback, told in zip(self.callbacks, state.pop("callbacks"), strict=True):
            callback.load_state_dict(unpack(told["state"], tensors))
        self._tell(state["conditions"])
        self._restore_generators(checkpoints.tensors(checkpoint, "generators"))
        return unpack(state, {})

    def _tell(self, was: dict[str, Any]) -> None:
        case = exact.compare(was, self.conditions)
        if not case.identical and self.accelerator.is_main_process:
            warnings.warn(f"resumed under other conditions: {case}", stacklevel=6)

    def _restore_generators(self, saved: dict[str, torch.Tensor]) -> None:
        index = self.accelerator.process_index
        mine = {
            name.partition(".")[2]: tensor
            for name, tensor in saved.items()
            if name.partition(".")[0] == str(index)
        }
        if mine:  # one process more than there were keeps the seed that it has
            generators.restore(mine)

    def weights_at(self, step: int) -> dict[str, torch.Tensor]:
        """The weights of an earlier checkpoint of this run; the model keeps its own."""
        checkpoint = self.folder / f"step-{step:08d}"
        now = weights(self.model)
        try:
            manifest = checkpoints.load_model(checkpoint, self.model)
            best = weights(self.model)
        except CheckpointError as problem:
            raise CheckpointError(
                f"the best weights so far, of step {step}, cannot be read: {problem.what}",
                f"Put {checkpoint} back from a copy, or start without resume.",
            ) from problem
        finally:
            self.model.load_state_dict(now)
        if manifest["run"] != self.id:
            raise CheckpointError(
                f"{checkpoint} is of another run.", "Put this run's own back, or start anew."
            )
        return best


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of parameters and buffers."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}
