# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: true
#     minutes: 1
#     assets: []
# ---

# %% [markdown]
# # 02 · Gradient descent
#
# **To lower the loss: in which direction should the parameters move, and how far?**
#
# About 1 minute on 2 cores. You need Python, the chain rule, and the loss of
# [01 · Loss](01_loss.ipynb).
#
# You will be able to
#
# - derive the step of gradient descent, and say when it must lower the loss;
# - choose between batch, mini-batch and stochastic gradients, and count their cost;
# - say how large a learning rate may be, and find a good one;
# - write momentum, Nesterov, AdaGrad, RMSProp, Adam and AdamW yourself, equal to
#   `torch.optim`;
# - use weight decay, schedules and clipping without their usual mistakes;
# - measure gradient noise, and read from it how large a batch is worth its cost.
#
# Each derivation here is followed by its code, and by a cell that compares the code with an
# independent computation.

# %% tags=["parameters"]
seed: int = 0  # of the split, the batches and everything else random
out: str = ""  # folder for results; empty means: show only

# %%
import math

import numpy as np
import torch
from scipy.optimize import minimize
from sftkit import optim
from sftkit.course import record
from sftkit.teach import show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same
from sklearn.datasets import load_digits

# %% [markdown]
# ## 1. From the loss to a step
#
# ### The problem of this notebook
#
# Real data, small enough that every exact quantity can be computed: scikit-learn's
# handwritten digits, 8 × 8 pixels, $C = 10$ classes. The model is softmax regression,
# $\text{logits} = x\theta$ with $\theta \in \mathbb{R}^{D \times C}$ and $D = 64$. The mean
# image is subtracted from every image, so we leave out the bias.

# %%
pixels, digit = load_digits(return_X_y=True)
order = np.random.default_rng(seed).permutation(len(digit))
pixels = pixels[order] / 16
pixels -= pixels[:1536].mean(axis=0)  # the training images' mean
x, x_val = pixels[:1536], pixels[1536:]  # (n, D)
y, y_val = digit[order][:1536], digit[order][1536:]  # (n,)
n, D, C = len(x), x.shape[1], 10

fig, axes = show.new_figure(height=1.3, columns=8)
for ax, image, label in zip(axes, x, y, strict=False):
    ax.imshow(image.reshape(8, 8), cmap="gray")
    ax.set_title(str(label))
    ax.axis("off")
written = ", ".join(map(str, y[:8]))
show.figure(fig, f"Eight training images of 8 by 8 grey pixels: the digits {written}.")

# %% [markdown]
# The loss is the mean cross-entropy plus a small penalty,
#
# $$L(\theta) = \frac{1}{n}\sum_{i=1}^{n} -\log p_{y_i}(x_i;\theta)
# + \frac{\rho}{2}\|\theta\|^2 , \qquad \rho = 10^{-3} .$$
#
# The penalty makes the problem *strongly convex*: there is one minimum, at a finite
# $\theta^*$, and we can say exactly how far above it any $\theta$ is. Notebook 01 derives
# the gradient with respect to the logits, $(p - \text{onehot}(y))/n$. The logits are
# $x\theta$, so the chain rule multiplies by $x^\top$:
#
# $$\nabla L(\theta) = \tfrac{1}{n}\, x^\top \left(p - \text{onehot}(y)\right)
# + \rho\,\theta .$$

# %%
rho = 1e-3


def log_probs(theta, x):
    logits = x @ theta
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # (B, C)


def loss_of(theta, x=x, y=y):
    nats = -log_probs(theta, x)[np.arange(len(y)), y].mean()
    return nats + rho / 2 * (theta**2).sum()


def gradient(theta, x=x, y=y):
    error = np.exp(log_probs(theta, x))
    error[np.arange(len(y)), y] -= 1  # p - onehot(y)
    return x.T @ error / len(y) + rho * theta


print(f"loss at theta = 0: {loss_of(np.zeros((D, C))):.4f}   log C = {math.log(C):.4f}")

# %% [markdown]
# The proof has three independent parties: this code, torch's autograd on a loss written
# with torch's own cross-entropy, and central differences
# $(L(\theta + \epsilon e_j) - L(\theta - \epsilon e_j)) / 2\epsilon$ of the loss in float64.


# %%
def torch_loss(theta, x, y):
    nats = torch.nn.functional.cross_entropy(torch.tensor(x) @ theta, torch.tensor(y))
    return nats + rho / 2 * (theta**2).sum()


def differences(f, theta, eps=1e-5):
    """Central differences of f at theta, one coordinate at a time."""
    found = np.zeros_like(theta)
    for place in np.ndindex(*theta.shape):
        moved = np.zeros_like(theta)
        moved[place] = eps
        found[place] = (f(theta + moved) - f(theta - moved)) / (2 * eps)
    return found


# %%
hand, auto, finite = [], [], []
for trial, shape in enumerate([(5, 3, 2), (20, 7, 4), (3, 11, 10)]):  # (B, D, C)
    rng = np.random.default_rng(seed + trial)
    xs, ys = rng.normal(size=shape[:2]), rng.integers(0, shape[2], shape[0])
    point = rng.normal(size=shape[1:])
    leaf = torch.tensor(point, requires_grad=True)
    torch_loss(leaf, xs, ys).backward()
    hand.append(gradient(point, xs, ys).ravel())
    auto.append(leaf.grad.numpy().ravel())
    finite.append(differences(lambda t, a=xs, b=ys: loss_of(t, a, b), point).ravel())
hand, auto, finite = map(np.concatenate, (hand, auto, finite))
compare("softmax regression: hand vs autograd", hand, auto, tolerance=1e-12)
compare("softmax regression: hand vs differences", hand, finite, 1e-8)

# %% [markdown]
# ### The step
#
# Write $g = \nabla L(\theta)$. Taylor's expansion says what a small move $d$ does:
#
# $$L(\theta + d) = L(\theta) + g^\top d + \tfrac12\, d^\top H d + O(\|d\|^3) ,$$
#
# with the Hessian $H$, the matrix of second derivatives. Keep the first-order term. Among
# all moves of length $\|d\| = r$, which lowers it most? By the inequality of Cauchy and
# Schwarz
#
# $$g^\top d \;\ge\; -\|g\|\,\|d\| \;=\; -\|g\|\, r ,$$
#
# with equality exactly for $d = -r\, g / \|g\|$. The best direction is *minus the
# gradient*. The expansion is good only near $\theta$, so the length should shrink with the
# slope: $r = \eta\,\|g\|$, and with the **learning rate** $\eta$ (`lr` in code)
#
# $$\boxed{\;\theta \leftarrow \theta - \eta\, g\;}$$
#
# Put $d = -\eta g$ back into the expansion:
#
# $$L(\theta - \eta g) = L(\theta) - \eta\,\|g\|^2 + \tfrac12 \eta^2\, g^\top H g
# + O(\eta^3) .$$
#
# The first-order promise is a decrease of $\eta\|g\|^2$. What it leaves out grows with
# $\eta^2$, so for a small enough rate the promise wins and the loss falls. Let us see it:
# the promise from the gradient alone must be off by $O(\eta^2)$, the one with $H$ by
# $O(\eta^3)$.
#
# For that we need $Hv$, the product with a vector, and no matrix. It is the derivative of
# the gradient along $v$. The logits change by $u = xv$, and softmax has
# $\partial p_c / \partial z_k = p_c(\delta_{ck} - p_k)$, so $p$ changes by
# $p \odot u - p\,(p^\top u)$ row by row:
#
# $$Hv = \tfrac1n\, x^\top\left(p \odot u - p\,(p^\top u)\right) + \rho\, v .$$


# %%
def hessian_times(theta, v, x=x):
    p, u = np.exp(log_probs(theta, x)), x @ v
    change = p * u - p * (p * u).sum(axis=1, keepdims=True)
    return x.T @ change / len(x) + rho * v


# %%
hand, auto, finite = [], [], []
for trial, shape in enumerate([(5, 3, 2), (20, 7, 4), (3, 11, 10)]):
    rng = np.random.default_rng(seed + 10 + trial)
    xs, ys = rng.normal(size=shape[:2]), rng.integers(0, shape[2], shape[0])
    point, v = rng.normal(size=shape[1:]), rng.normal(size=shape[1:])
    f, args = (lambda t, a=xs, b=ys: torch_loss(t, a, b)), (xs, ys)
    hvp = torch.autograd.functional.hvp(f, torch.tensor(point), torch.tensor(v))[1]
    up, down = (gradient(point + e * v, *args) for e in (1e-5, -1e-5))
    hand.append(hessian_times(point, v, xs).ravel())
    auto.append(hvp.numpy().ravel())
    finite.append((up - down).ravel() / 2e-5)
hand, auto, finite = map(np.concatenate, (hand, auto, finite))
compare("Hessian times vector: hand vs autograd", hand, auto, tolerance=1e-12)
compare("Hessian times vector: hand vs differences", hand, finite, 1e-8)

# %%
theta = 0.1 * np.random.default_rng(seed).normal(size=(D, C))
g = gradient(theta)
curvature = (g * hessian_times(theta, g)).sum()  # g'Hg
lrs = np.array([0.03, 0.1, 0.3, 1, 3])
actual = np.array([loss_of(theta - lr * g) - loss_of(theta) for lr in lrs])
first = -lrs * (g**2).sum()
second = first + lrs**2 / 2 * curvature
show.table(
    list(zip(map(str, lrs), first, second, actual, strict=True)),
    ("lr", "first order promises", "with second order", "change of the loss"),
    "One step from a random start",
    digits=5,
)

# %%
fig, ax = show.new_figure()
errors = {"first order": abs(actual - first), "second order": abs(actual - second)}
slopes = {}
for k, (name, error) in enumerate(errors.items()):
    slopes[name] = np.polyfit(np.log(lrs), np.log(error), 1)[0]
    label = f"{name}: slope {slopes[name]:.1f}"
    ax.loglog(lrs, error, marker=show.MARKERS[k], color=show.COLOURS[k], label=label)
ax.set(xlabel="learning rate", ylabel="|promise − change of the loss|, nats")
ax.set_title("The promise is off by the square of the rate, or by its cube")
ax.legend()
show.figure(
    fig,
    "Log-log plot of the error of the two expansions against the learning rate: "
    f"straight lines of slope {slopes['first order']:.1f} and "
    f"{slopes['second order']:.1f}.",
)

# %% [markdown]
# Is no direction better? Try many random directions, with a short move of the same length.
# None of them comes close: in $D \cdot C = 640$ dimensions a random direction is nearly at
# a right angle to the gradient.

# %%
rng = np.random.default_rng(seed)
length = 1e-3
directions = rng.normal(size=(2000, D, C))
directions *= length / np.linalg.norm(directions, axis=(1, 2), keepdims=True)
changes = np.array([loss_of(theta + d) for d in directions]) - loss_of(theta)
downhill = loss_of(theta - length * g / np.linalg.norm(g)) - loss_of(theta)
print(
    f"best of 2,000 random directions   {1e6 * changes.min():8.1f} millionths of a nat"
)
print(f"minus the gradient                {1e6 * downhill:8.1f}")
assert downhill < changes.min()

# %% [markdown]
# ## 2. Batch, stochastic, mini-batch
#
# $L$ is a mean over $n$ examples, and so is its gradient. A step with all of them costs $n$
# examples. Take instead the mean over a **mini-batch** of $B$ examples drawn at random:
#
# $$g_B = \frac1B \sum_{i \in \text{batch}} g_i , \qquad
# \mathbb{E}[g_B] = \frac1B \sum_{i \in \text{batch}} \mathbb{E}[g_i]
# = \frac1B \cdot B \cdot \frac1n\sum_{j=1}^n g_j = g .$$
#
# It is *unbiased*: right on average, and $n/B$ times cheaper. $B = n$ is called batch
# gradient descent, $B = 1$ stochastic, and between them is what everybody uses. One pass
# over the data in random order is an **epoch**. Within an epoch of equal batches the mean
# of the mini-batch gradients, at one $\theta$, is the full gradient exactly:

# %%
means = []
for trial, size in enumerate((1, 32, 512)):
    rows = np.random.default_rng(seed + trial).permutation(n).reshape(-1, size)
    means.append(np.mean([gradient(theta, x[r], y[r]) for r in rows], axis=0))
compare("epoch's mean gradient vs full gradient", means, [g] * 3, 1e-12)

# %% [markdown]
# Now race them. To know how far from the bottom each one is, we need the bottom: a
# quasi-Newton method from SciPy (L-BFGS) finds the minimum $L^*$. From here on, **excess** means
# $L(\theta) - L^*$, on all training examples.

