"""The command ``sftkit``: a verb per job. Modules are imported by the verb that needs them."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftkit import __version__
from sftkit.course import verbs as course_verbs
from sftkit.errors import ParameterError, SftError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk, a quota, a file's size
INTERRUPTED = 130  # what shells expect after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        0 for success, 1 when a check found problems, 2 for an error, 130 when interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if rest and options.verb != "test":  # what test does not know goes to pytest
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.more = rest
    try:
        return options.work(options)
    except SftError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nInterrupted. {options.when_interrupted}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has had enough
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"The disk is full{where}: {error.strerror}.", file=sys.stderr)
        print("  Make room, or give another folder; then repeat the command.", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sftkit", description="Supervised fine-tuning, learned and done in notebooks."
    )
    parser.add_argument("--version", action="version", version=f"sftkit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, work: Any, text: str, interrupted: str = "") -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(work=work, when_interrupted=interrupted or "Nothing was changed.")
        return sub

    verb("doctor", _doctor, "say what is wrong with this environment, and how to mend it")

    again = "What was fetched is kept; the same command goes on from there."
    sub = verb("assets", _assets, "pinned models and data sets: list, fetch, verify", again)
    sub.add_argument("action", choices=["list", "fetch", "verify", "licenses"])
    sub.add_argument("names", nargs="*", metavar="NAME", help="none: all of them")
    sub.add_argument("--force", action="store_true", help="fetch again")

    sub = verb("data", _data, "report on a data set: an embedded one, a file, a folder, hub:ID")
    sub.add_argument("data", metavar="NAME_OR_PATH")
    sub.add_argument("--text", default="text", metavar="COLUMN")
    sub.add_argument("--text-pair", metavar="COLUMN", help="the second text of pairs")
    sub.add_argument("--label", default="label", metavar="COLUMN")
    sub.add_argument("--model", default="minilm", help="whose tokens are counted")
    sub.add_argument("--max-length", type=int, default=128, metavar="TOKENS")

    sub = verb("notebooks", _notebooks, "list the notebooks with their questions")
    _folder(sub)

    sub = verb(
        "build",
        _build,
        "execute notebooks from their sources and keep the outputs",
        "Notebooks that were built before stay built; the one under way is as it was.",
    )
    sub.add_argument("names", nargs="*", metavar="NN", help="numbers, names or paths")
    sub.add_argument("--all", action="store_true", help="every notebook")
    sub.add_argument("--force", action="store_true", help="also what is up to date")
    _folder(sub)

    for name, text in (
        ("student", "write notebooks without solutions and outputs, to hand out"),
        ("solutions", "write notebooks with their solutions, without outputs"),
    ):
        sub = verb(name, _handouts, text)
        sub.add_argument("names", nargs="*", metavar="NN", help="none: all of them")
        sub.add_argument("--to", type=Path, default=Path(name), metavar="DIR")
        _folder(sub)

    sub = verb("proofs", _proofs, "list what the executed notebooks compared, with the errors")
    _folder(sub)

    sub = verb("check", _check, "say whether sources and executed notebooks agree")
    _folder(sub)

    course_verbs.add(verb)

    again = "The folder is as it was; the same command begins again."
    sub = verb(
        "export", _export, "merge a run's adapters into a folder for transformers", again
    )
    sub.add_argument("adapter", metavar="ADAPTER", help="the folder adapter/ of a run")
    sub.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    sub.add_argument("--base", metavar="MODEL", help="the base model, if it has moved")

    sub = verb("lab", _lab, "open JupyterLab in the notebooks' folder")
    _folder(sub)

    sub = verb("test", _test, "run all tests; further arguments go to pytest")
    sub.add_argument("--slow", action="store_true", help="only the tests that take minutes")
    return parser


def _folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--folder", type=Path, metavar="DIR", help="notebooks' folder, which holds src/"
    )


def _doctor(options: argparse.Namespace) -> int:
    from sftkit import doctor

    return doctor.report()


def _assets(options: argparse.Namespace) -> int:
    from sftkit import assets

    names = options.names or None
    if options.action == "list":
        print(assets.table())
    elif options.action == "licenses":
        print(assets.licence_table())
    elif options.action == "fetch":
        for folder in assets.fetch(names, force=options.force):
            print(folder)
    else:
        problems = assets.verify(names)
        for problem in problems:
            print(problem, file=sys.stderr)
        print("damaged: see above" if problems else "all that is here is whole")
        return 1 if problems else 0
    return 0


def _data(options: argparse.Namespace) -> int:
    from sftkit import checks, corpora, models

    columns = {"text": options.text, "text_pair": options.text_pair, "label": options.label}
    loaded = corpora.load(options.data, **columns)
    _, tokenizer = models.load(options.model, loaded["train"].features["label"].names)
    print(checks.data_report(loaded, tokenizer, options.max_length))
    return 0


def _notebooks(options: argparse.Namespace) -> int:
    from sftkit.course import notebooks
    from sftkit.teach.show import Table

    rows = []
    for source in notebooks.sources(options.folder):
        notebook = notebooks.read(source)
        minutes = notebooks.header(notebook, source.name).minutes
        rows.append([source.name, f"{minutes:g}", notebooks.question(notebook)])
    print(Table(rows, ["notebook", "minutes on 2 cores", "question"]))
    return 0


def _build(options: argparse.Namespace) -> int:
    from sftkit.course.build import build

    if bool(options.names) == options.all:
        raise ParameterError(
            "Say which notebooks to build.", "For example: sftkit build 07, or: build --all"
        )
    build(options.names, folder=options.folder, force=options.force)
    return 0


def _handouts(options: argparse.Namespace) -> int:
    from sftkit.course import handouts

    write = handouts.student if options.verb == "student" else handouts.solutions
    for path in write(options.names, options.to, options.folder):
        print(path)
    return 0


def _proofs(options: argparse.Namespace) -> int:
    from sftkit.course.proofs import collect
    from sftkit.teach.show import Table

    rows = [[p.notebook[:2], p.what, p.error, p.tolerance] for p in collect(options.folder)]
    print(Table(rows, ["", "what was compared", "largest error", "tolerance"]))
    print(f"\n{len(rows)} comparisons, each made when its notebook was built")
    return 0


def _check(options: argparse.Namespace) -> int:
    from sftkit.course.check import examine

    report = examine(options.folder)
    for line in report.remarks:
        print(f"remark: {line}")
    for line in report.problems:
        print(line, file=sys.stderr)
    count = len(report.problems)
    print("notebooks and sources agree" if not count else f"problems: {count}")
    return 1 if count else 0


def _export(options: argparse.Namespace) -> int:
    from sftkit.models.export_chat import export_adapter

    folder = export_adapter(options.adapter, options.to, options.base)
    print(f'pipeline("text-generation", model="{folder}") loads it; read its README.md')
    return 0


def _lab(options: argparse.Namespace) -> int:
    import os
    import subprocess

    from sftkit.course.kernel import environment
    from sftkit.course.notebooks import default_folder

    folder = options.folder or default_folder()
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    chosen = {key: value for key, value in environment().items() if key == "PYTHONPATH"}
    return subprocess.run(command, env={**os.environ, **chosen}).returncode


def _test(options: argparse.Namespace) -> int:
    from sftkit.course.testing import test

    return test(slow=options.slow, more=options.more)
