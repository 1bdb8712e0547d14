# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 3
#     fast: {limit: 600, epochs: 1, lr: 0.0005}
#     assets: [minilm, tweets]
# ---

# %% [markdown]
# # 00 · Start here
#
# **What is supervised fine-tuning, and where does it sit?**
#
# About 3 minutes on 2 cores. You need some Python, and to know what a neural network is.
# Nothing else: every term is introduced where it is first used.
#
# You will see the whole idea on eight words that you can check by eye, find your way
# through the course, check your machine, and then fine-tune a real model.

# %% tags=["parameters"]
data: str = "tweets"  # data set of the taste: a name, a file or a folder
model: str = "minilm"  # pretrained encoder: a name or a folder
limit: int = 1500  # training examples of the taste
epochs: int = 2  # passes over the training examples
lr: float = 2e-4  # highest learning rate
seed: int = 0  # of everything random
out: str = ""  # folder for results; empty means: show only

# %% [markdown]
# ## Three stages
#
# A language model is made in stages. The network stays the same; what changes is the data,
# and which of its predictions are judged.
#
# | stage | data | what is judged | what comes out |
# |---|---|---|---|
# | **pretraining** | raw text, billions of words | every next (or hidden) word | a model that knows how text goes on |
# | **supervised fine-tuning (SFT)** | pairs: an input $x$ and the right output $y$ | the output only | a model that does *your* task |
# | **what follows** | comparisons of two answers, or scores | whole answers | answers that people prefer |
#
# SFT is the stage in the middle, and the one that most people run themselves: it needs
# thousands of examples and not billions of words, and one machine, and not a thousand.
# Preference tuning and reinforcement learning come after it and start from its result. A
# classifier of texts, a translator, and a chat model that follows instructions all come out
# of SFT. They differ in what $y$ is: a class, a sentence, an answer.
#
# ## One loss for all of it
#
# Let $p_t$ be the probability that the model gives to the right item at place $t$. The loss
# is the mean of $-\log p_t$ over the places that are judged. With a mask $m_t$ that is 1
# where the model is judged and 0 elsewhere:
#
# $$\mathcal{L} = \frac{\sum_t m_t \, (-\log p_t)}{\sum_t m_t}$$
#
# Pretraining sets $m_t = 1$ everywhere. SFT sets it to 1 on the output alone. Here is one
# example, word by word, with probabilities made up for the purpose.

# %%
from math import log

from sftkit.teach.show import table

words = [
    "Translate",
    "to",
    "French",
    ":",
    "green",
    "cheese",
    "fromage",
    "vert",
    "<end>",
]
probs = [0.01, 0.30, 0.05, 0.40, 0.01, 0.02, 0.50, 0.80, 0.90]  # of the right word
question = words.index("fromage")  # the answer begins here

pretraining = [1] * len(words)
sft = [0] * question + [1] * (len(words) - question)
rows = [
    [word, f"{p:.2f}", f"{-log(p):.3f}", pretrain, tune]
    for word, p, pretrain, tune in zip(words, probs, pretraining, sft, strict=True)
]
table(rows, ["word", "p", "-log p", "judged in pretraining", "judged in SFT"])

# %% [markdown]
# The last word, `<end>`, is judged too. A model that never learns to stop goes on for ever;
# forgetting this word in the mask is one of the classic mistakes
# (notebook 24 will collect such mistakes, each with a detector).
#
# Now the two losses. Note that the sum and the number of judged words are kept apart until
# the end. Every loss in this course gives that pair, because the mean of means is not the
# mean when examples differ in length.

# %%
for name, mask in [("pretraining", pretraining), ("SFT", sft)]:
    loss_sum = sum(-log(p) for p, m in zip(probs, mask, strict=True) if m)
    n = sum(mask)
    print(f"{name:12} sum {loss_sum:6.3f}   judged {n}   loss {loss_sum / n:.3f} nats")