# %%
found = minimize(
    lambda t: loss_of(t.reshape(D, C)),
    np.zeros(D * C),
    jac=lambda t: gradient(t.reshape(D, C)).ravel(),
    method="L-BFGS-B",
    options={"maxiter": 5000, "maxfun": 10_000, "ftol": 0, "gtol": 1e-9},
)
best_theta = found.x.reshape(D, C)
best_loss = loss_of(best_theta)
right = (x_val @ best_theta).argmax(axis=1) == y_val
print(f"lowest loss {best_loss:.4f}; its gradient is 0 to 1e-6:", end=" ")
print(np.abs(gradient(best_theta)).max() < 1e-6)
print(f"right on {right.mean():.1%} of {len(y_val)} validation images")


# %%
def sgd(batch_size, lr_at, epochs=10, seed=seed, every=192):
    """Mini-batch descent from 0. Gives examples seen, and the excess there."""
    rng, theta = np.random.default_rng(seed), np.zeros((D, C))
    seen, excess, step = [0], [loss_of(theta) - best_loss], 0
    for epoch in range(epochs):
        for i, rows in enumerate(rng.permutation(n).reshape(-1, batch_size)):
            theta -= lr_at(step) * gradient(theta, x[rows], y[rows])
            step += 1
            if (i + 1) * batch_size % max(every, batch_size) == 0:
                seen.append(epoch * n + (i + 1) * batch_size)
                excess.append(loss_of(theta) - best_loss)
    return np.array(seen), np.array(excess)


# %% [markdown]
# Each batch size gets its own best rate, or the race is not fair. We choose it from a grid
# by the excess after ten epochs. (The question is about descent, so the training loss
# decides. When the question is about new examples, validation data choose.)

# %%
grids = {1: (0.01, 0.03, 0.1, 0.3), 32: (0.3, 1, 3, 10), n: (10, 30, 50, 100)}
chosen = {}
rows = []
for size, grid in grids.items():
    after = [sgd(size, lambda step, lr=lr: lr, every=n)[1][-1] for lr in grid]
    chosen[size] = grid[int(np.argmin(after))]
    tried = "   ".join(f"{lr:g}: {e:.4f}" for lr, e in zip(grid, after, strict=True))
    rows.append([size, n // size * 10, tried, f"{chosen[size]:g}"])
show.table(rows, ("B", "steps", "excess after 10 epochs, by rate", "best rate"))

# %%
races = {}
for size, lr in chosen.items():
    seeds = range(seed, seed + (1 if size == n else 5))  # the full batch has no noise
    runs = [sgd(size, lambda step, lr=lr: lr, seed=s) for s in seeds]
    races[size] = runs[0][0], np.stack([excess for _, excess in runs])
show.table(
    [
        [size, e[:, -1].mean(), e[:, -1].min(), e[:, -1].max()]
        for size, (_, e) in races.items()
    ],
    ("B", "mean", "lowest", "highest"),
    "Excess after ten epochs, over five seeds",
    digits=4,
)

# %%
fig, axes = show.new_figure(height=3.4, columns=2, sharey=True)
for k, (size, (seen, excess)) in enumerate(races.items()):
    name = f"B = {size:,}" + (" = n" if size == n else "")
    for ax, unit in zip(axes, (1, size), strict=True):
        style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=12)
        ax.plot(seen[1:] / unit, excess.mean(axis=0)[1:], label=name, ms=5, **style)
        low, high = excess.min(axis=0)[1:], excess.max(axis=0)[1:]
        ax.fill_between(seen[1:] / unit, low, high, color=show.COLOURS[k], alpha=0.2)
axes[0].set(yscale="log", xlabel="examples seen", ylabel="excess loss, nats")
axes[0].set_xticks([0, 5000, 10_000, 15_000])
axes[1].set(xscale="log", xlabel="steps taken")
axes[0].set_title("Per example, small batches win")
axes[1].set_title("Per step, large batches win")
axes[0].legend()
show.figure(
    fig,
    "Excess loss on a log scale. Against examples, the curves of B = 1 and B = 32 "
    "lie on each other, far below the full batch; against steps the full batch is "
    "far ahead.",
)

# %% [markdown]
# The bands are the lowest and highest of five seeds. Counted in examples, one full-batch
# step costs as much as 1,536 stochastic ones, and these get far with it; $B = 1$ and
# $B = 32$, each at its best rate, are hard to tell apart. Counted in steps, the exact
# gradient is the best. And near the bottom the curves of small batches are ragged: a
# constant rate keeps shaking $\theta$. Sections 7 and 10 come back to both findings.
#
# Why then not $B = 1$? Because a processor handles 32 examples in hardly more time than
# one. The next cell measures it; its numbers are those of the machine that ran it.

# %% tags=["nbval-ignore-output"]
import time

for size in (1, 32, n):
    begin = time.perf_counter()
    repeat = 4 * n // size
    for _ in range(repeat):
        gradient(theta, x[:size], y[:size])
    spent = time.perf_counter() - begin
    print(f"B = {size:5}: {1e6 * spent / repeat / size:6.2f} microseconds per example")

# %% [markdown]
# ## 3. How large may the learning rate be?
#
# ### A bound, line by line
#
# Near a minimum every smooth loss looks like a quadratic,
# $L(\theta) = \tfrac12 (\theta - \theta^*)^\top H (\theta - \theta^*)$, with $H$ symmetric
# and, at a strict minimum, all its eigenvalues $\lambda_1, \dots, \lambda_D$ above 0. Call
# the error $e_k = \theta_k - \theta^*$. Then
#
# $$\begin{aligned}
# g_k &= H e_k && \text{gradient of the quadratic} \\
# e_{k+1} &= e_k - \eta H e_k = (I - \eta H)\, e_k && \text{one step} \\
# e_k &= \textstyle\sum_i c_{k,i}\, q_i, \quad H q_i = \lambda_i q_i
# && \text{in eigenvectors} \\
# c_{k+1,i} &= (1 - \eta \lambda_i)\, c_{k,i} && \text{each for itself} \\
# c_{k,i} &= (1 - \eta \lambda_i)^k\, c_{0,i} && \text{after } k \text{ steps.}
# \end{aligned}$$
#
# All of them go to 0, from every start, exactly when $|1 - \eta\lambda_i| < 1$ for all $i$:
#
# $$-1 < 1 - \eta\lambda_i < 1 \;\iff\; 0 < \eta\lambda_i < 2
# \;\text{ for all } i \;\iff\;
# \boxed{\;0 < \eta < \frac{2}{\lambda_{\max}}\;}$$
#
# The steepest direction sets the limit for all. At $\eta = 2/\lambda_{\max}$ the error
# along it flips its sign for ever; beyond, it grows geometrically.
#
# First the closed form against the loop, on quadratics of three sizes.

# %%
looped, closed = [], []
for trial, size in enumerate((2, 5, 12)):
    rng = np.random.default_rng(seed + trial)
    A = rng.normal(size=(size, size))
    H, error = A @ A.T / size + 0.1 * np.eye(size), rng.normal(size=size)
    eigenvalues, Q = np.linalg.eigh(H)
    for lr in np.array([0.1, 1.0, 1.9]) / eigenvalues[-1]:
        e = error.copy()
        for _ in range(30):
            e -= lr * H @ e
        looped.append(e)
        closed.append(Q @ ((1 - lr * eigenvalues) ** 30 * (Q.T @ error)))
looped, closed = map(np.concatenate, (looped, closed))
compare("descent on a quadratic vs its closed form", looped, closed, 1e-12)

# %% [markdown]
# Now seen, with $\lambda = (1, 10)$, so the limit is $2/10$.


# %%
def quadratic_path(lr, steps, curvatures=(1.0, 10.0), start=(-2.0, 0.7)):
    path = [np.array(start)]
    for _ in range(steps):
        path.append(path[-1] - lr * np.array(curvatures) * path[-1])
    return np.array(path)


# %%
fig, axes = show.new_figure(height=4.6, columns=2, rows=2, sharex=True, sharey=True)
a, b = np.meshgrid(np.linspace(-2.2, 2.2, 120), np.linspace(-1.2, 1.2, 120))
cases = [(0.02, "too small"), (0.18, "right"), (0.2, "at the limit"), (0.21, "beyond")]
for ax, (lr, verdict) in zip(axes.ravel(), cases, strict=True):
    path = quadratic_path(lr, 25)
    ax.contour(a, b, a**2 / 2 + 5 * b**2, 8, colors="#94a4a2", linewidths=0.6)
    ax.plot(*path.T, marker="o", ms=3, color=show.COLOURS[2])
    ax.set(xlim=(-2.2, 2.2), ylim=(-1.2, 1.2))
    ax.set_title(f"{verdict}: lr = {lr:g} = {10 * lr:.1f}/λmax")
fig.supxlabel("θ₁ (flat direction)", fontsize=10)
fig.supylabel("θ₂ (steep direction)", fontsize=10)
show.figure(
    fig,
    "Four paths of 25 steps in an elliptic bowl: creeping, arriving with a zigzag, "
    "zigzagging for ever at constant height, and leaving the picture.",
)

# %%
fig, ax = show.new_figure()
for k, share in enumerate((0.2, 1.0, 1.8, 2.0, 2.1)):
    path = quadratic_path(share / 10, 60)
    loss = path[:, 0] ** 2 / 2 + 5 * path[:, 1] ** 2
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=6, ms=5)
    ax.semilogy(loss, label=f"{share:g}/λmax", **style)
ax.set(xlabel="step", ylabel="loss above the minimum")
ax.set_title("Below 2/λmax it falls, at 2/λmax it stays, above it grows")
ax.legend(title="learning rate", ncols=2)
show.figure(
    fig,
    "Loss against steps on a log scale for five rates: three fall, the one at the "
    "bound levels off, and the one above the bound rises in a straight line.",
)

# %% [markdown]
# ### The same bound on the real problem
#
# The digits are no quadratic, but near the minimum they look like one. $\lambda_{\max}$
# there comes from **power iteration**: multiply a random vector by $H$ again and again, and
# normalize; the part along the steepest direction outgrows all others. The check is an
# eigenvalue solver on the whole 640 × 640 matrix.


# %%
def largest_eigenvalue(times, start, steps=500):
    v = start
    for _ in range(steps):
        v = times(v)
        v = v / np.linalg.norm(v)
    return (v * times(v)).sum()  # v'Hv


def whole_hessian(theta):
    units = np.eye(D * C).reshape(-1, D, C)
    return np.stack([hessian_times(theta, unit).ravel() for unit in units])


# %%
start = np.random.default_rng(seed).normal(size=(D, C))
steepest = largest_eigenvalue(lambda v: hessian_times(best_theta, v), start)
reference = np.linalg.eigvalsh(whole_hessian(best_theta))
compare("power iteration vs eigvalsh", steepest, reference[-1], tolerance=1e-8)
limit = 2 / steepest
print(f"λmax = {steepest:.4f}, so lr must be below 2/λmax = {limit:.1f}")

# %%
nudge = 1e-3 * np.random.default_rng(seed).normal(size=(D, C))
rows = []
for share in (0.5, 0.9, 0.99, 1.01, 1.1):
    t = best_theta + nudge
    for _ in range(300):
        t = t - share * limit * gradient(t)
    grown = np.linalg.norm(t - best_theta) / np.linalg.norm(nudge)
    rows.append([f"{share:g} · 2/λmax", "shrank" if grown < 1 else "grew"])
    assert (grown < 1) == (share < 1)
show.table(rows, ("lr", "distance to θ* after 300 steps"), "From a small nudge off θ*")

# %% [markdown]
# One per cent on either side of the bound decides.
#
# ### Without any quadratic
#
# Far from the minimum the curvature is another. But if $\beta$ bounds the largest
# eigenvalue of the Hessian *everywhere*, Taylor's theorem with the Hessian at some point
# between $\theta$ and $\theta - \eta g$ gives
#
# $$L(\theta - \eta g) \;\le\; L(\theta) - \eta\|g\|^2 + \tfrac{\beta}{2}\eta^2\|g\|^2
# \;=\; L(\theta) - \eta\left(1 - \tfrac{\beta\eta}{2}\right)\|g\|^2 .$$
#
# For $0 < \eta < 2/\beta$ **every** step lowers the loss, until the gradient is 0. For
# softmax regression such a $\beta$ is known: the eigenvalues of
# $\mathrm{diag}(p) - p\,p^\top$ are at most $\tfrac12$ (Böhning 1992), so
# $\beta = \tfrac12 \lambda_{\max}(x^\top x / n) + \rho$. Five random starts, some of them far
# away:

# %%
beta = np.linalg.eigvalsh(x.T @ x / n)[-1] / 2 + rho
rises = 0
for trial in range(5):
    t = 10.0 ** (trial - 2) * np.random.default_rng(seed + trial).normal(size=(D, C))
    before = loss_of(t)
    for _ in range(100):
        t = t - 1.99 / beta * gradient(t)
        rises += loss_of(t) > before
        before = loss_of(t)
