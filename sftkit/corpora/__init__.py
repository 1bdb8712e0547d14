"""One loader per data set: named columns, fixed and duplicate-safe splits, cleaning.

``load("tweets")`` gives an embedded data set, ``load("my.csv")`` your own, ``load("hub:ID")``
one of the Hub; ``notes(dataset)`` says what was done to it.
"""

from sftkit.corpora.clean import STEPS, clean
from sftkit.corpora.loading import about, load, names, notes

__all__ = ["STEPS", "about", "clean", "load", "names", "notes"]
