"""The one door: ``load`` for embedded data sets, the user's files, and the Hub."""

from __future__ import annotations

import difflib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import own, prepare
from sftkit.corpora.assemble import Options
from sftkit.corpora.clean import check_steps
from sftkit.corpora.embedded import EMBEDDED
from sftkit.corpora.readers import Columns
from sftkit.corpora.source import Source
from sftkit.corpora.split import SPLITS
from sftkit.errors import CorpusError
from sftkit.files import cache_folder, folder_in_one_piece, locked, sha256_text

if TYPE_CHECKING:
    from datasets import DatasetDict


def names() -> list[str]:
    """The names of the embedded data sets."""
    return list(EMBEDDED)


def load(
    name_or_path: str | Path,
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    stratify: bool = True,
    group: str | None = "near-duplicates",
    clean: Iterable[str] | None = None,
    limit: int | Mapping[str, int] | None = None,
    drop_unlabelled: bool = False,
    drop_duplicates: bool | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    quotes: bool = True,
) -> DatasetDict:
    """Load a data set for classification, cleaned and split.

    The prepared data is kept in the cache and mapped from disk, so a second call is quick.
    ``notes`` tells what was done to it.

    Args:
        name_or_path: A name from ``names()``; a CSV, TSV, JSONL or Parquet file; a folder with
            files named after the splits (``train.csv``, ``dev.csv``, ``test.csv``); a folder
            from ``DatasetDict.save_to_disk``; or ``hub:ID`` or ``hub:ID:CONFIGURATION``.
        text, text_pair, label: Columns of your own data. With ``text_pair``, each example is
            two texts.
        validation, test: Size of the splits that are not given: a share (0.1) or a number of
            rows. The default is 0.1, or what an embedded data set says.
        seed: Another seed gives other splits. The same rows in another order give the same.
        stratify: Keep the proportions of the classes in every split.
        group: What must stay on one side: ``"near-duplicates"`` (texts that share most of
            their word pairs), ``"duplicates"`` (equal but for case, punctuation, numbers and
            addresses), the name of a column, or None.
        clean: Steps of ``clean.STEPS``; ``()`` for none; None for the data set's own choice.
        limit: Number of training rows, or ``{"train": n, "validation": n, "test": n}``. A
            smaller limit gives a part of a larger one; each holds the classes in proportion,
            and all of them as soon as it has as many rows as there are classes.
        drop_unlabelled: Leave rows without a label out instead of stopping at them.
        drop_duplicates: Leave exact copies out (within a split, where splits are given). None
            means False, or what an embedded data set says.
        encoding, delimiter, quotes: How a CSV or TSV file is written. ``quotes=False`` for
            files in which quotation marks have no special meaning.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with columns ``text`` (string), perhaps
        ``text_pair`` (string), and ``label`` (``ClassLabel``, names sorted).

    Raises:
        CorpusError: With the file, row and column, and what to do.
    """
    _check_options(validation, test, limit, seed)
    keyword = group in (None, "near-duplicates", "duplicates")
    columns = Columns(
        text, label, text_pair, None if keyword else group, encoding, delimiter, quotes
    )
    source = _open(name_or_path, columns)
    options = Options(
        clean=check_steps(source.clean if clean is None else clean),
        validation=source.validation if validation is None else validation,
        test=source.test if test is None else test,
        seed=seed,
        stratify=stratify,
        group=group,
        drop_unlabelled=drop_unlabelled,
        drop_duplicates=source.drop_duplicates if drop_duplicates is None else drop_duplicates,
    )
    dataset = _cached(source, options, columns)
    return _limited(dataset, {"train": limit} if isinstance(limit, int) else dict(limit or {}))


def notes(dataset: DatasetDict) -> list[str]:
    """What ``load`` did to a data set: rows left out and why, groups, splits, cleaning."""
    return list(about(dataset).get("notes", []))


def about(dataset: DatasetDict) -> dict[str, Any]:
    """Name, options and notes of a data set that ``load`` made; {} for another one."""
    for part in dataset.values():
        try:
            found = json.loads(part.info.description or "")
        except ValueError:
            continue
        if isinstance(found, dict) and "notes" in found:
            return found
    return {}