print(f"2/β = {2 / beta:.1f}; of 500 steps at 1.99/β, {rises} raised the loss")
assert rises == 0

# %% [markdown]
# That guarantee is careful: the limit at the minimum is about ten times as large. Beyond
# both, a loss that is not quadratic need not go to infinity; it thrashes. Here is the loss
# from $\theta = 0$ with full-batch steps. In practice you see the same three kinds of
# curve.

# %%
fig, ax = show.new_figure()
for k, (lr, verdict) in enumerate(
    [(1, "too small"), (30, "right"), (150, "too large")]
):
    t, curve = np.zeros((D, C)), []
    for _ in range(60):
        curve.append(loss_of(t))
        t = t - lr * gradient(t)
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=5, ms=5)
    ax.plot(curve, label=f"lr = {lr}: {verdict}", **style)
ax.axhline(best_loss, color="black", lw=0.8, ls="--", label="minimum")
ax.set(xlabel="step", ylabel="training loss, nats", yscale="log", ylim=(0.2, 30))
ax.set_title("Too small crawls, too large thrashes")
ax.legend(ncols=2)
show.figure(
    fig,
    "Training loss over 60 full-batch steps: at rate 1 it falls slowly, at 30 it "
    "comes close to the minimum, at 150 it jumps up and down far above.",
)

# %% [markdown]
# ## 4. Condition number, and momentum
#
# ### How fast can it be?
#
# Each error component shrinks by $|1 - \eta\lambda_i|$ a step. The slowest of them decides.
# Over $\lambda_{\min} \le \lambda \le \lambda_{\max}$ the largest value of
# $|1 - \eta\lambda|$ is at an end, since $|1 - \eta\lambda|$ is convex in $\lambda$. One
# end falls with $\eta$ while the other rises, so the best rate makes both equal:
#
# $$1 - \eta\lambda_{\min} = \eta\lambda_{\max} - 1 \;\iff\;
# \eta = \frac{2}{\lambda_{\min} + \lambda_{\max}} , \qquad
# \text{factor per step } \frac{\kappa - 1}{\kappa + 1} , \quad
# \kappa = \frac{\lambda_{\max}}{\lambda_{\min}} .$$
#
# $\kappa$ is the **condition number**. Since $\log\frac{\kappa-1}{\kappa+1} \approx
# -2/\kappa$ for large $\kappa$, shrinking the error to $1/e$ of it takes about $\kappa/2$
# steps. A long narrow valley is slow because the steep walls forbid the rate that its flat
# floor needs.
#
# ### Momentum
#
# Polyak (1964) gives the step a memory. A velocity $v$ collects gradients, and old ones
# fade by $\mu$ per step:
#
# $$v_{k+1} = \mu v_k + g_k, \qquad \theta_{k+1} = \theta_k - \eta\, v_{k+1} .$$
#
# Along the floor the gradients agree and add up to $1 + \mu + \mu^2 + \dots = 1/(1-\mu)$
# times one of them; across the walls they alternate and cancel. How fast is that? Put
# $\eta v_{k} = \theta_{k-1} - \theta_k$ in, and take one eigenvector:
#
# $$\begin{aligned}
# c_{k+1} &= c_k - \eta\lambda c_k + \mu\,(c_k - c_{k-1}) \\
# \begin{pmatrix} c_{k+1} \\ c_k \end{pmatrix} &=
# \begin{pmatrix} 1 + \mu - \eta\lambda & -\mu \\ 1 & 0 \end{pmatrix}
# \begin{pmatrix} c_k \\ c_{k-1} \end{pmatrix}
# \end{aligned}$$
#
# The error shrinks with the larger root, in modulus, of
# $r^2 - (1 + \mu - \eta\lambda)\, r + \mu = 0$. The product of the roots is $\mu$. If they
# are complex, they are conjugate and both have modulus $\sqrt{\mu}$, **whatever**
# $\lambda$. That is so when $(1 + \mu - \eta\lambda)^2 \le 4\mu$ (with equality they
# coincide), which is
#
# $$(1 - \sqrt\mu)^2 \;\le\; \eta\lambda \;\le\; (1 + \sqrt\mu)^2 .$$
#
# Choose $\eta$ and $\mu$ so that $\lambda_{\min}$ and $\lambda_{\max}$ sit at the two ends.
# Dividing the ends, $\sqrt\kappa = (1 + \sqrt\mu)/(1 - \sqrt\mu)$, and so
#
# $$\sqrt\mu = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}, \qquad
# \eta = \left(\frac{2}{\sqrt{\lambda_{\min}} + \sqrt{\lambda_{\max}}}\right)^2 .$$
#
# The square root of $\kappa$ has taken the place of $\kappa$. For large $\kappa$ that is
# $\sqrt\kappa$ times fewer steps, up to a constant. First the claim about the roots, then
# the steps.

# %%
roots, predicted = [], []
for kappa in (4.0, 50.0, 1000.0):
    root_mu = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    lr = (2 / (1 + math.sqrt(kappa))) ** 2  # with λmin = 1
    for curve in np.linspace(1.1, 0.95 * kappa, 5):
        step = [[1 + root_mu**2 - lr * curve, -(root_mu**2)], [1, 0]]
        roots.append(abs(np.linalg.eigvals(step)).max())
        predicted.append(root_mu)
compare("momentum: roots' modulus vs √μ", roots, predicted, tolerance=1e-12)


# %%
def steps_needed(kappa, momentum, shrink=1e-6):
    """Steps until the error of a 20-dimensional quadratic has shrunk so much."""
    curvatures = np.geomspace(1, kappa, 20)
    lr, mu = 2 / (1 + kappa), 0.0
    if momentum:
        root = math.sqrt(kappa)
        lr, mu = (2 / (1 + root)) ** 2, ((root - 1) / (root + 1)) ** 2
    e, v, steps = np.ones(20), np.zeros(20), 0
    while np.linalg.norm(e) > shrink * math.sqrt(20):
        v = mu * v + curvatures * e
        e = e - lr * v
        steps += 1
    return steps


