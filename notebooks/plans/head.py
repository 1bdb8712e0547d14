# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     minutes: 1
#     assets: [minilm, tweets]
# ---

# %% [markdown]
# # A head on frozen features
#
# One run: a hidden layer and a class layer on what a frozen encoder says of tweets. Small
# enough to try a sweep with: `sftkit sweep notebooks/plans/head_search.yaml`.

# %% tags=["parameters"]
features: str = ""  # a file of sftkit.lessons.heads.save; empty computes them
lr: float = 5e-3  # highest learning rate
batch_size: int = 32  # tweets per optimizer step
dropout: float = 0.2  # after the hidden layer
weight_decay: float = 0.0  # of AdamW
epochs: int = 8  # passes over the training tweets
seed: int = 0  # of the weights, the dropout and the order
out: str = ""  # folder for results; empty means: show only

# %%
import torch

from sftkit.course import record
from sftkit.lessons import heads

torch.set_num_threads(1)  # as small as this gains nothing from more
data = heads.load(features) if features else heads.splits()
print({name: tuple(part.x.shape) for name, part in data.items()})

# %%
setting = {"lr": lr, "batch_size": batch_size, "epochs": epochs}
setting |= {"dropout": dropout, "weight_decay": weight_decay}
found = heads.train_head(data, setting, seed)
print(found["validation"])

# %%
record(out, {"accuracy": found["validation"][-1]})
