# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: true
#     minutes: 1
#     assets: [minilm, tweets]
# ---

# %% [markdown]
# # 01 · Loss
#
# **How does one number tell a model how wrong it is, and why is that number $-\log p$?**
#
# About 1 minute on 2 cores. You need Python, the chain rule, and what a probability is.
# [00 · Start here](00_start_here.ipynb) shows the loss at work; here it is derived.
#
# You will be able to
#
# - derive cross-entropy from maximum likelihood, and softmax from one requirement;
# - compute both without overflow, and write their gradient on a blackboard;
# - divide a loss in the right place, also when examples differ in length;
# - choose between cross-entropy, label smoothing, class weights and focal loss, and between
#   the losses for numbers and for rankings;
# - read a loss in nats, bits and perplexity;
# - tell from the very first loss that a run is set up wrongly.
#
# Each derivation is followed by its code. Each gradient by hand is compared with automatic
# differentiation (autograd) and with finite differences.

# %% tags=["parameters"]
seed: int = 0  # of everything random
rows: int = 256  # tweets that the pretrained model reads in section 8
out: str = ""  # folder for results; empty means: show only

# %%
import math
from decimal import Decimal, localcontext

import ipywidgets
import numpy as np
import torch
from scipy import special, stats
from scipy.optimize import minimize, minimize_scalar
from sftkit import corpora, encode, losses, models
from sftkit.batches import Examples
from sftkit.course import record
from sftkit.teach import show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare
from torch.nn import functional

double = torch.float64
generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(*shape, dtype=double, generator=generator)


# %% [markdown]
# ## 1. Data, a model, and what is minimized
#
# Supervised learning starts from pairs: an input $x_i$ and its label $y_i$, for
# $i = 1 \dots n$. Here $x$ is a tweet and $y$ is one of $C = 3$ classes.

# %%
tweets = corpora.load("tweets", limit={"train": 3000, "validation": 1000}, seed=0)
names = tweets["train"].features["label"].names
C = len(names)
y = np.asarray(tweets["train"]["label"])  # (n,)
some = [(row["text"][:80], names[row["label"]]) for row in tweets["train"].take(4)]
show.table(some, ("x, the text", "y, the label"), f"Four of {len(y):,} pairs")

# %% [markdown]
# A **model** is a function $f(x;\theta)$ with parameters $\theta$. For each $x$ it gives
# $C$ numbers, the **logits**: one score per class, of any size and sign. A **loss** $L$
# compares them with the label. Training looks for
#
# $$\theta^* = \operatorname{argmin}_\theta \sum_{i=1}^{n} L\big(f(x_i;\theta),\, y_i\big) .$$
#
# Which $L$? What we care about is often the number of errors. But move one parameter a
# little: hardly ever does another class come out on top. So the number of errors is flat
# almost everywhere, with steps in between, and its slope says nothing about where to go. We
# need a loss that tells a near miss from a blunder.
#
# ## 2. From maximum likelihood to cross-entropy
#
# Let the model give **probabilities**: $p_c(x;\theta)$ for class $c$, positive, with sum 1.
# How likely does it make the labels that we have? If the examples are independent given
# their inputs, probabilities multiply:
#
# $$P(y_1,\dots,y_n \mid x_1,\dots,x_n;\theta) = \prod_{i=1}^{n} p_{y_i}(x_i;\theta) .$$
#
# **Maximum likelihood** takes the $\theta$ that makes this product largest. Try it with the
# model that gives each class $1/3$.

# %%
product = np.prod(np.full(len(y), 1 / C))
print(f"product of {len(y):,} probabilities 1/{C}: {product}")
print(f"smallest positive float64:        {np.nextafter(0, 1)}")
print(f"sum of their logarithms:          {len(y) * math.log(1 / C):.1f}")

# %% [markdown]
# The product is positive, but too small for a computer. The logarithm mends this and keeps
# the answer, because $\log$ grows with its argument: the largest product is where the sum of
# logarithms is largest, and where its negative is smallest.
#
# $$\begin{aligned}
# \operatorname{argmax}_\theta \prod_i p_{y_i}(x_i;\theta)
# &= \operatorname{argmax}_\theta \sum_i \log p_{y_i}(x_i;\theta) \\
# &= \operatorname{argmin}_\theta \sum_i -\log p_{y_i}(x_i;\theta) .
# \end{aligned}$$
#
# So $L = -\log p_y$, the **negative log-likelihood** or **cross-entropy**. Nobody chose it by
# taste: it is maximum likelihood, written as a sum. With the natural logarithm its unit is
# the **nat**.
#
# There are three reasons for logarithms, then. Sums do not underflow. Sums split into
# examples, so that a few of them at a time can be used. And, as the right-hand panel shows,
# the slope grows as $p_y$ falls to 0: a confident error is not shrugged off.

# %%
p = np.linspace(0.002, 1, 500)
margin = np.linspace(-6, 6, 601)  # right logit minus the other, two classes
fig, (left, right) = show.new_figure(columns=2)
left.plot(margin, margin < 0, label="error: 0 or 1", color=show.COLOURS[2], ls="--")
left.plot(margin, np.log1p(np.exp(-margin)), label="$-\\log\\ p_y$")
left.set(xlabel="right logit minus the other", ylabel="loss of one example")
left.set_title("Errors are flat, $-\\log\\ p_y$ is not")
right.plot(p, -np.log(p), label="$-\\log\\ p_y$, nats")
right.plot(p, 1 - p, label="$1 - p_y$", color=show.COLOURS[2], ls="--")
right.set(xlabel="probability of the right class, $p_y$", ylabel="loss of one example")
right.set_title("A confident error costs without bound")
left.legend(), right.legend()
alt = "Left: the error count is a step at 0, -log p falls smoothly. Right: -log p "
alt += "falls from above 6 near p = 0 to 0 at p = 1; 1 - p is a straight line."
show.figure(fig, alt)

# %% [markdown]
# ### The simplest model, solved
#
# Take a model that does not look at $x$: it always gives the same $p$. If class $c$ occurs
# $n_c$ times, its loss is $-\sum_c n_c \log p_c$. Its minimum under $\sum_c p_c = 1$ can be
# found with pencil and paper (a Lagrange multiplier $\lambda$ for the condition):
#
# $$\begin{aligned}
# \frac{\partial}{\partial p_c}\Big[-\sum_k n_k \log p_k
# + \lambda\Big(\sum_k p_k - 1\Big)\Big] &= -\frac{n_c}{p_c} + \lambda = 0 \\
# \Rightarrow\quad p_c = \frac{n_c}{\lambda} , \qquad
# \sum_c p_c = 1 \;\Rightarrow\; \lambda = n , \qquad p_c^* &= \frac{n_c}{n} .
# \end{aligned}$$
#
# Maximum likelihood gives back the frequencies. A numerical search, which knows nothing of
# this derivation, ends at the same place.

# %%
counts = np.bincount(y, minlength=C)
frequency = counts / len(y)


def constant_loss(z):
    """Mean loss of the model whose logits are z, whatever the text."""
    return -(frequency * special.log_softmax(z)).sum()


found = minimize(constant_loss, np.zeros(C), tol=1e-12)
show.table(
    zip(names, counts.tolist(), frequency, special.softmax(found.x), strict=True),
    ("class", "tweets", "frequency", "found by search"),
)
compare("constant model: n_c / n vs search", frequency, special.softmax(found.x), 1e-5)
print(f"loss with 1/3 each: {constant_loss(np.zeros(C)):.4f} nats")
print(f"loss at the best:   {found.fun:.4f} nats")

# %% [markdown]
# ## 3. Why softmax
#
# A network's last layer gives logits $z \in \mathbb{R}^C$, not probabilities. Ask for one
# thing: **a difference of logits shall be a difference of log-probabilities**. Then adding 1
# to a logit makes its class $e$ times as likely against any other. This already fixes
# everything. Write $j$ for any class:
#
# $$\begin{aligned}
# \log p_j - \log p_k &= z_j - z_k && \text{(the requirement)} \\
# p_j &= p_k\, e^{-z_k}\, e^{z_j} && \text{(solved for } p_j) \\
# 1 = \sum_j p_j &= p_k\, e^{-z_k} \sum_j e^{z_j} && \text{(they sum to 1)} \\
# p_k &= \frac{e^{z_k}}{\sum_j e^{z_j}} && \text{(softmax)}
# \end{aligned}$$
#
# Two things follow. Adding one number to all logits changes nothing. And with two classes,
# $p_1 = 1/(1+e^{-(z_1-z_0)})$: the logistic function $\sigma$ of the difference.


# %%
def softmax_draft(z):
    """(..., C) logits to probabilities, as the formula has it."""
    e = torch.exp(z)
    return e / e.sum(-1, keepdim=True)


# %%
shapes = [(4, 3), (2, 5, 7), (1, 100)]
batches = [3 * randn(*shape) for shape in shapes]
ours = torch.cat([softmax_draft(z).flatten() for z in batches])
theirs = torch.cat([torch.softmax(z, -1).flatten() for z in batches])
shifted = torch.cat([softmax_draft(z + 7).flatten() for z in batches])
compare("softmax vs torch, 3 shapes", ours, theirs, 1e-12)
compare("softmax of shifted logits vs torch's", shifted, theirs, 1e-12)
pair = randn(9, 2)
logistic = special.expit((pair[:, 1] - pair[:, 0]).numpy())
compare(
    "softmax of two classes vs logistic", softmax_draft(pair)[:, 1], logistic, 1e-12
)

# %% [markdown]
# Dividing logits by a **temperature** $T$ before the softmax keeps their order. Small $T$
# sharpens, large $T$ flattens. You will meet it again in sampling, distillation and
# calibration.

