"""Write the README's numbers from the records, so that none is typed by hand.

    python benchmarks/readme.py            # rewrite the marked parts of README.md
    python benchmarks/readme.py --check    # fail if they differ from the records

A part lies between ``<!-- results:classification -->`` (or ``results:tasks``) and
``<!-- /results -->``, between
``<!-- bench:classification -->`` (or ``bench:goals``) and ``<!-- /bench -->``, for the sweep
that the repository carries between ``<!-- sweep:what_to_train -->`` and ``<!-- /sweep -->``,
or, for the list of the notebooks that there are, between ``<!-- course:notebooks -->`` and
``<!-- /course -->``.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.campaign import RECORDS, read_records  # noqa: E402
from benchmarks.readme_bench import bench_part, goals_part  # noqa: E402
from benchmarks.readme_tasks import tasks_part  # noqa: E402
from benchmarks.tables import NOTHING_YET, machine, markdown  # noqa: E402
from benchmarks.turns import RESULTS  # noqa: E402
from sftkit.course import notebooks  # noqa: E402
from sftkit.course.report.committed import committed_sweep  # noqa: E402
from sftkit.course.report.rows import Tables, best_by, effects  # noqa: E402
from sftkit.errors import ParameterError  # noqa: E402
from sftkit.files import read_json, write_text  # noqa: E402

README = ROOT / "README.md"
SWEEP = "what_to_train"
MODELS = {"svm": "TF-IDF + linear SVM", "frozen": "frozen encoder", "tuned": "fine-tuned"}
# Lin et al. 2021, "BertGCN: Transductive Text Classification by Combining GCN and BERT",
# table of results, row BERT (base).
PUBLISHED = {"reuters-r8": 97.8, "reuters-r52": 96.4, "newsgroups": 85.3}

Record = dict[str, Any]


def results_part(records: Sequence[Record]) -> str:
    """Accuracy on each data set, the label curve, and the machine that it came from."""
    if not records:
        return NOTHING_YET.format("python benchmarks/campaign.py")
    parts = []
    full = [r for r in records if r["group"] == "benchmarks"]
    curve = [r for r in records if r["group"] == "label-curve"]
    if full:
        parts += [
            "Test accuracy in percent. With several seeds: their mean, and in brackets the "
            "smallest and the largest. With one seed: the 95 % bootstrap interval.\n",
            _results_table(full),
        ]
    if curve:
        parts += ["The same on tweets, by the number of labelled examples:\n", _curve(curve)]
    parts.append(_provenance(records))
    return "\n".join(parts)


def _results_table(records: Sequence[Record]) -> str:
    by_data = _grouped(records, lambda r: r["parameters"]["data"])
    rows = []
    for data, runs in by_data.items():
        # A run on one of several cores shared the machine with other work, and a resumed one
        # knows the time of its last part only.
        alone = [
            r
            for r in runs
            if r["machine"]["threads"] == r["machine"]["cores"] and not r["resumed"]
        ]
        minutes = [r["timings"]["seconds"] / 60 for r in alone]
        labels = max(r["metrics"]["train_rows"] for r in runs)
        rows.append(
            [data, f"{labels:,}", str(len(runs)), *(percent(runs, key) for key in MODELS)]
            + [
                f"{PUBLISHED[data]:.1f}" if data in PUBLISHED else "",
                f"{statistics.median(minutes):.0f}" if minutes else "–",
            ]
        )
    header = ["data", "labels", "seeds", *MODELS.values(), "BERT-base, published", "minutes"]
    note = (
        "Published: Lin et al. 2021 (BertGCN), a model five times as large. Minutes are those "
        "of the whole notebook, baselines included; – where the runs shared the machine or "
        "were resumed.\n"
    )
    return f"{markdown(header, rows)}\n{note}"


def _curve(records: Sequence[Record]) -> str:
    by_limit = _grouped(records, lambda r: r["parameters"]["limit"])
    rows = [
        [f"{limit:,}", str(len(runs)), *(percent(runs, key) for key in MODELS)]
        for limit, runs in sorted(by_limit.items())
    ]
    return markdown(["labels", "seeds", *MODELS.values()], rows)


def percent(runs: Sequence[Record], key: str) -> str:
    """``"79.4 (79.1 to 79.8)"``: mean and range over seeds, or value and interval of one."""
    found = [r["metrics"][key]["accuracy"] for r in runs]
    values = [100 * accuracy["value"] for accuracy in found]
    low, high = min(values), max(values)
    if len(values) == 1:
        low, high = 100 * found[0]["low"], 100 * found[0]["high"]
    return f"{statistics.fmean(values):.1f} ({low:.1f} to {high:.1f})"


def _provenance(records: Sequence[Record]) -> str:
    machines = sorted({machine(r["machine"]) for r in records})
    versions = sorted({f"torch {r['versions']['torch']}" for r in records})
    first, last = min(r["date"] for r in records), max(r["date"] for r in records)
    when = first if first == last else f"{first} to {last}"
    return (
        f"{len(records)} runs of notebook 07, {when}, {', '.join(versions)}, on "
        f"{'; '.join(machines)}. Again: `python benchmarks/campaign.py`.\n"
    )


def course_part(folder: Path | None = None) -> str:
    """The notebooks that there are: number, link, question, minutes."""
    rows = []
    for source in notebooks.sources(folder):
        notebook = notebooks.read(source)
        title = notebooks.title(notebook)
        name = title.split("·", 1)[-1].strip()
        minutes = notebooks.header(notebook, source.name).minutes
        link = f"[{name}](notebooks/{source.executed.name})"
        rows.append(
            [f"{source.number:02d}", link, notebooks.question(notebook), f"{minutes:g}"]
        )
    return markdown(["", "notebook", "question", "minutes"], rows)


def sweep_part(found: Tables | None) -> str:
    """What is trained, each at its best rate and epochs, and the share of each parameter."""
    if found is None:
        return NOTHING_YET.format(f"sftkit sweep benchmarks/plans/{SWEEP}.yaml --store runs")
    done = found.done().set_index("run")
    rows = []
    for best in best_by(found, "train"):
        runs, chosen = done.loc[best.runs], best.chosen
        test = runs["tuned.accuracy"]
        rows.append([
            chosen["train"],
            f"{chosen['lr']:g}",
            f"{chosen['epochs']:g}",
            f"{100 * best.mean:.1f} ({100 * best.low:.1f} to {100 * best.high:.1f})",
            f"{100 * test.mean():.1f} ({100 * test.min():.1f} to {100 * test.max():.1f})",
        ])  # fmt: skip
    lost = len(found.runs) - len(done)
    failed = f", {lost} failed" if lost else ""
    shares = ", ".join(f"{e.name} {100 * e.share:.0f} %" for e in effects(found))
    table = markdown(["trained", "rate", "epochs", "validation", "test"], rows)
    return (
        f"{len(done)} runs done{failed}, {len(set(done['seed']))} seeds each. For each choice "
        "of what is trained, the rate and the number of epochs with the best validation "
        "accuracy in percent (mean over seeds with its 95 % interval), and the test accuracy "
        f"there (mean, smallest and largest).\n\n{table}\nShares of the variance of the "
        f"validation accuracy: {shares}.\n"
    )


def _grouped(records: Iterable[Record], key: Any) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def put(text: str, kind: str, name: str, content: str) -> str:
    """The text with the part between the markers of ``kind:name`` replaced.

    Raises:
        ParameterError: When the markers are not there exactly once.
    """
    start, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind} -->"
    pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", re.DOTALL)
    new, count = pattern.subn(lambda m: m[1] + content + m[2], text)
    if count != 1:
        raise ParameterError(
            f"README.md has {count} parts between {start} and {end}.", "There must be one."
        )
    return new


def updated(
    text: str, records: Path = RECORDS, results: Path = RESULTS, checkout: Path = ROOT
) -> str:
    """The README with its parts as records, results, sweep and notebooks give them."""
    text = put(text, "course", "notebooks", course_part())
    text = put(text, "results", "classification", results_part(read_records(records)))
    text = put(text, "results", "tasks", tasks_part(records.parent))
    text = put(text, "sweep", SWEEP, sweep_part(committed_sweep(SWEEP, checkout)))
    text = put(text, "bench", "goals", goals_part(results))
    result = results / "classification.json"
    bench = read_json(result) if result.is_file() else None
    return put(text, "bench", "classification", bench_part(bench))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    options = parser.parse_args(arguments)
    before = README.read_text(encoding="utf-8")
    after = updated(before)
    if options.check and before != after:
        sys.exit("README.md differs from the records: run python benchmarks/readme.py")
    if not options.check:
        write_text(README, after)


if __name__ == "__main__":
    main()
