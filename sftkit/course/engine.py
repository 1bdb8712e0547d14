"""One notebook through papermill, with bars outside and in, and failures as sentences."""

from __future__ import annotations

import ast
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sftkit.course import kernel

FACTS = "__import__('sftkit.course.facts', fromlist=['as_json']).as_json()"
POLL = 0.5  # seconds between looks at the progress file


def execute(
    notebook: Any, name: str, parameters: dict[str, Any], path: Path, progress_file: Path
) -> tuple[Any, dict[str, Any]]:
    """Execute a notebook with parameters; the file at ``path`` grows cell by cell.

    Args:
        notebook: From `notebooks.read`.
        name: For messages.
        parameters: Values for the parameters cell.
        path: The executed notebook; it stays, in part, when a cell fails.
        progress_file: Through which the kernel tells its steps.

    Returns:
        The executed notebook, and the facts from its kernel (versions, device, threads,
        measured GFLOP/s).

    Raises:
        CellFailed: A cell failed or the kernel died.
    """
    import copy

    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    kernel.quiet_loop()
    engine = _register()
    facts: dict[str, Any] = {}
    # Papermill adds its cell to the notebook and numbers the calls, so it gets a copy.
    watcher = _Watcher(name, len(notebook.cells) + bool(parameters), progress_file)
    fix = f"The notebook as far as it came: {path}"
    with watcher:
        try:
            executed = execute_notebook(
                copy.deepcopy(notebook),
                path,
                parameters=parameters,
                engine_name=engine,
                progress_bar=False,
                start_timeout=kernel.START_TIMEOUT,
                on_cell_start=watcher.cell_starts,
                on_cell_execute=watcher.cell_executes,
                facts=facts,
                **kernel.options(path.parent, progress_file),
            )
        except PapermillExecutionError as error:
            output = {
                "ename": error.ename,
                "evalue": error.evalue,
                "traceback": error.traceback,
            }
            raise kernel.cell_failed(
                name, error.exec_count, error.source, output, fix
            ) from None
        except DeadKernelError:
            died = kernel.kernel_died(name, watcher.number)
            raise kernel.kernel_died(name, watcher.number, f"{died.fix} {fix}") from None
    return executed, facts


def _register() -> str:
    """An engine that also asks the kernel for facts, under a name for papermill."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.utils import merge_kwargs, remove_args

    class Client(PapermillNotebookClient):
        facts: dict[str, Any] | None = None

        def papermill_execute_cells(self) -> None:
            super().papermill_execute_cells()
            if self.facts is None or self.nb.metadata.papermill.get("exception"):
                return
            asked = self.kc.execute(
                "", silent=True, store_history=False, user_expressions={"facts": FACTS}
            )
            reply = self.wait_for_reply(asked)["content"]["user_expressions"]["facts"]
            if reply["status"] == "ok":
                self.facts.update(json.loads(ast.literal_eval(reply["data"]["text/plain"])))

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, facts: dict[str, Any], **options: Any
        ) -> Any:
            # Papermill's own engine, but for the class of the client.
            options = remove_args(["input_path", "execution_timeout"], **options)
            startup = options.pop("start_timeout", kernel.START_TIMEOUT)
            final = merge_kwargs(options, kernel_name=kernel_name, startup_timeout=startup)

            def client() -> Client:
                made = Client(nb_man, **final)
                made.facts = facts
                return made

            return kernel.execute(client)

    papermill_engines.register("sftkit", Engine)
    return "sftkit"


class _Watcher:
    """Shows progress on stderr: two bars for a person, plain lines for a log."""

    def __init__(self, name: str, cells: int, progress_file: Path) -> None:
        self.name, self.cells, self.file = name, cells, progress_file
        self.number: int | None = None  # of the code cell under way
        self.person = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._outer: Any = None
        self._inner: Any = None
        self._began = time.monotonic()
        self._before: tuple[int, str, float] | None = None

    def __enter__(self) -> _Watcher:
        if self.person:
            from tqdm import tqdm

            self._outer = tqdm(total=self.cells, unit="cell", desc=self.name, position=0)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._stop.set()
        if self.person:
            self._thread.join()
            if kind is None:
                self._outer.update(self.cells - self._outer.n)
            self._outer.close()
        elif kind is None:
            self._line()
            self._say(f"done in {time.monotonic() - self._began:.1f} s")

    def cell_starts(self, cell: Any, cell_index: int) -> None:
        """Called for every cell, also for text."""
        if self.person:
            self._outer.update(cell_index - self._outer.n)

    def cell_executes(self, cell: Any, cell_index: int) -> None:
        """Called for a cell with code."""
        self.number = (self.number or 0) + 1
        if self.person:
            return
        self._line()
        lines = [line.strip() for line in cell.source.splitlines()]
        first = next((line for line in lines if line and not line.startswith("#")), "")
        self._before = (cell_index + 1, first[:60], time.monotonic())

    def _line(self) -> None:
        """The finished cell as a line."""
        if self._before is not None:
            index, first, start = self._before
            self._say(f"[{index}/{self.cells}] {time.monotonic() - start:6.1f} s  {first}")

    def _say(self, text: str) -> None:
        print(f"{self.name} {text}", file=sys.stderr, flush=True)

    def _poll(self) -> None:
        from tqdm import tqdm

        shown: dict[str, Any] = {}
        while not self._stop.wait(POLL):
            try:
                state = json.loads(self.file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if state == shown:
                continue
            fresh = self._inner is None or shown.get("label") != state["label"]
            if fresh or state["done"] < shown["done"]:
                if self._inner is not None:
                    self._inner.close()
                self._inner = tqdm(
                    total=state["total"], desc=f"  {state['label']}", position=1, leave=False
                )
            shown = state
            self._inner.set_postfix(state.get("facts", {}), refresh=False)
            self._inner.update(state["done"] - self._inner.n)
            if state["done"] >= state["total"]:
                self._inner.close()
                self._inner = None
        if self._inner is not None:
            self._inner.close()