# %%
kappas = np.array([3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
fig, ax = show.new_figure()
slopes = []
for k, name in enumerate(("gradient descent", "momentum")):
    steps = [steps_needed(kappa, momentum=bool(k)) for kappa in kappas]
    slopes.append(np.polyfit(np.log(kappas[2:]), np.log(steps[2:]), 1)[0])
    label = f"{name}: slope {slopes[-1]:.1f}"
    ax.loglog(kappas, steps, marker=show.MARKERS[k], color=show.COLOURS[k], label=label)
ax.loglog(kappas, kappas / 2 * math.log(1e6), "k--", lw=0.8, label="κ/2 · log(10⁶)")
ax.set(xlabel="condition number κ", ylabel="steps to shrink the error 10⁶ times")
ax.set_title("Steps grow with κ, and with momentum only with its root")
ax.legend()
show.figure(
    fig,
    "Log-log plot of steps against condition number, each method at its best rate: a "
    f"line of slope {slopes[0]:.1f} for gradient descent, {slopes[1]:.1f} for "
    "momentum.",
)

# %% [markdown]
# These are best rates for quadratics whose extreme eigenvalues are known. For a network
# they are not, and they change while it learns. That is why $\mu$ is usually set to 0.9
# and only $\eta$ is searched.
#
# ### Nesterov's look-ahead
#
# Momentum measures the gradient where it stands, and then rolls on. Nesterov (1983)
# measures it where the velocity is about to carry it:
#
# $$v_{k+1} = \mu v_k + \nabla L(\theta_k - \eta\mu v_k), \qquad
# \theta_{k+1} = \theta_k - \eta\, v_{k+1} .$$
#
# torch keeps the look-ahead point itself, $\varphi_k = \theta_k - \eta\mu v_k$. With
# $g_k = \nabla L(\varphi_k)$:
#
# $$\begin{aligned}
# \varphi_{k+1} &= \theta_{k+1} - \eta\mu v_{k+1} \\
# &= \theta_k - \eta v_{k+1} - \eta\mu v_{k+1} && \text{step of } \theta \\
# &= \varphi_k + \eta\mu v_k - \eta v_{k+1} - \eta\mu v_{k+1}
# && \theta_k = \varphi_k + \eta\mu v_k \\
# &= \varphi_k + \eta (v_{k+1} - g_k) - \eta v_{k+1} - \eta\mu v_{k+1}
# && \mu v_k = v_{k+1} - g_k \\
# &= \varphi_k - \eta\,(g_k + \mu v_{k+1}) .
# \end{aligned}$$
#
# The last line is how `torch.optim.SGD(nesterov=True)` is written. The cell runs the first
# form on the digits and compares its look-ahead points with torch's path.

# %%
paths = []
for trial, (lr, mu) in enumerate([(1.0, 0.9), (5.0, 0.5), (0.3, 0.99)]):
    t = 0.1 * np.random.default_rng(seed + trial).normal(size=(D, C))
    v = np.zeros((D, C))
    leaf = torch.tensor(t, requires_grad=True)
    torchs = torch.optim.SGD([leaf], lr, momentum=mu, nesterov=True, foreach=False)
    for _ in range(20):
        torchs.zero_grad()
        torch_loss(leaf, x, y).backward()
        torchs.step()
        v = mu * v + gradient(t - lr * mu * v)
        t = t - lr * v
    paths.append((t - lr * mu * v, leaf.detach().numpy()))
ours, theirs = (np.stack(side) for side in zip(*paths, strict=True))
compare("Nesterov's look-ahead vs torch.optim.SGD", ours, theirs, 1e-12)

# %% [markdown]
# ## 5. Six optimizers by hand
#
# All take a gradient $g$ and keep a little state per parameter. Squares, roots and
# quotients are element by element.
#
# | | state | step | idea |
# |---|---|---|---|
# | momentum | $v \leftarrow \mu v + g$ | $\theta \leftarrow \theta - \eta v$ | add up what agrees |
# | Nesterov | $v \leftarrow \mu v + g$ | $\theta \leftarrow \theta - \eta (g + \mu v)$ | the same, looking ahead |
# | AdaGrad | $s \leftarrow s + g^2$ | $\theta \leftarrow \theta - \eta\, g / (\sqrt{s} + \epsilon)$ | a rate of its own for each parameter |
# | RMSProp | $s \leftarrow \alpha s + (1-\alpha) g^2$ | $\theta \leftarrow \theta - \eta\, g / (\sqrt{s} + \epsilon)$ | and forget the distant past |
# | Adam | $m \leftarrow \beta_1 m + (1-\beta_1) g$, $\; s \leftarrow \beta_2 s + (1-\beta_2) g^2$ | $\theta \leftarrow \theta - \eta\, \hat m / (\sqrt{\hat s} + \epsilon)$ | both, without the bias of the start |
# | AdamW | as Adam | first $\theta \leftarrow (1 - \eta\lambda)\theta$, then as Adam | decay that is not divided by $\sqrt{\hat s}$ |
#
# AdaGrad's $s$ only grows, so its steps shrink like $1/\sqrt{k}$ under gradients of
# constant size. RMSProp's mean forgets, so its steps do not.
#
# ### Why Adam has hats
#
# $m$ starts at 0, so at first it is too small. Unroll it, for a gradient whose mean does
# not change:
#
# $$m_k = (1 - \beta_1) \sum_{i=1}^{k} \beta_1^{\,k-i} g_i , \qquad
# \mathbb{E}[m_k] = \mathbb{E}[g]\,(1-\beta_1)\sum_{j=0}^{k-1}\beta_1^{\,j}
# = \mathbb{E}[g]\,(1 - \beta_1^{\,k}) .$$
#
# So $\hat m_k = m_k / (1 - \beta_1^k)$ is right on average, and $\hat s_k = s_k / (1 -
# \beta_2^k)$ likewise. At the first step $\hat m_1 = g$ and $\hat s_1 = g^2$, and so Adam
# moves every parameter by $\eta\, g/(|g| + \epsilon) \approx \eta\,\mathrm{sign}(g)$.
#
# In code each optimizer is a function of the point, the gradient, its state (a dictionary,
# empty at first) and the rate.


# %%
def momentum(theta, g, state, lr, mu=0.9):
    state["v"] = mu * state.get("v", 0) + g
    return theta - lr * state["v"]


def nesterov(theta, g, state, lr, mu=0.9):
    state["v"] = mu * state.get("v", 0) + g
    return theta - lr * (g + mu * state["v"])


def adagrad(theta, g, state, lr, eps=1e-10):
    state["s"] = state.get("s", 0) + g**2
    return theta - lr * g / (np.sqrt(state["s"]) + eps)


def rmsprop(theta, g, state, lr, alpha=0.99, eps=1e-8):
    state["s"] = alpha * state.get("s", 0) + (1 - alpha) * g**2
    return theta - lr * g / (np.sqrt(state["s"]) + eps)


# %%
def adam(theta, g, state, lr, betas=(0.9, 0.999), eps=1e-8):
    state["k"] = state.get("k", 0) + 1
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["s"] = betas[1] * state.get("s", 0) + (1 - betas[1]) * g**2
    m_hat = state["m"] / (1 - betas[0] ** state["k"])
    s_hat = state["s"] / (1 - betas[1] ** state["k"])
    return theta - lr * m_hat / (np.sqrt(s_hat) + eps)


def adamw(theta, g, state, lr, weight_decay=0.01, **options):
    return adam((1 - lr * weight_decay) * theta, g, state, lr, **options)


def plain(theta, g, state, lr):
    return theta - lr * g


# %% [markdown]
# Against `torch.optim`: 100 steps in float64 on three random problems of different shape,
# $f(\theta) = \sum \tfrac{a}{2} (\theta - b)^2 + \cos\theta$. Our side uses the gradient by
# hand, $a(\theta - b) - \sin\theta$; torch's side uses autograd. Every point of the paths
# is compared, not only the last.

# %%
SHAPES = [(7,), (4, 5), (2, 3, 4)]


def hand_path(step, lr, a, b, theta, steps=100, **options):
    state, path = {}, []
    for _ in range(steps):
        theta = step(theta, a * (theta - b) - np.sin(theta), state, lr, **options)
        path.append(theta.ravel())
    return np.concatenate(path)


def torch_path(make, a, b, theta, steps=100):
    leaf, path = torch.tensor(theta, requires_grad=True), []
    a, b, optimizer = torch.tensor(a), torch.tensor(b), make([leaf])
    for _ in range(steps):
        optimizer.zero_grad()
        (a / 2 * (leaf - b) ** 2 + torch.cos(leaf)).sum().backward()
        optimizer.step()
        path.append(leaf.detach().numpy().ravel().copy())
    return np.concatenate(path)


# %%
def problems():
    for trial, shape in enumerate(SHAPES):
        rng = np.random.default_rng(seed + 100 + trial)
        yield rng.uniform(0.2, 4, shape), rng.normal(size=shape), rng.normal(size=shape)


def prove(what, step, kind, lr, by_hand=None, **options):
    """The hand's path against that of kind(parameters, lr, **options)."""
    ours = [hand_path(step, lr, *problem, **(by_hand or {})) for problem in problems()]
    theirs = [torch_path(lambda p: kind(p, lr, **options), *q) for q in problems()]
    compare(what, np.concatenate(ours), np.concatenate(theirs), tolerance=1e-12)


# %%
slow = {"foreach": False, "fused": False}  # torch's plain loop over parameters
SGD, library = torch.optim.SGD, torch.optim
prove("SGD vs torch.optim.SGD", plain, SGD, 0.1, **slow)
prove("momentum vs torch.optim.SGD", momentum, SGD, 0.05, momentum=0.9, **slow)
nag = {"momentum": 0.9, "nesterov": True}
prove("Nesterov vs torch.optim.SGD", nesterov, SGD, 0.05, **nag, **slow)
prove("AdaGrad vs torch.optim.Adagrad", adagrad, library.Adagrad, 0.3, **slow)
prove("RMSProp vs torch.optim.RMSprop", rmsprop, library.RMSprop, 0.02, foreach=False)
prove("Adam vs torch.optim.Adam", adam, library.Adam, 0.05, **slow)
wd = {"weight_decay": 0.1}
prove("AdamW vs torch.optim.AdamW", adamw, library.AdamW, 0.05, wd, **wd, **slow)

# %% [markdown]
# The package's `sftkit.optim.make_optimizer` gives torch's optimizers by name. It asks for
# the *fused* kernels, which do the same in one pass over memory. Are they the same?


# %%
def package(parameters, lr, name, weight_decay=0.0):
    groups = [{"params": parameters, "weight_decay": weight_decay}]
    return optim.make_optimizer(name, groups, lr)


prove("AdamW by hand vs sftkit.optim", adamw, package, 0.05, wd, name="adamw", **wd)
prove("Adam by hand vs sftkit.optim", adam, package, 0.05, name="adam")
prove("momentum by hand vs sftkit.optim", momentum, package, 0.05, name="sgd")

# %% [markdown]
# ### What dividing by $\sqrt{s}$ does
#
# Multiply the loss by 1,000 and plain descent takes steps 1,000 times as long. Adam takes
# the same: the factor is in $\hat m$ and in $\sqrt{\hat s}$, and cancels (up to $\epsilon$,
# set to 0 here). So a rate for Adam has the unit of the parameter: about how far it moves
# per step.

# %%
scaled = {}
for factor in (1.0, 1000.0):
    t, state = np.ones((4, 5)), {}
    for k in range(20):
        noise = np.random.default_rng(seed + k).normal(size=t.shape)
        t = adam(t, factor * (t + noise), state, lr=0.01, eps=0.0)
    scaled[factor] = t
compare("Adam: loss × 1000 vs loss × 1", scaled[1000.0], scaled[1.0], 1e-12)

# %% [markdown]
# The same holds parameter by parameter. To see what that is worth, race the six on the
# digits as they are, and on digits whose pixels come in different units: each of the 64
# pixels is multiplied by a factor of its own between 1/10 and 10, as the columns of real
# tables are. Two epochs, $B = 32$, each optimizer over a grid of rates.


# %%
def after_two_epochs(step, lr, x):
    rng, theta, state = np.random.default_rng(seed), np.zeros((D, C)), {}
    for _ in range(2):
        for rows in rng.permutation(n).reshape(-1, 32):
            theta = step(theta, gradient(theta, x[rows], y[rows]), state, lr)
    return loss_of(theta, x)


# %%
units = 10 ** np.random.default_rng(seed).uniform(-1, 1, D)
six = {"plain": plain, "momentum": momentum, "Nesterov": nesterov}
six |= {"AdaGrad": adagrad, "RMSProp": rmsprop, "Adam": adam}
grid = np.geomspace(1e-4, 30, 17)
sweeps = {
    name: [[after_two_epochs(step, lr, data) for lr in grid] for data in (x, x * units)]
    for name, step in six.items()
}
bests = {name: [min(s) for s in sweep] for name, sweep in sweeps.items()}
show.table(
    [[name, *b] for name, b in bests.items()],
    ("optimizer", "pixels as they are", "mixed units"),
    "Lowest training loss after two epochs, over the grid of rates",
)

# %%
fig, axes = show.new_figure(height=3.8, columns=2, sharey=True)
titles = ("One unit: all arrive", "Mixed units: √s helps")
for ax, which, name in zip(axes, (0, 1), titles, strict=True):
    for k, (optimizer, sweep) in enumerate(sweeps.items()):
        style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], ms=4)
        ax.loglog(grid, sweep[which], label=optimizer, **style)
    ax.set(xlabel="learning rate", ylim=(0.2, 20))
    ax.set_title(name)
axes[0].set_ylabel("training loss after 2 epochs, nats")
axes[0].legend(loc="upper left")
show.figure(
    fig,
    "Training loss against the rate for six optimizers: valleys of equal depth in "
    "the left panel; in the right one those of AdaGrad, RMSProp and Adam are deeper.",
)

# %%
adaptive, others = ("AdaGrad", "RMSProp", "Adam"), ("plain", "momentum", "Nesterov")
assert max(bests[a][1] for a in adaptive) < 0.9 * min(bests[o][1] for o in others)
low, high = min(b[0] for b in bests.values()), max(b[0] for b in bests.values())
print(f"one unit: best to worst of the six differ by {high - low:.3f} nats")

# %% [markdown]
# In one unit, each optimizer at its best rate gets to about the same loss; what differs is
# where that rate lies. In mixed units the three that use one rate for all lose: the rate
# that the largest columns allow is too small for the others. It is the condition number of
# section 4 again. The adaptive three hardly notice.
#
# The lesson is not that Adam is better. It is that Adam needs less from you: units,
# initialization and architecture may be uneven, and in networks they often are. Why Adam does so well
# on transformers in particular is still debated; Zhang et al. (2020) point at rare, very
# large gradients.

# %% [markdown]
# ## 6. Weight decay
#
# ### It is not L2 under Adam
#
# A penalty $\tfrac{\lambda}{2}\|\theta\|^2$ in the loss (**L2**) adds $\lambda\theta$ to the
# gradient. **Weight decay** multiplies the parameters by $1 - \eta\lambda$ at each step. For
# plain descent the two are one:
#
# $$\theta - \eta\,(g + \lambda\theta) = (1 - \eta\lambda)\,\theta - \eta\, g .$$


# %%
def decayed(theta, g, state, lr):
    return (1 - lr * 0.3) * theta - lr * g


# torch's SGD adds weight_decay · θ to the gradient: that is L2
prove("SGD: decay vs torch's L2", decayed, SGD, 0.1, weight_decay=0.3, **slow)

# %% [markdown]
# Under Adam they are not. There $\lambda\theta$ goes through the division by $\sqrt{\hat s}$
# with the rest, so what pulls a weight towards 0 is about $\eta\,\lambda\theta /
# \sqrt{\mathbb{E}[(g + \lambda\theta)^2]}$: **weights with large gradients are hardly
# decayed, those with small ones much**. AdamW (Loshchilov and Hutter 2019) takes decay out
# of the division.
#
# To see it alone, take weights that start at 1, and gradients that are pure noise with mean
# 0, of size 10 for some weights and 0.1 for others. The loss has no wish; only decay moves
# them on average. What AdamW must do is known: the noise moves a weight up as often as
# down, so the mean over many weights is $(1 - \eta\lambda)^k$.


# %%
def l2_adam(theta, g, state, lr, weight_decay):
    return adam(theta, g + weight_decay * theta, state, lr)


lr, decay, steps, copies = 0.01, 0.1, 300, 3000
sizes = np.repeat([[10.0], [0.1]], copies, axis=1)  # (2, copies): gradient noise
curves = {}
for name, step in (("Adam + L2", l2_adam), ("AdamW", adamw)):
    rng, t, state, means = np.random.default_rng(seed), np.ones_like(sizes), {}, []
    for _ in range(steps):
        t = step(t, sizes * rng.normal(size=t.shape), state, lr, weight_decay=decay)
        means.append(t.mean(axis=1))
    curves[name] = np.array(means)

# %%
expected = (1 - lr * decay) ** np.arange(1, steps + 1)
fig, axes = show.new_figure(columns=2, sharey=True)
for ax, curve in zip(axes, curves.values(), strict=True):
    for k, size in enumerate(("10", "0.1")):
        style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=40)
        ax.plot(curve[:, k], label=f"gradient noise {size}", **style)
    ax.plot(expected, "k--", lw=1, label="(1 − ηλ) to the power of k")
    ax.set(xlabel="step k")
axes[0].set_title("Adam + L2: noise decides the decay")
axes[1].set_title("AdamW: the same decay for both")
axes[0].set_ylabel(f"mean of {copies:,} weights")
axes[1].legend()
last = {name: [f"{v:.2f}" for v in curve[-1]] for name, curve in curves.items()}
show.figure(
    fig,
    "Mean weight against steps. With Adam plus L2 the weights with noisy gradients "
    f"stay at {last['Adam + L2'][0]}, the quiet ones fall to {last['Adam + L2'][1]}. "
    f"With AdamW both follow the dashed curve, to {last['AdamW'][0]} and "
    f"{last['AdamW'][1]}.",
)

# %%
show.table(
    [[name, *curve[-1]] for name, curve in curves.items()],
    ("", "gradient noise 10", "gradient noise 0.1"),
    f"Mean weight after {steps} steps; weight decay promises {expected[-1]:.2f}",
    digits=2,
)
assert abs(curves["AdamW"][-1] - expected[-1]).max() < 0.03
assert curves["Adam + L2"][-1, 0] > 0.9 > 0.3 > curves["Adam + L2"][-1, 1]

# %% [markdown]
# ### No decay on biases and norms
#
# Decay is for matrices. The scale of a LayerNorm starts at 1, which means "pass on". Pulled
# towards 0 it mutes the layer, and a bias pulled towards 0 moves a threshold; neither makes
# the function simpler. Yet a single list of parameters decays them all.
# `sftkit.optim.parameter_groups` sorts parameters by dimension:
# vectors are not decayed.