# %%
z = torch.tensor([2.0, 1.0, 0.0, -1.0])
fig, axes = show.new_figure(height=2.6, columns=3, sharey=True)
for k, (ax, T) in enumerate(zip(axes, (0.3, 1.0, 3.0), strict=True)):
    bars = ax.bar(range(4), softmax_draft(z / T), color=show.COLOURS[k])
    ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set(title=f"$T = {T:g}$", xlabel="logit", ylim=(0, 1.1))
    ax.set_xticks(range(4), [f"{v:g}" for v in z])
axes[0].set_ylabel("probability")
title = "Low temperature sharpens, high temperature flattens"
fig.suptitle(title, fontsize=11, fontweight="bold")
alt = "Probabilities of logits 2, 1, 0, -1 at three temperatures: nearly all on the "
show.figure(fig, alt + "first at 0.3, spread at 1, closer to even at 3.")

# %% [markdown]
# ## 4. Overflow, and log-sum-exp
#
# The draft above is right on paper. Give it larger logits. Class 0 is the right one, and
# class 1 has a logit that is larger by a gap $g$, so the exact loss is
# $\log(1 + e^{g}) \approx g$.


# %%
def loss_draft_1(z):
    """-log softmax(z) of class 0, by the formulas."""
    return -torch.log(softmax_draft(z)[..., 0])


def loss_draft_2(z):
    """The same, with the largest logit moved to 0 first."""
    return loss_draft_1(z - z.max(-1, keepdim=True).values)


gaps = [10, 80, 200, 1000]
table = []
for gap in gaps:
    z = torch.tensor([0.0, gap])  # float32
    probs = ", ".join(f"{v:.1e}" for v in softmax_draft(z).tolist())
    table.append((gap, probs, f"{loss_draft_1(z):.2f}", f"{loss_draft_2(z):.2f}", gap))
show.table(table, ("gap", "softmax", "loss, draft 1", "loss, draft 2", "about"))

# %% [markdown]
# Two failures, one after the other. In draft 1, $e^{200}$ is more than float32 can hold: it
# becomes infinite, and $\infty/\infty$ is "not a number" (nan). Draft 2 uses that a shift
# changes nothing: with the largest logit at 0, no exponential is above 1. Softmax itself is
# mended. The loss is not: $e^{-200}$ becomes 0, and $-\log 0$ is infinite.
#
# The cure is to take the logarithm **on paper**, before the computer sees it:
#
# $$-\log p_y = -\log \frac{e^{z_y}}{\sum_j e^{z_j}}
# = \operatorname{lse}(z) - z_y , \qquad
# \operatorname{lse}(z) = \log\sum_j e^{z_j} ,$$
#
# and to compute the **log-sum-exp** with the largest logit $m = \max_j z_j$ taken out:
#
# $$\operatorname{lse}(z) = \log\Big(e^{m}\sum_j e^{z_j-m}\Big)
# = m + \log\sum_j e^{z_j-m} .$$
#
# One term of the last sum is $e^0 = 1$ and none is larger, so the sum is between 1 and $C$:
# nothing overflows, and its logarithm is never that of 0.


# %%
def log_sum_exp(z):
    """(..., C) to (...): the logarithm of the sum of exponentials."""
    m = z.max(-1).values
    return m + torch.log(torch.exp(z - m.unsqueeze(-1)).sum(-1))


def loss_final(z):
    return log_sum_exp(z) - z[..., 0]


show.table(
    [(gap, f"{loss_final(torch.tensor([0.0, gap])):.2f}", gap) for gap in gaps],
    ("gap", "loss, final", "about"),
)

# %%
gap = torch.linspace(0, 150, 601)
z = torch.stack([0 * gap, gap], dim=1)  # float32
fig, ax = show.new_figure()
drafts = [("draft 1", loss_draft_1), ("draft 2: shifted", loss_draft_2)]
drafts.append(("final: log-sum-exp", loss_final))
for k, (name, method) in enumerate(drafts):
    value = method(z)
    value[~torch.isfinite(value)] = math.nan  # a gap in the line
    style = dict(lw=2 + 3 * (2 - k), alpha=0.5 + 0.25 * k, color=show.COLOURS[k])
    last = gap[torch.isfinite(value)].max()
    ax.plot(gap, value, label=f"{name}, finite up to {last:.0f}", **style)
ax.set(xlabel="how far the right logit lies below the other", ylabel="loss, nats")
ax.set_title("In float32, only log-sum-exp survives a confident error")
ax.legend()
show.figure(
    fig, "Three losses rise along one line. Drafts 1 and 2 end; the last goes on."
)

# %% [markdown]
# Where do exponentials overflow? It depends on the type of number. In float16, a logit of 12
# is too large already.

# %%
types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
show.table(
    [(str(t).split(".")[1], int(math.log(torch.finfo(t).max))) for t in types],
    ("type", "largest whole logit whose exponential is finite"),
)

# %% [markdown]
# Verification: against torch on three shapes, and against arithmetic with 50 decimal places
# on logits in the thousands, where no float could hold the exponentials.


# %%
def exact(z):
    with localcontext() as context:
        context.prec = 50
        return float(sum(Decimal(v).exp() for v in z).ln())


ours = torch.cat([log_sum_exp(100 * z).flatten() for z in batches])
theirs = torch.cat([torch.logsumexp(100 * z, -1).flatten() for z in batches])
compare("log-sum-exp vs torch, 3 shapes", ours, theirs, 1e-12)
extreme = [[1000.0, 1000.5, -3000.0], [-5000.0, -5001.0, -5000.25], [0.0, -40.0, 3e3]]
ours = log_sum_exp(torch.tensor(extreme, dtype=double))
compare("log-sum-exp vs 50 decimals", ours, [exact(z) for z in extreme], 1e-9)


# %% [markdown]
# Now the loss of a batch, as the course writes every loss: the **sum** over the judged items,
# and **how many** there are. A label of -100 means "not judged"; section 6 says why sum and
# count stay apart.


# %%
def cross_entropy(z, y):
    """(..., C) logits and (...) labels to (loss_sum, n)."""
    judged = y != -100
    z, y = z[judged], y[judged]
    right = z.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return (log_sum_exp(z) - right).sum(), judged.sum()


# %%
ours, theirs, kit = [], [], []
for z in batches:
    y_random = torch.randint(0, z.shape[-1], z.shape[:-1], generator=generator)
    y_random.view(-1)[1::4] = -100  # not judged
    flat, y_flat = z.reshape(-1, z.shape[-1]), y_random.reshape(-1)
    loss_sum, n = cross_entropy(z, y_random)
    ours.append(loss_sum / n)
    theirs.append(functional.cross_entropy(flat, y_flat))
    kit.append(losses.cross_entropy(z, y_random)[0] / n)
compare(
    "cross-entropy vs torch, 3 shapes", torch.stack(ours), torch.stack(theirs), 1e-12
)
compare("cross-entropy vs sftkit.losses", torch.stack(ours), torch.stack(kit), 1e-12)

# %% [markdown]
# ## 5. The gradient: what was given minus what is right
#
# Which way should the logits move? Take the derivative of
# $L = \operatorname{lse}(z) - z_y$ with respect to one logit $z_j$:
#
# $$\begin{aligned}
# \frac{\partial \operatorname{lse}(z)}{\partial z_j}
# &= \frac{1}{\sum_k e^{z_k}} \cdot e^{z_j} = p_j \\
# \frac{\partial z_y}{\partial z_j} &= [j = y] \quad (1 \text{ if } j = y,\ 0 \text{ if not}) \\
# \frac{\partial L}{\partial z_j} &= p_j - [j = y] .
# \end{aligned}$$
#
# As a vector: $\nabla_z L = p - \operatorname{onehot}(y)$. Probabilities given, minus
# probabilities wanted. This is why softmax and $-\log$ belong together.


# %%
def softmax(z):
    return torch.exp(z - log_sum_exp(z).unsqueeze(-1))


def gradient(z, y):
    """Of the loss of each row, with respect to its logits: (B, C)."""
    return softmax(z) - functional.one_hot(y, z.shape[-1])


def by_autograd(loss, z):
    z = z.clone().requires_grad_(True)
    return torch.autograd.grad(loss(z), z)[0]


z = torch.tensor([[1.0, -0.5, 2.0]], dtype=double)
y_one = torch.tensor([0])
print("p        ", [f"{v:+.3f}" for v in softmax(z)[0].tolist()])
print("gradient ", [f"{v:+.3f}" for v in gradient(z, y_one)[0].tolist()])


# %% [markdown]
# A derivative can be checked without calculus: move one entry up and down by a small $h$ and
# see how the loss changes. The error of the **central difference**
# $\frac{L(z_j+h)-L(z_j-h)}{2h}$ shrinks as $h^2$, until rounding takes over; so use float64.


# %%
def by_differences(loss, z, h=1e-5):
    """Central finite differences of a scalar loss, entry by entry."""
    grad = torch.zeros_like(z)
    for i in range(z.numel()):
        step = torch.zeros_like(z)
        step.view(-1)[i] = h
        grad.view(-1)[i] = (loss(z + step) - loss(z - step)) / (2 * h)
    return grad


def check_gradient(what, loss, z, by_hand):
    """The triplet of every derivation below."""
    compare(f"{what}: hand vs autograd", by_hand, by_autograd(loss, z), 1e-12)
    compare(f"{what}: hand vs differences", by_hand, by_differences(loss, z), 1e-7)


# %%
z3 = [randn(4, 3), 4 * randn(2, 7), randn(9, 2)]
y3 = [torch.randint(0, z.shape[1], (len(z),), generator=generator) for z in z3]
flat = torch.cat([z.flatten() for z in z3])  # the three shapes as one vector


