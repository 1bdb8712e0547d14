# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 2
#     fast: {layers: 2, width: 256, repetitions: 3, largest_mb: 4}
# ---

# %% [markdown]
# # 23 · More machines
#
# **One machine is too slow, or its memory too small. What changes when several train one
# model, and how do you know that the result is still the same?**
#
# About 2 minutes on 2 cores. You know the training loop (06) and where memory goes: weights,
# gradients, and the two moments of Adam (02, 06).
#
# You will be able to
#
# - say when averaging gradients is right, and mend it where it is not;
# - write all-reduce by hand and prove it against torch's, and your gradients against DDP's;
# - start the same training in two processes, with the same losses as in one, and go on in
#   another number of processes;
# - shard parameters, and measure what each process holds;
# - predict from bandwidth and latency how far a training scales, up to 1,024 workers.
#
# Everything runs on this machine, in **two processes that talk over gloo**, torch's library for
# exchange between processors. What could not be run here is listed in section 8.

# %% tags=["parameters"]
layers: int = 4  # blocks of the model whose memory is measured
width: int = 768  # its width; it has 8 * layers * width ** 2 weights
repetitions: int = 15  # of each measured exchange
largest_mb: int = 32  # largest exchange that is measured
seed: int = 0  # of everything random
out: str = ""  # folder for results; empty means: show only

# %%
import inspect
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sftkit import losses_chunked, losses_lm
from sftkit.course import record
from sftkit.errors import CheckpointError
from sftkit.files import project_folder
from sftkit.fit import fit
from sftkit.lessons import parallel
from sftkit.lessons.processes import environment, free_port, together
from sftkit.teach import show
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same

started = time.perf_counter()
torch.set_num_threads(1)  # tensors as small as these gain nothing from more
folder = Path(out) if out else Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. Data parallelism
#
# Every **worker** (a process, with a processor or a graphics card of its own) has a copy of
# the model. Each takes a share of the batch, computes gradients, and the workers exchange them
# before the step. In a batch of $n$ supervised items, worker $r$ of $N$ has $n_r$ of them, with
# loss sum $S_r$. The loss of the batch is
#
# $$L = \frac{1}{n}\sum_{r=1}^{N} S_r, \qquad n = \sum_{r=1}^{N} n_r, \qquad
# \nabla L = \frac{1}{n}\sum_{r=1}^{N} \nabla S_r$$
#
# because the gradient of a sum is the sum of the gradients. The usual recipe averages the
# workers' own means instead:
#
# $$\frac1N\sum_{r=1}^{N}\frac{\nabla S_r}{n_r}
# = \sum_{r=1}^{N} \frac{n}{N n_r}\cdot\frac{\nabla S_r}{n}$$
#
# The factor $n/(N n_r)$ is 1 for all exactly when all counts are equal. For **uneven counts**,
# an item on a worker with few of them weighs more than one on a worker with many. Rows of a
# batch are dealt out evenly; tokens are not.
#
# First with softmax regression, where the gradient can be written down: for logits $XW$,
# $\nabla S = X^\top (P - Y)$, with $Y$ the one-hot labels.

# %%
generator = np.random.default_rng(seed)
X, W = generator.normal(size=(12, 5)), generator.normal(size=(5, 3))
y = generator.integers(3, size=12)


def gradient_sum(X, y, W):
    """Gradient of the summed cross-entropy: X (n, D), W (D, C)."""
    z = X @ W
    P = np.exp(z - z.max(1, keepdims=True))
    P /= P.sum(1, keepdims=True)
    return X.T @ (P - np.eye(W.shape[1])[y])


def loss_sum_of(flat):
    z = X @ flat.reshape(W.shape)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(12), y]).sum())


w = torch.tensor(W, requires_grad=True)
torch.nn.functional.cross_entropy(
    torch.tensor(X) @ w, torch.tensor(y), reduction="sum"
).backward()
steps = 1e-5 * np.eye(W.size)
numeric = [
    (loss_sum_of(W.ravel() + e) - loss_sum_of(W.ravel() - e)) / 2e-5 for e in steps
]
compare("softmax regression: hand vs autograd", gradient_sum(X, y, W), w.grad, 1e-12)
compare("softmax regression: autograd vs differences", w.grad.flatten(), numeric, 1e-7)

# %% [markdown]
# Now deal the twelve rows to two workers, once 6 and 6, once 9 and 3.

# %%
whole = gradient_sum(X, y, W) / 12
rows = []
for first in (6, 9):
    shares = [(X[:first], y[:first]), (X[first:], y[first:])]
    sums = [gradient_sum(x, c, W) for x, c in shares]
    means = np.mean(
        [s / len(c) for s, (_, c) in zip(sums, shares, strict=True)], axis=0
    )
    error = float(np.abs(means - whole).max() / np.abs(whole).max())
    compare(
        f"sum over count, {first} and {12 - first} rows", sum(sums) / 12, whole, 1e-12
    )
    rows.append([f"{first} and {12 - first}", 100 * error])
