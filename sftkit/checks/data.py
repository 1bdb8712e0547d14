"""Look at a data set before training on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from sftkit import corpora
from sftkit.checks.chats import chat_report
from sftkit.checks.report import DataReport, Doubt, some
from sftkit.corpora import duplicates
from sftkit.errors import CorpusError

SAMPLE = 50_000  # rows of a split whose tokens are counted
NOISE_ROWS = 20_000  # training rows that the linear model reads to find doubtful labels
DOUBTFUL = 10  # of them shown


def data_report(dataset: Any, tokenizer: Any, max_length: int = 128) -> Any:
    """Look at a data set before training on it.

    Args:
        dataset: A ``DatasetDict`` with columns ``text``, perhaps ``text_pair``, and ``label``
            (``ClassLabel``), such as ``corpora.load`` gives; or with ``messages`` (see
            `corpora.dialogues`).
        tokenizer: The tokenizer of the model that will read it.
        max_length: The limit, in tokens, at which longer inputs will be cut.

    Returns:
        A `DataReport`, or a `ChatReport` of conversations.

    Raises:
        CorpusError: A column is missing, the labels are not a ``ClassLabel``, or these are raw
            texts: without turns and labels there is nothing to report.
    """
    import numpy as np

    if all("messages" in part.column_names for part in dataset.values()):
        return chat_report(dataset, tokenizer, max_length)
    names = _class_names(dataset)
    counts = {
        split: np.bincount(_labels(part), minlength=len(names)).tolist()
        for split, part in dataset.items()
    }
    report = DataReport(
        rows={split: len(part) for split, part in dataset.items()},
        classes=names,
        counts=counts,
        limit=max_length,
        notes=corpora.notes(dataset),
    )
    _count_tokens(report, dataset, tokenizer)
    _count_copies(report, dataset)
    groups = duplicates.split_groups(dataset)
    report.across = duplicates.across_groups(groups)
    _doubt_labels(report, dataset, groups)
    report.warnings = list(_warnings(report))
    return report


def _class_names(dataset: Any) -> list[str]:
    for split, part in dataset.items():
        if {*part.column_names} == {"text", "topic", "place"}:  # as `corpora.dialogues` gives
            raise CorpusError(
                f"The {split} split holds raw texts, and no conversations.",
                "A chat model learns from turns: sftkit.corpora.chat_formats lists the forms. "
                "For raw texts there is encode_lm.causal, as in notebook 05.",
            )
        for column in ("text", "label"):
            if column not in part.column_names:
                raise CorpusError(
                    f"The {split} split has no column {column!r}.",
                    "Load the data with corpora.load, or rename its columns.",
                )
        feature = part.features["label"]
        if not hasattr(feature, "names"):
            raise CorpusError(
                f"The column 'label' of the {split} split has no class names.",
                "Load the data with corpora.load, or use class_encode_column('label').",
            )
    return list(feature.names)


def _labels(part: Any) -> Any:
    return part.with_format("numpy")["label"][:]


def _count_tokens(report: DataReport, dataset: Any, tokenizer: Any) -> None:
    unknown = total = 0
    for split, part in dataset.items():
        if len(part) > SAMPLE:
            report.notes.append(
                f"Tokens were counted on {SAMPLE:,} of the {len(part):,} rows of {split}."
            )
            step = len(part) / SAMPLE
            part = part.select([int(at * step) for at in range(SAMPLE)])
        lengths: list[int] = []
        for batch in part.iter(batch_size=1_000):
            texts = [batch[name] for name in ("text", "text_pair") if name in batch]
            encoded = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
            lengths += map(len, encoded)
            if tokenizer.unk_token_id is not None:
                unknown += sum(ids.count(tokenizer.unk_token_id) for ids in encoded)
        report.lengths[split] = lengths
        total += sum(lengths)
    flat = [length for lengths in report.lengths.values() for length in lengths]
    report.cut = sum(length > report.limit for length in flat) / max(1, len(flat))
    report.unknown = unknown / max(1, total)


def _count_copies(report: DataReport, dataset: Any) -> None:
    """Empty rows, copies within a split, and texts that have several labels."""
    labels: dict[int, int] = {}
    clashing: dict[int, set[int]] = {}
    for split, part in dataset.items():
        seen: set[int] = set()
        empty = copies = 0
        for text, label in zip(
            duplicates.whole_texts(part), _labels(part).tolist(), strict=True
        ):
            key = duplicates.key(text)
            empty += not text.strip("\x1f \n\t")
            copies += key in seen
            seen.add(key)
            if labels.setdefault(key, label) != label:
                clashing.setdefault(key, {labels[key]}).add(label)
        report.empty[split], report.copies[split] = empty, copies
    wanted = set(clashing)
    for part in dataset.values():
        for text in duplicates.whole_texts(part) if wanted else ():
            key = duplicates.key(text)
            if key in wanted:
                wanted.discard(key)
                names = [report.classes[label] for label in sorted(clashing[key])]
                report.conflicts.append((text.replace("\x1f", " | "), names))


def _doubt_labels(report: DataReport, dataset: Any, groups: dict[str, Any]) -> None:
    """Ask a logistic regression, for each training row, that was trained on other rows.

    Rows of one group of near-duplicates are always asked together, so that no row is judged
    by its copy.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    if "train" not in dataset:
        return
    part = dataset["train"].select(range(min(NOISE_ROWS, len(dataset["train"]))))
    labels, texts = _labels(part), list(duplicates.whole_texts(part))
    group = groups["train"][: len(part)]
    if len(np.unique(group)) < 30 or len(np.unique(labels)) < 2:
        report.notes.append("Too few training rows to look for doubtful labels.")
        return
    if len(part) < len(dataset["train"]):
        report.notes.append(f"Doubtful labels were looked for in {len(part):,} training rows.")
    # Characters in place of words where the script has no spaces between words.
    dense = np.mean([len(text.split()) / max(1, len(text)) for text in texts[:500]]) < 0.05
    words: dict[str, Any] = (
        {"analyzer": "char", "ngram_range": (1, 2)} if dense else {"ngram_range": (1, 2)}
    )
    probs = np.zeros((len(texts), len(report.classes)))
    for train, rest in GroupKFold(3).split(texts, labels, group):
        if len(np.unique(labels[train])) < 2:
            return
        model = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, max_features=30_000, **words),
            SGDClassifier(loss="log_loss", alpha=3e-5, max_iter=20, tol=1e-3, random_state=0),
        )
        with warnings.catch_warnings():
            # A rough model is enough to point at labels: it need not converge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit([texts[at] for at in train], labels[train])
        probs[np.ix_(rest, model.classes_)] = model.predict_proba([texts[at] for at in rest])
    guess = probs.argmax(axis=1)
    margin = probs[np.arange(len(texts)), guess] - probs[np.arange(len(texts)), labels]
    report.disagreement = float((guess != labels).mean())
    shown: set[int] = set()
    for at in np.argsort(-margin, kind="stable").tolist():
        if len(report.doubts) == DOUBTFUL or guess[at] == labels[at]:
            break
        if group[at] in shown:  # one of several copies is enough to show
            continue
        shown.add(group[at])
        text = texts[at].replace("\x1f", " | ")
        said, believed = report.classes[labels[at]], report.classes[guess[at]]
        report.doubts.append(Doubt(at, text, said, believed, float(margin[at])))