def rows_of(flat):
    parts = flat.split([z.numel() for z in z3])
    return [part.view_as(z) for part, z in zip(parts, z3, strict=True)]


def total(loss_of_batch):
    """A loss of (z, y), summed over the three batches, as a function of ``flat``."""
    return lambda v: sum(
        loss_of_batch(z, y) for z, y in zip(rows_of(v), y3, strict=True)
    )


def joined(gradient_of_batch):
    pairs = zip(z3, y3, strict=True)
    return torch.cat([gradient_of_batch(z, y).flatten() for z, y in pairs])


# %%
loss = total(lambda z, y: cross_entropy(z, y)[0])
check_gradient("softmax cross-entropy", loss, flat, joined(gradient))


# %% [markdown]
# Read the gradient. Its entries sum to 0: what the right class gains, the others lose in
# proportion to their probability. No entry exceeds 1 in size, however wrong the model is.
# And all vanish only when $p_y = 1$.


# %%
def draw_gradient(a, b, right):
    """Three logits (a, b, 0): probabilities, loss and gradient."""
    z = torch.tensor([[a, b, 0.0]], dtype=double)
    p, g = softmax(z)[0], gradient(z, torch.tensor([right]))[0]
    fig, (first, second) = show.new_figure(height=2.8, columns=2)
    marks = ["right" if c == right else "" for c in range(3)]
    first.bar_label(first.bar(range(3), p, color=show.COLOURS[0]), marks, fontsize=9)
    first.set(ylim=(0, 1.15), ylabel="probability", xlabel="class (logit)")
    first.set_title(f"Loss {-torch.log(p[right]):.2f} nats")
    second.bar(range(3), g, color=show.COLOURS[2])
    second.axhline(0, color="black", lw=0.8)
    second.set(ylim=(-1.1, 1.1), ylabel="p - onehot(y)", xlabel="class (logit)")
    second.set_title("Gradient: a step goes the other way")
    ticks = [f"{c} ({v:+.1f})" for c, v in enumerate(z[0].tolist())]
    for ax in (first, second):
        ax.set_xticks(range(3), ticks)
    return fig


# %%
alt = "Two bar charts for logits 1, 2, 0 and right class 0: probabilities about 0.24, "
alt += "0.67, 0.09; gradient about -0.76, +0.67, +0.09."
show.figure(draw_gradient(1.0, 2.0, 0), alt)

# %% [markdown]
# Move the logits yourself. Can you find a setting where the answer is wrong and the gradient
# is small?
#
# <details><summary>Answer</summary>No. If another class has the largest probability, the right
# one has at most 1/2, and its entry of the gradient is −1/2 or below.</details>

# %% tags=["nbval-ignore-output"]
slider = dict(min=-10.0, max=10.0, step=0.5)
controls = {
    "a": ipywidgets.FloatSlider(value=1, description="logit 0", **slider),
    "b": ipywidgets.FloatSlider(value=2, description="logit 1", **slider),
    "right": ipywidgets.Dropdown(options=[0, 1, 2], description="right class"),
}
widgets.figure_box(draw_gradient, controls)

# %% [markdown]
# All steps at once: two logits vary, the third is 0, and class 0 is right. Arrows point
# where a step goes, $\operatorname{onehot}(y) - p$.

# %%
a, b = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81))
field = torch.tensor(np.stack([a, b, 0 * a], -1))  # (81, 81, 3)
step = functional.one_hot(torch.tensor(0), 3) - softmax(field)
height = log_sum_exp(field) - field[..., 0]
fig, ax = show.new_figure(height=3.8)
lines = ax.contour(a, b, height, levels=12, cmap="cividis")
ax.clabel(lines, fontsize=8)
every = (slice(None, None, 8), slice(None, None, 8))
ax.quiver(a[every], b[every], step[..., 0][every], step[..., 1][every], color="#bd1f01")
ax.set(xlabel="logit of class 0, the right one", ylabel="logit of class 1")
ax.set_title("Long steps where the answer is wrong, short where it is right")
alt = "Contours of the loss over two logits, high at the upper left. Arrows to the "
alt += "lower right are long there and fade at the right, where the loss is low."
show.figure(fig, alt)

# %% [markdown]
# What would another loss do? The squared error of the probabilities,
# $\sum_j (p_j - [j=y])^2$ (Brier score), is also smallest at the right answer. But softmax is
# flat where it is confident, and its slope enters the gradient as a factor. The more
# confidently wrong, the less this loss moves.


# %%
def brier(z, y):
    return ((softmax(z) - functional.one_hot(y, z.shape[-1])) ** 2).sum()


def pull(loss, z):
    """The gradient of a loss at the logit of class 0, which is right."""
    return f"{by_autograd(lambda z: loss(z, y_one), z)[0, 0].item():.1e}"


def nll(z, y):
    return cross_entropy(z, y)[0]


# %%
table = []
for low in (0, -2, -5, -10, -20):
    z = torch.tensor([[low, 0.0]], dtype=double)
    table.append((low, f"{softmax(z)[0, 0]:.1e}", pull(nll, z), pull(brier, z)))
header = (
    "right logit",
    "its probability",
    "gradient, cross-entropy",
    "gradient, squared",
)
show.table(table, header, "How hard each loss pulls at the right logit")

# %% [markdown]
# ### One layer further down
#
# Mostly the logits come from a linear layer, $z = W h + b$, with features $h \in
# \mathbb{R}^D$. The chain rule gives, row by row,
#
# $$\frac{\partial L}{\partial W_{jk}} = \frac{\partial L}{\partial z_j}\, h_k
# \quad\Rightarrow\quad
# \nabla_W L = \left(p - \operatorname{onehot}(y)\right) h^\top , \qquad
# \nabla_b L = p - \operatorname{onehot}(y) .$$

# %%
h, W, y_w = randn(6, 5), randn(4, 5), torch.tensor([0, 3, 1, 1, 2, 0])


def loss_of_weights(W):
    return cross_entropy(h @ W.T, y_w)[0]


check_gradient("weights of the head", loss_of_weights, W, gradient(h @ W.T, y_w).T @ h)

# %% [markdown]
# ## 6. Sum or mean, and "divide once"
#
# The loss of $n$ items is a sum. Dividing it by $n$ moves no minimum, as $1/n$ is a constant,
# and makes losses of different data comparable. It also keeps the gradient from growing with
# the batch, so that the learning rate need not shrink with it. To see this, take a
# small model on real text: it predicts the next character of a tweet from the last one. Its
# parameters $\theta$ are a table of logits, one row per last character.

# %%
plain = [text for text in tweets["train"]["text"] if text.isascii()]
alphabet = sorted(set("".join(plain)))
V = len(alphabet)
theta = 0.1 * randn(V, V)  # logits of the next character, by the last


def ids_of(text):
    return torch.tensor([alphabet.index(character) for character in text])


def whole_batch(texts):
    """All texts at once, padded with -100: torch's mean, and its gradient (V, V)."""
    leaf = theta.clone().requires_grad_(True)
    ids = [ids_of(text) for text in texts]
    labels = torch.nn.utils.rnn.pad_sequence([i[1:] for i in ids], True, -100)
    inputs = torch.nn.utils.rnn.pad_sequence([i[:-1] for i in ids], True, 0)
    loss = functional.cross_entropy(leaf[inputs].reshape(-1, V), labels.reshape(-1))
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


# %%
table = []
for B in (1, 10, 100):
    norm = whole_batch(plain[:B])[1].norm().item()
    n = sum(len(text) - 1 for text in plain[:B])
    table.append((B, n, f"{norm * n:.1f}", f"{norm:.3f}"))
show.table(table, ("tweets", "characters judged", "gradient of sum", "of mean"))

# %% [markdown]
# ### Where to divide
#
# The trap is *where* one divides. A batch that does not fit into memory is cut into
# **micro-batches**, whose gradients are added up before the step (accumulation). Let
# micro-batch $k$ have the sum of losses $S_k$ over $n_k$ items. Wanted is
#
# $$\bar L = \frac{S_1 + \dots + S_K}{n_1 + \dots + n_K},
# \qquad\text{and often computed is}\qquad
# \tilde L = \frac{1}{K}\sum_{k=1}^{K} \frac{S_k}{n_k} .$$
#
# In $\bar L$ each item has the weight $1/\sum_j n_j$. In $\tilde L$ an item of micro-batch
# $k$ has the weight $1/(K n_k)$. The ratio is $\bar n / n_k$, with $\bar n$ the mean of the
# $n_k$: **items of short micro-batches count too much**. For equal $n_k$ the two agree, so a
# test with equal lengths sees nothing.
#
# Texts are seldom of equal length. Take the shortest and the longest of these tweets, one per
# micro-batch.

# %%
by_length = sorted(plain, key=lambda text: (len(text), text))
two = [by_length[0], by_length[-1]]
lengths = [len(text) - 1 for text in two]  # predictions
mean_length = sum(lengths) / 2
show.table(
    [
        (k, n, 1 / sum(lengths), 1 / (2 * n), mean_length / n)
        for k, n in zip(("shortest", "longest"), lengths, strict=True)
    ],
    ("tweet", "characters judged", "weight, wanted", "mean of means", "ratio"),
    digits=5,
)


# %%
def sum_and_gradient(text):
    """One micro-batch of one text: loss_sum, its gradient (V, V), and n."""
    leaf, ids = theta.clone().requires_grad_(True), ids_of(text)
    loss_sum, n = cross_entropy(leaf[ids[:-1]], ids[1:])
    return loss_sum.item(), torch.autograd.grad(loss_sum, leaf)[0], n.item()