show.table(
    rows,
    ["rows of the workers", "mean of means: error, % of the largest entry"],
    digits=2,
)
assert rows[0][1] < 1e-9 < rows[1][1]

# %% [markdown]
# ## 2. All-reduce
#
# The workers need a sum of which each gets a copy. This is called **all-reduce**. If all send
# to one and it sends back, that one has $N-1$ times the work of the others. In a **ring**,
# everybody works alike. Cut the tensor into $N$ parts.
#
# 1. *Reduce-scatter*, $N-1$ steps: worker $r$ sends one part to $r+1$, and adds the part that
#    it gets from $r-1$ to its own. Then each has one part that is summed over all.
# 2. *All-gather*, $N-1$ steps: the finished parts go round once more, and are copied.
#
# Here it is with four workers in one process, each with one number per part.


# %%
def ring_by_hand(tensors):
    """All-reduce of arrays, one per worker; and all states on the way."""
    N = len(tensors)
    x = [np.array_split(np.array(t, dtype=float), N) for t in tensors]
    states = []
    for step in range(2 * (N - 1)):
        adding = step < N - 1
        shift = step if adding else step - N  # which part is passed on
        moving = [x[r][(r - shift) % N].copy() for r in range(N)]
        for r in range(N):
            part = (r - 1 - shift) % N
            x[r][part] = moving[r - 1] + (x[r][part] if adding else 0)
        states.append([np.concatenate(parts).tolist() for parts in x])
    return [np.concatenate(parts) for parts in x], states


# %%
tensors = [[10**r] * 4 for r in range(4)]
result, states = ring_by_hand(tensors)
show.table(
    [
        [
            i + 1,
            "add" if i < 3 else "copy",
            *("  ".join(f"{v:g}" for v in s) for s in state),
        ]
        for i, state in enumerate(states)
    ],
    ["step", "", *(f"worker {r}" for r in range(4))],
    "Workers 0 to 3 began with 1, 10, 100 and 1000 in all four parts",
)

# %%
ours, theirs = [], []
for N, size in [(2, 7), (3, 12), (5, 3)]:
    tensors = generator.normal(size=(N, size))
    for mine in ring_by_hand(tensors)[0]:
        ours.append(mine)
        theirs.append(tensors.sum(axis=0))
compare(
    "ring by hand vs sum, three shapes",
    np.concatenate(ours),
    np.concatenate(theirs),
    1e-12,
)

# %% [markdown]
# **Volume.** With $M$ bytes in all, a part has $M/N$. Each worker sends one part per step:
#
# $$V = 2\,(N-1)\,\frac{M}{N} < 2M$$
#
# However many workers, nobody sends more than twice the gradient. The number of messages still
# grows with $N$; section 7 counts what they cost.
#
# **1. Bytes of a ring** (easy, 10 minutes). How many bytes does one worker send in one
# all-reduce of the gradients of a model? Parts may be taken as equal.
#
# <details><summary>Hint 1</summary>A number in float32 has 4 bytes, in bfloat16 2.</details>
# <details><summary>Hint 2</summary>One worker alone sends nothing.</details>


