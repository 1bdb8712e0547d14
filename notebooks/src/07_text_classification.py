# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 5
#     assets: [minilm, tweets, noto-sans-sc]
#     fast: {limit: 240, epochs: 4, lr: 0.0005, validation_rows: 200, test_rows: 300, hand_steps: 3}
# ---

# %% [markdown]
# # 07 · Text classification
#
# **The question.** What does fine-tuning buy, over a linear model that trains in two
# seconds?
#
# You will be able to
#
# - read a data set before you train on it;
# - build two honest baselines, and tune them on the same data;
# - fine-tune a pretrained encoder, first with a loop of a dozen lines, then with
#   `sftkit.fit`, then with Hugging Face `Trainer`, and show that the three agree;
# - say how much better it is, with an interval;
# - tell when **not** to fine-tune.
#
# **Time**: about 5 minutes on 2 cores, without GPU. **Before this**: Python, and what a
# loss is. **Your own data**: `sftkit run 07 -p data=my.csv -p text=review -p label=stars`.

# %% tags=["parameters"]
data: str = "tweets"  # a data set of sftkit's, or your CSV, TSV, JSONL, Parquet, hub:ID
text: str = "text"  # column with the text (your own data)
label: str = "label"  # column with the class (your own data)
model: str = "minilm"  # a model of sftkit's, a folder, or hub:OWNER/NAME
head: str = "mean"  # mean: reads all tokens; first: transformers' stock head
train: str = "no-embeddings"  # all, no-embeddings, top-1, top-2, ..., head
fit_head_first: bool = True  # begin with a head fitted on the frozen features
limit: int = 4000  # training examples; 0 takes all
max_length: int = 64  # tokens per text, at most
epochs: float = 2.0  # passes over the training data
batch_size: int = 32  # examples per optimizer step
lr: float = 1e-4  # highest learning rate
seed: int = 0  # of the head, the dropout and the order of the data
validation_rows: int = 1000  # validation examples looked at after each epoch
test_rows: int = 0  # test examples; 0 takes all
hand_steps: int = 8  # steps of the comparison by hand; 0 leaves it out
out: str = ""  # folder for results; empty means: show only
resume: bool = False  # go on from the last checkpoint in out

# %%
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sftkit import corpora, data_report, device, encode, evaluate, losses, models
from sftkit.batches import Batches, Examples, padding_share
from sftkit.course import committed_records, record
from sftkit.evaluate import Predictions, predict
from sftkit.fit import fit
from sftkit.teach import show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

started = time.perf_counter()

# %% [markdown]
# ## 1. Read the data first
#
# Supervised fine-tuning starts with labelled examples: pairs of an input $x$ and a label
# $y$. Here $x$ is a text and $y$ is one of $C$ classes.
#
# Three splits have three jobs. **Training** data move the parameters. **Validation** data
# choose: the penalty of a baseline, the best epoch. **Test** data are looked at once, at
# the end. Near-duplicates, such as retweets, stay on one side: a model that has seen a
# tweet has an easy time with its copy.

# %%
columns = {} if data in corpora.names() else {"text": text, "label": label}
corpus = corpora.load(data, limit=limit or None, seed=0, **columns)
if test_rows:
    corpus["test"] = corpus["test"].select(range(min(test_rows, len(corpus["test"]))))
names = corpus["train"].features["label"].names
C = len(names)
show.table(
    [(split, len(rows)) for split, rows in corpus.items()],
    ("split", "rows"),
    f"{data}: {C} classes, {', '.join(names[:8])}{' …' if C > 8 else ''}",
)

# %%
for note in corpora.notes(corpus):
    print("·", note)

# %%
encoder, tokenizer = models.load(model, names, head=head, train=train, seed=seed)
report = data_report(corpus, tokenizer, max_length=max_length)
report.show()

# %% [markdown]
# The warnings above are worth a minute. Which class is rare? How many texts does the limit
# cut? Which labels look wrong? No training can be better than its labels.

# %%
show.table(
    [
        (row["text"][:110], names[row["label"]])
        for row in corpus["train"].select(range(6))
    ],
    ("text", "label"),
    "Six training examples",
)