# %%
class Small(torch.nn.Module):
    """Embedding, linear layer, norm and head, as in any encoder."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, 8)
        self.dense = torch.nn.Linear(8, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.top = torch.nn.Linear(8, 3)


# %%
torch.manual_seed(seed)
net = Small()
groups = optim.parameter_groups(net, weight_decay=0.1)
name_of = {id(p): name for name, p in net.named_parameters()}
rows = []
for group in groups:
    for p in group["params"]:
        rows.append([name_of[id(p)], str(tuple(p.shape)), group["weight_decay"]])
show.table(rows, ("parameter", "shape", "weight decay"), digits=1)

# %% [markdown]
# The detector must not use the rule that it checks. So it goes by the **kind of module**,
# not by dimension: whatever belongs to a norm or is called bias must be free, all else
# decayed, and each parameter must be there once.


# %%
def fates(groups):
    """(name, is decayed) of every parameter in the groups."""
    return sorted(
        (name_of[id(p)], g.get("weight_decay", 0) > 0)
        for g in groups
        for p in g["params"]
    )


free = set()
for path, module in net.named_modules():
    for name, _ in module.named_parameters(recurse=False):
        if isinstance(module, torch.nn.LayerNorm) or name == "bias":
            free.add(f"{path}.{name}")
should = sorted((name, name not in free) for name, _ in net.named_parameters())

# %%
same("sftkit.optim's groups vs kinds of module", fates(groups), should)

broken = [{"params": list(net.parameters()), "weight_decay": 0.1}]
try:
    same("one list for all", fates(broken), should)
except AssertionError as problem:
    print("the broken version is seen:", problem)

# %% [markdown]
# What it does to the norm: 100 steps in which the loss has no wish at all (its gradient is
# zero), once with one list for all, once with the groups.

# %%
for name in ("one list for all", "sftkit's groups"):
    small = Small()
    groups = optim.parameter_groups(small, weight_decay=0.1)
    if name == "one list for all":
        groups = [{"params": list(small.parameters()), "weight_decay": 0.1}]
    optimizer = optim.make_optimizer("adamw", groups, lr=0.01)
    for _ in range(100):
        for p in small.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    print(f"{name:18} scale of the norm after 100 steps: {small.norm.weight[0]:.3f}")

# %% [markdown]
# ## 7. Schedules
#
# ### Why the rate should fall
#
# Take one dimension, $L = \tfrac{\lambda}{2}\theta^2$, and a gradient with noise:
# $g = \lambda\theta + \xi$ with mean of $\xi$ 0 and variance $\sigma^2$. Let
# $V_k = \mathbb{E}[\theta_k^2]$.
#
# $$\begin{aligned}
# \theta_{k+1} &= (1 - \eta\lambda)\,\theta_k - \eta\,\xi_k \\
# V_{k+1} &= (1 - \eta\lambda)^2\, V_k + \eta^2\sigma^2 && \xi_k \text{ is independent of } \theta_k \\
# V &= (1 - \eta\lambda)^2\, V + \eta^2\sigma^2 && \text{where it settles} \\
# V &= \frac{\eta^2\sigma^2}{1 - (1 - \eta\lambda)^2}
# = \frac{\eta\,\sigma^2}{\lambda\,(2 - \eta\lambda)} .
# \end{aligned}$$
#
# A constant rate does not arrive. It ends in a cloud around the minimum whose squared size
# is proportional to $\eta$ (for small $\eta$). Large rates travel fast, small rates arrive:
# so begin large and end small.

# %%
rows = []
for lr in (0.5, 0.1, 0.02):
    rng, t = np.random.default_rng(seed), np.zeros(20_000)
    for _ in range(round(8 / lr)):
        t = (1 - lr) * t - lr * rng.normal(size=t.shape)  # λ = σ = 1
    rows.append([lr, lr / (2 - lr), float((t**2).mean())])
    assert abs(rows[-1][2] / rows[-1][1] - 1) < 0.05
show.table(rows, ("lr", "V from the formula", "V of 20,000 walks"), digits=4)

# %% [markdown]
# ### Seven shapes
#
# With $T$ steps in all, counted $k = 0, 1, \dots, T-1$, each shape is a factor of the base
# rate:
#
# | schedule | factor at step $k$ |
# |---|---|
# | constant | $1$ |
# | step | $\gamma^{\lfloor 3k/T \rfloor}$: times $\gamma$ at each third |
# | exponential | $\gamma^{k/T}$: by the same factor every step |
# | linear | $1 - k/T$ |
# | cosine | $\tfrac12\left(1 + \cos(\pi k/T)\right)$ |
# | linear warm-up over $w$ steps | $(k+1)/(w+1)$ for $k < w$; then another shape over the rest |
# | plateau | times $\gamma$ when validation has not improved for so many evaluations |
#
# Warm-up is for the start, when the gradients are large, Adam's $\hat s$ rests on a handful
# of them, and a new head has random weights. Here they are by hand.

# %%
T, W = 12, 3
by_hand = {
    "constant": lambda k: 1.0,
    "step": lambda k: 0.1 ** (3 * k // T),
    "exponential": lambda k: 0.01 ** (k / T),
    "linear": lambda k: 1 - k / T,
    "cosine": lambda k: (1 + math.cos(math.pi * k / T)) / 2,
}
warmed = [
    (k + 1) / (W + 1) if k < W else (1 + math.cos(math.pi * (k - W) / (T - W))) / 2
    for k in range(T)
]

# %%
from torch.optim import lr_scheduler as schedulers


def torch_rates(make, steps=T):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warm_cosine(o):
    up = schedulers.LinearLR(o, 1 / (W + 1), total_iters=W)
    down = schedulers.CosineAnnealingLR(o, T - W)
    return schedulers.SequentialLR(o, [up, down], [W])


# %%
torchs = {
    "constant": lambda o: schedulers.ConstantLR(o, 1.0),
    "step": lambda o: schedulers.StepLR(o, T // 3, gamma=0.1),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.01 ** (1 / T)),
    "linear": lambda o: schedulers.LinearLR(o, 1.0, 0.0, total_iters=T),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T),
}
for name, shape in by_hand.items():
    ours = [shape(k) for k in range(T)]
    compare(f"{name} vs torch's scheduler", ours, torch_rates(torchs[name]), 1e-12)
    compare(f"{name} vs sftkit.optim.Schedule", ours, optim.rates(name, T, 1.0), 1e-12)
compare("warm-up, cosine vs torch's", warmed, torch_rates(warm_cosine), 1e-12)
rates = optim.rates("cosine", T, 1.0, W / T)
compare("warm-up, cosine vs sftkit.optim.Schedule", warmed, rates, 1e-12)

# %% [markdown]
# Plateau has a memory: the best score so far, and how many evaluations ago that was. torch
# counts `patience` as evaluations *without* consequence; we count the one that acts. So our
# 2 is torch's 1.

# %%
scores = [0.5, 0.6, 0.6, 0.59, 0.7, 0.7, 0.65, 0.71, 0.7, 0.7, 0.7, 0.7]
best, waited, factor, plateau = -math.inf, 0, 1.0, []
for score in scores:
    best, waited = (score, 0) if score > best else (best, waited + 1)
    if waited == 2:
        factor, waited = factor / 2, 0
    plateau.append(factor)
print("factors", *plateau)

# %%
optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
options = dict(mode="max", factor=0.5, patience=1, threshold=0.0)
theirs = schedulers.ReduceLROnPlateau(optimizer, **options)
ours = optim.Schedule("plateau", len(scores), patience=2)
seen_by_torch, seen_by_us = [], []
for score in scores:
    theirs.step(score)
    ours.observe(score)
    seen_by_torch.append(optimizer.param_groups[0]["lr"])
    seen_by_us.append(ours.factor(0))
compare("plateau vs torch's scheduler", plateau, seen_by_torch, tolerance=1e-12)
compare("plateau vs sftkit.optim.Schedule", plateau, seen_by_us, 1e-12)

# %%
fig, ax = show.new_figure()
shown = ("constant", "linear", "cosine", "exponential", "step")
for k, name in enumerate(shown):
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=8, ms=5)
    ax.plot(optim.rates(name, 80, 1.0, warmup=0.1), label=name, **style)
ax.set(xlabel="optimizer step", ylabel="share of the base rate")
ax.set_title("Five schedules, each after a warm-up of 8 steps")
ax.legend(ncols=2, loc="upper right", bbox_to_anchor=(1, 0.9))
show.figure(
    fig,
    "Rate against step: all rise for 8 steps in a straight line to 1. Then constant "
    "stays, linear and cosine fall to 0, exponential falls fast at first, step drops "
    "twice.",
)

# %% [markdown]
# And the gain, on the digits with $B = 32$ over ten epochs: the excess at the end for
# several base rates.


# %%
def excess_with(name, lr, seeds=3):
    factor = optim.Schedule(name, 10 * n // 32).factor
    runs = range(seed, seed + seeds)
    ends = [sgd(32, lambda k: lr * factor(k), seed=s, every=n)[1][-1] for s in runs]
    return float(np.mean(ends))


bases = (1, 3, 10, 30)
at_end = {name: [excess_with(name, lr) for lr in bases] for name in shown}
show.table(
    [[name, *ends] for name, ends in at_end.items()],
    ("schedule", *(f"lr = {lr:g}" for lr in bases)),
    "Excess training loss after ten epochs, mean of 3 seeds",
    digits=4,
)

# %% [markdown]
# Read the columns. At a small rate any decay costs: the steps shrink before the bottom is
# near. At rates at which the constant schedule is shaken about, the falling ones arrive,
# and the best of each falls below the constant's best, or beside it. So a schedule goes
# with a higher rate to begin with: choose the two together. Between linear and cosine there
# is no difference here.

# %% [markdown]
# ### Per optimizer step, and not from 0
#
# Two classic mistakes. With gradient accumulation several **micro-batches** make one
# optimizer step; a schedule that is advanced per micro-batch runs out early. And a warm-up
# that starts at a rate of 0 throws its first batch away. The detector is a **golden list**:
# the rate of every optimizer step, worked out with pencil. Eight steps, two of warm-up, then
# linear:

# %%
golden = [1 / 3, 2 / 3, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
schedule = optim.Schedule("linear", total=8, warmup=2 / 8)
rates = [schedule.factor(step) for step in range(8)]
compare("sftkit.optim.Schedule vs a golden list", rates, golden, 1e-12)

# %% [markdown]
# The broken versions: sftkit's own schedule, asked with the number of the micro-batch; and
# the linear schedule of transformers, whose warm-up begins at 0.

# %%
from transformers import get_linear_schedule_with_warmup

golden_head = ("optimizer step", "golden", "per micro-batch", "warm-up from 0")
per_micro_batch = [schedule.factor(4 * step) for step in range(8)]  # 4 make a step
from_zero = torch_rates(lambda o: get_linear_schedule_with_warmup(o, 2, 8), steps=8)
rows = list(zip(range(8), golden, per_micro_batch, from_zero, strict=True))
show.table(rows, golden_head)
for name, rates in (("per micro-batch", per_micro_batch), ("from 0", from_zero)):
    try:
        compare(name, rates, golden, tolerance=1e-12)
    except AssertionError as problem:
        print("seen:", problem)

# %% [markdown]
# A rate of 0 is a step in which the model reads a batch, computes a gradient, and forgets
# it:

# %%
for factor in (from_zero[0], golden[0]):
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = optim.make_optimizer("adamw", [{"params": [weight]}], lr=0.1 * factor)
    (weight**2).sum().backward()
    optimizer.step()
    moved = not torch.equal(weight.detach(), torch.ones(3, dtype=torch.float64))
    print(f"first factor {factor:.2f}: the weights moved: {moved}")

# %% [markdown]
# ## 8. The learning-rate range test
#
# You rarely know $\lambda_{\max}$. But you can *watch* for it: start with a tiny rate, raise
# it by a constant factor each step, and plot the loss against the rate (Smith 2017). It
# falls while the rate is useful and blows up when it is too large. One test costs a hundred
# steps.


# %%
def batches_of(size, seed):
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(n).reshape(-1, size)


def stepper(batch_size, seed):
    """A function that takes one step at a rate, and gives the loss before it."""
    theta, source = np.zeros((D, C)), batches_of(batch_size, seed)

    def take_step(lr):
        rows = next(source)
        loss = loss_of(theta, x[rows], y[rows])
        theta[:] -= lr * gradient(theta, x[rows], y[rows])
        return loss

    return take_step


# %%
test = optim.range_test(stepper(32, seed), low=1e-3, high=1e3, steps=100)

take_step, hand_losses = stepper(32, seed), []
hand_lrs = 1e-3 * (1e3 / 1e-3) ** (np.arange(100) / 99)
for lr in hand_lrs[: len(test.lrs)]:
    hand_losses.append(take_step(lr))
compare(
    "range test: rates vs sftkit.optim's", hand_lrs[: len(test.lrs)], test.lrs, 1e-9
)
compare("range test: losses vs sftkit.optim's", hand_losses, test.losses, 1e-9)

# %%
fig, ax = show.new_figure()
ax.semilogx(test.lrs, test.losses, color=show.COLOURS[3], lw=0.8, label="batch loss")
ax.semilogx(test.lrs, test.smoothed, color=show.COLOURS[0], lw=2, label="running mean")
for k, (name, lr) in enumerate([("lowest", test.lowest), ("a tenth", test.suggestion)]):
    style = dict(color=show.COLOURS[1 + k], ls=("--", ":")[k])
    ax.axvline(lr, label=f"{name}: lr = {lr:.2g}", **style)
ax.set(xlabel="learning rate", ylabel="loss, nats", ylim=(0, 4))
ax.set_title("The loss falls, then blows up: choose a rate well below the turn")
ax.legend()
show.figure(
    fig,
    "Loss against a rising learning rate, on a log axis: flat, then falling, lowest "
    f"at {test.lowest:.2g}, then rising steeply.",
)

# %%
print(f"range test, a tenth of the lowest   {test.suggestion:.2g}")
print(f"best constant rate of section 2     {chosen[32]:.2g}")
assert 1 / 4 < test.suggestion / chosen[32] < 4

# %% [markdown]
# A tenth of the rate at the lowest point is a rule of thumb: at the lowest point itself the
# loss is about to turn, and the running mean lags behind. Here the rule finds in one short
# run what section 2 needed a grid for. The result belongs to the batch size, the optimizer
# and the weights that you test with, so use those that you will train with. With warm-up
# and a falling schedule you can often begin higher, as the last table of section 7 shows.

# %% [markdown]
# ## 9. Clipping
#
# One bad batch can undo an hour. **Clipping by global norm** (Pascanu et al. 2013) bounds
# the gradient: collect all gradients in one long vector $g$, and if it is longer
# than $c$, shorten it to $c$:
#
# $$g \leftarrow g \cdot \min\left(1, \frac{c}{\|g\|}\right), \qquad
# \|g\| = \sqrt{\textstyle\sum_{\text{tensors}} \sum_j g_j^2} .$$
#
# Of all vectors no longer than $c$ it is the one closest to $g$, and it keeps the
# direction, since all tensors share one factor. (torch divides by $\|g\| + 10^{-6}$, and so
# do we.)


# %%
def clip_by_hand(gradients, most):
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    factor = min(1.0, most / (norm + 1e-6))
    return [g * factor for g in gradients]


# %%
def random_gradients(trial):
    shapes = [[(3,)], [(4, 5), (5,)], [(2, 3, 4), (7,), (6, 1)]][trial]
    rng = np.random.default_rng(seed + trial)
    return [rng.normal(size=s) * 10.0**k for k, s in enumerate(shapes)]


def flat(tensors):
    return np.concatenate([np.asarray(t).ravel() for t in tensors])


# %%
hand, torchs, ours = [], [], []
for trial in range(3):
    for most in (0.5, 1e4):  # one clips, the other leaves alone
        start = random_gradients(trial)
        hand.append(flat(clip_by_hand(start, most)))
        for found, count in ((torchs, None), (ours, 7.0)):
            leaves = [torch.nn.Parameter(torch.tensor(g)) for g in start]
            for leaf, g in zip(leaves, start, strict=True):
                leaf.grad = torch.tensor(g * (count or 1.0))
            if count is None:
                torch.nn.utils.clip_grad_norm_(leaves, most, foreach=False)
            else:
                optim.clip_and_divide(leaves, count, most)
            found.append(flat([leaf.grad for leaf in leaves]))
hand, torchs, ours = map(np.concatenate, (hand, torchs, ours))
compare("clipping vs torch's clip_grad_norm_", hand, torchs, tolerance=1e-12)
compare("clipping vs sftkit.optim.clip_and_divide", hand, ours, 1e-12)

# %% [markdown]
# (`clip_and_divide` takes the gradient of a loss *sum* and its count, 7 here, and does both
# in one pass.) Clipping each tensor by itself is another thing: it turns the direction.


# %%
def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


start = random_gradients(2)
together = clip_by_hand(start, 0.5)
each = [clip_by_hand([g], 0.5)[0] for g in start]
print(f"cosine with g, all together   {cosine(flat(start), flat(together)):.3f}")
print(f"cosine with g, each by itself {cosine(flat(start), flat(each)):.3f}")

# %% [markdown]
# Now a bad batch: at step 60 the images come from another file, in other units, with pixels
# 1,000 times too large. What norms are usual, and what happens with and without a limit?


# %%
def run_with_accident(most, lr=1.0, steps=240):
    theta, curve, norms = np.zeros((D, C)), [], []
    source = batches_of(32, seed)
    for k in range(steps):
        rows = next(source)
        g = gradient(theta, x[rows] * (1000 if k == 60 else 1), y[rows])
        norms.append(float(np.linalg.norm(g)))
        theta -= lr * clip_by_hand([g], most)[0]
        curve.append(loss_of(theta))
    return np.array(curve), np.array(norms)


# %%
free, norms = run_with_accident(math.inf)
clipped, _ = run_with_accident(1.0)
print(f"norms before: {norms[:60].min():.2f} to {norms[:60].max():.2f}")
print(f"norm at step 60: {norms[60]:.0f}")
print(f"loss after 240 steps: {free[-1]:.2f} without limit, {clipped[-1]:.2f} with it")
assert free[-1] > 2 * clipped[-1]

# %%
fig, ax = show.new_figure()
for k, (name, curve) in enumerate([("no limit", free), ("norm at most 1", clipped)]):
    style = dict(color=show.COLOURS[2 - 2 * k], marker=show.MARKERS[k], markevery=20)
    ax.semilogy(curve, label=name, **style)
ax.set(xlabel="step", ylabel="training loss, nats")
ax.set_title("One bad batch ruins the run; with clipping it does not show")
ax.legend()
show.figure(
    fig,
    f"Training loss against steps. Without a limit it jumps to {free[60]:.0f} at step "
    f"60 and is at {free[-1]:.1f} after 240 steps; with clipping it ends at "
    f"{clipped[-1]:.2f}.",
)

# %% [markdown]
# Clipping is a seat belt and no cure: it hides that the data were bad. Log the norm before
# clipping, as `sftkit.fit` does, and look at the batches where it peaks. And note that a
# limit *below* the usual norms turns every step of plain descent into one of fixed length,
# which is another optimizer.
#
# ## 10. Gradient noise and batch size
#
# ### Variance falls like $1/B$
#
# Draw $B$ examples independently, with replacement. Their gradients $g_i$ have mean $g$ and
# covariance $\Sigma$. The covariance of a sum of independent terms is the sum of theirs:
#
# $$\mathrm{Cov}[g_B] = \frac{1}{B^2} \sum_{i=1}^{B} \Sigma = \frac{\Sigma}{B} , \qquad
# \mathbb{E}\,\|g_B - g\|^2 = \frac{\mathrm{tr}\,\Sigma}{B} .$$
#
# Twice the cost halves the variance, and divides the noise itself by $\sqrt2$ only. An epoch
# draws *without* replacement, which helps when a batch is a good part of the data: the
# variance has a further factor $(n - B)/(n - 1)$, which is 0 for $B = n$. For softmax regression the
# gradient of one example is the outer product of $x_i$ and $p_i - \text{onehot}(y_i)$ (plus
# the same $\rho\theta$ for all), so $\mathrm{tr}\,\Sigma$ is exact here.


# %%
def each_gradient(theta):
    """The gradients of all examples (n, D, C), without the penalty."""
    error = np.exp(log_probs(theta, x))
    error[np.arange(n), y] -= 1
    return x[:, :, None] * error[:, None, :]


def noise_trace(theta):
    each = each_gradient(theta)
    return float(((each - each.mean(axis=0)) ** 2).sum(axis=(1, 2)).mean())  # tr Σ


half_way = np.zeros((D, C))
for rows in np.random.default_rng(seed).permutation(n).reshape(-1, 32):
    half_way -= 1.0 * gradient(half_way, x[rows], y[rows])
trace = noise_trace(half_way)
print(
    f"after one epoch: tr Σ = {trace:.3f}, |g|² = {(gradient(half_way) ** 2).sum():.5f}"
)

# %%
each = each_gradient(half_way).reshape(n, -1)
centred = each - each.mean(axis=0)
sizes = 2 ** np.arange(0, 10)


def noise_of(batch_size, replace, draws=200):
    rng = np.random.default_rng(seed + batch_size)
    batches = (rng.choice(n, batch_size, replace) for _ in range(draws))
    return np.mean([(centred[rows].mean(axis=0) ** 2).sum() for rows in batches])


measured = {r: [noise_of(B, r) for B in sizes] for r in (True, False)}
slope = np.polyfit(np.log(sizes), np.log(measured[True]), 1)[0]
print(f"fitted exponent with replacement: {slope:.2f} (theory: -1)")
assert abs(slope + 1) < 0.05

# %%
fig, ax = show.new_figure()
kinds = (("with replacement", True, "o"), ("without replacement", False, "s"))
for k, (name, replace, marker) in enumerate(kinds):
    theory = trace / sizes * (1 if replace else (n - sizes) / (n - 1))
    ax.loglog(sizes, theory, color=show.COLOURS[2 * k], lw=1)
    ax.loglog(sizes, measured[replace], marker, color=show.COLOURS[2 * k], label=name)
ax.set(xlabel="batch size B", ylabel="mean of |g_B − g|²")
ax.set_title(f"Noise falls like 1/B (fitted exponent {slope:.2f}); lines: theory")
ax.legend()
show.figure(
    fig,
    "Mean squared error of the mini-batch gradient against batch size, log-log: "
    "points on the line of slope -1; without replacement they bend below it at large "
    "batches.",
)

# %% [markdown]
# ### Which batch is worth its cost?
#
# Put the noisy step into the expansion of section 1 and take the mean (McCandlish et al.
# 2018). The noise has mean 0, so it appears in the second-order term only:
#
# $$\begin{aligned}
# \mathbb{E}\,L(\theta - \eta g_B) &\approx L - \eta\,\|g\|^2 + \tfrac12\eta^2\,
# \mathbb{E}\left[g_B^\top H g_B\right] \\
# \mathbb{E}\left[g_B^\top H g_B\right] &= g^\top H g + \frac{\mathrm{tr}(H\Sigma)}{B} .
# \end{aligned}$$
#
# This is a parabola in $\eta$. Its lowest point, and the decrease there, are
#
# $$\eta^*(B) = \frac{\eta_{\max}}{1 + B_{\text{noise}}/B}, \qquad
# \Delta L(B) = \frac{\Delta L_{\max}}{1 + B_{\text{noise}}/B}, \qquad
# B_{\text{noise}} = \frac{\mathrm{tr}(H\Sigma)}{g^\top H g} ,$$
#
# with $\eta_{\max} = \|g\|^2 / g^\top H g$ and $\Delta L_{\max} = \tfrac12 \eta_{\max}
# \|g\|^2$, the values for the exact gradient. Read it from the two ends:
#
# - $B \ll B_{\text{noise}}$: the decrease is proportional to $B$. Twice the batch does the
#   work of two steps: nothing is lost, and a parallel machine gains.
# - $B \gg B_{\text{noise}}$: the decrease stays at $\Delta L_{\max}$. More examples per step
#   are wasted.
#
# If $H$ is a multiple of the identity, it cancels, and what is left is the **simple noise
# scale** $B_{\text{simple}} = \mathrm{tr}\,\Sigma / \|g\|^2$, noise over signal, which needs
# gradients only.


# %%
def noise_scales(theta):
    """(B_noise, B_simple, eta_max, decrease at eta_max) from exact H and Σ."""
    g, each = gradient(theta), each_gradient(theta).reshape(n, -1)
    each -= each.mean(axis=0)
    noise = ((each @ whole_hessian(theta)) * each).sum() / n  # tr(HΣ)
    squared, curve = (g**2).sum(), (g * hessian_times(theta, g)).sum()
    simple = noise_trace(theta) / squared
    return noise / curve, simple, squared / curve, squared**2 / curve / 2


points = {"at the start": np.zeros((D, C)), "after 1 epoch": half_way}
scales = {name: noise_scales(point) for name, point in points.items()}
show.table(
    [[name, s[0], s[1], s[2]] for name, s in scales.items()],
    ("", "B noise", "B simple", "best rate of the exact gradient"),
    digits=1,
)

# %% [markdown]
# At the start the examples agree about the direction, and by the formula a batch of 32 gains
# about 70 % of what all of them would. After one epoch the gradient is short, the noise is not,
# and the noise scale is 17 times as large (the simple one 9 times): larger batches pay late.
# The simple scale is of the
# same order as the exact one.
#
# It also explains the race of section 2. With $B = 1$ and $B = 32$ below the noise scale
# most of the way, an example does the same work in either, and $\eta^*(B)$ is nearly
# proportional to $B$: the best rates that the grids found there are 30 times apart.
#
# Does the formula hold for real steps? At the point after one epoch, take steps with
# batches of each size at the predicted best rate, and average the decrease that is measured.

# %%
scale, _, lr_max, decrease_max = scales["after 1 epoch"]
rng, gained = np.random.default_rng(seed), []
for B in sizes:
    lr = lr_max / (1 + scale / B)
    losses = []
    for _ in range(100):
        rows = rng.choice(n, B)
        losses.append(loss_of(half_way - lr * gradient(half_way, x[rows], y[rows])))
    gained.append(loss_of(half_way) - np.mean(losses))
predicted = decrease_max / (1 + scale / sizes)
off = np.abs(np.array(gained) / predicted - 1)
print(f"off by {off.max():.0%} at most, and by {np.median(off):.0%} in the median")

# %%
fig, ax = show.new_figure()
ax.loglog(sizes, predicted, color=show.COLOURS[0], label="formula")
ax.loglog(
    sizes, gained, "s", color=show.COLOURS[2], label="measured, mean of 100 steps"
)
ax.axvline(scale, color="black", ls=":", lw=1, label=f"B noise = {scale:.0f}")
ax.axhline(decrease_max, color="black", ls="--", lw=0.8, label="exact gradient")
ax.set(xlabel="batch size B", ylabel="decrease of the loss per step, nats")
ax.set_title("Below the noise scale, more examples buy more; above, little")
ax.legend()
show.figure(
    fig,
    "Decrease per step at the best rate against batch size, log-log: rising in "
    f"proportion at first, bending near {scale:.0f}, and level at the exact "
    "gradient's decrease.",
)

# %% [markdown]
# The points keep close to the curve: a step is short enough here for a second-order
# expansion. For a network neither $H$ nor $\Sigma$ can be written down. But
# $\mathbb{E}\|g_B\|^2 = \|g\|^2 + \mathrm{tr}\,\Sigma/B$ holds for each batch size, and
# two batch sizes give two equations: exercise 5.

# %% [markdown]
# ## 11. Descent that you steer
#
# Three surfaces in two dimensions, and the optimizers of section 5. First as pictures.


# %%
SURFACES = {  # loss, gradient, start, window
    "ravine": (
        lambda a, b: a**2 / 2 + 10 * b**2,
        lambda a, b: (a, 20 * b),
        (-4.0, 1.2),
        (-5, 5, -2, 2),
    ),
    "banana": (
        lambda a, b: (1 - a) ** 2 + 5 * (b - a**2) ** 2,
        lambda a, b: (-2 * (1 - a) - 20 * a * (b - a**2), 10 * (b - a**2)),
        (-1.5, 2.0),
        (-2.2, 2.2, -1, 3.5),
    ),
    "saddle": (
        lambda a, b: a**2 / 2 - b**2 / 2 + b**4 / 4,
        lambda a, b: (a, -b + b**3),
        (-2.0, 0.01),
        (-2.5, 2.5, -2, 2),
    ),
}

# %%
where, by_us, by_differences = np.array([-0.7, 0.4]), [], []
for surface, slope, _, _ in SURFACES.values():
    by_us.append(slope(*where))
    by_differences.append(differences(lambda t, f=surface: f(*t), where))
compare("three surfaces: slopes vs differences", by_us, by_differences, 1e-7)


# %%
def walk(surface, optimizer, rate, mu, schedule, steps=80):
    """The path, and a sentence if it leaves the neighbourhood of the picture."""
    if not (math.isfinite(rate) and rate > 0 and 0 <= mu < 1):
        raise ValueError("the rate must be above 0, and momentum from 0 to below 1.")
    _, slope, start, window = SURFACES[surface]
    step, options = six[optimizer], {}
    if optimizer in ("momentum", "Nesterov"):
        options["mu"] = mu
    factor, state, path = optim.Schedule(schedule, steps).factor, {}, [np.array(start)]
    for k in range(steps):
        lr, g = rate * factor(k), np.array(slope(*path[-1]))
        path.append(step(path[-1], g, state, lr, **options))
        if not np.abs(path[-1]).max() < 3 * max(map(abs, window)):
            return np.array(path[:-1]), f"Step {k + 1} leaves the map: lower the rate."
    return np.array(path), ""


# %%
def draw_on(ax, surface, path):
    loss, _, _, (left, right, low, high) = SURFACES[surface]
    a, b = np.meshgrid(np.linspace(left, right, 120), np.linspace(low, high, 120))
    height = np.log1p(loss(a, b) - loss(a, b).min())
    ax.contour(a, b, height, 12, colors="#94a4a2", linewidths=0.6)
    ax.plot(*path.T, color=show.COLOURS[2], marker="o", ms=2.5, lw=1)
    ax.plot(*path[0], "s", color=show.COLOURS[0])
    ax.plot(*path[-1], "^", color=show.COLOURS[1])
    ax.set(xlim=(left, right), ylim=(low, high))


# %%
fig, axes = show.new_figure(height=5.2, columns=3, rows=2, sharex=True, sharey=True)
tuned = {"plain": 0.09, "momentum": 0.03, "Nesterov": 0.03}
tuned |= {"AdaGrad": 1.0, "RMSProp": 0.1, "Adam": 0.3}
for ax, (name, rate) in zip(axes.ravel(), tuned.items(), strict=True):
    path, _ = walk("ravine", name, rate, 0.9, "constant")
    draw_on(ax, "ravine", path)
    ax.set_title(f"{name}, lr = {rate:g}")
fig.supxlabel("θ₁", fontsize=10)
fig.supylabel("θ₂", fontsize=10)
show.figure(
    fig,
    "Six panels: paths of 80 steps from the square to the triangle in a ravine. "
    "Plain descent zigzags down the walls, momentum and Nesterov swing past the "
    "minimum and come back, AdaGrad and RMSProp head for it without zigzag, Adam goes "
    "a little too far in both directions and turns.",
)

# %%
fig, axes = show.new_figure(height=3.0, columns=3)
cases = [
    ("banana", "plain", 0.02, "constant"),
    ("saddle", "plain", 0.1, "constant"),
    ("banana", "momentum", 0.15, "constant"),
]
for ax, (surface, name, rate, schedule) in zip(axes, cases, strict=True):
    path, trouble = walk(surface, name, rate, 0.9, schedule)
    draw_on(ax, surface, path)
    ax.set_title(f"{surface}, {name}, {rate:g}", fontsize=9)
    ax.set_xlabel(trouble or "θ₁", fontsize=8)
axes[0].set_ylabel("θ₂")
show.figure(
    fig,
    "Three paths: plain descent along the floor of a curved valley; plain descent "
    "that lingers at a saddle before it finds the way down; momentum at too high a "
    "rate, which leaves the map after a few steps.",
)

# %% [markdown]
# Now you. Choose a surface and an optimizer, and move the rate until it breaks. Things to
# look for: the rate at which plain descent leaves the ravine (what is $\lambda_{\max}$
# there?); what momentum does to that limit; how long each one stays at the saddle; what a
# falling schedule does to RMSProp's jitter at the end.


# %%
def draw_descent(surface, optimizer, log_rate, momentum, schedule):
    path, trouble = walk(surface, optimizer, 10.0**log_rate, momentum, schedule)
    fig, ax = show.new_figure(height=4)
    draw_on(ax, surface, path)
    height = SURFACES[surface][0](*path[-1])
    ax.set(xlabel="θ₁", ylabel="θ₂")
    ax.set_title(trouble or f"loss {height:.4f} after {len(path) - 1} steps")
    return fig


# %% tags=["nbval-ignore-output"]
import ipywidgets

controls = {
    "surface": ipywidgets.Dropdown(options=list(SURFACES), description="surface"),
    "optimizer": ipywidgets.Dropdown(options=list(six), description="optimizer"),
    "log_rate": ipywidgets.FloatSlider(
        value=-1.1, min=-4, max=1, step=0.05, description="log10 lr"
    ),
    "momentum": ipywidgets.FloatSlider(
        value=0.9, min=0, max=0.99, step=0.01, description="momentum"
    ),
    "schedule": ipywidgets.Dropdown(
        options=["constant", "linear", "cosine", "exponential", "step"],
        description="schedule",
    ),
}
widgets.figure_box(draw_descent, controls)

# %% [markdown]
# A path that leaves the map ends there, and the title says at which step. Values that make
# no descent give a sentence as well:

# %%
for rate, mu in ((math.nan, 0.9), (0.1, 1.5), (1e300, 0.9)):
    try:
        print(walk("ravine", "momentum", rate, mu, "constant")[1])
    except ValueError as problem:
        print("That cannot be drawn:", problem)

# %% [markdown]
# ## Exercises
#
# Replace the line that raises `NotImplementedError`, run the cell, then the folded cells
# below it, until one prints a sentence. It checks your function and names the likely
# mistake; the solution is folded after it.
#
# **1. The limit** (easy, 5 minutes). The Hessian $H$ of a quadratic, symmetric with no
# negative eigenvalue, is given as a matrix. Give the rate at which plain descent stops
# being stable.
#
# <details><summary>Hint 1</summary>Section 3 has the formula. Which eigenvalue decides, the
# smallest or the largest?</details>
#
# <details><summary>Hint 2</summary>numpy.linalg.eigvalsh gives the eigenvalues of a
# symmetric matrix, smallest first.</details>


# %% tags=["exercise"]
def largest_rate(H):
    """The bound, a number; H is an array (D, D), not 0 everywhere."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