# %% tags=["exercise"]
def ring_bytes(parameters, bytes_each, workers):
    """Bytes that one worker sends in an all-reduce by ring."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
ring_exercise = Exercise(
    "bytes of a ring",
    [600.0, 400.0, 0.0, 1_400_000.0],
    [(100, 4, 4), (100, 4, 2), (100, 4, 1), (400_000, 2, 8)],
    [
        (
            lambda p, b, n: 2 * p * b,
            "This is the bound. Each half of the ring has N - 1 steps, not N.",
        ),
        (
            lambda p, b, n: p * b * (n - 1) / n,
            "This is the reduce-scatter. The all-gather sends as much again.",
        ),
        (
            lambda p, b, n: 2 * p * b * (n - 1),
            "Each step sends a part, an N-th of the tensor, not the whole.",
        ),
        (lambda p, b, n: 2 * p * (n - 1) / n, "Count bytes, not numbers."),
    ],
)
ring_exercise(ring_bytes)


# %% tags=["solution"] jupyter={"source_hidden": true}
def ring_bytes_solution(parameters, bytes_each, workers):
    part = parameters * bytes_each / workers
    return 2 * (workers - 1) * part


ring_exercise(ring_bytes_solution)

# %% [markdown]
# ## 3. The same between real processes
#
# A notebook's kernel cannot be copied into several processes. So what they do is in a module,
# `sftkit.lessons.parallel`, and `together` starts processes that call its functions. This is
# the ring there; `isend` and `recv` go over gloo.

# %%
print(inspect.getsource(parallel.ring_all_reduce))

# %% [markdown]
# Two processes: the ring against `torch.distributed.all_reduce` on three shapes, and then the
# gradient of a small language model. Eight texts of uneven lengths are dealt to the two. Each
# counts its own tokens.

# %%
shapes, texts = [[5], [3, 4], [2, 7, 9]], 8
both = together(
    ("reduce_both_ways", {"shapes": shapes}), ("gradients", {"rows": texts})
)
(reduced, gradients), (reduced_there, gradients_there) = both
compare(
    "ring over gloo vs torch's all_reduce", reduced["ours"], reduced["torch"], 1e-12
)
same("result of process 0 vs process 1", reduced["ours"], reduced_there["ours"])
expected = [8 * 2 * math.prod(s) / 2 for s in shapes]
sent = [
    sum(pair) / 2 for pair in zip(reduced["sent"], reduced_there["sent"], strict=True)
]
compare("bytes sent per process vs formula", sent, expected, 0)

# %%
model, loss = parallel.small_decoder(), losses_lm.causal_lm()
(everything,) = parallel.text_batches(texts, 1)
loss_sum, n = loss(model, everything)
(loss_sum / n).backward()
single = parallel.flat_gradient(model)
own = [gradients["counts"][0], gradients_there["counts"][0]]
print(f"tokens of the workers: {own[0]:.0f} and {own[1]:.0f}, together {n:.0f}")
compare(
    "two processes, ring: gradient vs one process", gradients["ring"], single, 1e-12
)
compare(
    "two processes, DDP: gradient vs our ring",
    gradients["ddp_sums"],
    gradients["ring"],
    1e-12,
)

# %% [markdown]
# `DistributedDataParallel` (DDP) averages over processes, unless a communication hook is
# registered. To make it a sum over the count, each process divides its loss sum by $n/N$
# instead of its own $n_r$; this is what the last line did. `sftkit.fit` lets DDP average the
# gradients of the sums and divides them by $n/N$ afterwards, which is the same. With the own
# mean, which a plain loop gives to `backward`, the gradient is another one:

# %%
rows = []
for name, key in [("sum over count", "ddp_sums"), ("mean of means", "ddp_means")]:
    found = torch.tensor(gradients[key], dtype=torch.float64)
    error = float((found - single).norm() / single.norm())
    cosine = float(torch.nn.functional.cosine_similarity(found, single, dim=0))
    rows.append([name, 100 * error, cosine])
header = ["DDP", "error, % of the gradient's norm", "cosine with one process"]
show.table(rows, header, "Two processes")
assert error > 0.01

# %% [markdown]
# **2. Mend the weights** (medium, 15 minutes). DDP averages gradients over processes. Given all
# workers' token counts, by what must each worker multiply its own *mean* loss, so that the
# average is the mean over all tokens? A worker may have none; its factor is 0. (Its mean would
# be 0/0, so real code gives it a zero that depends on all parameters: a worker that calls no
# `backward` keeps the others waiting.)
#
# <details><summary>Hint 1</summary>Look at the factor in section 1, and turn it
# round.</details>
# <details><summary>Hint 2</summary>If all counts are equal, all factors are 1.</details>


# %% tags=["exercise"]
def loss_factors(counts):
    """A factor for each worker's mean loss."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
factors_exercise = Exercise(
    "mend the weights",
    [[1.0, 1.0], [1.5, 0.5], [0.0, 2.0], [0.3, 0.6, 2.1]],
    [([7, 7],), ([9, 3],), ([0, 4],), ([10, 20, 70],)],
    [
        (
            lambda counts: [c / sum(counts) for c in counts],
            "These add up to 1; DDP divides by the number of workers once more.",
        ),
        (
            lambda counts: [
                sum(counts) / (len(counts) * c) if c else 0.0 for c in counts
            ],
            "This is how far the mean of means is off. Its inverse mends it.",
        ),
    ],
)
factors_exercise(loss_factors)


# %% tags=["solution"] jupyter={"source_hidden": true}
def loss_factors_solution(counts):
    return [len(counts) * c / sum(counts) for c in counts]


factors_exercise(loss_factors_solution)

# %% [markdown]
# ## 4. `sftkit.fit` in two processes
#
# `fit` asks accelerate how many processes there are, deals the micro-batches of each step to
# them, adds sums and counts, and divides once. So a training script has no line about
# processes. This one is `notebooks/plans/train_small.py`:

# %%
plans = project_folder() / "notebooks" / "plans"
script = (plans / "train_small.py").read_text(encoding="utf-8")
print(
    script[
        script.index("    state = fit(") : script.index("    write(options.out, state)")
    ]
)
print((plans / "accelerate_two_cpu.yaml").read_text(encoding="utf-8"))

# %% [markdown]
# `accelerate launch` starts it twice. It is told to end after step 7 of 12, as if a time limit
# had come. In this notebook, one process goes all the way.

# %%
command = [sys.executable, "-m", "accelerate.commands.launch"]
command += ["--config_file", str(plans / "accelerate_two_cpu.yaml")]
command += ["--main_process_port", str(free_port()), str(plans / "train_small.py")]
command += ["--out", str(folder / "run"), "--stop", "7"]
done = subprocess.run(
    command,
    env=environment(TQDM_DISABLE="1"),
    capture_output=True,
    text=True,
    timeout=240,
)
assert done.returncode == 0, done.stderr[-2000:]
two = json.loads((folder / "run" / "losses.json").read_text())
print(f"{two['processes']} processes, {len(two['losses'])} steps")

