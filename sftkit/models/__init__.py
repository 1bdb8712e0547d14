"""Pretrained models: load, choose a head and what is trained, cache what is frozen, save."""

from sftkit.models.export import save
from sftkit.models.features import fit_head, head_features
from sftkit.models.frozen import cache_frozen, set_trainable, train_mode
from sftkit.models.heads import MeanPoolClassifier
from sftkit.models.load import load
from sftkit.models.parts import parameter_counts

__all__ = [
    "MeanPoolClassifier",
    "cache_frozen",
    "fit_head",
    "head_features",
    "load",
    "parameter_counts",
    "save",
    "set_trainable",
    "train_mode",
]