limit_exercise = Exercise(
    "the limit",
    lambda H: 2 / np.linalg.norm(H, 2),
    [
        (np.array([[3.0, 1.0], [1.0, 2.0]]),),
        (np.diag([0.0, 5.0]),),  # a flat direction
        (np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]]),),
        (np.array([[0.25]]),),
    ],
    [
        (lambda H: 2 / np.linalg.norm(H, -2), "The steepest direction decides."),
        (lambda H: 1 / np.linalg.norm(H, 2), "Stable, but only half of the bound."),
        (lambda H: 2 / np.trace(H), "The trace is the sum of all eigenvalues."),
        (
            lambda H: 2 / np.max(H),
            "The largest entry is not the largest eigenvalue.",
        ),
    ],
)
limit_exercise(largest_rate)


# %% tags=["solution"] jupyter={"source_hidden": true}
def largest_rate_solution(H):
    return 2 / np.linalg.eigvalsh(H)[-1]


limit_exercise(largest_rate_solution)

# %% [markdown]
# **2. AMSGrad** (medium, 15 minutes). Reddi et al. (2018) found a convex problem on which
# Adam does not converge, since its $s$ forgets rare large gradients. Their repair: divide by
# the largest $s$ seen so far, element by element. Write it, from $\theta = 0$, for an array
# with a gradient in each row, and give $\theta$ after every step. As in torch, take the
# largest of the plain $s_k$, and put the hat on the largest.
#
# <details><summary>Hint 1</summary>Begin with the function adam of section 5. One more
# entry of the state holds the largest s; numpy.maximum works element by element.</details>
#
# <details><summary>Hint 2</summary>The division by one minus beta2 to the power k comes
# after the maximum.</details>