# %%
model_loss = losses_chunked.causal_lm()
unbroken = parallel.small_decoder()
one = fit(unbroken, parallel.small_batches(), model_loss, **parallel.RUN)
rows = [
    [i + 1, a, b]
    for i, (a, b) in enumerate(zip(two["losses"], one.losses, strict=False))
]
show.table(rows, ["step", "two processes", "one process"], "Loss, nats", digits=6)
compare("fit: two processes vs one", two["losses"], one.losses[:7], 1e-10)

# %% [markdown]
# Not the same bits: sums are taken in another order. In float64 the difference is far below
# anything that matters; in float32 `sftkit` promises $10^{-5}$ of the loss over the first 20
# steps (`sftkit.exact`). Dropout would draw other numbers in each process, and then only the
# expectation is the same.

# %% [markdown]
# ## 5. Go on with another number of processes
#
# The two processes saved a checkpoint at every second step. One process goes on from the last.
# The order of the texts depends on the seed and the step alone, and a step deals its
# micro-batches to whoever is there, so nothing else changes. `fit` warns that the conditions
# are others.

# %%
resumed = parallel.small_decoder()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    state = fit(
        resumed,
        parallel.small_batches(),
        model_loss,
        folder=folder / "run" / "checkpoints",
        resume=True,
        **parallel.RUN,
    )
told = [str(w.message) for w in said if "resumed" in str(w.message)]
print(*told, sep="\n")
assert told and "process" in told[0]

# %%
compare("two processes, then one vs one unbroken", state.losses, one.losses, 1e-9)
weights = [
    torch.cat([p.flatten() for p in m.parameters()]) for m in (resumed, unbroken)
]
compare("weights at the end, broken vs unbroken", *(w.detach() for w in weights), 1e-7)

# %% [markdown]
# What it refuses is another *run*: other data, another rate, another batch size. More
# processes with the same batch per process would be a larger batch; `fit` counts the batch
# over all processes, so that does not happen unseen.

# %%
try:
    fit(
        parallel.small_decoder(),
        parallel.small_batches(),
        model_loss,
        folder=folder / "run" / "checkpoints",
        resume=True,
        **parallel.RUN | {"lr": 2e-2},
    )
except CheckpointError as refusal:
    print(str(refusal).replace(str(folder), "FOLDER"))
else:
    raise AssertionError("another learning rate went unseen")

# %% [markdown]
# ## 6. When the model does not fit: sharded parameters
#
# With Adam in float32, each of $P$ parameters takes 16 bytes: 4 for the weight, 4 for its
# gradient, 8 for the two moments. In data parallelism, every worker holds all of that. To
# **shard** is to let each hold an $N$-th, and to gather a block's weights when it is used:
#
# $$\text{copied: } 16\,P \qquad \text{sharded: } \frac{16\,P}{N}
# + \text{one block's weights and gradients, for a moment}$$
#
# This is ZeRO stage 3 (Rajbhandari et al. 2020), in torch *fully sharded data parallel* (FSDP):
# `fully_shard(block)`. Weights are gathered before the forward pass of a block and again before
# its backward pass; gradients are reduce-scattered, so that each worker gets its own part,
# averaged over workers as in DDP. That is an all-gather more than an all-reduce:
# $3\,(N-1)M/N$ bytes instead of $2\,(N-1)M/N$.
#
# Both, in two processes. DDP keeps a second copy of the gradients in the buckets that it
# sends, unless `gradient_as_bucket_view=True`, as here; with the default it would be $20\,P$.
# The model is made without memory (on the "meta" device). Sharded, it
# then gets its weights one tensor at a time, of which each process keeps its part: the whole
# model never exists in one place.

# %%
options = {"layers": layers, "width": width, "steps": 2}
sizes = [2**k for k in range(10, 40) if 2**k <= largest_mb * 2**20][::3]
both = together(
    ("train_wide", {"how": "copied", **options}),
    ("train_wide", {"how": "sharded", **options}),
    ("reduce_times", {"sizes": sizes, "repetitions": repetitions}),  # for section 7
)
(copied, sharded, times), (copied_there, sharded_there, _) = both
compare("FSDP: losses vs DDP", sharded["losses"], copied["losses"], 1e-5)
P = 8 * layers * width**2
mb = 2**20
rows = [
    [part, copied["held"][part] / mb, sharded["held"][part] / mb]
    for part in copied["held"]
]
rows.append(["together", *(sum(x["held"].values()) / mb for x in (copied, sharded))])
show.table(
    rows,
    ["held by each process, MiB", "copied", "sharded"],
    f"{P:,} weights in float32 under AdamW, two processes",
    digits=1,
)
total = [sum(found["held"].values()) for found in (copied, sharded, sharded_there)]
compare("bytes held vs 16 P and 16 P / 2", total, [16 * P, 8 * P, 8 * P], 0)

# %% [markdown]
# Those were the sizes of the tensors. What does the operating system say? This is by how much
# the memory of each process grew.