# %% [markdown]
# ## 2. A linear model in two seconds
#
# Count words and pairs of words, weigh each count by how rare it is (TF-IDF), and find the
# flattest hyperplane that separates the classes (a linear support vector machine).
#
# A weak baseline is a false claim. So this one is tuned: two ranges of n-grams times six
# penalties, chosen on the validation split.


# %%
def texts_of(split):
    pairs = (
        corpus[split]["text_pair"] if "text_pair" in corpus[split].features else None
    )
    first = list(corpus[split]["text"])
    return (
        first
        if pairs is None
        else [f"{a} {b}" for a, b in zip(first, pairs, strict=True)]
    )


def labels_of(split):
    return np.asarray(corpus[split]["label"])


def tfidf_svm(ngrams, penalty):
    words = TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=True)
    return make_pipeline(words, LinearSVC(C=penalty, random_state=0))


# %%
def tune(candidates, fit_and_predict):
    """Try each candidate on the validation split; return the best, and all scores."""
    scores = {}
    for candidate in candidates:
        guess = fit_and_predict(*candidate)
        scores[candidate] = float(np.mean(guess == labels_of("validation")))
    return max(scores, key=scores.get), scores


begin = time.perf_counter()
grid = [
    (ngrams, penalty) for ngrams in (1, 2) for penalty in (0.03, 0.1, 0.3, 1, 3, 10)
]
train_texts, validation_texts = texts_of("train"), texts_of("validation")
best_svm, svm_scores = tune(
    grid,
    lambda *c: (
        tfidf_svm(*c).fit(train_texts, labels_of("train")).predict(validation_texts)
    ),
)
svm_seconds = time.perf_counter() - begin
print(f"best of {len(grid)}: n-grams up to {best_svm[0]}, C = {best_svm[1]}")
print(f"validation accuracy {svm_scores[best_svm]:.3f}")

# %% [markdown]
# ## 3. The encoder, frozen
#
# The second baseline asks what the pretrained encoder knows already. The encoder turns
# each text into token ids, each token into a vector, and the vectors into one: their mean
# $h \in \mathbb{R}^{D}$. Nothing of it is trained. A logistic regression on $h$ is.
#
# First, look at what the model sees.

# %%
encoded = encode.classification(corpus, tokenizer, max_length)
examples = {
    split: Examples.of(rows, tokenizer.pad_token_id) for split, rows in encoded.items()
}
ids = encoded["train"][0]["input_ids"]
print("text    ", corpus["train"][0]["text"][:76])
print("tokens  ", " ".join(tokenizer.convert_ids_to_tokens(ids))[:76])
print("ids     ", " ".join(map(str, ids))[:76])
print(
    "label   ", encoded["train"][0]["labels"], "=", names[encoded["train"][0]["labels"]]
)

# %% [markdown]
# The features do not change while the encoder is frozen. So they are computed once and kept
# in the cache, and every penalty is tried on the same numbers.

# %%
begin = time.perf_counter()
features = {s: models.head_features(encoder, rows, C) for s, rows in examples.items()}
penalties = [(0.01,), (0.1,), (1.0,), (10.0,), (100.0,)]


def regression(penalty):
    return LogisticRegression(C=penalty, max_iter=3000).fit(
        features["train"], labels_of("train")
    )


best_frozen, frozen_scores = tune(
    penalties, lambda penalty: regression(penalty).predict(features["validation"])
)
frozen_seconds = time.perf_counter() - begin
width = features["train"].shape[1]
print(f"{width} features; best of {len(penalties)}: C = {best_frozen[0]}")
print(f"validation accuracy {frozen_scores[best_frozen]:.3f}")

# %% [markdown]
# ## 4. Fine-tuning by hand
#
# Now the encoder moves too. For logits $z = f(x;\theta)$ the model's probability of class
# $c$ is $p_c = e^{z_c} / \sum_j e^{z_j}$, and the loss of an example is
# $-\log p_y$. Over a batch of $n$ examples:
#
# $$L(\theta) = \frac{1}{n}\sum_{i=1}^{n} -\log p_{y_i}(x_i;\theta), \qquad
# \theta \leftarrow \theta - \eta \, \mathrm{AdamW}\!\left(\nabla_\theta L\right)$$
#
# A model that knows nothing gives each class $1/C$, so the first loss should be near
# $\log C$. Here is the whole of it: a `Dataset`, a `DataLoader`, AdamW, a loop.