# %% [markdown]
# The same model, on the same words: badly off as a predictor of questions, and quite good at
# answers. SFT does not ask it to foresee what people will ask.
#
# ## The map
#
# Numbers are fixed. Where there is a link, the notebook exists.
#
# | I · From the loss to a training loop | II · One task each | III · Doing it well |
# |---|---|---|
# | 00 Start here (this one) | [07 Text classification](07_text_classification.ipynb) | 16 What to train |
# | [01 Loss](01_loss.ipynb) | [08 Evaluation](08_evaluation.ipynb) | 17 Schedules and regularization |
# | [02 Gradient descent](02_gradient_descent.ipynb) | [09 Named entities](09_named_entities.ipynb) | 18 Imbalance and augmentation |
# | [03 Tokenization](03_tokenization.ipynb) | [10 Question answering](10_question_answering.ipynb) | [19 Hyper-parameter search](19_hyperparameter_search.ipynb) |
# | [04 Transformer](04_transformer.ipynb) | [11 Translation](11_translation.ipynb) | 20 Few examples |
# | [05 Pretraining](05_pretraining.ipynb) | [12 Summarization](12_summarization.ipynb) | 21 Several tasks |
# | [06 Training loop](06_training_loop.ipynb) | [13 Instruction tuning](13_instruction_tuning.ipynb) | 22 Smaller models |
# |    | 14 Images | [23 More machines](23_more_machines.ipynb) |
# |    | 15 Speech | [24 Failure gallery](24_failure_gallery.ipynb) |
# |    |    | 25 Looking inside |
# |    |    | 26 Data quality |
# |    |    | 27 Your own project |
#
# In a hurry, with data of your own? Go to 07 and give it your file:
# `sftkit run 07 -p data=reviews.csv`.
#
# The package behind the notebooks is called `sftkit`, and its rooms follow the way of an
# example: `assets` (pinned models and data), `corpora` (one loader per data set), `encode`
# (text to numbers and mask), `batches`, `losses`, `fit` (the one training loop),
# `checkpoints`, `evaluate`.
#
# ## Is this machine ready?
#
# Each line says what was checked, and how to mend it if it is not well.

# %% tags=["nbval-ignore-output"]
from sftkit import doctor

doctor.table()

# %% [markdown]
# ## A three-minute taste
#
# Now the real thing, small. MiniLM is a BERT-type encoder with 22.7 million parameters that
# was pretrained on English text. We give it a few tweets with their sentiment and judge one
# thing only: the class. Before it has seen any, it can but guess.

# %%
from collections import Counter

from sftkit import corpora

tweets = corpora.load(data, seed=seed, limit={"train": limit, "validation": 1000})
labels = tweets["train"].features["label"].names
counts = Counter(tweets["validation"]["label"])
majority = max(counts.values()) / len(tweets["validation"])
rows = [[labels[row["label"]], row["text"][:90]] for row in tweets["train"].take(4)]
table(rows, ["label", "text"])
print(f"always the commonest class: {majority:.1%} right on validation")

# %% [markdown]
# Text becomes numbers, numbers become batches, and the loop takes one step per batch:
# measure the loss, find out in which direction each parameter lowers it, move all of them
# a little. Notebook 07 takes this apart and compares it with simpler methods.

# %% tags=["nbval-ignore-output"]
from sftkit import encode, evaluate, losses, models
from sftkit.batches import Batches, Examples
from sftkit.fit import fit

net, tokenizer = models.load(model, labels, seed=seed)
encoded = encode.classification(tweets, tokenizer, max_length=64)
pad = tokenizer.pad_token_id
train, validation = (Examples.of(encoded[s], pad) for s in ("train", "validation"))

before = evaluate.predict(net, validation).accuracy
batches = Batches(train, batch_size=32, seed=seed)
state = fit(net, batches, losses.classification(), epochs=epochs, lr=lr, seed=seed)
after = evaluate.predict(net, validation).accuracy
print(
    f"{state.step} steps; right on validation: {before:.1%} before, {after:.1%} after"
)

# %%
assert after > majority, "fine-tuning should beat the constant answer"
examples = [
    "thank you so much for the quick help!",
    "my bag is lost and nobody answers",
]
rows = [
    [text, *(f"{p:.2f}" for p in answer.values())]
    for text, answer in zip(
        examples, evaluate.classify(net, tokenizer, examples), strict=True
    )
]
table(rows, ["text", *labels])

# %%
from sftkit.course import record

record(out, {"majority": majority, "before": before, "after": after}, steps=state.step)

# %% [markdown]
# One run on few examples is a taste and not a result: notebook 07 has baselines, several
# sizes of training data, intervals, and a test set that is touched once.
#
# ## Exercises
#
# Replace the line that raises `NotImplementedError`, run the cell, then the one below it.
# The check names the likely mistake. It is folded, and so is the solution after it.
#
# **1. The loss** (easy, 5 minutes). Write the formula above: the mean of $-\log p$ over the
# judged places. What should it give when nothing is judged?
#
# <details><summary>Hint 1</summary>Collect the values of −log p where the mask is 1; then
# you need their sum, and how many there are.</details>
# <details><summary>Hint 2</summary>With nothing judged, sum and count are 0. Give 0.0:
# nothing was wrong.</details>


