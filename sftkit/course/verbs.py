"""The verbs that run notebooks and measure: their options, and what they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftkit.errors import ParameterError

GO_ON = "What is done is kept; the same command goes on from there."


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs to the command's parser."""
    sub = verb(
        "run",
        _run,
        "run a notebook with parameters, once",
        "Go on from the last checkpoint with the same command and --resume.",
    )
    sub.add_argument("notebook", metavar="NOTEBOOK", help="number, name or path")
    sub.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="run again what is done")
    how.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    sub.add_argument("--store", default="runs", metavar="DIR", help="folder of all runs")
    sub.add_argument("--list-parameters", action="store_true", help="show them and stop")
    sub.add_argument("--folder", type=Path, metavar="DIR", help="notebooks' folder")

    kept = "What was measured is kept; the same command goes on from there."
    sub = verb("bench", _bench, "measure speed and memory against other programs", kept)
    sub.add_argument("names", nargs="*", metavar="NAME", help="none: all of them")
    sub.add_argument(
        "--full", action="store_true", help="the long form, kept with the repository"
    )
    sub.add_argument("--quick", action="store_true", help="a smoke test; keeps no results")
    sub.add_argument("--list", action="store_true", help="show the names and stop")

    sub = verb("sweep", _sweep, "do the runs of a plan that are missing", GO_ON)
    sub.add_argument("plan", type=Path, metavar="PLAN.yaml")
    sub.add_argument("--dry-run", action="store_true", help="show the runs, and what they cost")
    sub.add_argument(
        "--executor",
        default="processes",
        metavar="WHERE",
        help="processes (default), processes:N, dask://HOST:PORT, slurm:N, submitit-local:N",
    )
    sub.add_argument("--retry-failed", action="store_true", help="try again what failed")
    _store(sub)
    sub.add_argument("--folder", type=Path, metavar="DIR", help="notebooks' folder")

    sub = verb("status", _status, "say what is done, running, failed and left of sweeps")
    sub.add_argument("what", nargs="?", default="runs", metavar="STORE_OR_PLAN")
    _store(sub)

    sub = verb("report", _report, "write a sweep's table, figures and page")
    sub.add_argument("what", nargs="?", default="runs", metavar="STORE_OR_PLAN")
    sub.add_argument("--name", help="of the sweep, when a store holds several")
    sub.add_argument("--to", type=Path, metavar="DIR", help="else STORE/sweeps/NAME/report")
    sub.add_argument("--no-links", action="store_true", help="none to the runs: to give away")
    _store(sub)


def _store(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--store", default="runs", metavar="DIR", help="folder of all runs, or an address"
    )


def _sweep(options: argparse.Namespace) -> int:
    from sftkit.course.sweep import Plan, sweep

    plan = Plan.read(options.plan, options.folder)
    if options.dry_run:
        return _dry_run(plan, options)
    summary = sweep(
        plan,
        store=options.store,
        executor=options.executor,
        retry_failed=options.retry_failed,
    )
    parts = [f"{summary.done} done ({summary.fresh} of them now)"]
    for count, word in (
        (summary.failed, "failed"),
        (summary.stopped, "given up early"),
        (summary.left, "not begun"),
    ):
        parts += [f"{count} {word}"] if count else []
    print(f"{plan.name}: {', '.join(parts)}")
    print(f"the report: sftkit report {options.plan} --store {options.store}")
    return 1 if summary.failed else 0