sums, grads, ns = zip(*map(sum_and_gradient, two), strict=True)
mean_of_means = sum(s / n for s, n in zip(sums, ns, strict=True)) / len(ns)
wrong = sum(g / n for g, n in zip(grads, ns, strict=True)) / len(ns)
once, right = sum(sums) / sum(ns), sum(grads) / sum(ns)
whole_loss, whole = whole_batch(two)
factor = (wrong.norm() / whole.norm()).item()
cosine = functional.cosine_similarity(wrong.flatten(), whole.flatten(), dim=0).item()

# %%
show.table(
    [
        ("whole batch at once", whole_loss, 1.0, 1.0),
        ("mean of micro-batch means", mean_of_means, factor, cosine),
        ("sums added, divided once", once, *(1.0, 1.0)),
    ],
    ("gradient", "loss", "length against the whole batch's", "cosine with it"),
    digits=2,
)
compare("divided once vs whole batch, gradient", right, whole, 1e-12)
compare("divided once vs whole batch, loss", once, whole_loss, 1e-12)
assert abs(factor - 1) > 0.2 and cosine < 0.9  # the broken version is seen to be broken

# %% [markdown]
# This is no matter of rounding: the mean of means has another length, and it points
# elsewhere. The loss alone looks healthy, which is why it can go unseen: Hugging Face's
# `Trainer` shipped it until 2024 (transformers, pull request 34191). You may *want* each text to
# count the same, whatever its length. Then give its items weights, and divide by their sum;
# as it stands, the objective depends on how rows fall into micro-batches.
#
# There is a second form. With an accumulation of 2 and five micro-batches, the last step has
# only one. Whoever divides by 2 all the same halves its gradient, even when all lengths are
# equal. A pair of sum and count is safe from this too.