# %% tags=["nbval-ignore-output"]
rows = [
    [f"process {r}", a["resident"] / mb, b["resident"] / mb]
    for r, (a, b) in enumerate([(copied, sharded), (copied_there, sharded_there)])
]
show.table(rows, ["resident memory, MiB", "copied", "sharded"], digits=1)
memory_share = sharded["resident"] / copied["resident"]
print(f"sharded / copied: {memory_share:.2f}")

# %% [markdown]
# Do the losses agree with one process that has neither? The same model in this notebook:

# %%
model = parallel.wide_model(layers, width)
with torch.no_grad():
    for number, parameter in enumerate(model.parameters()):
        parameter.copy_(parallel.weights_of(number, parameter.shape))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x = torch.randn(8, width, generator=torch.Generator().manual_seed(1))
alone = []
for _ in range(2):
    step_loss = torch.nn.functional.mse_loss(model(x), torch.sin(3 * x))
    step_loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    alone.append(step_loss.item())
compare("FSDP in two processes: losses vs one process", sharded["losses"], alone, 1e-5)

# %% [markdown]
# **3. Will it fit?** (medium, 10 minutes). Bytes per worker for weights, gradients and moments
# at each stage of ZeRO: stage 0 copies all; 1 shards the moments; 2 also the gradients; 3 also
# the weights. Weights and gradients have `bytes_each`; the two moments are float32.
#
# <details><summary>Hint 1</summary>Three terms per parameter; each is divided by the number of
# workers from its stage on.</details>


