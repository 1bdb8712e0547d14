"""Pairs of texts in two languages: the strings of JupyterLab's interface, or the user's own.

A split by string alone would be a leak: "Change to Heading 1" and "Change to Heading 2" are one
thing to learn. So strings come in families (copies, near-copies, and what differs in numbers
and placeholders alone), and a family is on one side. Families are found among the English
strings of **all** language packs here: what is tested in one language is trained on in none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftkit.corpora import parts, placeholders, pretraining, split, translations_own
from sftkit.corpora.translations_own import Pair
from sftkit.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NAME = "jupyterlab"
SIDES = ("source", "target")
PACKS = {
    "zh-CN": "Chinese",
    "fr-FR": "French",
    "de-DE": "German",
    "es-ES": "Spanish",
    "ja-JP": "Japanese",
    "ru-RU": "Russian",
}
SHARE = 0.12  # of the strings for validation, and again for test
OWN_SHARE = 0.1
LONGEST = 160  # characters of a side
_CONTEXT = "\x04"  # between a message's context and its text, as in gettext
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\ufe0f"))


def load(
    data: str | Path = NAME,
    *,
    language: str = "zh-CN",
    limit: int | None = None,
    seed: int = 0,
    longest: int | None = None,
    encoding: str = "utf-8",
) -> DatasetDict:
    """Pairs, split so that no near-copy of a test string is trained on.

    Args:
        data: ``jupyterlab``; a file of pairs (see `translations_own.read`); a folder of such
            files named after the splits; a ``DatasetDict`` on disk or
            ``hub:ID[:CONFIGURATION]``.
        language: Of the targets: one of `PACKS`. Of other data it chooses among the columns
            where there are several.
        limit: Training pairs. A smaller limit gives a part of a larger one.
        seed: Which training pairs a limit takes; for one file also which go where.
        longest: Characters of a side, at most. Longer strings of JupyterLab are left out, a
            longer one of yours is an error. `LONGEST` and 1,000 unless given.
        encoding: Of files.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with columns ``source``, ``target``,
        ``family`` (a number; no family is in two splits) and ``place`` (where it is from).
        `corpora.notes` tells what was done.

    Raises:
        CorpusError: With the file and row, and what to do.
    """
    parts.check_limit(limit)
    own = str(data) != NAME
    most = longest or (translations_own.LONGEST if own else LONGEST)
    if not own and language not in PACKS:
        raise CorpusError(
            f"language={language!r}.", f"There are {', '.join(PACKS)}; or give data of yours."
        )
    made_from = (str(data), _identity(data), language, most, *((seed, encoding) if own else ()))
    made = parts.cached(
        "translations", made_from, lambda: _made(data, language, most, seed, encoding)
    )
    sides = (made["train"]["source"], made["train"]["target"])
    contents = [f"{s}\t{t}" for s, t in zip(*sides, strict=True)]
    made["train"] = made["train"].select(parts.order(contents, limit, seed))
    return made


def _identity(data: str | Path) -> dict[str, str]:
    if str(data) == NAME:
        from sftkit import assets

        catalogue = assets.catalogue()
        return {code: catalogue[_asset(code)].recipe for code in PACKS}
    return parts.identity(data, (NAME,))


def _made(
    data: str | Path, language: str, longest: int, seed: int, encoding: str
) -> DatasetDict:
    notes: list[str] = []
    if str(data) == NAME:
        found = _of_packs(language, longest, notes)
    else:
        given = translations_own.read(data, notes, language, longest, encoding)
        found = _with_families(given, notes, OWN_SHARE, seed)
    return parts.dataset(found, from_pairs, what="Pairs", name=str(data), notes=notes)


def _with_families(
    given: parts.Parts[Pair], notes: list[str], share: float, seed: int
) -> parts.Parts[Pair]:
    groups = parts.near_copies(given, family_form)
    for name, pairs in given.items():
        for pair, group in zip(pairs, groups[name], strict=True):
            pair.family = group
    return parts.finished(
        given, groups, lambda p: p.source, notes, what="pairs", share=share, seed=seed
    )


def denoising_texts(data: DatasetDict) -> tuple[list[str], int]:
    """Texts of both sides of the training pairs, each once, to pretrain on.

    A target may be the right translation of a training source and, word for word or nearly, of
    a test source. It belongs into fine-tuning, where pairs are learned, but not into
    pretraining: what resembles a held-out text of either side is left out, by the rule of all
    pretraining here (`pretraining.resembles`).

    Returns:
        The texts, sorted, and how many were left out.
    """
    both = sorted({*data["train"]["source"], *data["train"]["target"]})
    held = [t for name in split.SPLITS[1:] for side in SIDES for t in data[name][side]]
    return pretraining.without(both, held)


def family_form(pair: Pair) -> str:
    """The words of a source by which families are found."""
    return placeholders.without(pair.source)


# -- JupyterLab's language packs ------------------------------------------------------------


def _asset(language: str) -> str:
    return f"language-pack-{language.lower()}"


def _of_packs(language: str, longest: int, notes: list[str]) -> parts.Parts[Pair]:
    every = {code: messages(code) for code in PACKS}
    sources = sorted({source for pack in every.values() for source in pack})
    found_in = _with_families({"train": [Pair(source, "") for source in sources]}, [], SHARE, 0)
    chosen, left_out = every[language], Counter[str]()
    found: parts.Parts[Pair] = {}
    for name, strings in found_in.items():
        found[name] = []
        for string in strings:
            if string.source not in chosen:
                continue
            target, place = chosen[string.source]
            if target == string.source:
                left_out["stay as they are (names, or not translated)"] += 1
            elif max(len(target), len(string.source)) > longest:
                left_out[f"are longer than {longest} characters"] += 1
            else:
                found[name].append(Pair(string.source, target, string.family, place))
    notes.append(
        f"English to {PACKS[language]}: {len(chosen):,} different strings of the "
        "interface, one translation of each."
    )
    notes += [f"{n:,} strings {why}: left out." for why, n in left_out.items()]
    notes.append(
        f"Families are of {len(sources):,} English strings in {len(PACKS)} languages; none is "
        "on two sides in any of them."
    )
    return found


def messages(language: str) -> dict[str, tuple[str, str]]:
    """The translation of each English string, and the file that it is from.

    Where a string has several translations, the most frequent one counts, and among equally
    frequent ones the first in the order of files. Blanks at the ends and invisible characters
    are removed.
    """
    from sftkit import assets

    counts: dict[str, Counter[str]] = {}
    places: dict[tuple[str, str], str] = {}
    for file in sorted(assets.path(_asset(language)).glob("*.json")):
        if file.name == "manifest.json":  # of the asset, not of the pack
            continue
        for key, forms in json.loads(file.read_text(encoding="utf-8")).items():
            source = _plain(key.rpartition(_CONTEXT)[2])
            target = _plain(next((form for form in forms if form), "")) if key else ""
            if source and target:
                counts.setdefault(source, Counter())[target] += 1
                places.setdefault((source, target), file.stem)
    best = {source: found.most_common(1)[0][0] for source, found in counts.items()}
    return {source: (target, places[source, target]) for source, target in best.items()}


def _plain(text: str) -> str:
    return text.translate(_INVISIBLE).strip()


def from_pairs(rows: Sequence[Pair]) -> Dataset:
    """Pairs as a data set with the columns of `load`."""
    from datasets import Dataset, Features, Value

    features = Features({f.name: Value("string") for f in fields(Pair)})
    features["family"] = Value("int64")
    columns: dict[str, Any] = {n: [getattr(row, n) for row in rows] for n in features}
    return Dataset.from_dict(columns, features=features)