# %%
class Texts(torch.utils.data.Dataset):
    """Token ids and class of one example."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]["input_ids"], self.rows[i]["labels"]


def collate(pairs):
    """Pad to the longest: ids and mask (B, T), labels (B,)."""
    ids = [torch.tensor(i) for i, _ in pairs]
    padded = torch.nn.utils.rnn.pad_sequence(ids, True, tokenizer.pad_token_id)
    lengths = torch.tensor([[len(i)] for i in ids])
    mask = (torch.arange(padded.shape[1]) < lengths).long()
    return padded, mask, torch.tensor([y for _, y in pairs])


# %% [markdown]
# Dropout draws random numbers, and two programs draw them in different order. To compare
# loops number by number, the comparison runs without dropout, with the same batches, and
# at a constant rate.


# %%
def fresh_model():
    return models.load(model, names, head=head, train=train, seed=seed, dropout=0.0)[0]


if encoded["train"].features.get("token_type_ids"):
    hand_steps = 0  # the loop by hand leaves pairs of texts to sftkit
batches = Batches(examples["train"], batch_size, seed=seed)
# Trainer cuts the rows into full batches, so the comparison ends before the short one.
short = [i for i, rows in enumerate(batches.order(0)) if len(rows) < batch_size]
hand_steps = min(hand_steps, *short, len(batches))
batch_rows = [rows.tolist() for rows in batches.order(0)[:hand_steps]]
print(f"{hand_steps} steps; log C = {math.log(C):.3f}")

# %%
hand_losses = []
if hand_steps:
    hand = fresh_model()
    hand.train()
    loader = torch.utils.data.DataLoader(
        Texts(encoded["train"]), batch_sampler=batch_rows, collate_fn=collate
    )
    moving = [p for p in hand.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=lr, weight_decay=0.0)
    for input_ids, mask, y in loader:
        logits = hand(input_ids=input_ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        hand_losses.append(loss.item())
    print("losses", " ".join(f"{x:.3f}" for x in hand_losses))

# %% [markdown]
# ## 5. The same with `sftkit.fit`, and with `Trainer`
#
# `fit` takes a model, batches, and a loss that gives a sum and a count. It divides once.

# %%
fit_losses = []
if hand_steps:
    state = fit(
        fresh_model(),
        batches,
        losses.classification(),
        max_steps=hand_steps,
        lr=lr,
        schedule="constant",
        warmup=0,
        weight_decay=0.0,
        precision="fp32",
    )
    fit_losses = state.losses

# %% [markdown]
# `Trainer` is the loop that most people use. It shuffles by itself, so it gets the rows in
# the order of our batches and the order to keep it.


# %%
def collate_rows(rows):
    """Numbers of rows to the tensors that Trainer passes on."""
    batch = examples["train"].batch(rows)
    return losses.model_inputs(batch) | {"labels": batch["labels"]}


def mean_loss(output, y, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(output.logits, y)


def trainer_arguments():
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=hand_steps,
        learning_rate=lr,
        per_device_train_batch_size=batch_size,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        weight_decay=0.0,
        logging_steps=1,
        **dict(save_strategy="no", report_to="none", disable_tqdm=True),
        **dict(remove_unused_columns=False, use_cpu=True),
    )


# %%
trainer_losses = []
if hand_steps:
    from transformers import Trainer
    from transformers.trainer_callback import PrinterCallback

    trainer = Trainer(
        fresh_model(),
        trainer_arguments(),
        train_dataset=[row for rows in batch_rows for row in rows],
        data_collator=collate_rows,
        compute_loss_func=mean_loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer_losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    print("losses", " ".join(f"{x:.3f}" for x in trainer_losses))


# %%
if hand_steps:
    compare("losses: loop by hand vs sftkit.fit", hand_losses, fit_losses, 1e-4)
    compare("losses: Trainer vs sftkit.fit", trainer_losses, fit_losses, 1e-4)

# %% [markdown]
# Three programs, one trajectory. What remains is rounding. From here on we use `fit`: it
# groups texts of similar length, so that little time goes into padding, it can stop and go
# on, and it keeps a record.

# %%
shuffled = Batches(examples["train"], batch_size, by_length=False)
show.table(
    [
        ("random batches", 100 * padding_share(shuffled)),
        ("batches by length", 100 * padding_share(batches)),
    ],
    ("", "padding, % of positions"),
    digits=1,
)

# %% [markdown]
# ## 6. Fine-tuning in earnest
#
# What is trained? `train` says. The table of word embeddings is about half of a small
# encoder, and fine-tuning hardly moves it; leaving it alone saves time.

# %%
rows = [(r, n, t) for r, n, t in models.parameter_counts(encoder)]
rows.append(("all", sum(n for _, n, _ in rows), sum(t for *_, t in rows)))
show.table(rows, ("part", "parameters", "trained"), f"{model}, train={train}")

# %% [markdown]
# A new head starts at random, and its first gradients shake the encoder. With
# `fit_head_first` it starts as the logistic regression of section 3 instead: linear
# probing, then fine-tuning (Kumar et al. 2022).

# %%
if fit_head_first:
    models.fit_head(encoder, examples["train"], best_frozen[0], features["train"])
watched = examples["validation"]
if len(watched) > validation_rows:
    chosen = np.random.default_rng(0).permutation(len(watched))[:validation_rows]
    watched = watched.take(np.sort(chosen))
trained, training_data = encoder, examples["train"]
if train == "head" or train.startswith("top-"):
    # What is frozen below always gives the same: compute it once.
    trained, training_data = models.cache_frozen(encoder, examples["train"])
    _, watched = models.cache_frozen(encoder, watched)
print(f"training rows {len(training_data):,}, watched rows {len(watched):,}")

# %%
begin = time.perf_counter()
state = fit(
    trained,
    Batches(training_data, batch_size, seed=seed),
    losses.classification(),
    evaluate=evaluate.evaluation(watched),
    folder=Path(out) / "checkpoints" if out else None,
    resume=resume,
    epochs=epochs,
    lr=lr,
    seed=seed,
    keep_best=True,
    keep=1,
    label="fine-tuning",
)
fit_seconds = state.seconds
speed = sum(r["examples"] for r in state.history) / fit_seconds
best = state.best
print(f"best validation accuracy {best['accuracy']:.3f} at step {best['step']:.0f}")

# %% [markdown]
# Did it learn? The loss must have fallen, and the accuracy must beat the model that always
# answers with the most frequent class.

# %%
tenth = max(1, len(state.losses) // 10)
first_loss, last_loss = np.mean(state.losses[:tenth]), np.mean(state.losses[-tenth:])
majority = float(
    np.mean(labels_of("validation") == np.bincount(labels_of("train")).argmax())
)
print(f"loss of the first tenth {first_loss:.3f}, of the last tenth {last_loss:.3f}")
print(f"accuracy of always the most frequent class: {majority:.3f}")
assert last_loss < first_loss, "the loss did not fall: is the learning rate right?"
assert state.best["accuracy"] > majority, "no better than one answer for all"

# %% tags=["nbval-ignore-output"]
limit_gflops = device.matrix_gflops()
print(f"{fit_seconds:.0f} s in training steps, {speed:.0f} examples per second")
print(f"this machine gives {limit_gflops:.0f} GFLOP/s in float32 matrix products")

# %%
show.figure(*evaluate.training_figure(state.losses, state.evaluations, math.log(C)))

# %% [markdown]
# ## 7. The answer
#
# Only now the test split, once for each model.


# %%
def as_logits(scores):
    """Decision values (N,) of two classes, or (N, C), as (N, C)."""
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


y = labels_of("test")
svm = tfidf_svm(*best_svm).fit(train_texts, labels_of("train"))
svm_test = svm.decision_function(texts_of("test"))
frozen_test = regression(*best_frozen).predict_log_proba(features["test"])
found = {
    "TF-IDF + linear SVM": Predictions(as_logits(svm_test), y),
    "frozen encoder + regression": Predictions(frozen_test, y),
    "fine-tuned": predict(encoder, examples["test"]),
}
reports = {name: evaluate.classification_report(p, names) for name, p in found.items()}

# %%
show.table(
    [
        (name, *(100 * x for x in r.values["accuracy"]), 100 * r.values["macro F1"][0])
        for name, r in reports.items()
    ],
    ("model", "accuracy, %", "from", "to", "macro F1, %"),
    f"{data}, {len(examples['train']):,} labels, {len(y):,} test examples, "
    "95 % bootstrap intervals",
    digits=1,
)

# %%
tuned = found["fine-tuned"]
gains = {
    name: evaluate.compare(tuned.classes, other.classes, y)
    for name, other in found.items()
    if name != "fine-tuned"
}
for name, gain in gains.items():
    print(f"fine-tuned over {name}:\n   {gain}")

# %%
over_svm = gains["TF-IDF + linear SVM"]
title = f"Fine-tuning over the linear model: {over_svm.points:+.1f} points"
title += "" if over_svm.clear else " (not clear)"
values = [r.values["accuracy"] for r in reports.values()]
show.figure(*evaluate.comparison_figure(list(reports), values, title))

# %% [markdown]
# Both intervals matter. That of one model says how far its accuracy would move with other
# test examples. That of the **difference** is paired: what makes an example easy or hard
# for both cancels out.

# %% [markdown]
# ## 8. Where it is wrong

# %%
show.figure(*evaluate.confusion_figure(reports["fine-tuned"]))

# %%
display_classes = reports["fine-tuned"].class_table("Fine-tuned, class by class")
display_classes

# %%
error = reports["fine-tuned"].calibration_error
show.figure(*evaluate.calibration_figure(tuned, error))

# %%
test_texts = texts_of("test")
evaluate.mistakes_table(tuned, test_texts, names, count=8)

# %% [markdown]
# Read them. Some are hard, some need to know the world, and some are labelled wrong. To go
# beyond single cases, sort the test texts into groups, and compare error rates.

# %%
wrong = tuned.classes != y
words = [t.lower().split() for t in test_texts]
negations = {"not", "no", "never", "don't", "can't", "won't", "didn't", "isn't"}
groups = {
    "all": np.ones(len(y), dtype=bool),
    "has a negation": np.array([bool(negations & set(w)) for w in words]),
    "asks a question": np.array(["?" in t for t in test_texts]),
    "shorter than 8 words": np.array([len(w) < 8 for w in words]),
    "longer than 20 words": np.array([len(w) > 20 for w in words]),
    "the SVM is right": found["TF-IDF + linear SVM"].classes == y,
}
show.table(
    [
        (name, int(m.sum()), 100 * float(wrong[m].mean()))
        for name, m in groups.items()
        if m.any()
    ],
    ("group of test texts", "examples", "wrong, %"),
    digits=1,
)

# %% [markdown]
# ## 9. Your own sentence


# %%
def probabilities(sentence):
    return evaluate.classify(encoder, tokenizer, [sentence], max_length)[0]


example = "The new version is fast, but the documentation makes me cry."
for name, p in sorted(probabilities(example).items(), key=lambda item: -item[1])[:5]:
    print(f"{name:20} {p:.2f}  {'█' * round(40 * p)}")

# %% tags=["nbval-ignore-output"]
widgets.classify_box(probabilities, example)

# %% [markdown]
# ## 10. How many labels does it take?
#
# The answer above holds for one number of labels. These curves come from recorded runs of
# this notebook at other limits. `python benchmarks/campaign.py label-curve` makes them again,
# and those that are still missing.

# %%
curve = [r for r in committed_records("classification") if r["group"] == "label-curve"]
models_shown = {
    "svm": "TF-IDF + linear SVM",
    "frozen": "frozen encoder",
    "tuned": "fine-tuned",
}


def curve_of(key):
    sizes = sorted({r["parameters"]["limit"] for r in curve})
    at = [
        [r["metrics"][key]["accuracy"] for r in curve if r["parameters"]["limit"] == n]
        for n in sizes
    ]
    means = [100 * float(np.mean([found["value"] for found in a])) for a in at]
    low = [100 * min(found["low"] for found in a) for a in at]
    high = [100 * max(found["high"] for found in a) for a in at]
    return sizes, means, low, high


# %%
if curve:
    fig, ax = show.new_figure()
    ends = []
    for k, (key, name) in enumerate(models_shown.items()):
        sizes, means, low, high = curve_of(key)
        style = dict(color=show.COLOURS[k], marker=show.MARKERS[k])
        ax.plot(sizes, means, label=name, **style)
        ax.fill_between(sizes, low, high, color=show.COLOURS[k], alpha=0.15)
        ends.append(f"{name} from {means[0]:.1f} to {means[-1]:.1f} %")
    seeds = len({r["parameters"]["seed"] for r in curve})
    ax.set(xscale="log", xlabel="labelled training examples", ylabel="test accuracy, %")
    ax.set_title(f"What more labels buy (tweets; seeds: {seeds}; bands: 95 %)")
    ax.legend()
    show.figure(
        fig, f"Accuracy against {sizes[0]} to {sizes[-1]} labels: {'; '.join(ends)}."
    )

# %% [markdown]
# ## 11. When not to fine-tune
#
# The same notebook, by parameters alone, on benchmarks that papers report, as far as they
# have been recorded (`python benchmarks/campaign.py benchmarks` runs the missing ones). The last
# column is BERT-base as published (Lin et al. 2021, "BertGCN", table of results), a model
# five times as large as MiniLM.

# %%
published = {"reuters-r8": 97.8, "reuters-r52": 96.4, "newsgroups": 85.3}
by_data = {}
for r in committed_records("classification"):
    if r["group"] == "benchmarks":
        by_data.setdefault(r["parameters"]["data"], []).append(r["metrics"])


def percent(runs, key):
    values = [100 * m[key]["accuracy"]["value"] for m in runs]
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


rows = [
    (
        name,
        len(runs),
        *(percent(runs, key) for key in models_shown),
        published.get(name, ""),
    )
    for name, runs in sorted(by_data.items())
]
show.table(
    [[str(cell) for cell in row] for row in rows],
    ("data", "seeds", *models_shown.values(), "BERT-base, published"),
    "Test accuracy, %: mean over seeds (smallest to largest)",
)

# %% [markdown]
# Compare the columns. On topical news, words give the topic away. A linear model on word
# counts comes close to the fine-tuned one on Reuters, and is ahead of it on 20 Newsgroups, where
# the encoder reads the first 256 tokens of a message and the linear model all. On short texts where the meaning is in how words
# combine, as in section 7, fine-tuning pays. So always train the two-second model first. It
# tells you what there is left to gain.

# %% [markdown]
# ## Exercises
#
# **1. Macro F1** (easy, 10 minutes). F1 of class $c$ is $2 t_c / (g_c + n_c)$: right
# predictions, all predictions, all examples of the class. Write the mean over classes for a
# confusion matrix with true classes down. A class with $g_c + n_c = 0$ counts as 0.
#
# <details><summary>Hint 1</summary>t is the diagonal; g and n are the sums of columns and of
# rows.</details>
# <details><summary>Hint 2</summary>Divide only where the denominator is above 0.</details>


# %% tags=["exercise"]
def macro_f1(confusion):
    """Macro F1 of a (C, C) matrix, true classes down, predicted classes across."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def f1_by_library(confusion):
    pairs = [(i, j) for (i, j), n in np.ndenumerate(confusion) for _ in range(n)]
    true, predicted = zip(*pairs, strict=True)
    every = range(len(confusion))
    return f1_score(true, predicted, average="macro", labels=every, zero_division=0)