# %% tags=["exercise"]
def bytes_per_worker(parameters, bytes_each, workers, stage):
    """Bytes of weights, gradients and both moments on one worker."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def staged(p, n, stage, *each):
    """Bytes when the first, second, third of ``each`` is sharded from stage 1, 2, 3."""
    return p * sum(x / (n if stage > k else 1) for k, x in enumerate(each))


memory_exercise = Exercise(
    "will it fit",
    [16_000.0, 10_000.0, 7_000.0, 4_000.0, 6_000.0],
    [
        (1000, 4, 4, 0),
        (1000, 4, 4, 1),
        (1000, 4, 4, 2),
        (1000, 4, 4, 3),
        (1000, 2, 2, 3),
    ],
    [
        (
            lambda p, b, n, s: (2 * b + 8) * p / n,
            "Before stage 3 not everything is sharded.",
        ),
        (
            lambda p, b, n, s: p * (b + b / (n if s > 1 else 1) + 8 / (n if s else 1)),
            "At stage 3 the weights are sharded too.",
        ),
        (
            lambda p, b, n, s: staged(p, n, s, b, b, 8),
            "The moments come first, at stage 1; the weights last.",
        ),
        (
            lambda p, b, n, s: staged(p, n, s, 2 * b, b, b),
            "The moments stay float32, whatever the weights are.",
        ),
        (
            lambda p, b, n, s: staged(p, n, s, 4, b, b),
            "Adam has two moments, of 4 bytes each.",
        ),
    ],
)
memory_exercise(bytes_per_worker)


# %% tags=["solution"] jupyter={"source_hidden": true}
def bytes_per_worker_solution(parameters, bytes_each, workers, stage):
    total = 0.0
    for from_stage, each in ((3, bytes_each), (2, bytes_each), (1, 8)):
        total += parameters * each / (workers if stage >= from_stage else 1)
    return total


memory_exercise(bytes_per_worker_solution)
compare(
    "memory formula vs what two processes held",
    bytes_per_worker_solution(P, 4, 2, 3),
    total[1],
    0,
)

# %% [markdown]
# ## 7. How far does it scale?
#
# Say that a message of $m$ bytes takes $\alpha + m/\beta$: a **latency** $\alpha$ in seconds and
# a **bandwidth** $\beta$ in bytes per second. A ring has $2(N-1)$ steps with messages of $M/N$:
#
# $$T_{\text{ring}}(N) = 2\,(N-1)\left(\alpha + \frac{M}{N\beta}\right)$$
#
# A step that takes one worker $C$ seconds, on $N$ workers with the same batch *for each*, takes
# $C + T_{\text{ring}}(N)$ if nothing overlaps. Its **efficiency** is
#
# $$E(N) = \frac{C}{C + T_{\text{ring}}(N)}$$
#
# The bandwidth term stays below $2M/\beta$; the latency term grows with $N$ without end.
#
# First the law against a measurement: $\alpha$ and $\beta$ of gloo between our two processes.
# For $N = 2$ the law is $T = 2\alpha + M/\beta$, a line in $M$. It is fitted to every second
# size of our own ring, and predicts the others.


# %%
def ring_seconds(workers, size, latency, bandwidth):
    """Seconds of an all-reduce of ``size`` bytes by ring."""
    return 2 * (workers - 1) * (latency + size / workers / bandwidth)


def fit_line(size, seconds):
    """(latency, bandwidth) that fit two workers best, errors relative to the times."""
    design = np.stack([2 * np.ones(len(size)), size], axis=1) / seconds[:, None]
    latency, per_byte = np.linalg.lstsq(design, np.ones(len(size)), rcond=None)[0]
    return max(float(latency), 1e-7), 1 / max(float(per_byte), 1e-12)


bytes_measured = np.array([t["bytes"] for t in times])
seconds_ring = np.array([t["ring"] for t in times])
alpha, beta = fit_line(bytes_measured[::2], seconds_ring[::2])
exact_line = fit_line(
    np.array([1e3, 1e6]), ring_seconds(2, np.array([1e3, 1e6]), 5e-5, 1e9)
)
compare(
    "fit of a known line: latency, GB/s",
    [exact_line[0], exact_line[1] / 1e9],
    [5e-5, 1.0],
    1e-9,
)

# %% tags=["nbval-ignore-output"]
rows = []
for i, t in enumerate(times):
    predicted = ring_seconds(2, t["bytes"], alpha, beta)
    use = "fitted" if i % 2 == 0 else "predicted"
    rows.append(
        [int(t["bytes"]), use, 1e3 * t["ring"], 1e3 * predicted, 1e3 * t["torch"]]
    )
show.table(
    rows,
    ["bytes", "", "our ring, ms", "law, ms", "torch's all_reduce, ms"],
    f"Here: latency {1e6 * alpha:.0f} µs, bandwidth {beta / 1e9:.2f} GB/s",
)

# %% tags=["nbval-ignore-output"]
fig, ax = show.new_figure(height=3.0)
ax.plot(bytes_measured, 1e3 * seconds_ring, "o", label="our ring, measured")
torchs = [1e3 * t["torch"] for t in times]
ax.plot(bytes_measured, torchs, "s", label="torch's all_reduce, measured")
line = np.geomspace(bytes_measured[0], bytes_measured[-1], 50)
law = 1e3 * ring_seconds(2, line, alpha, beta)
ax.plot(line, law, color="#888888", label="law, fitted to every second size")
ax.set(xscale="log", yscale="log", xlabel="bytes", ylabel="milliseconds")
ax.set_title("Small exchanges cost latency, large ones bandwidth")
ax.legend()
ends = [f"{law[i]:.2g} ms for {line[i]:,.0f} bytes" for i in (0, -1)]
show.figure(
    fig,
    "Time of an all-reduce by two processes against its size, both axes logarithmic. "
    f"The law's line is flat at first and then rises: {' and '.join(ends)}.",
)

# %% [markdown]
# Small messages cost latency, large ones bandwidth. The latency holds more than a
# message: Python's calls, and waiting for a core. The measurement shares two cores with
# everything else here, so it scatters; the table says by how much.
#
# ### A simulation up to 1,024 workers
#
# The formula supposes that all workers begin together. A simulation need not: worker $r$ can
# send in a step when it has ended the step before, and has the part that it needs. With
# $t_r$ for the time at which worker $r$ has ended a step,
#
# $$t_r \leftarrow \max(t_r,\; t_{r-1}) + \alpha + \frac{M}{N\beta}$$
#
# What comes out can be foreseen. Everybody's maximum is at most the time of the last worker,
# and it is that time for the last worker itself. So the time of the last grows by exactly
# $\alpha + M/(N\beta)$ in a step: if worker $r$ begins at $b_r$, the exchange ends at
# $\max_r b_r + T_{\text{ring}}(N)$. Nobody's delay hides behind the exchange.


# %%
def simulate_ring(begin, size, latency, bandwidth):
    """When the last worker has ended an all-reduce; ``begin``: when each one starts."""
    t = np.array(begin, dtype=float)
    each = latency + size / len(t) / bandwidth
    for _ in range(2 * (len(t) - 1)):
        t = np.maximum(t, np.roll(t, 1)) + each
    return float(t.max())


cases = [(2, 4e6), (16, 1e8), (1024, 3e8)]
compare(
    "ring at once: simulation vs formula, seconds",
    [simulate_ring(np.zeros(n), m, 2e-5, 1e10) for n, m in cases],
    [ring_seconds(n, m, 2e-5, 1e10) for n, m in cases],
    1e-9,
)
begins = [np.random.default_rng(seed).uniform(0, 0.1, n) for n, _ in cases]
compare(
    "late workers: simulation vs last + formula",
    [simulate_ring(b, m, 2e-5, 1e10) for b, (_, m) in zip(begins, cases, strict=True)],
    [
        max(b) + ring_seconds(n, m, 2e-5, 1e10)
        for b, (n, m) in zip(begins, cases, strict=True)
    ],
    1e-9,
)

# %% [markdown]
# Three networks, as their makers state them or as is usual; these numbers are **assumptions**,
# not measurements. No single box holds 1,024 cards: the third line is a limit, not a machine.
# The model has 110 million weights in float32 (440 MB of gradients, a BERT base), and a step
# takes a worker $C = 0.4$ s. Times of computation vary by 5 % (standard deviation): everybody
# waits for the slowest, so even a perfect network loses something. With normal times the
# slowest of $N$ takes $C\,(1 + 0.05\,e_N)$ on average, where $e_N$ is the expected maximum of
# notebook 19, section 6. Each point is the mean of five steps, so the curves are not smooth.

# %%
networks = {  # latency in seconds, bandwidth in bytes per second
    "Ethernet, 10 Gbit/s": (5e-5, 1.25e9),
    "Ethernet, 100 Gbit/s": (2e-5, 1.25e10),
    "cards in one box, 200 GB/s": (5e-6, 2e11),
}
compute, gradient_bytes, jitter = 0.4, 440e6, 0.05
workers = [2**k for k in range(11)]
efficiency = {}
for name, (latency, bandwidth) in networks.items():
    generator = np.random.default_rng(seed)
    efficiency[name] = []
    for n in workers:
        takes = []
        for _ in range(5):
            begin = compute * (1 + jitter * generator.normal(size=n))
            takes.append(simulate_ring(begin, gradient_bytes, latency, bandwidth))
        efficiency[name].append(compute / float(np.mean(takes)))

# %%
fig, ax = show.new_figure(height=3.2)
for k, (name, values) in enumerate(efficiency.items()):
    ax.plot(workers, values, marker=show.MARKERS[k], ms=4, label=f"{name}, simulated")
    law = [
        compute / (compute + ring_seconds(n, gradient_bytes, *networks[name]))
        for n in workers
    ]
    ax.plot(workers, law, color=show.COLOURS[k], ls=":", lw=1)
ax.plot([], [], color="#888888", ls=":", lw=1, label="formula, nobody late")
ax.set(xscale="log", xlabel="workers", ylabel="efficiency", ylim=(0, 1.05))
ax.set_xticks(workers, [str(n) for n in workers])
ax.set_title("Bandwidth sets the level, latency and stragglers the slope")
ax.legend(loc="lower left")
told = ", ".join(f"{name}: {values[-1]:.2f}" for name, values in efficiency.items())
show.figure(
    fig,
    f"Efficiency falls from 1 to 1,024 workers; at 1,024 {told}. Dotted, a little "
    "higher: the formula without late workers.",
)


# %%
def slowest_only(n, trials=20):
    """Efficiency when nothing is sent, but everybody waits for the slowest."""
    draws = np.random.default_rng(seed).normal(size=(trials, n))
    return float(compute / (compute * (1 + jitter * draws)).max(axis=1).mean())


rows = []
for n in (2, 32, 1024):
    simulated = [values[workers.index(n)] for values in efficiency.values()]
    rows.append([n, *simulated, slowest_only(n)])
show.table(
    rows,
    ["workers", *networks, "no network, slowest worker only"],
    "Efficiency, simulated",
    digits=2,
)
assert all(v[1] > v[-1] for v in efficiency.values())

# %% [markdown]
# Three ways out, all in use: **overlap** (DDP sends the gradients of the last layers while those
# of the first are computed, so that only the part of $T_{\text{ring}}$ that is longer than the
# backward pass counts); **accumulate** (exchange once per several micro-batches: $C$ grows,
# $T_{\text{ring}}$ does not; `fit` does so within a step); and **hierarchy** (a ring within each
# machine, then one between machines, so that $N$ in the latency term is smaller).
#
# **4. Strong scaling** (medium, 15 minutes). Keep the *batch* fixed instead, and deal it out:
# with $N$ workers, computation takes $C/N$. Give the speed-up over one worker,
# $C / (C/N + T_{\text{ring}}(N))$.
#
# <details><summary>Hint 1</summary>One worker sends nothing: its speed-up is 1.</details>
# <details><summary>Hint 2</summary>T_ring has 2 (N - 1) steps.</details>


# %% tags=["exercise"]
def speed_up(compute, size, workers, latency, bandwidth):
    """How many times as fast a step is with this many workers and the same batch."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