# %% tags=["exercise"]
def amsgrad(gradients, lr, betas, eps):
    """Positions (K, D) after each of the K steps; gradients is an array (K, D)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def torchs_adam(gradients, lr, betas, eps, amsgrad=True):
    leaf = torch.nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    optimizer = torch.optim.Adam([leaf], lr, betas, eps, amsgrad=amsgrad)
    path = []
    for g in gradients:
        leaf.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        path.append(leaf.tolist())
    return path


def hat_first(gradients, lr, betas, eps):
    theta = m = s = top = np.zeros(gradients.shape[1])
    path = []
    for k, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g**2
        top = np.maximum(top, s / (1 - betas[1] ** k))
        theta = theta - lr * m / (1 - betas[0] ** k) / (np.sqrt(top) + eps)
        path.append(theta)
    return path


# %% tags=["check"] jupyter={"source_hidden": true}
rare = np.array([[10.0, 1.0], [0.1, 1.0], [0.1, -1.0], [0.0, 0.0]] * 2)
amsgrad_exercise = Exercise(
    "AMSGrad",
    torchs_adam,
    [
        (rare, 0.1, (0.9, 0.5), 1e-8),
        (np.random.default_rng(9).normal(size=(6, 3)), 0.01, (0.9, 0.99), 0.5),
        (np.zeros((1, 1)), 0.1, (0.9, 0.999), 1e-8),
    ],
    [
        (lambda g, lr, b, e: torchs_adam(g, lr, b, e, amsgrad=False),
         "That is Adam: keep the largest s."),
        (hat_first, "Keep the largest s without its hat, and put the hat on after."),
        (lambda g, lr, b, e: torchs_adam(g, lr, b[::-1], e),
         "The first beta belongs to m, the second to s."),
        (lambda g, lr, b, e: -np.array(torchs_adam(g, lr, b, e)),
         "The sign: step against the gradient."),
        (lambda g, lr, b, e: torchs_adam(g, lr, b, e)[-1:] * len(g),
         "All rows are the last one: theta is changed in place; append a copy."),
    ],
)  # fmt: skip
amsgrad_exercise(amsgrad)


# %% tags=["solution"] jupyter={"source_hidden": true}
def amsgrad_solution(gradients, lr, betas, eps):
    theta = m = s = top = np.zeros(len(gradients[0]))
    path = []
    for k, g in enumerate(np.array(gradients), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g**2
        top = np.maximum(top, s)
        m_hat, s_hat = m / (1 - betas[0] ** k), top / (1 - betas[1] ** k)
        theta = theta - lr * m_hat / (np.sqrt(s_hat) + eps)
        path.append(theta)
    return np.array(path)


amsgrad_exercise(amsgrad_solution)

# %% [markdown]
# **3. Warm up, then cool to a floor** (easy, 10 minutes). Give the factors of all `total`
# steps: the linear warm-up of section 7 over `warmup` steps (fewer than `total`, perhaps
# none), then half a cosine from 1 in its first step towards `floor`, a share of the base
# rate, which it would reach at step `total` (pretraining runs often end at 0.1).
#
# <details><summary>Hint 1</summary>Section 7 has the case floor = 0. A cosine between 1 and
# floor is floor plus (1 − floor) times the one between 1 and 0.</details>
#
# <details><summary>Hint 2</summary>How many steps are left when warm-up is over? The cosine
# runs over those.</details>


# %% tags=["exercise"]
def warm_then_floor(total, warmup, floor):
    """The factors of steps 0 to total - 1, as a list."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def with_torch(total, warmup, floor):
    def make(o):
        down = schedulers.CosineAnnealingLR(o, total - warmup, eta_min=floor)
        if not warmup:
            return down
        up = schedulers.LinearLR(o, 1 / (warmup + 1), total_iters=warmup)
        return schedulers.SequentialLR(o, [up, down], [warmup])

    return torch_rates(make, total)