# %%
five = [by_length[len(by_length) * k // 5] for k in range(5)]
done = [sum_and_gradient(text) for text in five]
windows = [done[0:2], done[2:4], done[4:5]]  # three steps; the last one is short
texts = [five[0:2], five[2:4], five[4:5]]
divided_once = [sum(g for _, g, _ in w) / sum(n for *_, n in w) for w in windows]
at_once = [whole_batch(group)[1] for group in texts]
compare(
    "3 steps, last one short, vs whole batches",
    torch.stack(divided_once),
    torch.stack(at_once),
    1e-12,
)
fixed_two = [sum(g / n for _, g, n in w) / 2 for w in windows]
for k, (bad, good) in enumerate(zip(fixed_two, at_once, strict=True)):
    print(f"step {k}: always 2 gives {bad.norm() / good.norm():.2f} of the length")

# %% [markdown]
# So every loss in `sftkit.losses` gives `(loss_sum, n)`, and `sftkit.fit` adds both up over
# micro-batches (and over processes) and divides once per step. `n` counts what is **judged**:
# places with the label -100 are in no sum, and must not be in the count either.
#
# ## 7. Entropy, KL divergence and perplexity
#
# How small can a loss get? Say that the labels really have the distribution $q$, and the
# model gives $p$. The expected loss is the **cross-entropy** of $q$ and $p$, and splits in
# two:
#
# $$\begin{aligned}
# H(q, p) &= -\sum_c q_c \log p_c \\
# &= -\sum_c q_c \log q_c + \sum_c q_c \log \frac{q_c}{p_c} \\
# &= H(q) + \operatorname{KL}(q \,\|\, p) .
# \end{aligned}$$
#
# The **entropy** $H(q)$ depends on the data alone. The **Kullback-Leibler divergence**
# $\operatorname{KL}$ is what the model adds. It is never negative: with $\log t \le t - 1$,
#
# $$-\operatorname{KL}(q\,\|\,p) = \sum_{c:\,q_c>0} q_c \log\frac{p_c}{q_c}
# \le \sum_{c:\,q_c>0} q_c\Big(\frac{p_c}{q_c} - 1\Big)
# = \sum_{c:\,q_c>0} p_c - 1 \le 0 ,$$
#
# with equality only for $p = q$. So minimizing cross-entropy minimizes the divergence, the
# best model is the truth, and **the loss ends at the entropy of the labels given the
# inputs, not at 0**. (For one example with one label, $q$ is one-hot and $H(q) = 0$; the
# entropy comes from inputs that may have either label.)

# %%
q3 = [torch.softmax(randn(k), -1) for k in (2, 5, 50)]
p3 = [torch.softmax(randn(k), -1) for k in (2, 5, 50)]


def entropy(q):
    return -(q * torch.log(q)).sum()


def kl(q, p):
    return (q * torch.log(q / p)).sum()


# %%
pairs = list(zip(q3, p3, strict=True))
both = [entropy(q) + kl(q, p) for q, p in pairs]
soft = [functional.cross_entropy(torch.log(p), q) for q, p in pairs]
compare("H(q) + KL(q, p) vs torch's cross-entropy", both, soft, 1e-12)
ours, theirs = zip(*((kl(q, p), stats.entropy(q, p)) for q, p in pairs), strict=True)
compare("KL vs scipy", ours, theirs, 1e-12)
q, p = pairs[0]
print(f"KL(q, p) = {kl(q, p):.4f}, KL(p, q) = {kl(p, q):.4f}: it is not symmetric")

# %% [markdown]
# **Nats, bits, perplexity** are three ways to write one number:
#
# - nats: with the natural logarithm, as torch computes;
# - bits: with $\log_2$, so nats divided by $\log 2$;
# - **perplexity** $e^{\text{nats}} = 2^{\text{bits}}$: among how many equally likely choices
#   the model hesitates. Uniform over $C$ choices has the perplexity $C$.
#
# Real letters: how well do three models foresee the next letter (26 and the space) of tweets
# that they have not seen? The first gives all letters the same; the second knows how
# frequent they are; the third knows what follows what.

# %%
import re

letters = " abcdefghijklmnopqrstuvwxyz"


def letters_of(split):
    text = re.sub("[^a-z]+", " ", " ".join(tweets[split]["text"]).lower())
    return np.array([letters.index(character) for character in text])


seen, unseen = letters_of("train"), letters_of("validation")
single = np.bincount(seen, minlength=27) / len(seen)
after = np.ones((27, 27))  # one of each, so that no pair is impossible
np.add.at(after, (seen[:-1], seen[1:]), 1)
after /= after.sum(axis=1, keepdims=True)

# %%
nats = {
    "uniform": math.log(27),
    "frequencies": -np.log(single[unseen[1:]]).mean(),
    "given the last letter": -np.log(after[unseen[:-1], unseen[1:]]).mean(),
}
words = (unseen == 0).sum()  # a space ends a word
table = []
for name, v in nats.items():
    per_word = math.exp(v * (len(unseen) - 1) / words)
    table.append((name, v, v / math.log(2), math.exp(v), f"{per_word:,.0f}"))
show.table(
    table,
    ("model", "nats", "bits", "perplexity per letter", "per word"),
    f"Loss per letter on {len(unseen):,} letters of validation tweets",
    digits=2,
)

# %% [markdown]
# The last column holds the same sums, divided by the number of words. Same model, same text,
# quite another number: **a perplexity means nothing without its unit**, and two models with
# different tokens are compared per letter or byte, or not at all.
#
# Bits are lengths. Give a letter of probability $p_c$ a code word of
# $\ell_c = \lceil -\log_2 p_c \rceil$ binary digits. Then $\sum_c 2^{-\ell_c} \le 1$ (Kraft's
# inequality), so there is a code with these lengths that can be read without separators. Its
# mean length is less than one bit above the entropy.

# %%
digits = np.ceil(-np.log2(single))
bits = -(single * np.log2(single)).sum()
print(f"Kraft's sum    {(2.0**-digits).sum():.3f}")
print(f"entropy        {bits:.3f} bits per letter")
print(f"mean length    {(single * digits).sum():.3f} binary digits per letter")
assert bits <= (single * digits).sum() < bits + 1

# %% [markdown]
# ## 8. What a good first loss is
#
# A classifier with a new head knows nothing. Its logits are nearly equal, each class gets
# nearly $1/C$, and the loss is nearly
#
# $$-\log \frac{1}{C} = \log C .$$
#
# That is a free test: **before the first step you know what the loss must be.** Try it on a
# real pretrained model, MiniLM, with a new head, on real tweets.

# %%
net, tokenizer = models.load("minilm", names, seed=seed)
rows = min(rows, len(y))
encoded = encode.classification(tweets, tokenizer, max_length=64)
examples = Examples.of(encoded["train"], tokenizer.pad_token_id).take(np.arange(rows))
net.eval()
loss_sum, n = 0.0, 0
with torch.inference_mode():
    for start in range(0, rows, 64):
        batch = examples.batch(np.arange(start, min(start + 64, rows)))
        more, count = losses.classification()(net, batch)
        loss_sum, n = loss_sum + more.item(), n + count.item()
first_loss = loss_sum / n
print(f"first loss {first_loss:.2f} nats over {n} tweets, log C = {math.log(C):.2f}")

# %% [markdown]
# How near should it be? Let the new head's logits be independent with mean 0 and standard
# deviation $s$. The gradient of $\operatorname{lse}$ is $p$; its second derivatives are
# $\partial p_j / \partial z_k = p_j([j=k] - p_k)$. At $z = 0$, where $p_j = 1/C$, the Taylor
# expansion to second order and its mean are
#
# $$\begin{aligned}
# \operatorname{lse}(z) &\approx \log C + \frac{1}{C}\sum_j z_j
# + \frac{1}{2}\Big[\frac{1}{C}\sum_j z_j^2 - \Big(\frac{1}{C}\sum_j z_j\Big)^2\Big] \\
# \mathbb{E}\,[\operatorname{lse}(z) - z_y] &\approx
# \log C + \frac{s^2}{2}\Big(1 - \frac{1}{C}\Big) .
# \end{aligned}$$
#
# A head's weights with standard deviation $w$ give $s = w\,\|h\|$ for features $h$. For
# large $s$ the log-sum-exp is nearly the largest logit, and the loss grows in proportion
# to $s$.
# Now measure it: the features of the same tweets, and 40 random heads for each $w$.

# %%
h = torch.from_numpy(models.head_features(net, examples, C)).double()  # (rows, D)
y_h = torch.from_numpy(examples.columns["labels"]).long()
size = h.square().sum(1).mean().sqrt().item()  # root mean square of ||h||
scales = np.logspace(-2.5, 1, 15)


def first_loss_of(weight, bias=0.0):
    loss_sum, n = cross_entropy(h @ weight.T + bias, y_h)
    return (loss_sum / n).item()


heads = [randn(C, h.shape[1]) for _ in range(40)]
measured = np.array([[first_loss_of(w * head) for head in heads] for w in scales])
default = net.config.initializer_range
print(f"||h|| is about {size:.1f}")
print(f"a new head has w = {default}, so s = {default * size:.2f}")

# %%
s = scales * size
fig, ax = show.new_figure()
low, middle, high = np.percentile(measured, [10, 50, 90], axis=1)
ax.fill_between(scales, low, high, alpha=0.25, label="10 to 90 % of 40 heads")
ax.plot(scales, measured.mean(axis=1), marker="o", label="mean of 40 heads")
expansion = math.log(C) + s**2 / 2 * (1 - 1 / C)
few = s < 1.5
ax.plot(scales[few], expansion[few], color=show.COLOURS[1], ls="--", label="expansion")
ax.axhline(math.log(C), color="black", lw=0.8, ls=":", label="log C")
ax.axvline(default, color=show.COLOURS[2], lw=1, ls="-.", label="a new head")
ax.set(xscale="log", yscale="log", xlabel="standard deviation of the head's weights, w")
ax.set_ylabel("first loss, nats")
ax.set_title("The first loss tells how large the head starts")
ax.legend(fontsize=8)
alt = "First loss against the scale of the head: flat at log 3 up to about 0.1, then "
alt += "rising in proportion. The standard new head lies on the flat part."
show.figure(fig, alt)

# %%
few = s < 0.5
centre = measured.mean(axis=1)[few]
compare("first loss, s < 0.5: 40 heads vs expansion", centre, expansion[few], 0.05)

# %% [markdown]
# Now the usual mistakes, each on the same features. The last column says what a first loss
# like this points to.

# %%
fresh = default * heads[0]
prior = torch.log(torch.bincount(y_h, minlength=C) / len(y_h))
wide = default * randn(30, h.shape[1])  # 30 outputs for 3 classes
half = torch.where(torch.arange(rows) % 2 == 0, y_h, -100)
half_sum, _ = cross_entropy(h @ fresh.T, half)
twice_sum, n = cross_entropy(softmax(h @ fresh.T), y_h)

# %%
starts = [
    ("new head", first_loss_of(fresh), "log C: well"),
    ("new head, bias = log frequencies", first_loss_of(fresh, prior), "entropy: well"),
    ("head 50 times too large", first_loss_of(50 * fresh), "far above log C"),
    ("30 outputs for 3 classes", first_loss_of(wide), "log 30: too many outputs"),
    ("half not judged, divided by all", half_sum.item() / rows, "half of log C: count"),
    ("softmax twice", (twice_sum / n).item(), "log C: looks well, is not"),
]
show.table(
    starts, ("start", "first loss", "reading"), f"log {C} = {math.log(C):.2f}", 2
)

# %% [markdown]
# The second line is a good idea with rare classes: a bias of $\log n_c/n$ starts at the
# constant model of section 2, whose loss is the entropy of the labels, at most $\log C$.
#
# The last line passes the test and is wrong all the same. Somebody applied softmax in the
# model, and the loss applies it again. The second softmax sees numbers between 0 and 1, so
# even a perfect answer, 1 for the right class and 0 for the others, has the loss
#
# $$-\log \frac{e}{e + (C - 1)} = \log\big(1 + (C-1)/e\big) .$$
#
# So the test has a second half: **a few examples, trained for long, must go down to nearly
# 0.** This one cannot.

# %%
for classes in (3, 10, 100):
    perfect = torch.zeros(1, classes, dtype=double)
    perfect[0, 0] = 1.0
    floor = cross_entropy(perfect, torch.tensor([0]))[0].item()
    print(
        f"C = {classes:3}: starts at {math.log(classes):.2f}, never below {floor:.2f}"
    )
formula = [math.log(1 + (k - 1) / math.e) for k in (3, 10, 100)]
one = [functional.one_hot(torch.tensor([0]), k).double() for k in (3, 10, 100)]
floors = [functional.cross_entropy(probs, torch.tensor([0])) for probs in one]
compare("floor of softmax twice: formula vs torch", formula, floors, 1e-12)

# %% [markdown]
# `sftkit.check_run` looks at the first loss, among other things, before a run starts.
#
# ## 9. When the target or the weight changes
#
# ### Label smoothing
#
# Labels contain mistakes, and $-\log p_y$ is smallest at $p_y = 1$, which needs infinite
# logits. **Label smoothing** (Szegedy et al. 2016) takes a share $\varepsilon$ of the target
# and spreads it over all classes:
#
# $$q_j = (1-\varepsilon)\,[j = y] + \frac{\varepsilon}{C}, \qquad
# L = -\sum_j q_j \log p_j .$$
#
# The gradient follows as before. With $\log p_j = z_j - \operatorname{lse}(z)$ and
# $\sum_j q_j = 1$:
#
# $$L = \operatorname{lse}(z) - \sum_j q_j z_j , \qquad
# \frac{\partial L}{\partial z_j} = p_j - q_j .$$
#
# It is 0 at $p = q$, with finite logits: the right one above the others by
# $\log\frac{1 - \varepsilon + \varepsilon/C}{\varepsilon/C}$. The loss there is $H(q)$, not
# 0: **losses with and without smoothing cannot be compared.**


# %%
def smooth_targets(z, y, eps):
    C = z.shape[-1]
    return (1 - eps) * functional.one_hot(y, C).to(z.dtype) + eps / C


def smoothed(z, y, eps=0.1):
    q = smooth_targets(z, y, eps)
    return (log_sum_exp(z) - (q * z).sum(-1)).sum(), torch.tensor(len(y))


def smoothed_gradient(z, y, eps=0.1):
    return softmax(z) - smooth_targets(z, y, eps)


# %%


def agree(what, ours, *others):
    """Means of the three batches: a loss by hand against others."""
    mine = [s / n for s, n in (ours(z, y) for z, y in zip(z3, y3, strict=True))]
    for name, other in others:
        reference = [other(z, y) for z, y in zip(z3, y3, strict=True)]
        compare(f"{what} vs {name}", torch.stack(mine), torch.stack(reference), 1e-12)


def mean(pair):
    return pair[0] / pair[1]


# %%
loss = total(lambda z, y: smoothed(z, y)[0])
check_gradient("label smoothing", loss, flat, joined(smoothed_gradient))
agree(
    "label smoothing",
    smoothed,
    ("torch", lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.1)),
    ("sftkit", lambda z, y: mean(losses.cross_entropy(z, y, label_smoothing=0.1))),
)

# %% [markdown]
# ### Class weights
#
# A rare class may matter as much as a frequent one. Give each class a weight $w_c$, and let
# an item count as $w_y$ items, above the fraction line **and below it**:
#
# $$\bar L = \frac{\sum_i w_{y_i} \,(-\log p_{y_i})}{\sum_i w_{y_i}} , \qquad
# \frac{\partial}{\partial z_j}\big[-w_y \log p_y\big] = w_y\,(p_j - [j=y]) .$$
#
# Here "divide once" bites again: micro-batches have different sums of weights even when they
# have equally many rows.


# %%
def weights_for(z):
    return torch.linspace(0.5, 2.0, z.shape[-1], dtype=double)


def weighted(z, y):
    w = weights_for(z)[y]
    right = z.gather(1, y.unsqueeze(1)).squeeze(1)
    return (w * (log_sum_exp(z) - right)).sum(), w.sum()


def weighted_gradient(z, y):
    return weights_for(z)[y].unsqueeze(1) * gradient(z, y)


# %%
loss = total(lambda z, y: weighted(z, y)[0])
check_gradient("class weights", loss, flat, joined(weighted_gradient))
agree(
    "class weights",
    weighted,
    ("torch", lambda z, y: functional.cross_entropy(z, y, weight=weights_for(z))),
    (
        "sftkit",
        lambda z, y: mean(losses.cross_entropy(z, y, class_weights=weights_for(z))),
    ),
)

# %% [markdown]
# What do weights do to the answer? The constant model of section 2 now minimizes
# $-\sum_c w_c n_c \log p_c$, so $p_c \propto w_c n_c$. The **balanced** weights
# $w_c = n / (C\, n_c)$ therefore make it uniform: the frequencies are forgotten. The price:
# the model's probabilities are no longer those of the data.

# %%
balanced = np.array(losses.balanced_weights(y.tolist(), C))


def weighted_constant_loss(z):
    return -(balanced * frequency * special.log_softmax(z)).sum()


found = minimize(weighted_constant_loss, np.ones(C) * [0, 1, 2], tol=1e-12)
show.table(
    zip(names, frequency, balanced, special.softmax(found.x), strict=True),
    ("class", "frequency", "balanced weight", "best constant p"),
)
compare(
    "balanced constant model: 1/C vs search",
    np.full(C, 1 / C),
    special.softmax(found.x),
    1e-5,
)

# %% [markdown]
# ### Focal loss
#
# With many easy examples, their small losses may outweigh the few hard ones. **Focal loss**
# (Lin et al. 2017) fades an item by how right it already is:
#
# $$L = -(1-p_y)^\gamma \log p_y , \qquad \gamma \ge 0 .$$
#
# Its derivative, with $\partial p_y/\partial z_j = p_y([j=y] - p_j)$:
#
# $$\begin{aligned}
# \frac{dL}{dp_y} &= \gamma (1-p_y)^{\gamma-1} \log p_y - \frac{(1-p_y)^\gamma}{p_y} \\
# \frac{\partial L}{\partial z_j} &= \frac{dL}{dp_y} \cdot p_y \,([j=y] - p_j) \\
# &= \varphi\,(p_j - [j=y]) , \qquad
# \varphi = (1-p_y)^\gamma - \gamma\, p_y (1-p_y)^{\gamma-1} \log p_y .
# \end{aligned}$$
#
# The direction is that of cross-entropy; the factor $\varphi$, which is 1 for $\gamma = 0$,
# changes the length.


# %%
def focal(z, y, gamma=2.0):
    log_p = z.gather(1, y.unsqueeze(1)).squeeze(1) - log_sum_exp(z)
    return -((1 - torch.exp(log_p)) ** gamma * log_p).sum(), torch.tensor(len(y))


def focal_gradient(z, y, gamma=2.0):
    p_y = softmax(z).gather(1, y.unsqueeze(1))
    miss = 1 - p_y
    factor = miss**gamma - gamma * p_y * miss ** (gamma - 1) * torch.log(p_y)
    return factor * gradient(z, y)


# %%
loss = total(lambda z, y: focal(z, y)[0])
check_gradient("focal loss", loss, flat, joined(focal_gradient))
agree(
    "focal loss",
    focal,
    ("sftkit", lambda z, y: mean(losses.focal(z, y, gamma=2.0))),
)
unfocused = torch.stack([focal(z, y, 0.0)[0] for z, y in zip(z3, y3, strict=True)])
sums = [
    functional.cross_entropy(z, y, reduction="sum") for z, y in zip(z3, y3, strict=True)
]
compare("focal loss at gamma 0 vs cross-entropy", unfocused, torch.stack(sums), 1e-12)

# %% [markdown]
# Side by side, for two classes: the logit of the right class minus the other one runs from
# confidently wrong to confidently right. Look at focal loss on the right, where its pull has
# gone, and a little left of the middle, where it pulls harder than cross-entropy.

# %%
z = torch.zeros(241, 2, dtype=double)
z[:, 0] = torch.linspace(-6, 6, 241, dtype=double)
y0 = torch.zeros(241, dtype=torch.long)
surprise = log_sum_exp(z) - z[:, 0]
p_y = torch.exp(-surprise)
curves = {
    "cross-entropy": (surprise, gradient(z, y0)),
    "smoothing, 0.1": (surprise + 0.05 * z[:, 0], smoothed_gradient(z, y0)),
    "class weight 2": (2 * surprise, 2 * gradient(z, y0)),
    "focal, 2": ((1 - p_y) ** 2 * surprise, focal_gradient(z, y0)),
}

# %%
fig, panels = show.new_figure(columns=2)
for k, (name, (value, slope)) in enumerate(curves.items()):
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=30, ms=4)
    panels[0].plot(z[:, 0], value, label=name, **style)
    panels[1].plot(z[:, 0], slope[:, 0], **style)