speed_exercise = Exercise(
    "strong scaling",
    [1.0, 8 / 6, 8 / 5, 10 / 7.2],
    [
        (8.0, 100.0, 1, 0.5, 50.0),
        (8.0, 100.0, 2, 0.0, 50.0),
        (8.0, 0.0, 4, 0.5, 50.0),
        (10.0, 200.0, 5, 0.25, 100.0),
    ],
    [
        (
            lambda c, m, n, a, b: c / (c + 2 * (n - 1) * (a + m / n / b)),
            "The batch is dealt out: computation takes C / N.",
        ),
        (
            lambda c, m, n, a, b: c / (c / n + (n - 1) * (a + m / n / b)),
            "A ring goes round twice: 2 (N - 1) steps.",
        ),
        (
            lambda c, m, n, a, b: c / (c / n + 2 * (n - 1) * (a + m / b)),
            "Each message has an N-th of the bytes.",
        ),
        (
            lambda c, m, n, a, b: c / n + 2 * (n - 1) * (a + m / n / b),
            "This is the time of a step. The speed-up is C over it.",
        ),
        (
            lambda c, m, n, a, b: c / (c + 2 * (n - 1) * (n * a + m / b)),
            "This is the efficiency. The speed-up is N times as much.",
        ),
        (
            lambda c, m, n, a, b: (c / n + 2 * (n - 1) * (a + m / n / b)) / c,
            "Upside down: a speed-up above 1 is faster.",
        ),
    ],
)
speed_exercise(speed_up)