def accuracy_instead(confusion):
    return np.trace(np.asarray(confusion)) / np.sum(confusion)


def recall_instead(confusion):
    matrix = np.asarray(confusion, dtype=float)
    return float(np.mean(np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)))


f1_exercise = Exercise(
    "macro F1",
    f1_by_library,
    [([[5, 1], [2, 9]],), ([[3, 0, 1], [0, 0, 0], [2, 0, 4]],), ([[0, 4], [4, 0]],)],
    [
        (
            accuracy_instead,
            "This is accuracy: right over all. Take F1 class by class.",
        ),
        (
            recall_instead,
            "This is macro recall. F1 also counts what was predicted wrongly.",
        ),
    ],
)
f1_exercise(macro_f1)


# %% tags=["solution"] jupyter={"source_hidden": true}
def macro_f1_solution(confusion):
    matrix = np.asarray(confusion, dtype=float)
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    f1 = np.divide(2 * np.diag(matrix), both, out=np.zeros(len(both)), where=both > 0)
    return float(f1.mean())


f1_exercise(macro_f1_solution)
compare(
    "solution's macro F1 vs the report's",
    macro_f1_solution(reports["fine-tuned"].confusion),
    f1_score(y, tuned.classes, average="macro", labels=range(C)),
    tolerance=1e-9,
)