def _warnings(report: DataReport) -> Iterator[str]:
    train = report.counts.get("train", [])
    present = [count for count in train if count]
    if present and max(present) >= 2 * min(present):
        ratio = max(present) / min(present)
        times = f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
        big, small = train.index(max(present)), train.index(min(present))
        yield (
            f"The class {report.classes[big]!r} has {times} times as "
            f"many training rows as {report.classes[small]!r}: read macro F1 beside accuracy."
        )
    few = [name for name, count in zip(report.classes, train, strict=False) if 0 < count < 10]
    if few:
        yield f"Fewer than 10 training rows: {some(few)}. Little can be learnt about them."
    for split, counts in report.counts.items():
        missing = [n for n, count in zip(report.classes, counts, strict=True) if not count]
        if missing:
            yield f"The {split} split has no row of {some(missing)}."
    if report.cut > 0.05:
        yield (
            f"{report.cut:.1%} of the texts are longer than {report.limit} tokens; the end of "
            "them will not be read. A larger max_length costs time."
        )
    if report.unknown > 0.02:
        yield (
            f"{report.unknown:.1%} of the tokens are unknown to the tokenizer. Its model was "
            "not trained on this language or script."
        )
    for pair, count in report.across.items():
        later, earlier = pair.split("/")
        if count and earlier == "train":
            yield (
                f"{count:,} of {report.rows[later]:,} rows of {later} are near-duplicates of "
                f"training rows: the score on {later} will be somewhat too high."
            )
    if empty := sum(report.empty.values()):
        yield f"{empty:,} rows have no text."
    copies = report.copies.get("train", 0)
    if copies > 0.1 * report.rows.get("train", 0):
        yield f"{copies:,} training rows are copies of others; drop_duplicates=True drops them."
    if report.conflicts:
        yield (
            f"{len(report.conflicts):,} texts occur with different labels; no model can be "
            "right on all their copies."
        )
    if 0 < (test := report.rows.get("test", 0)) < 500:
        yield (
            f"The test split has {test:,} rows: an accuracy measured on it is uncertain by up "
            f"to {98 / test**0.5:.0f} points either way."
        )