panels[0].set(ylabel="loss, nats", title="Smoothing rises again on the right")
panels[1].set(ylabel="gradient, right logit", title="Focal loss lets go of easy items")
for ax in panels:
    ax.set_xlabel("right logit minus the other")
panels[0].legend()
alt = "Left: four losses against the margin; smoothing has a minimum near 3 and rises "
alt += "after it. Right: their gradients; smoothing's changes sign, that of focal loss "
alt += "is near 0 from 2 on."
show.figure(fig, alt)

# %% [markdown]
# ## 10. When the label is a number
#
# The same principle gives the losses of regression. Assume how labels scatter around the
# prediction $f$, with residual $r = y - f$, and take the negative log-likelihood:
#
# $$\begin{aligned}
# \text{Gaussian: } p(y) \propto e^{-r^2/2\sigma^2}
# &\;\Rightarrow\; -\log p = \tfrac{1}{2\sigma^2}\, r^2 + \text{const}
# && \text{squared error} \\
# \text{Laplace: } p(y) \propto e^{-|r|/b}
# &\;\Rightarrow\; -\log p = \tfrac{1}{b}\, |r| + \text{const}
# && \text{absolute error}
# \end{aligned}$$
#
# **Huber's** loss (1964) is a parabola near 0 and a line beyond $\delta$, joined so that the
# slope is continuous:
#
# $$h_\delta(r) = \begin{cases} r^2/2 & |r| \le \delta \\
# \delta\,(|r| - \delta/2) & |r| > \delta \end{cases}$$
#
# The derivatives with respect to the prediction, $\partial r/\partial f = -1$:
# squared $-2r$, absolute $-\operatorname{sign}(r)$, Huber
# $-\max(-\delta, \min(r, \delta))$. (At $r = 0$ the absolute error has a kink and no
# derivative; torch takes 0.)

# %%
by_hand = {
    "squared": (lambda r: r**2, lambda r: -2 * r),
    "absolute": (lambda r: r.abs(), lambda r: -torch.sign(r)),
    "huber": (
        lambda r: torch.where(r.abs() <= 1, r**2 / 2, r.abs() - 0.5),
        lambda r: -r.clamp(-1, 1),
    ),
}
by_torch = {"squared": functional.mse_loss, "absolute": functional.l1_loss}
by_torch["huber"] = functional.huber_loss

# %%
f3 = [2 * randn(5), 2 * randn(4, 3), 2 * randn(2, 3, 4)]
t3 = [2 * randn(*f.shape) for f in f3]
for kind, (loss, slope) in by_hand.items():
    f, t = torch.cat([f.flatten() for f in f3]), torch.cat([t.flatten() for t in t3])
    check_gradient(kind, lambda f, t=t, loss=loss: loss(t - f).sum(), f, slope(t - f))
    pairs = list(zip(f3, t3, strict=True))
    mine = torch.stack([loss(t - f).mean() for f, t in pairs])
    theirs = torch.stack([by_torch[kind](f, t) for f, t in pairs])
    kit = torch.stack([mean(losses.regression(f, t, kind=kind)) for f, t in pairs])
    compare(f"{kind} error vs torch, 3 shapes", mine, theirs, 1e-12)
    compare(f"{kind} error vs sftkit.losses", mine, kit, 1e-12)

# %% [markdown]
# What does each want? Look for the one number that predicts the length of a tweet best. For
# the squared error, $\sum_i -2(y_i - f) = 0$ gives the **mean**. For the absolute error, as
# many labels must lie above as below: the **median**. Now spoil one label of the 3,000 by
# typing three zeros too many. (Huber's loss has $\delta = 20$ characters here.)

# %%
lengths = np.array([len(text) for text in tweets["train"]["text"]], dtype=float)
spoiled = lengths.copy()
spoiled[0] *= 1000


def best(kind, values):
    t = torch.from_numpy(values)

    def loss(f):
        every = torch.full_like(t, f)
        return losses.regression(every, t, kind=kind, delta=20.0)[0].item() / len(t)

    return minimize_scalar(
        loss, bounds=(0, 400), method="bounded", options={"xatol": 1e-6}
    ).x


# %%
found = {kind: (best(kind, lengths), best(kind, spoiled)) for kind in by_hand}
show.table(
    [(k, before, after, abs(after - before)) for k, (before, after) in found.items()],
    ("loss", "best constant", "one label spoiled", "moved by"),
    "The best constant for the length of a tweet, in characters",
    digits=1,
)
means = [lengths.mean(), spoiled.mean()]
compare("squared error: best constant vs mean", found["squared"], means, 1e-3)
medians = [np.median(lengths), np.median(spoiled)]
compare("absolute error: best constant vs median", found["absolute"], medians, 1e-3)

# %%
r = torch.linspace(-3, 3, 241, dtype=double)
fig, panels = show.new_figure(columns=2)
for k, (kind, (loss, slope)) in enumerate(by_hand.items()):
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=30, ms=4)
    panels[0].plot(r, loss(r), label=kind, **style)
    panels[1].plot(r, slope(r), **style)
panels[0].set(ylabel="loss", title="Far off, squares dominate", ylim=(0, 6))
panels[1].set(ylabel="gradient with respect to f", title="The others bound their pull")
for ax in panels:
    ax.set_xlabel("residual, y - f")
panels[0].legend()
alt = "Left: a parabola, a V, and Huber's loss below both. Right: the gradients: a "
alt += "straight line, a step from +1 to -1, and a line that is cut off at both."
show.figure(fig, alt)

# %% [markdown]
# One trap, since it raises no error in torch (a warning only): predictions of shape
# $(B, 1)$ against labels of shape $(B,)$ are stretched to $(B, B)$, each prediction against
# every label. `sftkit.losses.regression` refuses.

# %%
from sftkit.errors import ParameterError

try:
    losses.regression(torch.zeros(4, 1), torch.arange(4.0))
except ParameterError as refused:
    print(refused)