def from_nothing(total, warmup, floor):
    right = with_torch(total, warmup, floor)
    return [k / warmup for k in range(warmup)] + right[warmup:]


def full_too_early(total, warmup, floor):
    right = with_torch(total, warmup, floor)
    return [(k + 1) / warmup for k in range(warmup)] + right[warmup:]


def floor_too_early(total, warmup, floor):
    up, left = with_torch(total, warmup, floor)[:warmup], total - warmup
    return up + (with_torch(left - 1, 0, floor) + [floor] if left > 1 else [1.0])


# %% tags=["check"] jupyter={"source_hidden": true}
schedule_exercise = Exercise(
    "warm-up, then a floor",
    with_torch,
    [(10, 4, 0.1), (7, 0, 0.0), (9, 1, 0.5), (5, 4, 0.2)],
    [
        (from_nothing, "The first rate is 0: a batch is thrown away."),
        (full_too_early, "Warm-up rises to w/(w + 1); the cosine's first step is 1."),
        (floor_too_early, "The floor belongs to step total, one behind the last."),
        (
            lambda t, w, f: with_torch(t, w, 0.0),
            "It goes down to 0, and not to the floor.",
        ),
        (
            lambda t, w, f: with_torch(t, w, f)[:w] + with_torch(t, 0, f)[w:],
            "The cosine must begin at 1 when warm-up ends.",
        ),
        (
            lambda t, w, f: [max(r, f) for r in with_torch(t, w, 0.0)],
            "Cut off at the floor; the whole curve should be squeezed above it.",
        ),
    ],
)
schedule_exercise(warm_then_floor)


# %% tags=["solution"] jupyter={"source_hidden": true}
def warm_then_floor_solution(total, warmup, floor):
    rising = [(k + 1) / (warmup + 1) for k in range(warmup)]
    left = total - warmup
    waves = [(1 + math.cos(math.pi * k / left)) / 2 for k in range(left)]
    return rising + [floor + (1 - floor) * wave for wave in waves]


schedule_exercise(warm_then_floor_solution)

# %% [markdown]
# **4. Accumulate, divide, clip** (medium, 10 minutes). Micro-batches give the gradients of
# their loss *sums*, one array each, and their counts of supervised items, which differ.
# Give the gradient of the optimizer step: that of the mean loss over all items, with a norm
# of at most `most` (add $10^{-6}$ to the norm that you divide by, as torch does). In which
# order?
#
# <details><summary>Hint 1</summary>Nothing is divided until everything is added
# up.</details>
#
# <details><summary>Hint 2</summary>The limit is for the gradient with which you step, so
# clipping comes last.</details>


# %% tags=["exercise"]
def accumulated(sums, counts, most):
    """The clipped mean gradient (D,); sums is an array (K, D), counts one (K,)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def by_package(sums, counts, most):
    leaf = torch.nn.Parameter(torch.zeros(len(sums[0]), dtype=torch.float64))
    leaf.grad = torch.tensor(np.sum(sums, axis=0))
    optim.clip_and_divide([leaf], sum(counts), most)
    return leaf.grad.numpy()


def clipped_first(sums, counts, most):
    return np.sum([by_package([g], [1], most) for g in sums], axis=0) / sum(counts)


def mean_of_means(sums, counts, most):
    means = [np.array(g) / c for g, c in zip(sums, counts, strict=True)]
    return by_package(means, [1] * len(means), most * len(means)) / len(means)


def always_scaled(sums, counts, most):
    mean = sums.sum(axis=0) / sum(counts)
    return most * mean / (np.linalg.norm(mean) + 1e-6)


# %% tags=["check"] jupyter={"source_hidden": true}
accumulate_exercise = Exercise(
    "accumulate, divide, clip",
    by_package,
    [
        (np.array([[6.0, -8.0], [30.0, 40.0]]), np.array([1, 9]), 50.0),
        (np.array([[6.0, -8.0], [30.0, 40.0]]), np.array([1, 9]), 2.0),
        (np.array([[3.0, 4.0]]), np.array([2]), 1.0),
        (np.zeros((1, 2)), np.array([3]), 1.0),  # no gradient at all
    ],
    [
        (mean_of_means, "A mean of means: the small micro-batch weighs too much."),
        (clipped_first, "You clip before everything is added up and divided."),
        (lambda s, c, m: by_package(s, [1], m) / sum(c), "Divide first, then clip."),
        (lambda s, c, m: by_package(s, c, 1e12), "Nothing is clipped."),
        (lambda s, c, m: by_package(s, [1], m), "The sum is not divided by the count."),
        (always_scaled, "A gradient shorter than the limit stays as it is."),
        (lambda s, c, m: np.clip(s.sum(axis=0) / sum(c), -m, m),
         "Clip the norm and keep the direction, not each number."),
    ],
    tolerance=1e-5,
)  # fmt: skip
accumulate_exercise(accumulated)


# %% tags=["solution"] jupyter={"source_hidden": true}
def accumulated_solution(sums, counts, most):
    mean = np.sum(sums, axis=0) / np.sum(counts)
    return mean * min(1.0, most / (np.linalg.norm(mean) + 1e-6))


accumulate_exercise(accumulated_solution)

# %% [markdown]
# **5. The noise scale from two batch sizes** (hard, 15 minutes). You have measured the mean
# of $\|g_B\|^2$ at two batch sizes. Use $\mathbb{E}\|g_B\|^2 = \|g\|^2 +
# \mathrm{tr}\,\Sigma/B$ to find $B_{\text{simple}} = \mathrm{tr}\,\Sigma/\|g\|^2$.
#
# <details><summary>Hint 1</summary>Two equations with two unknowns. Subtract one from the
# other, and one unknown is gone.</details>
#
# <details><summary>Hint 2</summary>The difference of the two measurements is the trace times
# the difference of 1/B.</details>


# %% tags=["exercise"]
def noise_scale(size_a, square_a, size_b, square_b):
    """B_simple, a number, from the mean squared norms at two different sizes."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
truth = {  # (size, square, size, square): (signal |g|², noise tr Σ)
    (4, 4.5, 20, 2.5): (2.0, 10.0),
    (16, 1.0, 2, 4.5): (0.5, 8.0),
    (1, 7.0, 8, 7.0): (7.0, 0.0),  # all examples agree
    (10, 0.03, 1000, 0.0201): (0.02, 0.1),
}
noise_exercise = Exercise(
    "noise scale",
    [noise / signal for signal, noise in truth.values()],
    list(truth),
    [
        (lambda *case: truth[case][1], "That is tr Σ; divide it by |g|²."),
        (lambda *case: truth[case][0] / truth[case][1],
         "Upside down: noise over signal."),
        (lambda a, p, b, q: truth[a, p, b, q][1] / q,
         "|g_B|² is not |g|²: it holds tr Σ / B as well."),
        (lambda a, p, b, q: truth[a, p, b, q][1] / p,
         "Neither |g_B|² is |g|²: both hold tr Σ / B as well."),
    ],
    tolerance=1e-4,
)  # fmt: skip
noise_exercise(noise_scale)


# %% tags=["solution"] jupyter={"source_hidden": true}
def noise_scale_solution(size_a, square_a, size_b, square_b):
    noise = (square_a - square_b) / (1 / size_a - 1 / size_b)
    return noise / (square_a - noise / size_a)


noise_exercise(noise_scale_solution)

# Does it find the simple scale of the digits after one epoch (section 10)?
rng, squares = np.random.default_rng(seed), []
for B in (16, 256):
    batches = [rng.choice(n, B) for _ in range(400)]
    found = [(gradient(half_way, x[b], y[b]) ** 2).sum() for b in batches]
    squares.append(float(np.mean(found)))
estimate = noise_scale_solution(16, squares[0], 256, squares[1])
print(f"from two batch sizes: {estimate:.0f}; exact: {scales['after 1 epoch'][1]:.0f}")

# %% [markdown]
# **6. Units again** (medium, 10 minutes, without a check). In section 5, change the units
# of the pixels from "between 1/10 and 10" to "between 1/100 and 100", and run from there.
# Which curves move, and why does AdaGrad's hardly change its shape?

# %%
metrics = {
    "lowest_loss": best_loss,
    "rate_limit": limit,
    "best_rate_b32": chosen[32],
    "range_test": test.suggestion,
    "noise_scale_start": scales["at the start"][0],
    "noise_scale_after_epoch": scales["after 1 epoch"][0],
}
record(out, metrics)

# %% [markdown]
# ## Summary
#
# - Minus the gradient is the best direction for a short step; the second-order term says
#   how short. On a quadratic, and near a minimum, stable means
#   $0 < \eta < 2/\lambda_{\max}$.
# - A mini-batch gradient is right on average. Its variance falls like $1/B$, so below the
#   noise scale an example does the same work in any batch; above it, more of them in a
#   batch add little.
# - Steps grow with the condition number $\kappa$, with momentum with $\sqrt\kappa$.
# - Adam divides by the size of the gradient, and so does not mind mixed units. Weight decay
#   belongs outside that division, and not on biases and norms.
# - Begin with a high rate and end with a low one. Count optimizer steps, not micro-batches,
#   and do not begin at 0.
# - A range test finds the rate; a limit on the global norm survives a bad batch.
#
# ## Where to go next
#
# - [03 · Tokenization](03_tokenization.ipynb): from text to numbers.
# - [06 · Training loop](06_training_loop.ipynb): these steps in a loop that can be resumed.
# - [07 · Text classification](07_text_classification.ipynb): AdamW, warm-up and a linear
#   schedule on a real model.
#
# Primary sources: Robbins and Monro (1951), *A Stochastic Approximation Method*. Polyak
# (1964), *Some methods of speeding up the convergence of iteration methods*. Nesterov
# (1983), *A method of solving a convex programming problem with convergence rate O(1/k²)*.
# Böhning (1992), *Multinomial logistic regression algorithm*. Duchi, Hazan and Singer
# (2011), *Adaptive Subgradient Methods for Online Learning and Stochastic Optimization*.
# Tieleman and Hinton (2012), *Lecture 6.5: RMSProp*. Pascanu, Mikolov and Bengio (2013), *On
# the difficulty of training recurrent neural networks*. Kingma and Ba (2015), *Adam: A
# Method for Stochastic Optimization*. Smith (2017), *Cyclical Learning Rates for Training
# Neural Networks*. McCandlish et al. (2018), *An Empirical Model of Large-Batch Training*.
# Reddi, Kale and Kumar (2018), *On the Convergence of Adam and Beyond*. Loshchilov and
# Hutter (2017), *SGDR: Stochastic Gradient Descent with Warm Restarts*, and (2019),
# *Decoupled Weight Decay Regularization*. Zhang et al. (2020), *Why are Adaptive Methods
# Good for Attention Models?*