def _dry_run(plan: Any, options: argparse.Namespace) -> int:
    from sftkit.course.sweep import executors, expand
    from sftkit.course.sweep.estimate import earlier, estimate
    from sftkit.course.sweep.remote import is_address, mirror
    from sftkit.course.sweep.runs import drawn
    from sftkit.course.sweep.status import label_of
    from sftkit.course.sweep.store import run_folder, state_of

    executors.refuse_unknown(options.executor)
    store = mirror(options.store) if is_address(options.store) else Path(options.store)
    guided = plan.search.method == "tpe"
    if guided:
        print(f"guided: {plan.most_runs // plan.copies} configurations, chosen as it goes.")
        print(f"The first could be: {label_of(drawn(plan, 0), plan.varied, None)}")
        runs, todo = [], plan.most_runs
    else:
        runs, todo = expand(plan), 0
    notebook = plan.prepared.source.name
    missing = []
    for run in runs:
        state = state_of(run_folder(store.resolve(), notebook, run.hash), run.hash)
        name = label_of(run.chosen, plan.varied, run.seed, run.repetition)
        print(f"{run.hash[:12]}  {state.name:<8} {name}")
        missing += [run] if state.name != "done" else []
    if not guided:
        todo = len(missing)
        whole = plan.copies * len({run.number for run in runs})
        short = f" (the budget cuts {whole - len(runs)} off)" if whole > len(runs) else ""
        print(f"{len(runs)} runs{short}, {todo} of them to do")
    known = earlier(store, notebook)
    found = estimate(missing or _first(plan), known)
    memory = plan.memory or found.memory or executors.MEMORY
    at_once = executors.size(memory)[0]
    if guided and found.seconds is not None:
        from dataclasses import replace

        found = replace(found, seconds=found.seconds * todo)
    print(found.words(at_once) if todo else "everything is done")
    return 0


def _first(plan: Any) -> list[Any]:
    from sftkit.course.sweep.runs import copies, drawn

    return copies(plan, 0, drawn(plan, 0))[:1] if plan.search.method != "grid" else []


def _find(options: argparse.Namespace) -> tuple[Path, str | None]:
    """The store, and the sweep's name if a plan was given."""
    from sftkit.course.sweep.remote import is_address, mirror

    what, store, name = Path(options.what), options.store, None
    if what.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(what.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ParameterError(f"{what} cannot be read: {error}") from None
        name = str((content or {}).get("name", what.stem))
    elif options.what != "runs":
        store = options.what
    return (mirror(store) if is_address(str(store)) else Path(store).resolve()), name


def _status(options: argparse.Namespace) -> int:
    from sftkit.course.sweep.status import status_words
    from sftkit.course.sweep.store import manifest_of, manifests

    store, name = _find(options)
    chosen = [manifest_of(store, name)] if name else manifests(store) or [manifest_of(store)]
    for manifest in chosen:
        print("\n".join(status_words(store, manifest)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from sftkit.course.report import write_report

    store, name = _find(options)
    name = options.name or name
    written = write_report(store, name, options.to, links=not options.no_links)
    for note in written.notes:
        print(note, file=sys.stderr)
    print(f"read it: {written.page}\nthe table: {written.table}")
    return 0


def show_result(result: Any) -> None:
    """What ``sftkit run`` prints in the end."""
    from sftkit.course.records import flat
    from sftkit.teach.show import Table

    rows = flat(result.metrics)
    if rows:
        print(Table(rows, ["result", "value  [95 % interval]"]))
    data = result.data
    facts = [f"{data['timings']['seconds']:.0f} s"]
    if data.get("device"):
        facts.append(f"{data['device']}, {data['threads']} threads")
    if data.get("gflops"):
        facts.append(f"{data['gflops']['value']:.0f} GFLOP/s in float32 matrix products")
    print(f"\n{', '.join(facts)}")
    print(f"read it: {result.html}")


def _run(options: argparse.Namespace) -> int:
    from sftkit.course.run import run

    if options.list_parameters:
        return _list_parameters(options)
    given = {}
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ParameterError(f"'-p {text}' is not of the form NAME=VALUE.", "-p epochs=3")
        given[name.strip()] = value
    result = run(
        options.notebook,
        given,
        force=options.force,
        resume=options.resume,
        store=options.store,
        folder=options.folder,
    )
    show_result(result)
    return 0


def _list_parameters(options: argparse.Namespace) -> int:
    from sftkit.course import notebooks
    from sftkit.course.parameters import parse
    from sftkit.course.run import SET_BY_RUNNER

    source = notebooks.find(options.notebook, options.folder)
    cell = notebooks.parameters_cell(notebooks.read(source))
    for parameter in parse(cell.source, source.name) if cell is not None else []:
        if parameter.name not in SET_BY_RUNNER:
            print(parameter)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from sftkit.course import bench

    if options.list:
        print(bench.listing())
        return 0
    return bench.bench(options.names, full=options.full, quick=options.quick)