# %% [markdown]
# ## 11. When only the order matters
#
# Often nobody knows the right number, but which of two is better. Let $s_+$ and $s_-$ be the
# scores of the better and the worse one, and $d = s_+ - s_-$. Bradley and Terry (1952) model
# the probability that the better one wins as $\sigma(d)$. Maximum likelihood gives the
# **pairwise logistic** loss; the **hinge** asks for a margin $m$ and then is content:
#
# $$\begin{aligned}
# L_{\text{logistic}} &= -\log\sigma(d) = \log(1 + e^{-d}) , &
# \frac{\partial L}{\partial s_+} &= \sigma(d) - 1 = -\frac{\partial L}{\partial s_-} \\
# L_{\text{hinge}} &= \max(0,\, m - d) , &
# \frac{\partial L}{\partial s_+} &= -[d < m] = -\frac{\partial L}{\partial s_-} .
# \end{aligned}$$
#
# The first is softmax cross-entropy over two items. It trains the reward models of preference
# tuning, and RankNet (Burges et al. 2005).


# %%
def logistic(s):
    """(N, 2) scores, better one first; the sum of losses."""
    return log_sum_exp(torch.stack([0 * s[:, 0], s[:, 1] - s[:, 0]], -1)).sum()


def hinge(s):
    return (1 - (s[:, 0] - s[:, 1])).clamp(min=0).sum()


def both_ways(g):
    return torch.stack([g, -g], dim=1)


# %%
s = 2 * randn(12, 2)
d = s[:, 0] - s[:, 1]
check_gradient("pairwise logistic", logistic, s, both_ways(torch.sigmoid(d) - 1))
check_gradient("pairwise hinge", hinge, s, both_ways(-(d < 1).double()))
first_wins = torch.zeros(12, dtype=torch.long)
reference = functional.cross_entropy(s, first_wins, reduction="sum")
compare("pairwise logistic vs torch's cross-entropy", logistic(s), reference, 1e-12)
options = dict(margin=1.0, reduction="sum")
reference = functional.margin_ranking_loss(*s.T, torch.ones(12), **options)
compare("pairwise hinge vs torch's ranking loss", hinge(s), reference, 1e-12)

# %% [markdown]
# **InfoNCE** (van den Oord et al. 2018) ranks one right partner above all others of the
# batch. For $B$ pairs of vectors $(a_i, b_i)$ of length 1, let $z_{ij} = a_i^\top b_j / \tau$
# with a temperature $\tau$. Row $i$ is a classification with $B$ classes, and $i$ is right:
# cross-entropy once more, and guessing gets $\log B$.
#
# Real pairs: the first and the second half of a tweet. Does MiniLM, without any training by
# us, know which halves belong together?