def _check_options(validation: float | None, test: float | None, limit: Any, seed: int) -> None:
    for name, size in (("validation", validation), ("test", test)):
        if size is None:
            continue
        if isinstance(size, bool) or size <= 0 or (size >= 1 and size != int(size)):
            raise CorpusError(
                f"{name}={size!r} is not a size.",
                "Give a share between 0 and 1, such as 0.1, or a whole number of rows.",
            )
    for name, size in limit.items() if isinstance(limit, Mapping) else [("train", limit)]:
        if name not in SPLITS:
            raise CorpusError(f"limit: no split {name!r}.", f"Splits are: {', '.join(SPLITS)}.")
        if size is not None and (isinstance(size, bool) or int(size) != size or size < 1):
            raise CorpusError(
                f"limit={size!r} is not a number of rows.",
                "Give a whole number from 1, or None.",
            )
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise CorpusError(f"seed={seed!r} is not a seed.", "Give a whole number from 0.")


def _open(name_or_path: str | Path, columns: Columns) -> Source:
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in EMBEDDED:
        if (columns.text, columns.label, columns.text_pair) != ("text", "label", None):
            raise CorpusError(
                f"{name}: its columns are fixed.", "Leave out text=, text_pair= and label=."
            )
        if columns.group:
            raise CorpusError(
                f"{name}: there is no column {columns.group!r} to group by.",
                "Use group='near-duplicates', 'duplicates' or None.",
            )
        source = EMBEDDED[name]()
        if Path(name).exists():
            source.notes.append(
                f"A file or folder here is also called {name!r}; write './{name}' to mean it."
            )
        return source
    if name.startswith("hub:"):
        return own.open_hub(name.removeprefix("hub:"), columns)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise _not_found(name, path)
    return own.open_path(path, columns)


def _not_found(name: str, path: Path) -> CorpusError:
    beside = []
    if path.parent.is_dir():
        beside = [file.name for file in path.parent.iterdir()]
    near = difflib.get_close_matches(name, EMBEDDED, 1) or [
        str(path.parent / found) for found in difflib.get_close_matches(path.name, beside, 1)
    ]
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return CorpusError(
        f"There is no data set and no file or folder {name!r}.",
        f"{guess}Embedded are: {', '.join(EMBEDDED)}. A data set of the Hub is 'hub:ID'.",
    )


def _cached(source: Source, options: Options, columns: Columns) -> DatasetDict:
    """The prepared data set from the cache, made first if it is not there."""
    from datasets import load_from_disk

    key = prepare.fingerprint(
        source.name, source.identity, vars(options), vars(columns), _code()
    )
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(source.name).name)
    folder = cache_folder() / "corpora" / f"{plain[:60]}-{key}"
    if not (folder / "dataset_dict.json").is_file():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not (folder / "dataset_dict.json").is_file():
                _write(source, options, folder)
    return load_from_disk(str(folder))


def _write(source: Source, options: Options, folder: Path) -> None:
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.work."))
    try:
        with _no_bars(), folder_in_one_piece(folder) as final:
            prepare.prepare(source, options, work).save_to_disk(str(final))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _code() -> str:
    """A hash of this package's sources: prepared data does not outlive the code it is from."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *here.glob("*.toml")])
    return sha256_text("\n".join(file.read_text(encoding="utf-8") for file in files))


@contextmanager
def _no_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _limited(dataset: DatasetDict, limits: dict[str, int | None]) -> DatasetDict:
    added = []
    for name, size in limits.items():
        if size is None:
            continue
        have = len(dataset[name])
        dataset[name] = dataset[name].select(range(min(int(size), have)))
        classes = dataset[name].features["label"].num_classes
        if size > have:
            added.append(f"limit: the {name} split has {have:,} rows, fewer than {size:,}.")
        else:
            added.append(f"limit: the first {size:,} of {have:,} rows of the {name} split.")
        if name == "train" and size < classes:
            added.append(f"limit: {size} training rows cannot hold all {classes} classes.")
    if added:
        known = about(dataset)
        known["notes"] = [*known.get("notes", []), *added]
        for part in dataset.values():
            part.info.description = json.dumps(known, ensure_ascii=False)
    return dataset