# %% [markdown]
# **2. Steps** (easy, 5 minutes). How many optimizer steps do $N$ examples, batches of $B$
# and $E$ epochs make? The last batch of an epoch may be short; it is a step all the same.
#
# <details><summary>Hint 1</summary>Try 7 examples in batches of 4, by hand, for two
# epochs.</details>


# %% tags=["exercise"]
def optimizer_steps(n, batch, epochs):
    """Optimizer steps of a whole training run."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
steps_exercise = Exercise(
    "steps",
    lambda n, b, e: len(range(0, n, b)) * e,
    [(100, 32, 2), (7, 4, 2), (7, 8, 3), (64, 32, 1)],
    [
        (
            lambda n, b, e: n // b * e,
            "The short batch at the end of each epoch is missing.",
        ),
        (
            lambda n, b, e: -(-n * e // b),
            "Batches do not run over the end of an epoch.",
        ),
    ],
)
steps_exercise(optimizer_steps)


# %% tags=["solution"] jupyter={"source_hidden": true}
def optimizer_steps_solution(n, batch, epochs):
    return math.ceil(n / batch) * epochs


steps_exercise(optimizer_steps_solution)
if float(epochs).is_integer() and not state.stopped:
    expected = optimizer_steps_solution(len(training_data), batch_size, int(epochs))
    assert len(state.losses) == expected

# %% [markdown]
# **3. Smaller or faster** (medium, 20 minutes). Run this notebook with `train="top-2"`,
# then with `train="head"`. How much accuracy does each cost, and how much time does it
# save? `sftkit run 07 -p train=top-2` keeps both results side by side in `runs/`.
#
# **4. Your own claim** (hard, 30 minutes). Is `head="first"` worse than `head="mean"` for
# this model? Choose seeds and numbers of labels first, then run, then say what the
# intervals allow you to say.

# %% [markdown]
# ## Summary
#
# - Train the linear model first: it costs seconds and sets the bar.
# - Fine-tuning is a loop of a dozen lines; `fit` and `Trainer` compute the same.
# - The gain is a difference on the same test examples, and comes with an interval.
# - Validation chooses, test reports.
#
# ## Where to go next
#
# - [08 · Evaluation](08_evaluation.ipynb): where the intervals come from.
# - 16 what to train: freezing and LoRA.
# - Your own data: `sftkit run 07 -p data=my.csv -p text=… -p label=…`.


# %%
def interval(gain):
    return {"value": gain.points, "low": gain.low, "high": gain.high}


if out:
    models.save(encoder, tokenizer, Path(out) / "model")
seconds = {"svm": svm_seconds, "frozen": frozen_seconds, "fine_tuning": fit_seconds}
metrics = {
    "svm": reports["TF-IDF + linear SVM"].as_metrics(calibration=False),
    "frozen": reports["frozen encoder + regression"].as_metrics(),
    "tuned": reports["fine-tuned"].as_metrics(),
    "gain_over_svm": interval(over_svm),
    "gain_over_frozen": interval(gains["frozen encoder + regression"]),
    "train_rows": len(examples["train"]),
    "test_rows": len(y),
    "seconds": seconds | {"notebook": time.perf_counter() - started},
    "examples_per_second": speed,
    "gflops_float32": limit_gflops,
}
record(out, metrics)