# %% tags=["exercise"]
def masked_loss(probs, mask):
    """Mean of -log p over the places where mask is 1; 0.0 when there are none."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
import numpy as np
from sftkit.teach.exercises import Exercise


def weighted_mean(probs, mask):
    return np.average(-np.log(probs), weights=mask) if sum(mask) else 0.0


loss_exercise = Exercise(
    "masked loss",
    weighted_mean,
    [([0.5, 0.25, 1.0], [0, 1, 1]), ([0.1, 0.2], [1, 1]), ([0.5], [0])],
    [
        (
            lambda p, m: -np.dot(np.log(p), m) / len(p),
            "You divide by all words. Divide by the number of judged ones.",
        ),
        (lambda p, m: -np.dot(np.log(p), m), "That is the sum; divide it."),
        (lambda p, m: -weighted_mean(p, m), "The sign: it is minus log p."),
    ],
)
loss_exercise(masked_loss)


# %% tags=["solution"] jupyter={"source_hidden": true}
def masked_loss_solution(probs, mask):
    judged = [-log(p) for p, m in zip(probs, mask, strict=True) if m]
    return sum(judged) / len(judged) if judged else 0.0


loss_exercise(masked_loss_solution)

# %% [markdown]
# **2. The mask** (medium, 10 minutes). A chat is a list of turns, `(role, words)`. Each turn
# ends with the word `<end>`, which is not in the list. Give the mask of the whole chat: one
# number per word, the `<end>` words included. What must the model learn to produce?
#
# <details><summary>Hint 1</summary>A turn of three words gives four numbers.</details>
# <details><summary>Hint 2</summary>Who has to know when the assistant's answer is
# over?</details>


# %% tags=["exercise"]
def chat_mask(turns):
    """1 for what the assistant must produce, 0 elsewhere; one number per word."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def one_word_less(turns):
    said = [[int(who == "assistant")] * len(words) + [0] for who, words in turns]
    return sum(said, [])


hello = [("user", ["hello", "you"]), ("assistant", ["hello"]), ("user", ["bye"])]
two = [("assistant", ["yes", "sir"]), ("assistant", [])]
chat_exercise = Exercise(
    "chat mask",
    [[0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 1], [0]],
    [(hello,), (two,), ([("user", [])],)],
    [
        (one_word_less, "The assistant must also learn to stop: judge its <end>."),
        (
            lambda t: [1] * sum(len(words) + 1 for _, words in t),
            "That is pretraining: all is judged.",
        ),
        (
            lambda t: [int(who == "user") for who, said in t for _ in [*said, "<end>"]],
            "You judge the user.",
        ),
    ],
)
chat_exercise(chat_mask)


# %% tags=["solution"] jupyter={"source_hidden": true}
def chat_mask_solution(turns):
    return [int(who == "assistant") for who, said in turns for _ in [*said, "<end>"]]


chat_exercise(chat_mask_solution)

# %% [markdown]
# **3. A taste of your own** (easy, 5 minutes). Run this notebook with `limit=300`, then with
# `limit=3000`: `sftkit run 00 -p limit=300`. How much do ten times as many labels buy?
#
# ## Summary
#
# - SFT goes on from a pretrained model with pairs of input and right output.
# - The loss is that of pretraining, $-\log p$ of the right item. A mask says what is judged:
#   the output, its end included, and nothing else.
# - Losses are kept as a sum and a count, and divided once.
# - The same loop serves classes, tags, translations and conversations.
#
# ## Where to go next
#
# - With a task of your own: [07 · Text classification](07_text_classification.ipynb).
# - From the ground up: [01 · Loss](01_loss.ipynb) derives the formula above, and
#   [02 · Gradient descent](02_gradient_descent.ipynb) the step.
# - The paper that put pretraining and fine-tuning together for encoders: Devlin et al.
#   (2019), *BERT: Pre-training of Deep Bidirectional Transformers for Language
#   Understanding*. For conversations: Ouyang et al. (2022), *Training language models to
#   follow instructions with human feedback*, where SFT is the first of three steps.