# %% tags=["solution"] jupyter={"source_hidden": true}
def speed_up_solution(compute, size, workers, latency, bandwidth):
    message = latency + size / (workers * bandwidth)
    return compute / (compute / workers + 2 * (workers - 1) * message)


speed_exercise(speed_up_solution)

# %%
rows = [
    [
        n,
        *(
            compute / (compute / n + ring_seconds(n, gradient_bytes, *net))
            for net in networks.values()
        ),
    ]
    for n in (2, 8, 64, 1024)
]
show.table(
    rows, ["workers", *networks], "Speed-up with the batch fixed, by the law", digits=1
)

# %% [markdown]
# With a fixed batch there is a best number of workers; beyond it, more make the step slower.
# The derivative of $C/N + T_{\text{ring}}(N)$ is
#
# $$-\frac{C}{N^2} + 2\alpha + \frac{2M}{\beta N^2} = 0 \quad\Rightarrow\quad
# N^* = \sqrt{\frac{C - 2M/\beta}{2\alpha}}$$
#
# if $C > 2M/\beta$. Otherwise the exchange alone takes longer than the work that it saves, and
# one worker is best.


# %%
def best_workers(compute, size, latency, bandwidth):
    """The number of workers with the fastest step, batch fixed; not rounded."""
    return math.sqrt(max(1.0, (compute - 2 * size / bandwidth) / (2 * latency)))


best = [best_workers(compute, gradient_bytes, *net) for net in networks.values()]
show.table(
    [[name, value] for name, value in zip(networks, best, strict=True)],
    ["network", "best number of workers, by the formula"],
    digits=0,
)
counted, tried = np.arange(1, 1025), []
for net in networks.values():
    step_seconds = compute / counted + ring_seconds(counted, gradient_bytes, *net)
    tried.append(int(counted[step_seconds.argmin()]))
compare("best number: formula vs all up to 1,024", best, tried, 1)

# %% [markdown]
# ## 8. To take away, and what was not run
#
# In `notebooks/plans/`:
#
# - `train_small.py`, the script of section 4: put your model and data in its place;
# - `accelerate_two_cpu.yaml` and `accelerate_gpus.yaml`, configurations for `accelerate
#   launch`;
# - `train_small.slurm`, a job for two machines with four cards each, which goes on by itself
#   when it is requeued.

# %%
print((plans / "train_small.slurm").read_text(encoding="utf-8"))

# %% [markdown]
# **Not run here**, for want of the machines: more than one machine, graphics cards (and their
# exchange, NCCL), a real Slurm queue, more workers than two except in the simulation, mixed
# precision across processes, tensor and pipeline parallelism. The processes of this notebook ran
# on one machine, so their messages go through the operating system, and not
# through a network. `sftkit.fit` shards
# nothing itself: for FSDP, section 6 shows torch's own call. The Slurm script is checked for its
# syntax and with a stand-in for `srun` that shows what would be started.

# %%
metrics = {
    "two_processes_error": float(
        np.abs(np.array(two["losses"]) - one.losses[:7]).max()
    ),
    "mean_of_means_error": error,
    "sharded_share": total[1] / total[0],
    "resident_share": memory_share,
    "gloo": {"latency_us": 1e6 * alpha, "gigabytes_per_second": beta / 1e9},
    "efficiency_1024": {n: v[-1] for n, v in efficiency.items()},
    "seconds": {"notebook": time.perf_counter() - started},
}
record(out, metrics)

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 stand where they belong, in sections 2, 3, 6 and 7. One more:
#
# **5. Change it** (easy, 10 minutes). In section 7, set `jitter` to 0, then to 0.2. Which network
# suffers most at 1,024 workers, and why is it not the slowest? Then set `compute` to 4 s, as if
# ten micro-batches were accumulated before each exchange.
#
# ## Summary
#
# - Add up sums and counts over workers, divide once. A mean of means is wrong for uneven counts.
# - A ring all-reduce sends less than twice the gradient per worker, however many there are.
# - Two processes and one give the same losses, and a run may go on with another number.
# - Sharding divides weights, gradients and moments by the number of workers, for half as many
#   bytes again on the network.
# - Bandwidth decides how well few workers do; latency and the slowest worker, how well many do.
#
# ## Where to go next
#
# - [06 · Training loop](06_training_loop.ipynb): accumulation, the same sum on one machine.
# - [19 · Hyper-parameter search](19_hyperparameter_search.ipynb): many machines for many small
#   runs need no exchange at all.
# - [24 · Failure gallery](24_failure_gallery.ipynb): page 1 is the mean of means.
#
# Sources: Patarasuk and Yuan (2009), *Bandwidth Optimal All-reduce Algorithms for Clusters of
# Workstations*. Li et al. (2020), *PyTorch Distributed: Experiences on Accelerating Data Parallel
# Training*. Rajbhandari et al. (2020), *ZeRO: Memory Optimizations Toward Training Trillion
# Parameter Models*. Zhao et al. (2023), *PyTorch FSDP*. Hockney (1994), *The Communication
# Challenge for MPP* (the line $\alpha + m/\beta$). Goyal et al. (2017), *Accurate, Large Minibatch
# SGD*.
