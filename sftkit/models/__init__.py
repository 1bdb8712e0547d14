"""Pretrained models: load, choose a head and what is trained, cache what is frozen, save."""

from sftkit.models.export import save
from sftkit.models.features import fit_head, head_features
from sftkit.models.frozen import cache_frozen, set_trainable, train_mode
from sftkit.models.heads import MeanPoolClassifier
from sftkit.models.load import load
from sftkit.models.parts import parameter_counts
from sftkit.models.unread import skip_unread
from sftkit.models.vocabulary import occurring_tokens_only

__all__ = [
    "MeanPoolClassifier",
    "cache_frozen",
    "fit_head",
    "head_features",
    "load",
    "occurring_tokens_only",
    "parameter_counts",
    "save",
    "set_trainable",
    "skip_unread",
    "train_mode",
]