# %%
tweet_words = [text.split() for text in tweets["validation"]["text"]]
tweet_words = [words for words in tweet_words if len(words) >= 12][:64]
halves = [" ".join(w[: len(w) // 2]) for w in tweet_words]
halves += [" ".join(w[len(w) // 2 :]) for w in tweet_words]
ids = Examples.of(encode.texts(halves, tokenizer, 64), tokenizer.pad_token_id)
vectors = torch.from_numpy(models.head_features(net, ids, C)).double()
a, b = functional.normalize(vectors, dim=1).split(len(tweet_words))  # (B, D) each
cosines = a @ b.T  # (B, B)
partner = torch.arange(len(cosines))
found_right = (cosines.argmax(1) == partner).sum().item()
print(f"guessing: {math.log(len(a)):.2f} nats, 1 of {len(a)} right")
print(f"MiniLM finds {found_right} of {len(a)} partners")

# %%
infonce, by_definition = {}, []
for tau in (1.0, 0.3, 0.1, 0.03):
    infonce[tau] = mean(cross_entropy(cosines / tau, partner)).item()
    e = torch.exp(cosines / tau)
    by_definition.append(-torch.log(e.diagonal() / e.sum(1)).mean())
show.table(infonce.items(), ("temperature", "InfoNCE, nats"), digits=2)
values = list(infonce.values())
compare("cross-entropy vs InfoNCE by definition", values, by_definition, 1e-12)

# %% [markdown]
# The vectors, their order and the number of partners found are the same in each line; the
# loss is not. It also judges how *sure* the model is: at a low temperature the many wrong
# answers are given with confidence, and the loss is worse than that of guessing. So compare
# such losses at one temperature only.
#
# Cross-entropy has come back in most sections. What changes is what the classes are:
# sentiments, next letters, two candidates, a batch of partners.

# %%
record(
    out,
    {
        "first_loss": first_loss,
        "log_C": math.log(C),
        "mean_of_means": {"factor": factor, "cosine": cosine},
        "nats_per_letter": nats,
        "first_losses": {name: value for name, value, _ in starts},
        "infonce": {"loss": infonce[0.1], "right": found_right, "of": len(a)},
    },
)

# %% [markdown]
# ## Exercises
#
# Replace the line that raises `NotImplementedError`, run the cell, then the one below it.
# The check names the likely mistake.
#
# **1. Mean probability** (easy, 10 minutes). An ensemble of $n$ models gives the right
# answer the log-probabilities $\ell_1, \dots, \ell_n$. Its own probability is the mean of
# theirs. Give the logarithm of it, for log-probabilities of any size; a model may also say
# $-\infty$.
#
# <details><summary>Hint 1</summary>It is a log-sum-exp, and something for the n.</details>
# <details><summary>Hint 2</summary>If all say −∞, then so does the ensemble. What is the
# largest of them then, and what is it minus itself?</details>


# %% tags=["exercise"]
def log_mean_probability(logs):
    """log of the mean of exp(logs); logs is a list of numbers up to 0, or -inf."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def by_logsumexp(logs):
    return special.logsumexp(logs, b=1 / len(logs))


def underflowing(logs):
    with np.errstate(divide="ignore"):
        return np.log(np.mean(np.exp(logs)))


impossible = [-math.inf, -math.inf]
mean_exercise = Exercise(
    "mean probability",
    by_logsumexp,
    [([-0.1, -2.0, -0.5],), ([-900.0, -901.5],), ([-3.0, -math.inf],), (impossible,)],
    [
        (np.mean, "That is the mean of the logarithms; take that of probabilities."),
        (special.logsumexp, "That is the sum. Divide by n: subtract log n."),
        (underflowing, "exp(-900) is 0 for a computer. Take the largest out first."),
    ],
    tolerance=1e-3,  # float32 holds -900 to about 1e-4
)
mean_exercise(log_mean_probability)


# %% tags=["solution"] jupyter={"source_hidden": true}
def log_mean_probability_solution(logs):
    m = max(logs)
    if m == -math.inf:
        return m
    return m + math.log(sum(math.exp(v - m) for v in logs)) - math.log(len(logs))


mean_exercise(log_mean_probability_solution)

# %% [markdown]
# **2. A temperature in the gradient** (medium, 10 minutes). The loss is
# $-\log \operatorname{softmax}(z/T)_y$. Derive its gradient with respect to $z$, and write it
# so that large logits do no harm.
#
# <details><summary>Hint 1</summary>Call u = z/T. You know the gradient with respect to
# u.</details>
# <details><summary>Hint 2</summary>The chain rule: du/dz = 1/T.</details>


# %% tags=["exercise"]
def temperature_gradient(z, y, T):
    """Gradient of -log softmax(z / T)[y] for an array z: a list or array as long."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def through_autograd(z, y, T):
    z = torch.tensor(z, dtype=double, requires_grad=True)
    loss = functional.cross_entropy((z / T).unsqueeze(0), torch.tensor([y]))
    return torch.autograd.grad(loss, z)[0]


def given_minus_right(z, y):
    return special.softmax(np.asarray(z)) - np.eye(len(z))[y]


def overflowing(z, y, T):
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(np.divide(z, T))
        return (e / e.sum() - np.eye(len(z))[y]) / T


temperature_exercise = Exercise(
    "temperature in the gradient",
    through_autograd,
    [
        (np.array([1.0, -2.0, 0.5]), 1, 2.0),
        (np.array([0.0, 0.0]), 0, 0.5),
        (np.array([1e4, -1e4, 0.0]), 2, 3.0),
    ],
    [
        (lambda z, y, T: given_minus_right(z, y), "Where is the temperature?"),
        (
            lambda z, y, T: given_minus_right(z, y) / T,
            "The softmax itself is of z / T.",
        ),
        (
            lambda z, y, T: given_minus_right(np.divide(z, T), y),
            "The chain rule has one more factor, 1 / T.",
        ),
        (lambda z, y, T: -through_autograd(z, y, T), "The sign: given minus right."),
        (overflowing, "exp(3333) is infinite. Take the largest out first."),
    ],
)
temperature_exercise(temperature_gradient)


# %% tags=["solution"] jupyter={"source_hidden": true}
def temperature_gradient_solution(z, y, T):
    u = [v / T for v in z]
    e = [math.exp(v - max(u)) for v in u]
    return [(e[j] / sum(e) - (j == y)) / T for j in range(len(z))]


temperature_exercise(temperature_gradient_solution)

# %% [markdown]
# **3. Divide once** (easy, 10 minutes). You get the micro-batches of one step. Each is a pair
# of lists: the losses of its places, and a mask that is 1 where a place is judged. Give the
# loss of the step. A micro-batch may have nothing judged at all; the step always has
# something.
#
# <details><summary>Hint 1</summary>Two running numbers: a sum and a count.</details>


# %% tags=["exercise"]
def step_loss(micro_batches):
    """Loss of one optimizer step from [(losses, mask), ...]."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def all_at_once(steps):
    values, mask = (np.concatenate(part) for part in zip(*steps, strict=True))
    return np.average(values, weights=mask)


def average_of_means(steps):
    return np.mean([np.average(v, weights=m) for v, m in steps if sum(m)])


def without_mask(steps):
    return np.mean(np.concatenate([v for v, _ in steps]))


def over_all(steps):
    return sum(np.dot(v, m) for v, m in steps) / sum(len(m) for _, m in steps)


divide_exercise = Exercise(
    "divide once",
    all_at_once,
    [
        ([([1.0, 2.0, 3.0, 2.0], [1, 1, 1, 1]), ([7.0], [1])],),
        ([([1.0, 9.0], [1, 0]), ([2.0, 4.0, 6.0], [1, 1, 1])],),
        ([([5.0, 5.0], [0, 0]), ([1.0, 3.0, 4.0], [0, 1, 1]), ([2.0], [1])],),
    ],
    [
        (average_of_means, "The mean of micro-batch means: short ones weigh too much."),
        (without_mask, "Places with mask 0 belong neither into sum nor into count."),
        (over_all, "The sum is right. Divide by what is judged, not by all places."),
    ],
)
divide_exercise(step_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def step_loss_solution(micro_batches):
    loss_sum, n = 0.0, 0
    for values, mask in micro_batches:
        loss_sum += sum(v for v, m in zip(values, mask, strict=True) if m)
        n += sum(mask)
    return loss_sum / n


divide_exercise(step_loss_solution)

# %% [markdown]
# **4. How low can it go?** (medium, 15 minutes). You train with label smoothing
# $\varepsilon$ and $C$ classes, and the training loss gets stuck. What is the lowest loss
# that any model can reach?
#
# <details><summary>Hint 1</summary>Section 7: a cross-entropy is smallest when p = q. What is
# it then?</details>
# <details><summary>Hint 2</summary>The right class has 1 − ε + ε/C, each other one
# ε/C.</details>


# %% tags=["exercise"]
def lowest_loss(eps, C):
    """Smallest mean loss with label smoothing eps and C classes, in nats."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def lowest_by_search(eps, C):
    def loss(gap):
        z = torch.zeros(1, C, dtype=double)
        z[0, 0] = gap
        return functional.cross_entropy(
            z, torch.tensor([0]), label_smoothing=eps
        ).item()

    return minimize_scalar(loss, bounds=(0, 60), method="bounded").fun


def over_others(eps, C):
    return stats.entropy([1 - eps] + [eps / (C - 1)] * (C - 1))


def of_right(eps, C):
    return -math.log(1 - eps + eps / C)


lowest_exercise = Exercise(
    "how low can it go",
    lowest_by_search,
    [(0.2, 4), (0.05, 2), (0.1, 1000), (0.0, 3)],
    [
        (lambda eps, C: 0.0, "0 would need p = onehot(y); the target is smoothed."),
        (over_others, "The share is spread over all classes, the right one included."),
        (of_right, "That is the right class's part. The others are judged too."),
    ],
)
lowest_exercise(lowest_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def lowest_loss_solution(eps, C):
    q = [1 - eps + eps / C] + [eps / C] * (C - 1)
    return -sum(share * math.log(share) for share in q if share > 0)


lowest_exercise(lowest_loss_solution)

# %% [markdown]
# **5. KL divergence with zeros** (medium, 10 minutes). Write $\operatorname{KL}(q\,\|\,p)$ in
# nats for two lists of probabilities, either of which may contain zeros. A class that never
# occurs costs nothing. A class that occurs and that the model calls impossible costs
# everything.
#
# <details><summary>Hint 1</summary>Where q is 0 the term is 0: q log q goes to 0 with
# q.</details>
# <details><summary>Hint 2</summary>Where only p is 0, the answer is math.inf.</details>


# %% tags=["exercise"]
def divergence(q, p):
    """KL(q || p) in nats, with 0 log 0 = 0."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def with_nan(q, p):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sum(np.multiply(q, np.log(np.divide(q, p))))


kl_exercise = Exercise(
    "KL with zeros",
    stats.entropy,
    [
        ([0.5, 0.3, 0.2], [0.1, 0.6, 0.3]),
        ([0.0, 1.0], [0.4, 0.6]),
        ([0.5, 0.5], [1.0, 0.0]),
        ([0.0, 0.25, 0.75], [0.0, 0.25, 0.75]),
    ],
    [
        (lambda q, p: stats.entropy(p, q), "You weigh by p. Weigh by q: what occurs."),
        (lambda q, p: stats.entropy(q, p, base=2), "These are bits; give nats."),
        (
            lambda q, p: stats.entropy(q, p) + stats.entropy(q),
            "That is the cross-entropy. Subtract the entropy of q.",
        ),
        (with_nan, "0 times log 0 gives nan. Leave out the terms with q = 0."),
    ],
)
kl_exercise(divergence)


# %% tags=["solution"] jupyter={"source_hidden": true}
def divergence_solution(q, p):
    total = 0.0
    for real, given in zip(q, p, strict=True):
        if real > 0:
            total += real * math.log(real / given) if given > 0 else math.inf
    return total


kl_exercise(divergence_solution)

# %% [markdown]
# **6. The loss of a quantile** (hard, 15 minutes). A delivery time is wanted that holds in 90
# of 100 cases: a quantile, not a mean. The **pinball loss** punishes a label above the
# prediction with $\tau\,(y - f)$, and one below it with $(1-\tau)\,(f - y)$. Write its mean.
# Then show by a derivative which share of labels lies below the best constant.
#
# <details><summary>Hint 1</summary>Both cases are at least 0. Which of the two applies
# depends on the sign of y − f.</details>
# <details><summary>Hint 2</summary>For the derivative: every label above pulls with τ, every
# label below with 1 − τ. When do they balance?</details>


# %% tags=["exercise"]
def pinball(y, f, tau):
    """Mean pinball loss of the labels y, the predictions f, for the quantile tau."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
from sklearn.metrics import mean_pinball_loss


def by_sklearn(y, f, tau):
    return mean_pinball_loss(y, f, alpha=tau)


def absolute(y, f, tau):
    return np.abs(np.subtract(y, f)).mean()


pinball_exercise = Exercise(
    "pinball loss",
    by_sklearn,
    [
        (np.array([3.0, 1.0, 2.0, 9.0]), np.array([2.0, 2.0, 2.0, 2.0]), 0.9),
        (np.array([-1.0, 4.0]), np.array([0.0, 4.0]), 0.25),
        (np.array([5.0]), np.array([7.5]), 0.5),
    ],
    [
        (lambda y, f, t: by_sklearn(y, f, 1 - t), "Above the prediction costs tau."),
        (absolute, "That is the absolute error: both sides weigh the same."),
        (lambda y, f, t: by_sklearn(y, f, t) * len(y), "That is the sum; divide."),
    ],
)
pinball_exercise(pinball)


# %% tags=["solution"] jupyter={"source_hidden": true}
def pinball_solution(y, f, tau):
    # At the minimum tau * (number above) = (1 - tau) * (number below): tau are below.
    residuals = [a - b for a, b in zip(y, f, strict=True)]
    return sum(max(tau * r, (tau - 1) * r) for r in residuals) / len(residuals)


pinball_exercise(pinball_solution)
constant = minimize_scalar(
    lambda f: pinball_solution(lengths, np.full(len(lengths), f), 0.9),
    bounds=(0, 400),
    method="bounded",
)
below, up_to = np.mean(lengths < constant.x - 0.5), np.mean(lengths < constant.x + 0.5)
print(f"share of tweets that are shorter: {below:.3f}; at most as long: {up_to:.3f}")
assert below <= 0.9 <= up_to

# %% [markdown]
# **7. Without code** (easy, 5 minutes). A colleague's classifier with 20 classes starts at a
# loss of 3.0 and stays there; another one starts at 14 and falls quickly; a third starts at
# 1.5. What do you ask each of them?
#
# <details><summary>Hint 1</summary>log 20 is about 3.0.</details>
# <details><summary>Hint 2</summary>The table of first losses in section 8 has a line for each
# of the three: one to look at twice, one too high, one too low.</details>
#
# ## Summary
#
# - Training minimizes a sum of losses. Cross-entropy $-\log p_y$ is maximum likelihood,
#   written as a sum.
# - Softmax follows from one requirement: differences of logits are differences of
#   log-probabilities.
# - Take logarithms on paper: $\operatorname{lse}(z) - z_y$, with the largest logit taken out.
# - The gradient with respect to the logits is $p - \operatorname{onehot}(y)$: given minus
#   right. Smoothing changes the right side, weights and focal loss the length.
# - Keep sum and count apart and divide once. The mean of micro-batch means is another
#   gradient.
# - Cross-entropy is entropy plus KL divergence: its floor is the entropy of the labels, not
#   0. Nats, bits and perplexity say the same; a perplexity needs its unit.
# - The first loss of a classifier with a new head is near $\log C$. Far from it, something is
#   set up wrongly.
# - Squared error wants the mean, absolute error the median. The pairwise logistic loss and
#   InfoNCE are cross-entropy over other classes.
#
# ## Where to go next
#
# - [02 · Gradient descent](02_gradient_descent.ipynb): what to do with the gradient.
# - [06 · Training loop](06_training_loop.ipynb): accumulation, done wrong and right, in a
#   whole loop.
# - [07 · Text classification](07_text_classification.ipynb): this loss on a real task.
# - [08 · Evaluation](08_evaluation.ipynb): what to measure besides the loss.
#
# Primary sources: Shannon (1948), *A Mathematical Theory of Communication*. Kullback and
# Leibler (1951), *On Information and Sufficiency*. Bradley and Terry (1952), *Rank Analysis
# of Incomplete Block Designs*. Huber (1964), *Robust Estimation of a Location Parameter*.
# Burges et al. (2005), *Learning to Rank using Gradient Descent*. Szegedy et al. (2016),
# *Rethinking the Inception Architecture for Computer Vision*. Lin et al. (2017), *Focal Loss
# for Dense Object Detection*. Van den Oord et al. (2018), *Representation Learning with
# Contrastive Predictive Coding*.
