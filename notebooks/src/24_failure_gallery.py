# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: false
#     minutes: 4
#     assets: [minilm, smollm2-135m-instruct, tweets]
#     fast: {tweets: 300, seeds: 3, bert_steps: 6, bert_seeds: 1, copies: 3000}
# ---

# %% [markdown]
# # 24 · Failure gallery
#
# **The run ends, the loss has fallen, and the model is wrong. What was it?**
#
# About 4 minutes on 2 cores. You know a training loop (06) and the loss of a language model
# (01, 05). Every page stands by itself: come here with a symptom, leave with a mend.
#
# You will be able to
#
# - go from what you see to one of 24 faults that raise no error;
# - make the diagnosis yourself, with a function that gives a number;
# - mend it, and prove that it is mended;
# - read code as it circulates in tutorials, and say what it does wrongly.
#
# Each page shows the fault at work on a small model, measures it, mends it, and measures
# again. Most of these faults have been in well-known libraries; where a card names a thread,
# it is told there.

# %% tags=["parameters"]
tweets: int = 1200  # tweets for pages 24 and the printed code
copies: int = 8000  # tweets in which page 20 looks for copies
seeds: int = 8  # seeds of each comparison on page 24
bert_steps: int = 18  # steps of each run of the printed code on Adam's rate
bert_seeds: int = 2  # runs per rate there
seed: int = 0  # of everything random
out: str = ""  # folder for results; empty means: show only

# %%
import contextlib
import functools
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from IPython.display import HTML, display

# %%
from sftkit import (
    assets,
    checks,
    corpora,
    encode,
    encode_chat,
    evaluate,
    losses,
    models,
)
from sftkit.batches import IGNORE, Batches, Examples
from sftkit.checks import check_run, layouts, layouts_table, spread
from sftkit.errors import FitError, ModelError, SftError
from sftkit.fit import fit, seed_everything
from sftkit.losses_lm import causal_inputs, causal_lm, next_token
from sftkit.models.decoder import Decoder, DecoderConfig
from sftkit.models.encoder import Encoder, EncoderConfig
from sftkit.models.generate import generate
from sftkit.optim import parameter_groups, rates
from sftkit.packing import PackedBatches

# %%
from sftkit.teach import show
from sftkit.teach.exercises import Exercise
from sftkit.teach.gallery import Gallery, as_printed
from sftkit.teach.proofs import compare, same
from sftkit.teach.tokens import labelled_html
from torch import nn
from torch.nn import functional as F

# %%
started = time.perf_counter()
seed_everything(seed)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # tensors as small as these gain nothing from more
folder = Path(tempfile.mkdtemp())  # for what this notebook saves on the way

# %% [markdown]
# ## Index
#
# Find what you see on the left, go to the page on the right. The pages' numbers are those of
# the list of faults that the project's tests go by; pages that belong together stand together.

# %%
gallery = Gallery()
gallery.index()

# %% [markdown]
# ### What the pages share
#
# Most faults show on a model that is made in a millisecond: a decoder as in notebook 04 with
# two layers of width 16, and texts that count up in threes, so that the next token can be
# learnt.


# %%
def tiny_decoder(vocab=50, std=0.3, dtype=torch.float64):
    """The same weights on every call; large ones, so that every part matters."""
    sizes = dict(width=16, layers=2, heads=4, kv_heads=2, feed_forward=32)
    torch.manual_seed(seed)
    model = Decoder(DecoderConfig(vocab, **sizes, max_length=64)).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1 and std:
            nn.init.normal_(parameter, std=std)
    return model


def counting(lengths):
    """Texts of token ids that count up in threes, modulo 50."""
    begins = np.random.default_rng(seed).integers(0, 50, len(lengths)).tolist()
    return [
        [(b + 3 * t) % 50 for t in range(n)]
        for b, n in zip(begins, lengths, strict=True)
    ]


# %% [markdown]
# And an encoder with classes, for rows whose class is the first number modulo 3.


# %%
def tiny_encoder(dropout=0.0):
    torch.manual_seed(seed)
    sizes = dict(vocab=50, width=16, layers=2, heads=2, feed_forward=32, max_length=40)
    return Encoder(EncoderConfig(**sizes, dropout=dropout, classes=3), "classes")


def first_number_rows(count, seed=seed):
    generator = np.random.default_rng(seed)
    rows = [
        generator.integers(5, 50, n).tolist() for n in generator.integers(2, 13, count)
    ]
    examples = Examples.of_tokens(rows)
    examples.columns["labels"] = np.array([row[0] % 3 for row in rows])
    return examples


plain = {"schedule": "constant", "warmup": 0.0, "precision": "fp32"}
language_loss, class_loss = causal_lm(), losses.classification()
print(*counting([4, 6]), sep="\n")

# %% [markdown]
# ## A. Counting the loss
#
# ### Page 1 · The mean of micro-batch means

# %%
gallery.page(1)


# %%
def mean_of_means(model, batch):
    """What `cross_entropy` and `loss / accumulation_steps` amount to."""
    loss_sum, n = language_loss(model, batch)
    return loss_sum / n, torch.ones(())


lengths = np.random.default_rng(seed).integers(2, 40, 64)
texts = Examples.of_tokens(counting(lengths))
curves = {}
for name, loss in [("mean of means", mean_of_means), ("sum over count", language_loss)]:
    for micro in (8, 1):
        batches = Batches(texts, 8, micro_batch_size=micro, seed=seed, by_length=False)
        options = {"max_steps": 16, "epochs": 9, "lr": 1e-2, **plain}
        curves[name, micro] = fit(tiny_decoder(), batches, loss, **options).losses

# %%
fig, axes = show.new_figure(height=2.7, columns=2, sharey=True)
for ax, name in zip(axes, ("mean of means", "sum over count"), strict=True):
    for k, micro in enumerate((8, 1)):
        style = dict(marker=show.MARKERS[k], markersize=7 - 3 * k, lw=3 - 1.5 * k)
        ax.plot(curves[name, micro], label=f"micro-batches of {micro}", **style)
    ax.set(xlabel="optimizer step")
axes[0].set(ylabel="loss, nats", title="Mean of means: two runs")
axes[1].set_title("Sum over count: one run")
axes[1].legend()
alt = (
    "Left: the loss curves of micro-batches of 8 and of 1 differ. Right: they coincide."
)
show.figure(fig, alt)

# %% [markdown]
# **Diagnosis.** `checks.layouts` takes one step over the same examples, whole, in halves, and
# so on down to one by one. Nothing in this table may change from row to row.

# %%
uneven = Examples.of_tokens(counting([4, 60, 5, 30, 4, 50, 6, 9]))
wrong = layouts(tiny_decoder(), uneven, mean_of_means)
layouts_table(wrong, "Mean of means: the same eight texts in one step")

# %% [markdown]
# The gradient turns, too: the cosine is that with the whole batch's. **Mend**: let the loss
# return the sum and the count, and divide once, after the last micro-batch. `fit` does.

# %%
right = layouts(tiny_decoder(), uneven, language_loss)
display(layouts_table(right, "Sum over count"))
means = [layout.loss for layout in right]
compare("page 1: loss of each layout vs the first", means[1:], means[:1] * 3, 1e-12)
gallery.proved(1, "gradient moved by the layout", spread(wrong), spread(right))

# %% [markdown]
# ### Page 2 · The count is taken before the shift
#
# A row of $T$ tokens has $T - 1$ predictions. Some collators label every token, the first one
# included, and some loops count those labels.

# %%
gallery.page(2)


# %%
def counted_before_the_shift(model, batch):
    loss_sum, _ = language_loss(model, batch)
    return loss_sum, (batch["labels"] != IGNORE).sum()


short = Examples.of_tokens(counting(range(3, 11)))
wrong = layouts(tiny_decoder(), short, counted_before_the_shift, row_tokens=30)
layouts_table(wrong, "Eight texts of 3 to 10 tokens, counted before the shift")

# %% [markdown]
# **Diagnosis.** All padded layouts are wrong alike, which is why nobody sees it. The packed
# one stands out, because packing masks the first token of each text.
# **Mend**: count after `next_token` has paired logits with labels.

# %%
right = layouts(tiny_decoder(), short, language_loss, row_tokens=30)
display(layouts_table(right, "Counted after the shift"))
means = [layout.loss for layout in right]
compare("page 2: loss of each layout vs the first", means[1:], means[:1] * 4, 1e-12)
tokens, predictions = wrong[0].n, right[0].n
print(f"{tokens:.0f} tokens, {predictions:.0f} predictions: {predictions / tokens:.2f}")
gallery.proved(
    2,
    "padded less packed loss",
    wrong[0].loss - wrong[-1].loss,
    right[0].loss - right[-1].loss,
)

# %%
fig, ax = show.new_figure(height=2.4)
for k, (name, found) in enumerate({"before": wrong, "after": right}.items()):
    style = dict(color=show.COLOURS[2 - 2 * k], marker=show.MARKERS[1 - k], ls="none")
    style |= dict(label=f"counted {name} the shift", markersize=10 - 4 * k)
    ax.plot([layout.loss for layout in found], **style)
ax.set_xticks(range(len(right)), [layout.name for layout in right])
ax.set(xlabel="layout of the same eight texts", ylabel="loss, nats")
ax.margins(y=0.2)
ax.set_title("Counted before the shift, only the packed loss is right")
ax.legend(loc="center left")
alt = "Loss of five layouts. Counted before the shift: four are equal and low. "
show.figure(fig, alt + "Counted after: all at the height of the packed one.")

# %% [markdown]
# ### Page 3 · Each process divides by its own count
#
# Page 1 once more, one level up: what a micro-batch is to a loop, a process is to a data
# parallel run. It takes two real processes to see it. Each gets one text, of 4 and of 40
# tokens; the model is a table of next-token logits.

# %%
gallery.page(3)

# %%
script = """
import sys, torch
from torch import distributed
rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
torch.manual_seed(0)
start, found = torch.randn(50, 50, dtype=torch.float64), {}
ids = torch.arange([4, 40][rank])
for divide in ("own count", "all counts"):
    w, n = start.clone().requires_grad_(), torch.tensor(len(ids) - 1.0)
    loss = torch.nn.functional.cross_entropy(w[ids[:-1]], ids[1:], reduction="sum")
    if divide == "own count":
        loss, n = loss / n, torch.ones(())
    loss.backward()
    for value in (w.grad, n):
        distributed.all_reduce(value)  # the sum over both processes
    found[divide] = w.grad / n
if rank == 0:
    torch.save(found, out)
distributed.barrier()  # neither leaves while the other needs it
distributed.destroy_process_group()
"""


# %%
def on_two_processes():
    """Run the script twice, side by side; gives what the first process saved."""
    (folder / "two.py").write_text(script)
    gradients, meeting = folder / "two.pt", Path(tempfile.mkdtemp()) / "meeting"
    commands = [
        [sys.executable, "two.py", str(r), str(meeting), str(gradients)] for r in (0, 1)
    ]
    running = [subprocess.Popen(command, cwd=folder) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return torch.load(gradients, weights_only=True)


two = on_two_processes()
torch.manual_seed(0)
w = torch.randn(50, 50, dtype=torch.float64, requires_grad=True)
ids = [torch.arange(4), torch.arange(40)]
one_by_one = [F.cross_entropy(w[t[:-1]], t[1:], reduction="sum") for t in ids]
(sum(one_by_one) / (3 + 39)).backward()

# %% [markdown]
# **Diagnosis**: the same step on one process. The right gradient weighs each of the 42
# predictions alike.

# %%
rows, off = [["one process", float(w.grad.norm()), 1.0, 0.0]], {}
for name, g in two.items():
    off[name] = float((g - w.grad).norm() / w.grad.norm())
    cosine = F.cosine_similarity(g.flatten(), w.grad.flatten(), dim=0)
    rows.append([f"two, divided by {name}", float(g.norm()), float(cosine), off[name]])
show.table(rows, ["step on", "gradient norm", "cosine", "off by, relative"])
compare("page 3: gradient on two processes vs one", two["all counts"], w.grad, 1e-12)
gallery.proved(3, "gradient off, relative", off["own count"], off["all counts"])

# %%
fig, ax = show.new_figure(height=2.5)
for k, (name, g) in enumerate({"one process": w.grad, **two}.items()):
    label = f"two, divided by {name}" if k else name
    style = dict(marker=show.MARKERS[k], markersize=8 - 2 * k, lw=3 - k)
    style["color"] = show.COLOURS[(0, 2, 1)[k]]
    ax.plot(g[:39].norm(dim=1), label=label, **style)
ax.set(xlabel="token that is read", ylabel="norm of its gradient")
ax.set_title("Divided by own counts, 3 predictions weigh as much as 39")
ax.legend()
alt = "Gradient norm by token. Divided by own counts, tokens 0 to 2, those of the "
alt += "short text, stand high above the others. "
show.figure(fig, alt + "Divided by all counts it is the curve of one process.")

# %% [markdown]
# **Mend**: sums and counts are added up over processes before anything is divided. `fit` does
# that with accelerate. A loop on `DistributedDataParallel`, which *averages* gradients, has to
# multiply by the number of processes first.
#
# ## B. Masks and tokens
#
# From here on we look at tokens. `labelled_html` draws what a model is judged on in blue.
#
# ### Page 4 · Padding is the stop token, and labels are masked by id
#
# Many chat models have no token of their own for padding and take the stop token. Then
# `labels[input_ids == pad] = -100` masks more than padding.

# %%
gallery.page(4)

# %%
from transformers import AutoTokenizer

chat = AutoTokenizer.from_pretrained(assets.path("smollm2-135m-instruct"))
print("stop token   ", chat.eos_token, chat.eos_token_id)
print("padding token", chat.pad_token, chat.pad_token_id)

# %% [markdown]
# A toy of it: id 0 is both. After the prompt `1 a` comes `a+1, a+2, ..., 11` and the stop
# token. Two small decoders learn it, one with labels masked by id.

# %%
PAD = STOP = 0
rows = [[1, a, *range(a + 1, 12), STOP] for a in range(2, 12)] * 6
by_place = [[IGNORE, IGNORE, *row[2:]] for row in rows]
by_id = [[IGNORE if t == PAD else t for t in labels] for labels in by_place]
toys = {
    "by id": Examples.of_tokens(rows, by_id, PAD),
    "by place": Examples.of_tokens(rows, by_place, PAD),
}
written = {}
for name, examples in toys.items():
    model = tiny_decoder(12, std=0, dtype=torch.float32)
    fit(model, Batches(examples, 20, seed=seed), language_loss, epochs=30, lr=1e-2)
    prompts = torch.tensor([[1, a] for a in range(2, 12)])
    written[name] = generate(model, prompts, 20, temperature=0, stop=STOP)[:, 2:]

# %%
fig, ax = show.new_figure(height=2.6)
stops = {}
for k, (name, ids) in enumerate(written.items()):
    stops[name] = (ids == STOP).any(1)
    ends = torch.where(stops[name], (ids == STOP).int().argmax(1) + 1, 20)
    style = dict(color=show.COLOURS[2 - 2 * k], hatch="//" if k else "")
    ax.bar(np.arange(2, 12) + 0.4 * k - 0.2, ends, 0.4, label=f"masked {name}", **style)
ax.axhline(20, color="grey", ls="--", label="limit of the generation")
ax.set(xlabel="a, the number after which to count", ylabel="tokens written")
ax.set_ylim(0, 27)
ax.set_title("Who never saw a stop token never stops")
ax.legend(ncols=3, loc="upper center")
alt = (
    "Tokens written for each prompt: always the limit of 20 when labels were masked by "
)
show.figure(fig, alt + "id; a few tokens, as many as it takes, when masked by place.")

# %% [markdown]
# **Diagnosis.** `check_run` with the stop token's id looks at the last label of every row.

# %%
for name, examples in toys.items():
    model = tiny_decoder(12, std=0, dtype=torch.float32)
    try:
        check_run(model, Batches(examples, 20), language_loss, stop_id=STOP, lr=1e-2)
        print(f"masked {name}: nothing is certainly wrong")
    except FitError as problem:
        print(f"masked {name}: {problem}")

# %% [markdown]
# **Mend**: padding is where a row has ended, not where an id stands. `Examples` pads labels
# with -100 and never looks at ids. The page's proof is the bars above, counted:

# %%
never = {name: int((~found).sum()) for name, found in stops.items()}
batch = toys["by place"].batch([0, 7])
ids, labels = (batch[name][1].tolist() for name in ("input_ids", "labels"))
display(HTML(labelled_html(ids, labels, lambda one: f" {one[0]} ")))
assert never["by place"] == 0
gallery.proved(4, "answers of 10 that never end", never["by id"], never["by place"])

# %% [markdown]
# ### Page 5 · The stop token is outside the answer's mask
#
# A chat template may mark what the assistant says, and `apply_chat_template` then gives a
# mask. Many stock templates mark nothing. Others close the mark before the stop token.

# %%
gallery.page(5)

# %%
talk = [
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "Green, if I may."},
]
closes_too_early = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
)


# %%
def labels_by_mask(template):
    """Ids, and labels where the template's own mask says that the assistant speaks."""
    found = chat.apply_chat_template(
        talk,
        chat_template=template,
        **dict(tokenize=True, return_dict=True, return_assistant_tokens_mask=True),
    )
    ids, mask = found["input_ids"], found["assistant_masks"]
    return ids, [t if m else IGNORE for t, m in zip(ids, mask, strict=True)]


def stops_supervised(labels):
    return sum(label == chat.eos_token_id for label in labels)


attempts = {"stock template": labels_by_mask(chat.chat_template)}
attempts["closes too early"] = labels_by_mask(closes_too_early)
for name, (ids, labels) in attempts.items():
    display(HTML(f"<b>{name}</b>" + labelled_html(ids, labels, chat.decode)))

# %% [markdown]
# **Diagnosis**: look. The stop token `<|im_end|>` after an answer must be blue. With the stock
# template nothing is; with the other, the model learns what to say and not when to end.
# **Mend**: in `encode_chat` an answer reaches up to and including its stop token.

# %%
data, coverage = encode_chat.conversations([talk], chat, 128)
ids, labels = data[0]["input_ids"], data[0]["labels"]
display(HTML("<b>encode_chat</b>" + labelled_html(ids, labels, chat.decode)))
print(coverage)
found = [stops_supervised(labels) for _, labels in attempts.values()]
assert found == [0, 0] and stops_supervised(labels) == 2
gallery.proved(5, "stop tokens supervised, of 2", found[1], stops_supervised(labels))

# %% [markdown]
# ### Page 7 · Two beginning-of-sequence tokens
#
# Some tokenizers put a beginning-of-sequence token before every text. A chat template writes
# it too. Who renders the template and then calls the tokenizer gets both. SmolLM2's tokenizer
# does not add one; here a copy of it is set up as those of Llama are.

# %%
gallery.page(7)

# %%
import copy

from tokenizers.processors import TemplateProcessing

adds_one = copy.deepcopy(chat)
begin, begin_id = chat.bos_token, chat.bos_token_id
adds_one.backend_tokenizer.post_processor = TemplateProcessing(
    single=f"{begin} $A", special_tokens=[(begin, begin_id)]
)
rendered = adds_one.apply_chat_template(talk, tokenize=False)
twice = adds_one(rendered)["input_ids"]
once = adds_one(rendered, add_special_tokens=False)["input_ids"]
for name, ids in [("rendered, then tokenized", twice), ("mended", once)]:
    print(f"{name:25}", adds_one.convert_ids_to_tokens(ids[:5]))

# %% [markdown]
# **Diagnosis**: print the first ids. Do it for training and for the program that serves the
# model. Either alone may look harmless; what hurts is that the two differ. `check_run` looks at
# the first two tokens of every row.

# %%
asked = [talk[:2], talk[2:]]
for special in (True, False):
    texts = [adds_one.apply_chat_template(t, tokenize=False) for t in asked]
    ids = adds_one(texts, add_special_tokens=special)["input_ids"]
    batches = Batches(Examples.of_tokens(ids), 2)
    report = check_run(tiny_decoder(len(chat)), batches, language_loss, overfit_steps=0)
    found = next(f for f in report.findings if f.check == "begin")
    print(f"{found.verdict}: {found.message}")

# %% [markdown]
# **Mend**: `add_special_tokens=False` on text that a template has written, in both places.

# %%
data, _ = encode_chat.conversations([talk], adds_one, 128)
decoded = adds_one.decode(data[0]["input_ids"])
same("page 7: text of our ids vs the template's", decoded, rendered)
turns = len(talk) + 1  # the template adds a system turn
counts = [ids.count(begin_id) for ids in (twice, data[0]["input_ids"])]
assert counts == [turns + 1, turns]
gallery.proved(7, f"begin tokens, {turns} turns", *counts)

# %% [markdown]
# ### Page 8 · The boundary lies inside a token
#
# To mask the prompt, tokenize it alone, count, and mask as many tokens of the whole: that is
# in many scripts. It supposes that the tokens of the prompt are the first tokens of the whole.

# %%
gallery.page(8)


# %%
def by_prompt_length(prompt, answer):
    whole = chat(prompt + answer)["input_ids"] + [STOP_ID]
    masked = len(chat(prompt)["input_ids"])
    return whole, [IGNORE] * masked + whole[masked:]


def supervised_text(labels):
    return chat.decode([label for label in labels if label != IGNORE])


STOP_ID = chat.eos_token_id
pairs = [
    ("The capital of France is", " Paris."),
    ("The capital of France is ", "Paris."),
    ("Q: Why?\nA: ", "because it rains"),
    ("List:\n", "\n- one\n- two"),
    ("def f():", "\n    return 1"),
]

# %%
rows, missed = [], 0
for prompt, answer in pairs:
    ids, labels = by_prompt_length(prompt, answer)
    judged = supervised_text(labels)
    missed += judged != answer + chat.eos_token
    rows.append([repr(prompt), repr(answer), repr(judged)])
show.table(rows, ["prompt", "answer", "what is supervised"], "By prompt length")
ids, labels = by_prompt_length(*pairs[2])
display(HTML(labelled_html(ids, labels, chat.decode)))

# %% [markdown]
# **Diagnosis**: decode what is supervised, and compare it with the answer and the stop token.
# A prompt that ends in a space is enough: in the whole text the space belongs to the next
# word's token. The first word of the answer is then never judged.
# **Mend**: encode the parts apart and join the ids. So does a program that generates: it never
# sees the whole text either.

# %%
parts = [[(p, False), (answer + chat.eos_token, True)] for p, answer in pairs]
encoded = encode_chat.labelled(parts, chat)
ids, labels = encoded[2]
display(HTML(labelled_html(ids, labels, chat.decode)))
expected = [answer + chat.eos_token for _, answer in pairs]
ours = [supervised_text(labels) for _, labels in encoded]
same("page 8: supervised text vs the answer", ours, expected)
gallery.proved(8, f"wrong spans of {len(pairs)}", missed, 0)

# %% [markdown]
# ### Page 9 · Truncation eats the answer or its stop token
#
# Forty dialogues, with answers of 5 to 160 words. What does a limit on the length do?

# %%
gallery.page(9)

# %%
story = "and then it went on past the old mill over the hill to the sea"
words, dialogues = story.split(" "), []
for k in range(40):
    length = 5 + int(155 * (k / 39) ** 2)
    answer = " ".join(words[i % len(words)] for i in range(length))
    turns = [("user", "Tell me a story."), ("assistant", answer + ".")]
    dialogues.append([{"role": role, "content": text} for role, text in turns])
limits, shares = [32, 40, 48, 64, 96, 128, 192, 256], []
for limit in limits:
    with contextlib.suppress(SftError):  # refused when nothing is left to learn from
        _, c = encode_chat.conversations(dialogues, chat, limit)
        shares.append([limit, len(c.cut) / c.rows, len(c.unstopped) / c.rows])

# %%
fig, ax = show.new_figure(height=2.7)
at, *series = np.array(shares).T
for k, (name, values) in enumerate(
    zip(("cut", "no stop token left"), series, strict=True)
):
    style = dict(marker=show.MARKERS[k], lw=3 - k, markersize=8 - 2 * k)
    ax.plot(at, 100 * values, label=name, **style)
ax.set(xlabel="max_length, tokens", ylabel="dialogues, %", xscale="log", ylim=(-3, 103))
ax.minorticks_off()
ax.set_xticks(at, [f"{int(limit)}" for limit in at])
ax.set_title("A limit takes the end of an answer, and its stop token")
ax.legend()
show.figure(
    fig, "Share of dialogues cut, and without a stop token, falling as the limit grows."
)

# %% [markdown]
# The curves begin at 40: a limit of 32 leaves nothing to learn from, and is refused.
# **Diagnosis**: every encoder of the kit counts. Print it.
# **Mend**: choose the limit from the lengths, and leave out what it cuts, if you must cut.

# %%
_, coverage = encode_chat.conversations(dialogues, chat, 64)
print("limit 64: ", coverage)
whole, _ = encode_chat.conversations(dialogues, chat, 1024)
lengths = [len(ids) for ids in whole["input_ids"]]
limit = max(lengths)
_, mended = encode_chat.conversations(dialogues, chat, limit)
print(f"limit {limit}:", mended)
gallery.proved(
    9, "answers without a stop", len(coverage.unstopped), len(mended.unstopped)
)

# %% [markdown]
# ### Page 10 · Every label of a batch is masked
#
# The mean over nothing is 0/0. PyTorch says NaN. A "safe" version clamps the count to 1 and
# says 0.0, which is a perfect loss.

# %%
gallery.page(10)

# %%
texts = counting([12] * 32)
labels = [
    [IGNORE] * 12 if 8 <= i < 16 else [IGNORE] * 4 + row[4:]
    for i, row in enumerate(texts)
]
some_empty = Examples.of_tokens(texts, labels)
in_order = Batches(some_empty, 8, shuffle=False, by_length=False)


def clamped(model, batch):
    loss_sum, n = language_loss(model, batch)
    return loss_sum, n.clamp(min=1)


# %%
log = fit(tiny_decoder(), in_order, clamped, epochs=3, lr=1e-2, **plain).losses
fig, ax = show.new_figure(height=2.4)
ax.plot(range(1, 13), log, marker="o")
zeros = [step for step, loss in enumerate(log, 1) if loss == 0]
ax.plot(
    zeros, [0] * len(zeros), "s", color=show.COLOURS[2], markersize=9, label="0.000"
)
ax.set(xlabel="optimizer step", ylabel="loss, nats", ylim=(-0.3, None))
ax.set_title(f"{len(zeros)} of {len(log)} steps trained on nothing")
ax.legend()
show.figure(fig, "The loss falls, but every fourth step shows exactly 0.")
nothing = F.cross_entropy(torch.zeros(4, 50), torch.full((4,), IGNORE))
print("torch's mean over nothing:", nothing.item())

# %% [markdown]
# **Diagnosis** before the run, and a refusal within it. Both name the rows.
# **Mend**: no clamp; look at how these rows were encoded, or leave them out.

# %%
report = check_run(tiny_decoder(), in_order, language_loss, lr=1e-2)
print(next(found.message for found in report.findings if found.check == "labels"))
try:
    fit(tiny_decoder(), in_order, language_loss, epochs=1, **plain)
except FitError as problem:
    print(problem)
keep = [i for i in range(32) if not 8 <= i < 16]
batches = Batches(some_empty.take(keep), 8, seed=seed)
log = fit(tiny_decoder(), batches, language_loss, epochs=3, lr=1e-2, **plain).losses
gallery.proved(10, "steps with a loss of 0", len(zeros), log.count(0.0))

# %% [markdown]
# ### Page 11 · Labels shifted twice, or not at all
#
# Logits at place $t$ have seen token $t$ and predict token $t+1$. One of encoder, collator,
# model and loss has to shift. When two do, or none, training still goes well.

# %%
gallery.page(11)


# %%
def not_shifted(model, batch):
    return losses.cross_entropy(
        model(**losses.model_inputs(batch)).logits, batch["labels"]
    )


def shifted_twice(model, batch):
    early = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    return language_loss(model, batch | {"labels": early})


texts = Examples.of_tokens(counting([12] * 96))
names = ("shifted once", "not shifted", "shifted twice")
learnt, ends = {}, {}
for name, loss in zip(names, (language_loss, not_shifted, shifted_twice), strict=True):
    model = tiny_decoder(std=0, dtype=torch.float32)
    batches = Batches(texts, 16, seed=seed)
    state = fit(model, batches, loss, epochs=25, lr=1e-2, precision="fp32")
    learnt[name], ends[name] = model, state.losses

# %%
fig, ax = show.new_figure(height=2.6)
for k, (name, log) in enumerate(ends.items()):
    style = dict(marker=show.MARKERS[k], markevery=15 + k, markersize=5)
    ax.plot(np.maximum(log, 1e-4), label=name, **style)
ax.set(xlabel="optimizer step", ylabel="loss, nats", yscale="log")
ax.set_title("All three losses fall; the wrong ones look no worse")
ax.legend()
show.figure(
    fig, "Three loss curves that fall, that of unshifted labels at least as low."
)

# %% [markdown]
# **Diagnosis**: five tokens by hand. The loss of the model on them, from its logits, with the
# pairing that you believe in.

# %%
five = torch.tensor([[7, 10, 13, 16, 19]])
rows, steps = [], {}
for name, model in learnt.items():
    logits = model(five).logits[0].detach()
    log_p = logits.log_softmax(-1)
    by_hand = -sum(float(log_p[t, five[0, t + 1]]) for t in range(4)) / 4
    goes_on = generate(model, five, 3, temperature=0)[0, 5:].tolist()
    steps[name] = goes_on[0] - 19
    rows.append([name, by_hand, str(five[0].tolist()), str(goes_on)])
header = ["trained with labels", "loss by hand", "five tokens", "goes on with"]
show.table(rows, header)

# %% [markdown]
# Unshifted, the model learns to copy what it sees; shifted twice, it skips. That is known only
# after training. Before it, `checks.label_lead` asks the loss: it leaves one token supervised,
# and looks where the gradient of its loss ends. That is the last token that was read for it.

# %%
batch, tried = texts.batch(range(2)), {}
for name, loss in zip(names, (language_loss, not_shifted, shifted_twice), strict=True):
    model = tiny_decoder()
    try:
        report = check_run(model, batches, loss, lr=1e-2, overfit_steps=0)
        said = next(f.message for f in report.findings if f.check == "shift")
    except FitError as problem:
        said = next(x for x in str(problem).splitlines() if "shift:" in x).strip()
    tried[name] = checks.label_lead(model, batch, loss)
    print(f"{name}: {tried[name]} place(s) behind the last token read\n    {said}")

# %% [markdown]
# **Mend**: shift in one place. In the kit that is `losses_lm.next_token`; no encoder and no
# model shifts.

# %%
model = learnt["shifted once"]
loss_sum, n = language_loss(model, {"input_ids": five, "labels": five})
compare(
    "page 11: loss by hand vs losses_lm", rows[0][1], loss_sum.item() / int(n), 1e-5
)

# %%
pairing = next_token(torch.zeros(1, 5, 1), five)[1]
same(
    "page 11: labels of the logits vs next tokens",
    pairing[0].tolist(),
    five[0, 1:].tolist(),
)
assert steps == {"shifted once": 3, "not shifted": 0, "shifted twice": 6}
assert [3 * lead for lead in tried.values()] == list(steps.values())
gallery.proved(
    11,
    "step of the count learnt (3 is right)",
    steps["shifted twice"],
    steps["shifted once"],
)

# %% [markdown]
# ### Page 23 · An answer outside the window trains the first token
#
# To find an answer in a long text, the text is cut into windows, and the model says at which
# token the answer begins and ends. The window that is surest wins. Most windows do not hold the
# answer. If their label is -1, and the loss clamps labels to at least 0, they all teach: the
# answer is the first token.
#
# The toy: a window of 12 numbers; the answer is the 7 and what follows it. Three windows of four
# have none.

# %%
gallery.page(23)


# %%
def windows(count, with_answer, run_seed):
    generator = np.random.default_rng(run_seed)
    ids = generator.integers(8, 50, (count, 12))
    starts = np.where(
        generator.random(count) < with_answer, generator.integers(1, 10, count), -1
    )
    for row in np.flatnonzero(starts >= 0):
        ids[row, starts[row]] = 7
    ends = np.where(starts >= 0, starts + 1, -1)
    return ids.tolist(), torch.from_numpy(np.stack([starts, ends], axis=1))


# %%
def tiny_reader():
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    return BertForQuestionAnswering(
        BertConfig(
            vocab_size=50, intermediate_size=64, max_position_embeddings=16, **sizes
        )
    )


# %%
from sftkit import losses_spans


def clamped_places(model, batch):
    """transformers' own loss: it clamps places into the window."""
    start, end = batch["labels"].unbind(1)
    inputs = losses.model_inputs(batch)
    output = model(**inputs, start_positions=start, end_positions=end)
    return output.loss * len(start), torch.tensor(len(start))


# %%
ids, places = windows(480, 0.25, seed)
stated = losses_spans.place_labels(*places.unbind(1), torch.full((480,), 12))
trained = {}
for name, loss, labels in [
    ("clamped", clamped_places, places),
    ("left out", losses_spans.extractive(), stated),
]:
    examples = Examples.of_tokens(ids)
    examples.columns["labels"] = labels.numpy()
    trained[name] = tiny_reader()
    fit(trained[name], Batches(examples, 48, seed=seed), loss, epochs=8, lr=3e-3)


# %%
@torch.no_grad()
def answers(model, texts=100):
    """The surest start of texts of four windows, of which the last has the answer."""
    without, _ = windows(3 * texts, 0.0, seed + 1)
    holding, places = windows(texts, 1.0, seed + 2)
    ids = torch.tensor(without).reshape(texts, 3, 12)
    ids = torch.cat([ids, torch.tensor(holding)[:, None]], dim=1)  # (texts, 4, 12)
    probs = model.eval()(ids.flatten(0, 1)).start_logits.softmax(-1).reshape(texts, 48)
    best = probs.argmax(1)
    return best % 12, (best // 12 == 3) & (best % 12 == places[:, 0])


# %%
fig, ax = show.new_figure(height=2.5)
at_first, found_it = {}, {}
for k, (name, model) in enumerate(trained.items()):
    place, right = answers(model)
    at_first[name], found_it[name] = int((place == 0).sum()), int(right.sum())
    style = dict(color=show.COLOURS[2 - 2 * k], hatch="//" if k else "")
    counts = np.bincount(place.numpy(), minlength=12)
    ax.bar(np.arange(12) + 0.4 * k - 0.2, counts, 0.4, label=f"-1 {name}", **style)
ax.set(xlabel="place at which the answer is said to begin", ylabel="texts of 100")
ax.set_title("No answer begins at place 0")
ax.legend()
show.figure(fig, "Places said: with clamping always 0, otherwise spread over 1 to 9.")

# %% [markdown]
# **Diagnosis**: `check_run` reads the labels before the first step, and refuses places outside
# the window.

# %%
examples = Examples.of_tokens(ids)
examples.columns["labels"] = places.numpy()
try:
    check_run(tiny_reader(), Batches(examples, 48, seed=seed), clamped_places)
except SftError as problem:
    print(problem)

# %% [markdown]
# What does one window without an answer push on? The gradient on its logits says it: with the
# clamp, the first place is pulled up.

# %%
start = torch.zeros(1, 12, requires_grad=True)
F.cross_entropy(start, torch.tensor([-1]).clamp(0, 12)).backward()
ours = torch.zeros(1, 12, requires_grad=True)
label = losses_spans.place_labels(*(torch.tensor([x]) for x in (-1, -1, 12)))
losses_spans.span_cross_entropy(ours, ours, label)[0].backward()
rows = [
    [name, float(t.grad[0, 0]), float(t.grad[0, 1:].abs().max())]
    for name, t in [("clamped", start), ("left out", ours)]
]
show.table(rows, ["label of -1", "gradient at place 0", "largest elsewhere"])
try:
    losses_spans.span_cross_entropy(ours, ours, torch.tensor([[-1, -1]]))
except SftError as problem:
    print(problem)

# %% [markdown]
# **Mend**: say what such a window teaches. `place_labels` leaves it out, or, if asked to, makes
# it a window with "no answer". The loss refuses any other place.

# %%
rows = [[f"-1 {name}", at_first[name], found_it[name]] for name in trained]
show.table(rows, ["windows with", "says place 0", "finds the answer"], "Of 100 texts")
assert ours.grad.abs().max() == 0
gallery.proved(
    23, "answers at place 0, of 100", at_first["clamped"], at_first["left out"]
)

# %% [markdown]
# ## C. Packing and padding
#
# ### Page 6 · Packed examples see each other
#
# Packing puts several texts into one row, so that nothing is padded. Each must be as if alone.
# Three ways to give such a row to a model of transformers, and ours.

# %%
gallery.page(6)


# %%
def tiny_llama(**more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    config = LlamaConfig(vocab_size=50, **sizes, **heads, **more, initializer_range=0.3)
    return LlamaForCausalLM(config).double().eval()


# %%
llama = tiny_llama()
batches = PackedBatches(Examples.of_tokens(counting([9, 7, 6, 5])), 4, row_tokens=27)
packed = next(batches.epoch(0))[0]
ids = {"input_ids": packed["input_ids"]}
places = {"position_ids": packed["position_ids"]}
ways = {
    "mask of ones, position ids": ids
    | places
    | {"attention_mask": ids["input_ids"] * 0 + 1},
    "position ids alone": ids | places,
    "the same, use_cache=False": ids | places | {"use_cache": False},
    "sftkit: causal_inputs": causal_inputs(llama, packed),
}


# %%
def error_against_alone(inputs):
    """Largest difference of logits: a packed text against the text by itself."""
    together, worst = llama(**inputs).logits[0], 0.0
    for number in range(4):
        here = packed["document"][0] == number
        alone = llama(ids["input_ids"][:, here]).logits[0]
        worst = max(worst, float((together[here] - alone).detach().abs().max()))
    return worst


maps = {name: checks.token_influence(llama, inputs) for name, inputs in ways.items()}
errors = {name: error_against_alone(inputs) for name, inputs in ways.items()}
outside = packed["document"][0][:, None] != packed["document"][0][None]
rows = [[n, errors[n], float(m[outside].max() / m.max())] for n, m in maps.items()]
header = ["given to the model", "logits off", "influence of other texts"]
show.table(rows, header, "Four texts in one row", digits=6)

# %%
fig, axes = show.new_figure(height=3.3, columns=2)
for ax, name in zip(axes, (list(ways)[0], list(ways)[-1]), strict=True):
    ax.grid(False)
    ax.imshow(maps[name] > 0, cmap="Blues", vmax=1.4)
    for edge in np.cumsum([9, 7, 6])[:3]:
        ax.axhline(edge - 0.5, color=show.COLOURS[2], lw=0.8)
        ax.axvline(edge - 0.5, color=show.COLOURS[2], lw=0.8)
    ax.set(xlabel="token that is read", title=name)
axes[0].set_ylabel("token whose logits depend on it")
alt = "Which token depends on which. Left: a full lower triangle, across the lines "
show.figure(fig, alt + "between texts. Right: one small triangle per text.")

# %% [markdown]
# **Diagnosis.** `token_influence` asks autograd which tokens each logit depends on. A blue
# square outside the triangles along the diagonal is a leak. `check_run` does the same through
# your loss, on the first packed step, and refuses.

# %%
examples = Examples.of_tokens(counting([9, 7, 6, 5, 8, 4, 9, 6]))
batches = PackedBatches(examples, 8, row_tokens=27)


def ignores_documents(model, batch):
    logits = model(**losses.model_inputs(batch)).logits
    return losses.cross_entropy(*next_token(logits, batch["labels"]))


leaks = {}
for name, loss in [("own loss", ignores_documents), ("causal_lm", language_loss)]:
    leaks[name] = checks.leak(llama, next(batches.epoch(0))[0], loss)
    try:
        check_run(llama, batches, loss, lr=1e-3)
        print(f"{name}: nothing is certainly wrong")
    except FitError as problem:
        print(f"{name}: {problem}")

# %% [markdown]
# **Mend**: `causal_lm` gives a model of transformers the mask of all pairs, and our decoder the
# numbers of the documents.

# %%
compare("page 6: logits packed vs alone", errors["sftkit: causal_inputs"], 0, 1e-6)
assert leaks["own loss"] > 0 and errors["mask of ones, position ids"] > 1e-3
gallery.proved(6, "influence of other texts", leaks["own loss"], leaks["causal_lm"])

# %% [markdown]
# ### Page 13 · Padding on the left without position ids
#
# To write on, all prompts of a batch must end at the same place, so they are padded on the
# left. GPT-2 has learned positions, and counts them from the left edge unless told otherwise.

# %%
gallery.page(13)

# %%
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(seed)
sizes = dict(vocab_size=50, n_positions=64, n_embd=16, n_layer=2, n_head=2)
sizes |= dict(bos_token_id=0, eos_token_id=0)
gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3)).double().eval()
prompts = counting([3, 6, 11])


# %%
@torch.no_grad()
def write(rows, count_from_mask, steps=8):
    """Greedy continuations of some prompts, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.arange(longest) >= longest - torch.tensor([[len(row)] for row in rows])
    for _ in range(steps):
        places = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        more = places if count_from_mask else {}
        logits = gpt2(ids, attention_mask=mask.long(), **more).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        mask = F.pad(mask, (0, 1), value=True)
    return ids[:, longest:].tolist()


# %%
alone = [write([row], False)[0] for row in prompts]
together = {
    name: write(prompts, how) for name, how in [("wrong", False), ("mended", True)]
}
rows = []
for i, row in enumerate(prompts):
    rows.append([len(row), *(str(part[i]) for part in (alone, *together.values()))])
header = [
    "prompt, tokens",
    "alone",
    "in a batch",
    "in a batch, positions from the mask",
]
show.table(rows, header, "What the same model writes after the same prompts")

# %%
fig, axes = show.new_figure(height=2.2, columns=2)
for ax, (name, part) in zip(axes, together.items(), strict=True):
    differs = np.array(part) != np.array(alone)
    ax.grid(False)
    ax.imshow(differs, cmap="Reds", vmin=0, vmax=1.6, aspect="auto")
    for (i, j), token in np.ndenumerate(np.array(part)):
        ax.text(j, i, token, ha="center", va="center", fontsize=9)
    ax.set_yticks(range(3), [len(row) for row in prompts])
    ax.set_xticks(range(8), range(1, 9))
    ax.set(xlabel="token written", title=f"{name}: {differs.sum()} of 24 differ")
axes[0].set_ylabel("tokens of the prompt")
alt = "Tokens written in a batch, red where they differ from those written alone. "
show.figure(fig, alt + "Left: most of the two short prompts are red. Right: none is.")

# %% [markdown]
# **Diagnosis**: generate alone and in a batch; the tokens must be the same. The longest prompt
# has no padding, so it comes out right in any case: test with a short one.
# **Mend**: positions from the mask. `generate` of transformers does this by itself; a loop of
# your own has to. Our decoder refuses padding on the left.

# %%
same(
    "page 13: tokens written in a batch vs alone",
    sum(together["mended"], []),
    sum(alone, []),
)
off = {n: int((np.array(t) != np.array(alone)).sum()) for n, t in together.items()}
mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
try:
    tiny_decoder()(torch.ones_like(mask), mask)
except ModelError as problem:
    print(problem)
gallery.proved(13, "tokens of 24 that differ", off["wrong"], off["mended"])

# %% [markdown]
# ## D. Rates and dtypes
#
# ### Page 14 · The schedule steps at the wrong time
#
# Twelve optimizer steps of four micro-batches each, a third of them warm-up, then down to 0.
# Three loops that are often seen, and what they do to the rate.

# %%
gallery.page(14)


# %%
def rates_used(step_per_micro_batch=False, total=12, first=1):
    """The rate of each optimizer step, with torch's own scheduler."""
    warm = max(1, round(total / 3))

    def factor(step):
        rising, falling = (
            (step + first) / (warm + first),
            (total - step) / (total - warm),
        )
        return max(0.0, min(rising, falling))

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, used = torch.optim.lr_scheduler.LambdaLR(optimizer, factor), []
    optimizer.step()  # of no effect; without it torch warns of the order
    for _ in range(12):
        for micro_batch in range(4):
            if micro_batch == 3:
                used.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
            if step_per_micro_batch or micro_batch == 3:
                scheduler.step()
    return used


# %%
loops = {
    "right": rates_used(),
    "stepped per micro-batch": rates_used(step_per_micro_batch=True),
    "total in micro-batches": rates_used(total=48),
    "first rate is 0": rates_used(first=0),
}

# %%
fig, ax = show.new_figure(height=2.8)
for k, (name, used) in enumerate(loops.items()):
    style = dict(marker=show.MARKERS[k], lw=3 if k == 0 else 1.5, alpha=0.9)
    ax.plot(range(1, 13), used, label=name, **style)
ax.set(xlabel="optimizer step", ylabel="learning rate / highest")
ax.set_ylim(-0.05, 1.4)
ax.set_title("One schedule, four loops, three of them wrong")
ax.legend(ncols=2)
show.figure(
    fig, "Four lines of rates: right, over too early, never falling, and from 0."
)

# %% [markdown]
# Four processes that each step one common schedule make much the same mistake as the loop
# that steps it per micro-batch.
#
# **Diagnosis**: write down the list of rates that you want, once, with pencil and paper, and
# compare the rates that were used with it. `fit` keeps them in `state.history`.

# %%
up, down = [1 / 5, 2 / 5, 3 / 5, 4 / 5], [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8]
golden = [*up, *down, 1 / 8]
distance = {n: float(np.abs(np.subtract(u, golden)).max()) for n, u in loops.items()}
rows = [[name, d, "ok" if d < 1e-9 else "wrong"] for name, d in distance.items()]
show.table(rows, ["loop", "largest distance", "verdict"], "Against the golden list")

# %%
warm_up_steps = 0  # no warm-up wanted
try:
    rising = [min(1, (step + 1) / warm_up_steps) for step in range(12)]
except ZeroDivisionError as problem:
    print("ZeroDivisionError:", problem)

# %% [markdown]
# **Mend**: the rate is a function of the number of the optimizer step, and of nothing else.

# %%
texts = Examples.of_tokens(counting([8] * 96))
batches = Batches(texts, 8, micro_batch_size=2, seed=seed)
options = {"epochs": 1, "lr": 1.0, "warmup": 1 / 3, "precision": "fp32"}
state = fit(tiny_decoder(), batches, language_loss, **options)
used = [row["lr"] for row in state.history]
compare("page 14: rates of fit vs the golden list", used, golden, 1e-12)
without = rates("linear", 12, 12.0)
compare("page 14: rates without warm-up vs 12 to 1", without, range(12, 0, -1), 1e-12)
worst = distance["stepped per micro-batch"]
gallery.proved(14, "largest distance from the list", worst, distance["right"])

# %% [markdown]
# ### Page 15 · Parameters are kept in bfloat16
#
# Between 1 and 2, bfloat16 has 128 numbers (notebook 06). Steps of the size of a usual
# learning rate are rounded away, every time. One weight, 500 steps of AdamW at 2e-5:

# %%
gallery.page(15)


# %%
def weight_along(dtype, steps=500):
    weight = nn.Parameter(torch.ones(1, dtype=dtype))
    optimizer, seen = torch.optim.AdamW([weight], lr=2e-5, weight_decay=0.0), []
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)  # the gradient always says "down"
        optimizer.step()
        seen.append(weight.item())
    return np.array(seen)


# %%
paths = {
    "float32": weight_along(torch.float32),
    "bfloat16": weight_along(torch.bfloat16),
}
fig, ax = show.new_figure(height=2.4)
for k, (name, path) in enumerate(paths.items()):
    ax.plot(path, label=name, marker=show.MARKERS[k], markevery=50 + k)
ax.set(xlabel="step", ylabel="the weight")
ax.set_title("500 steps down: one weight moves, the other does not")
ax.legend()
show.figure(
    fig, "A line that falls from 1 to 0.99 in float32, and stays at 1 in bfloat16."
)

# %% [markdown]
# **Diagnosis**: `check_run` looks at the type of what is trained. Models are often *loaded* in
# bfloat16, because that is the type in the file.

# %%
toy = Batches(first_number_rows(24), 8, seed=seed)
try:
    check_run(tiny_encoder().bfloat16(), toy)
except FitError as problem:
    print(problem)

# %% [markdown]
# **Mend**: parameters in float32, and bfloat16 within autocast only. How far do the scales of
# the norms, which begin at 1, move in 42 steps at 2e-5?


# %%
def norms_moved(model):
    norms = [p for name, p in model.named_parameters() if name.endswith("norm.weight")]
    before = torch.cat(norms).detach().clone().float()
    options = {"epochs": 14, "lr": 2e-5, **plain, "precision": "bf16"}
    fit(model, toy, class_loss, **options)
    return float((torch.cat(norms).detach().float() - before).abs().max())


moved = [norms_moved(tiny_encoder().bfloat16()), norms_moved(tiny_encoder())]
print(f"kept in bfloat16: {moved[0]:.1e}    float32 with autocast: {moved[1]:.1e}")
assert moved[0] == 0 and moved[1] > 1e-4
distances = [1 - path[-1] for path in paths.values()]
compare("page 15: weight moved vs 500 steps of 2e-5", distances[0], 500 * 2e-5, 1e-3)
gallery.proved(15, "norms moved in 42 steps", *moved)

# %% [markdown]
# ### Page 19 · Weight decay on biases and norms
#
# Weight decay pulls towards 0, and 0 is a sensible place for a matrix. The scale of a norm is
# at home at 1, and a bias wherever the data put it. The decay here is 0.5, fifty times the
# default of AdamW, so that 200 steps show what else takes a long run.

# %%
gallery.page(19)


# %%
def train_groups(groups_of, steps=200):
    """Mean scale of the norms along a training; the rest as it may be."""
    model, seen = tiny_encoder(), []
    optimizer = torch.optim.AdamW(groups_of(model), lr=3e-3, weight_decay=0.5)
    norms = [p for name, p in model.named_parameters() if name.endswith("norm.weight")]
    for step in range(steps):
        (batch,) = list(toy.epoch(step // len(toy)))[step % len(toy)]
        loss_sum, n = class_loss(model, batch)
        (loss_sum / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(torch.cat(norms).detach().mean()))
    return seen


# %%
scales = {
    "all parameters decayed": train_groups(lambda model: model.parameters()),
    "matrices only": train_groups(lambda model: parameter_groups(model, 0.5)),
}

# %%
fig, ax = show.new_figure(height=2.5)
for k, (name, seen) in enumerate(scales.items()):
    ax.plot(
        seen,
        label=name,
        marker=show.MARKERS[k],
        markevery=20,
        color=show.COLOURS[2 - 2 * k],
    )
ax.set(xlabel="step", ylabel="mean scale of the norms")
ax.set_title("Decay pulls the norms' scales down")
ax.legend()
show.figure(
    fig, "The mean scale falls from 1 when all is decayed; else it rises a little."
)

# %% [markdown]
# **Diagnosis**: ask the optimizer what it decays. A vector (one dimension) must not be in it.
# **Mend**: `optim.parameter_groups`, which `fit` uses; in `torch.optim` you make the groups.

# %%
from sftkit.checks.optimizers import decayed_vectors

model = tiny_encoder()
rows, vectors = [], {}
for name, groups in [
    ("AdamW(model.parameters())", model.parameters()),
    ("AdamW(parameter_groups(model))", parameter_groups(model, 0.01)),
]:
    vectors[name] = decayed_vectors(model, torch.optim.AdamW(groups))
    rows.append([name, len(vectors[name]), ", ".join(vectors[name][:2])])
show.table(rows, ["optimizer", "vectors decayed", "the first of them"])

# %%
last = [seen[-1] for seen in scales.values()]
assert [len(found) > 0 for found in vectors.values()] == [True, False]
assert last[0] < last[1] - 0.1
gallery.proved(19, "mean scale of the norms", *last)

# %% [markdown]
# ## E. Resume and seeds
#
# ### Page 16 · A resumed run is another run
#
# A job of 30 steps was killed at the end of step 12, before that step was saved. Somebody
# loads the weights of the last checkpoint and starts the script again for the steps that are
# left. `fit` does it with `resume=True`.

# %%
gallery.page(16)


# %%
class Killed:
    """A callback that ends the run after some step, without warning."""

    def __init__(self, after):
        self.after = after

    def on_step(self, model, state):
        if state.step == self.after:
            raise KeyboardInterrupt

    def on_evaluate(self, model, state):
        pass


def run(where, steps=30, model=None, **more):
    model = model or tiny_encoder(dropout=0.2)
    batches = Batches(first_number_rows(80), 16, seed=seed)
    options = dict(epochs=6, max_steps=steps, lr=5e-3, save_every=1, precision="fp32")
    return fit(model, batches, class_loss, folder=folder / where, **options, **more)


# %%
from sftkit import checkpoints

whole = run("whole").history
with contextlib.suppress(KeyboardInterrupt):
    run("killed", callbacks=[Killed(after=12)])
last = checkpoints.existing(folder / "killed")[-1]
loaded = tiny_encoder(dropout=0.2)
checkpoints.load_model(last, loaded)
first = int(last.name.removeprefix("step-"))
torch.manual_seed(12345)  # a new process begins elsewhere
by_weights = run("weights", 30 - first, loaded).history
by_weights = [row | {"step": row["step"] + first} for row in by_weights]
torch.manual_seed(12345)
by_fit = run("killed", resume=True).history
print(f"the last checkpoint is that of step {first}")

# %%
fig, ax = show.new_figure(height=2.7)
lines = {
    "unbroken": whole,
    "weights loaded": by_weights,
    "fit, resumed": by_fit[first:],
}
for k, (name, history) in enumerate(lines.items()):
    style = dict(marker=show.MARKERS[k], lw=4 - 1.5 * k, markersize=7 - 2 * k)
    ax.plot(
        [r["step"] for r in history], [r["loss"] for r in history], label=name, **style
    )
ax.axvline(first + 0.5, color="grey", ls=":")
ax.set(xlabel="optimizer step", ylabel="loss, nats")
ax.set_title(f"Weights alone: another run from step {first + 1} on")
ax.legend()
show.figure(
    fig, "Losses per step. The run with weights loaded leaves the unbroken one."
)

# %% [markdown]
# **Diagnosis**: `first_difference` compares two records and names the first step and the
# columns that differ. Other `lr`: the schedule began anew. Other `epoch`, `n` or `tokens`:
# other rows. Only `loss` and `gradient_norm`: the random generators, or, if the first step
# after the restart is still equal, the optimizer.

# %%
rows = []
for name, history in lines.items():
    found = checks.first_difference(whole[len(whole) - len(history) :], history)
    rows.append(
        [name, *(["none", ""] if found is None else [found[0], ", ".join(found[1])])]
    )
show.table(rows, ["record", "first other step", "columns that differ there"])

# %% [markdown]
# **Mend**: save and restore all of it, or let `fit` do so: weights, optimizer, schedule, place
# in the data, random generators. Not nearly equal: equal.


# %%
def largest_gap(history):
    pairs = zip(whole[first:], history, strict=True)
    return max(abs(a["loss"] - b["loss"]) for a, b in pairs)


gaps = [largest_gap(by_weights), largest_gap(by_fit[first:])]
compare(
    "page 16: losses after resume vs unbroken",
    [r["loss"] for r in by_fit[first:]],
    [r["loss"] for r in whole[first:]],
    0,
)
gallery.proved(16, "largest difference of a loss", *gaps)

# %% [markdown]
# ### Page 24 · A comparison on one seed
#
# This page needs real data: tweets with three sentiments, read by the frozen MiniLM, and a
# small network on top. The recipe is compared with a trick: the *same* recipe under another seed.

# %%
gallery.page(24)

# %%
torch.set_num_threads(threads)  # real work
corpus = corpora.load("tweets", limit={"train": tweets, "validation": 600}, seed=0)
names = corpus["train"].features["label"].names
minilm, tokenizer = models.load("minilm", names, seed=seed)
encoded = encode.classification(corpus, tokenizer, 64)
tweet_examples = {
    s: Examples.of(encoded[s], tokenizer.pad_token_id) for s in ("train", "validation")
}
features = {}
for split, examples in tweet_examples.items():
    found = models.head_features(minilm, examples, len(names))
    y = np.asarray(examples.columns["labels"], dtype=np.int64)
    features[split] = Examples({"x": found.astype(np.float32), "labels": y})
print({split: len(examples) for split, examples in features.items()})


# %%
def recipe(run_seed, lr=2e-3, **options):
    """Train the network on the features; gives right or wrong, tweet by tweet."""
    torch.set_num_threads(1)
    torch.manual_seed(run_seed)
    net = nn.Sequential(
        nn.Linear(384, 32), nn.Tanh(), nn.Dropout(0.3), nn.Linear(32, 3)
    )

    def loss(net, batch):
        return losses.cross_entropy(net(batch["x"]), batch["labels"])

    batches = Batches(features["train"], 32, seed=run_seed, by_length=False)
    fit(net, batches, loss, epochs=4, lr=lr, seed=run_seed, precision="fp32", **options)
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(features["validation"].columns["x"]))
    return logits.argmax(1).numpy() == features["validation"].columns["labels"]


def points(right):
    return 100 * float(np.mean(right))


# %%
recipe_runs = [recipe(s) for s in range(seeds)]
trick_runs = [recipe(1000 + s) for s in range(seeds)]  # the trick: nothing
gains = [points(b) - points(a) for a, b in zip(recipe_runs, trick_runs, strict=True)]
slow_runs = [recipe(s, lr=2e-4) for s in range(seeds)]
drops = [points(b) - points(a) for a, b in zip(recipe_runs, slow_runs, strict=True)]

# %%
fig, ax = show.new_figure(height=2.3)
for k, values in enumerate((gains, drops)):
    mean, low, high = evaluate.mean_interval(values)
    ax.plot(values, [k] * seeds, show.MARKERS[k], alpha=0.5)
    ends = [[mean - low], [high - mean]]
    ax.errorbar(mean, k + 0.25, xerr=ends, fmt="D", color="black", capsize=4)
ax.axvline(0, color="grey", ls="--")
ax.set_yticks([0, 1], ["the trick", "a rate too low"])
ax.set(xlabel="accuracy gained over the recipe, points", ylim=(-0.5, 1.7))
ax.set_title("Single seeds promise; the interval (black) decides")
show.figure(fig, "Gains of the trick scatter about 0; those of a low rate lie below 0.")

# %% [markdown]
# **Diagnosis**: repeat with other seeds, pair by pair, and put an interval on the mean
# difference. Two sources of noise are at work. Other seeds give another network; other tweets
# would give another score. `mean_interval` sees the first, `evaluate.compare` the second.

# %%
best = int(np.argmax(gains))
y = np.ones(len(trick_runs[0]), dtype=int)
one = evaluate.compare(trick_runs[best].astype(int), recipe_runs[best].astype(int), y)
print(f"the best of {seeds} seeds, alone: {gains[best]:+.1f} points")
print(f"   on these tweets: {one}")
rows = []
for name, values in [("the trick", gains), ("a rate too low", drops)]:
    mean, low, high = evaluate.mean_interval(values)
    rows.append([name, min(values), max(values), mean, low, high])
header = ["against the recipe", "worst seed", "best seed", "mean", "from", "to"]
show.table(
    rows, header, f"Points of accuracy, {seeds} paired seeds, 95 % interval", digits=2
)

# %% [markdown]
# **Mend**: say how many seeds, show the interval, and do not pick the best. The same holds for
# a sweep. Which rate is best? Look where the intervals overlap before you answer, and compare
# two rates that are close by the differences of their pairs.

# %%
sweep = {
    lr: [points(recipe(s, lr=lr)) for s in range(max(3, seeds // 2))]
    for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
}
fig, ax = show.new_figure(height=2.6)
rows = [evaluate.mean_interval(values) for values in sweep.values()]
mean, low, high = np.array(rows).T
ax.errorbar(list(sweep), mean, yerr=[mean - low, high - mean], marker="o", capsize=4)
ax.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy, %")
runs = max(3, seeds // 2)
ax.set_title(f"Several rates share the top: {runs} seeds each, 95 % intervals")
show.figure(
    fig, "Accuracy rises with the rate, then stays level, with overlapping intervals."
)

# %%
mean, low, high = evaluate.mean_interval(gains)
by_hand = np.std(gains, ddof=1) / math.sqrt(seeds)
from scipy import stats

ends = stats.t.interval(0.95, seeds - 1, np.mean(gains), by_hand)
compare("page 24: mean_interval vs scipy", [low, high], ends, 1e-9)
gallery.proved(24, "gain of nothing at all, points", gains[best], mean)

# %% [markdown]
# ## F. Data and evaluation
#
# ### Page 12 · Metrics averaged over uneven batches

# %%
gallery.page(12)

# %%
torch.set_num_threads(1)
held_out = Examples.of_tokens(counting(np.random.default_rng(5).integers(2, 40, 50)))
model = tiny_decoder()


def averaged(size):
    """The mean of the means of the batches, as many loops have it."""
    means = []
    for (batch,) in Batches(held_out, size, shuffle=False, by_length=False).epoch(0):
        loss_sum, n = language_loss(model, batch)
        means.append(float(loss_sum.detach()) / int(n))
    return float(np.mean(means))


# %%
from sftkit.evaluate.language import language_evaluation


def summed(size):
    batches = Batches(held_out, size, shuffle=False, by_length=False)
    return language_evaluation(batches, language_loss)(model)["loss"]


sizes = [1, 2, 4, 7, 16, 32, 50]
wrong, right = ([method(size) for size in sizes] for method in (averaged, summed))
fig, ax = show.new_figure(height=2.4)
ax.plot(sizes, wrong, "s-", color=show.COLOURS[2], label="mean of batch means")
ax.plot(sizes, right, "o-", label="sum over count")
ax.set(xlabel="rows per evaluation batch", ylabel="loss, nats")
ax.set_title("The mean of batch means moves with the batch size")
ax.legend()
show.figure(
    fig, "The mean of batch means changes with the batch size; sum over count is flat."
)

# %% [markdown]
# **Diagnosis**: evaluate twice, with batches of 1 and of 7. The metric must not change.
# **Mend**: add up sums and counts, divide at the end; `evaluate` does so for every metric.

# %%
for name, values in [("mean of batch means", wrong), ("sum over count", right)]:
    print(f"{name:20} batches of 1: {values[0]:.4f}   of 7: {values[3]:.4f}")
compare(
    "page 12: loss at seven batch sizes vs in one", right[:-1], right[-1:] * 6, 1e-12
)
spans = [max(values) - min(values) for values in (wrong, right)]
gallery.proved(12, "loss moved by the batch size, nats", *spans)

# %% [markdown]
# ### Page 18 · Dropout left on in evaluation, or off in training

# %%
gallery.page(18)

# %%
model, held_out = tiny_encoder(dropout=0.3), first_number_rows(200, seed=7)
fit(
    model,
    Batches(first_number_rows(160), 16, seed=seed),
    class_loss,
    epochs=30,
    lr=5e-3,
)
model.train()  # as a training loop leaves it
batch = held_out.batch(range(200))


def left_on():
    with torch.no_grad():
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
    return points((logits.argmax(1) == batch["labels"]).numpy())


# %%
wrong = [left_on() for _ in range(30)]
right = [100 * evaluate.predict(model, held_out).accuracy for _ in range(3)]
fig, ax = show.new_figure(height=2.4)
bins = np.arange(min(wrong) - 0.25, max(wrong) + 0.5, 0.5)  # one per score of 200 rows
label = "dropout left on, 30 evaluations"
ax.hist(wrong, bins=bins, color=show.COLOURS[2], label=label)
ax.axvline(right[0], label="switched off: every time")
ax.set(xlabel="accuracy of one model on one set, %", ylabel="evaluations")
ax.set_title("With dropout on, the score is drawn by lot")
ax.margins(y=0.4)  # room for the legend
ax.legend(ncols=2, loc="upper left")
show.figure(
    fig, "A spread of accuracies with dropout on; without, one line near its right end."
)

# %% [markdown]
# **Diagnosis**: evaluate twice; the results must be equal. Then look whether the model is back
# in training mode. Whoever forgets `model.train()` trains the rest of the run without dropout.


# %%
def modes_in_training(evaluation):
    """Was dropout on in each step, with an evaluation after each?"""
    modes = []

    def watching(model, batch):
        modes.append(model.training)
        return class_loss(model, batch)

    net = tiny_encoder(dropout=0.3).train()
    for (batch,) in Batches(first_number_rows(64), 16, seed=seed).epoch(0):
        watching(net, batch)
        evaluation(net)
    return modes


# %%
forgets = modes_in_training(lambda net: net.eval())
restores = modes_in_training(lambda net: evaluate.predict(net, held_out))
show.table(
    [["eval() and no train()", str(forgets)], ["evaluate.predict", str(restores)]],
    ["evaluation after each step", "was dropout on in the step?"],
)

# %% [markdown]
# **Mend**: switch off, evaluate, give back the mode that was. `evaluate.predict` and `fit` do.

# %%
assert len(set(right)) == 1 and all(restores) and not all(forgets)
same("page 18: second evaluation vs the first", right[1:2], right[:1])
gallery.proved(
    18,
    "points between two evaluations",
    max(wrong) - min(wrong),
    max(right) - min(right),
)

# %% [markdown]
# ### Page 20 · Copies of training texts in the test set
#
# Tweets are passed on. A split at random puts a tweet here and its retweet there.

# %%
gallery.page(20)

# %%
from sftkit.corpora import duplicates

some = corpora.load("tweets", limit=copies, seed=0)["train"]
texts, y = list(some["text"]), np.asarray(some["label"])
groups = duplicates.near_groups(texts)
shuffled = np.random.default_rng(seed).permutation(len(texts))
cut = int(0.8 * len(texts))
train, test = shuffled[:cut], shuffled[cut:]
seen = np.isin(groups[test], groups[train])

# %%
twin = next(
    i for i, known in zip(test, seen, strict=True) if known and len(texts[i]) > 60
)
partner = next(i for i in train if groups[i] == groups[twin])
show.table([["test", texts[twin]], ["train", texts[partner]]], ["split", "text"])
print(
    f"{seen.sum()} of {len(test):,} test tweets have a near-copy in the training part"
)

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC


def linear_model(train):
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    svm = make_pipeline(vectors, LinearSVC(C=0.5, random_state=0))
    return svm.fit([texts[i] for i in train], y[train])


# %%
svm = linear_model(train)
right = svm.predict([texts[i] for i in test]) == y[test]
parts = {
    "all, as reported": right,
    "with a copy in training": right[seen],
    "without": right[~seen],
}
rows = [
    [n, len(r), points(r), *(100 * e for e in evaluate.wilson(int(r.sum()), len(r)))]
    for n, r in parts.items()
]
header = ["test tweets", "number", "accuracy, %", "from", "to"]
show.table(rows, header, "TF-IDF and a linear SVM, split at random", digits=1)

# %%
fig, ax = show.new_figure(height=2.2)
_, _, mid, low, high = map(np.array, zip(*rows, strict=True))
ends = [mid - low, high - mid]
ax.errorbar(mid, range(len(rows)), xerr=ends, fmt="o", color=show.COLOURS[0], capsize=4)
ax.set_yticks(range(len(rows)), parts)
ax.invert_yaxis()
ax.set(xlabel="accuracy of the test tweets, % (95 % intervals)", ylim=(2.5, -0.5))
ax.set_title("Tweets with a copy in training are answered better")
show.figure(fig, "Accuracy with a copy in training lies far above that without one.")

# %% [markdown]
# **Diagnosis**: `near_groups` numbers texts that say the same; `data_report` and
# `check_run(corpus=...)` count them between splits. **Mend**: split the groups, not the rows,
# as `corpora.load` does. The copies then stand on one side.

# %%
kept = np.random.default_rng(seed).permutation(groups.max() + 1)
grouped = np.isin(groups, kept[: int(0.8 * len(kept))])
honest = linear_model(np.flatnonzero(grouped))
rest = np.flatnonzero(~grouped)
score = honest.predict([texts[i] for i in rest]) == y[rest]
low, high = (100 * e for e in evaluate.wilson(int(score.sum()), len(score)))
by_groups = f"{points(score):.1f} % ({low:.1f} to {high:.1f})"
print(f"at random {points(right):.1f} %, by groups {by_groups}")
loaded = duplicates.across(corpora.load("tweets", limit=copies, seed=0))
print("corpora.load:", loaded)
assert seen.sum() > 0 and not any(loaded.values())
gallery.proved(
    20, "test rows with a copy in training", int(seen.sum()), loaded["test/train"]
)

# %% [markdown]
# Few tweets have a copy, so the two totals are close, and their intervals overlap: the table
# above says more. Part of its gap may be that tweets which are passed on are easier. The split
# by groups needs no such argument; its score is for texts that are new.
#
# ### Page 21 · Classes numbered by first appearance
#
# `pandas.factorize` and many a loop number the classes as they come. Sort the file in another
# way, and the numbers are others. The model remembers numbers.

# %%
gallery.page(21)

# %%
import pandas as pd

rng, kinds = np.random.default_rng(seed), ("negative", "neutral", "positive")
rows = [
    [kinds[row[0] % 3], " ".join(map(str, row))]
    for row in (rng.integers(5, 50, 6).tolist() for _ in range(240))
]
table = pd.DataFrame(rows, columns=["label", "text"])
other_order = table["label"].map({"positive": 0, "negative": 1, "neutral": 2})
orders = {
    "Monday": table.sort_values("label", kind="stable"),
    "Tuesday": table.loc[other_order.sort_values(kind="stable").index],
}
for day, frame in orders.items():
    frame.to_csv(folder / f"{day}.csv", index=False)
    print(f"{day:8} by first appearance:", list(pd.factorize(frame["label"])[1]))
    loaded = corpora.load(folder / f"{day}.csv", group=None)
    print(f"{day:8} corpora.load:       ", loaded["train"].features["label"].names)


# %%
from transformers import BertConfig, BertModel


def tiny_bert(names):
    """A classifier that carries class names, as saved ones do."""
    torch.manual_seed(seed)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    more = dict(vocab_size=50, intermediate_size=32, id2label=dict(enumerate(names)))
    body = BertModel(BertConfig(**sizes, **more), add_pooling_layer=False)
    return models.MeanPoolClassifier(body)


# %%
def by_first_appearance(frame):
    codes, names = pd.factorize(frame["label"])
    examples = Examples.of_tokens(
        [list(map(int, text.split())) for text in frame["text"]]
    )
    examples.columns["labels"] = codes.astype(np.int64)
    return examples, list(names)


monday, monday_names = by_first_appearance(orders["Monday"])
tuesday, tuesday_names = by_first_appearance(orders["Tuesday"])
model = tiny_bert(monday_names)
state = fit(model, Batches(monday, 16, seed=seed), class_loss, epochs=12, lr=5e-3)

# %%
report = evaluate.classification_report(evaluate.predict(model, tuesday), tuesday_names)
wrong = 100 * report.values["accuracy"][0]
title = f"Monday's model on Tuesday's file: {wrong:.0f} % right"
show.figure(*evaluate.confusion_figure(report, title))

# %% [markdown]
# **Diagnosis**: a model that is bad *by a rule* has learnt something: one large cell per row,
# off the diagonal. `check_run` compares the names that the model carries with those of the data.

# %%
try:
    check_run(model, Batches(tuesday, 16), labels=tuesday_names, overfit_steps=0)
except FitError as problem:
    print(problem)

# %% [markdown]
# **Mend**: sort the names, and save them with the model. Here by hand, from the names:

# %%
names_sorted = sorted(set(table["label"]))
number = [names_sorted.index(name) for name in tuesday_names]
place = [names_sorted.index(name) for name in monday_names]
found = evaluate.predict(model, tuesday)
logits = np.empty_like(found.logits)
logits[:, place] = found.logits  # columns in sorted order
mended = evaluate.Predictions(logits, np.array(number)[found.labels])

# %%
by_name = [
    monday_names[c] == tuesday_names[t]
    for c, t in zip(found.classes, found.labels, strict=True)
]
compare(
    "page 21: accuracy by sorted numbers vs by name",
    mended.accuracy,
    np.mean(by_name),
    1e-12,
)
gallery.proved(21, "accuracy, %", wrong, 100 * mended.accuracy)

# %% [markdown]
# ## G. Adapters and vocabulary
#
# ### Page 17 · An adapter on tied or resized embeddings
#
# In many models the output layer *is* the table of embeddings: one tensor, two names. An
# adapter on the output layer works well, until it is merged into the weight: the table that
# reads the tokens moves with it. If the weight is copied first, the model is right in memory,
# while its config still says that the two are one: what a reload makes of it depends on the
# version that reads.

# %%
gallery.page(17)

# %%
from sftkit.models import lora
from sftkit.models.load import quiet_transformers

texts = Examples.of_tokens(counting([12] * 64))
ids = torch.tensor(counting([12, 12]))


def adapted():
    """A tied Llama with a trained adapter on its output layer."""
    model = tiny_llama(tie_word_embeddings=True)
    lora.add(model, ["lm_head"], rank=4, seed=seed)
    batches = Batches(texts, 16, seed=seed)
    fit(model, batches, language_loss, epochs=3, lr=3e-2, precision="fp32")
    return model.eval()


@torch.no_grad()
def logits_of(model):
    return model(ids).logits


# %%
@torch.no_grad()
def merge_in_place(model):
    """As in many scripts: add the product to the weight, take the adapter off."""
    for layer in lora.layers(model).values():
        layer.weight += layer.update()
    lora.remove(model)
    return model


@torch.no_grad()
def merge_a_copy(model):
    """The weight is copied first, so that the table of embeddings stays."""
    for layer in lora.layers(model).values():
        layer.weight = nn.Parameter(layer.weight + layer.update())
    lora.remove(model)
    return model


# %%
def merge_by_sftkit(model):
    lora.merge(model)
    lora.remove(model)
    return model


# %%
off = {}
for merged in (merge_in_place, merge_a_copy, merge_by_sftkit):
    model = adapted()
    before = logits_of(model)
    model = merged(model)
    in_memory = float((logits_of(model) - before).abs().max())
    with quiet_transformers():
        model.save_pretrained(folder / merged.__name__)
        again = type(model).from_pretrained(
            folder / merged.__name__, dtype=torch.float64
        )
    reloaded = float((logits_of(again.eval()) - before).abs().max())
    off[merged.__name__] = (in_memory, reloaded)

# %%
rows = [[name, *(f"{d:.1e}" for d in pair)] for name, pair in off.items()]
show.table(rows, ["merged by", "logits off in memory", "after save and load"])

# %%
fig, ax = show.new_figure(height=2.2)
for k, when in enumerate(("in memory", "after save and load")):
    values = [max(pair[k], 1e-17) for pair in off.values()]
    style = dict(color=show.COLOURS[2 * k], hatch="//" if k else "")
    ax.barh(np.arange(3) + 0.4 * k - 0.2, values, 0.4, left=1e-18, label=when, **style)
ax.set_yticks(range(3), list(off))
ax.invert_yaxis()
ax.set(xscale="log", xlim=(1e-18, 1e3))
ax.set_xlabel("largest difference from the logits with the adapter")
ax.set_title("Added in place, the merge changes the embeddings too")
ax.legend(loc="lower right")
alt = "Difference of logits on a logarithmic axis: above 1 for the merge in place, "
show.figure(fig, alt + "rounding errors for the other two.")

# %% [markdown]
# **Diagnosis**: three sets of logits that must agree: with the adapter, merged, and reloaded in
# a new object. The pinned transformers finds both tensors in the file and keeps them apart, so
# the copy is right here; others tied them again. **Mend**: `lora.merge` gives the layer a weight
# of its own, and says so in the config.
#
# The same three sets show the other half of the fault. A token was added before the adapters.
# Its row belongs to the table, not to an adapter. A file with the adapters alone does not have
# it, and whoever loads them makes room for the token with a row drawn anew.

# %%
from sftkit.models import lora_files
from sftkit.models.added_tokens import add_tokens, grow
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


def number_tokenizer():
    """One token per number, as the toy model has them."""
    inside = Tokenizer(WordLevel({str(i): i for i in range(50)}, unk_token="0"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="0")


# %%
NEW = 50  # the id that the new token gets
with_new = [[NEW, *row] for row in counting([12] * 64)]
model = tiny_decoder()
add_tokens(model, number_tokenizer(), ["<new>"])
lora.add(model, ["query", "down"], rank=4, seed=seed)
batches = Batches(Examples.of_tokens(with_new), 16, seed=seed)
fit(model, batches, language_loss, epochs=3, lr=3e-2, precision="fp32")
lora_files.save(model.eval(), folder / "adapter")
adapters = {k: v for k, v in model.state_dict().items() if "lora_" in k}

# %%
by_hand = tiny_decoder()
grow(by_hand, NEW + 1)
nn.init.normal_(by_hand.embeddings.weight.data[NEW:], std=0.3)
lora.add(by_hand, ["query", "down"], rank=4)
by_hand.load_state_dict(adapters, strict=False)
reloaded = {
    "adapters alone": by_hand,
    "lora_files.load": lora_files.load(tiny_decoder(), folder / "adapter"),
}
ids = torch.tensor(with_new[:2])
lost = {
    name: float((logits_of(again.eval()) - logits_of(model)).abs().max())
    for name, again in reloaded.items()
}
rows = [[name, f"{d:.1e}"] for name, d in lost.items()]
show.table(rows, ["read back by", "logits off"], "Texts that begin with the new token")

# %% [markdown]
# **Mend**: `lora_files.save` writes the rows that were added beside the adapters, and some
# numbers of the model beneath; `load` refuses another one.

# %%
try:
    lora_files.load(tiny_decoder(std=0.1), folder / "adapter")
except ModelError as problem:
    print(str(problem).replace(str(folder), "…"))
assert lost["adapters alone"] > 1e-3
compare("page 17: logits with a new token, reloaded", lost["lora_files.load"], 0, 1e-9)

# %%
compare(
    "page 17: logits merged and reloaded vs adapter",
    off["merge_by_sftkit"],
    [0, 0],
    1e-9,
)
assert off["merge_in_place"][0] > 1e-3
worst = {name: max(pair) for name, pair in off.items()}
gallery.proved(
    17,
    "logits off, the worse of the two",
    worst["merge_in_place"],
    worst["merge_by_sftkit"],
)

# %% [markdown]
# ### Page 22 · New tokens at random scale
#
# A new token needs a row in the table. `nn.Embedding` draws rows of standard deviation 1, and
# trained rows are often much smaller. Where the table is the output layer too, a large row is a
# large logit. The model is that of page 11, which has learnt to count.

# %%
gallery.page(22)

# %%
counts = learnt["shifted once"]
old_text = Examples.of_tokens(counting([20] * 16))
new_tokens = [f"<new{i}>" for i in range(20)]


# %%
def with_rows_of(std):
    """The table enlarged by hand, new rows drawn with this standard deviation."""
    model = copy.deepcopy(counts)
    torch.manual_seed(seed)
    table = nn.Embedding(70, 16)
    table.weight.data[:50] = model.embeddings.weight.data
    table.weight.data[50:] *= std
    model.embeddings = table
    return model


# %%
mended = copy.deepcopy(counts)
added = add_tokens(mended, number_tokenizer(), new_tokens)
print("rows of the table, before and after:", added.rows)
variants = {
    "before": counts,
    "drawn, std 1": with_rows_of(1.0),
    "drawn, std 0.02": with_rows_of(0.02),
    "the mean of old rows": mended,
}

# %%
batch, rows = old_text.batch(range(16)), []
for name, model in variants.items():
    with torch.no_grad():
        loss_sum, n = language_loss(model.eval(), batch)
        probs = model(batch["input_ids"]).logits.softmax(-1)
    rows.append(
        [name, float(loss_sum / n), 100 * float(probs[..., 50:].sum(-1).mean())]
    )
header = ["rows of new tokens", "loss of an old text", "probability of new tokens, %"]
show.table(rows, header, "A text without any new token")

# %%
fig, ax = show.new_figure(height=2.2)
bars = ax.barh([r[0] for r in rows], [r[1] for r in rows], color=show.COLOURS[0])
bars[1].set_color(show.COLOURS[2])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.grid(False)
ax.set(xlabel="loss of an old text, nats")
ax.set_title("A new token must not be louder than the old ones")
show.figure(fig, "Loss of an old text: highest with rows of standard deviation 1.")

# %% [markdown]
# **Diagnosis**: the loss of a text that has no new token, before and after. **Mend**:
# `add_tokens` makes the new rows the mean of the old ones. The logit of a new token is then the
# mean of the old logits, and its probability at most that of an average old token (Hewitt,
# 2021): whatever the text, 20 new tokens beside 50 old ones raise its loss by at most
# $\ln(70/50)$. Small random rows do as little harm here, but at a scale that you have to guess.
# By hand:

# %%
table = counts.embeddings.weight.detach()
mean = table.double().mean(0).float().expand(20, -1)
compare(
    "page 22: new rows vs the mean of old ones",
    mended.embeddings.weight[50:].detach(),
    mean,
    1e-6,
)
compare("page 22: old rows vs before", mended.embeddings.weight[:50].detach(), table, 0)

# %%
jump = {name: loss - rows[0][1] for name, loss, _ in rows}
assert jump["drawn, std 1"] > 4 * abs(jump["the mean of old rows"])
print(f"the mean of old rows: {jump['the mean of old rows']:.4f}", end=", ")
print(f"at most ln(70/50) = {math.log(70 / 50):.4f}")
assert jump["the mean of old rows"] < math.log(70 / 50)
gallery.proved(
    22,
    "jump of the loss of an old text",
    jump["drawn, std 1"],
    jump["the mean of old rows"],
)

# %% [markdown]
# ## H. Code as it circulates
#
# The pages above are faults of loops and data. Now code that is printed in many tutorials, in
# its shortest form. Each piece is run as printed, in a namespace of its own; then you see its
# error, or what it does silently, and the mend.
#
# ### Printed code 1 · `BertModel(...).logits`

# %%
checkpoint = str(assets.path("minilm"))
code = """
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
model = BertModel.from_pretrained(checkpoint)
inputs = tokenizer("A fine film.", return_tensors="pt")
prediction = model(**inputs).logits.argmax(-1)
"""
with quiet_transformers():
    space = as_printed(
        code, AutoTokenizer=AutoTokenizer, BertModel=BertModel, checkpoint=checkpoint
    )
assert isinstance(space["error"], AttributeError)

# %% [markdown]
# `BertModel` is the body: it gives hidden states, and there is no class in them. Logits come
# from a head. The head of a classifier is *new*, so its first answers are guesses: the loss
# says so, before any training.

# %%
first = evaluate.evaluation(tweet_examples["validation"].take(range(64)))(minilm)
print(f"loss of the new head {first['loss']:.2f}, guessing {math.log(len(names)):.2f}")
hidden = space["model"](**space["inputs"]).last_hidden_state
print("body:", tuple(hidden.shape), "  with a head:", end=" ")
ids = {k: space["inputs"][k] for k in ("input_ids", "attention_mask")}
print(tuple(minilm(**ids).logits.shape))

# %% [markdown]
# ### Printed code 2 · A whole number where a tensor is wanted

# %%
code = """
logits = torch.randn(1, 3)
loss = torch.nn.CrossEntropyLoss()(logits, 2)
"""
space = as_printed(code, torch=torch)
assert isinstance(space["error"], TypeError)

# %% [markdown]
# Labels are a tensor of type int64 with one class per row. The silent relative of this error
# is a regression whose predictions are $(B, 1)$ and whose targets are $(B)$: torch stretches
# both to $(B, B)$.

# %%
import warnings

logits = space["logits"]
loss_sum, n = losses.cross_entropy(logits, torch.tensor([2]))
compare(
    "printed 2: loss of a label in a tensor vs torch",
    loss_sum / n,
    F.cross_entropy(logits, torch.tensor([2])),
    1e-6,
)

# %%
targets = torch.arange(8.0)
with warnings.catch_warnings():
    # torch warns of it; in a log of thousands of lines nobody sees that.
    warnings.simplefilter("ignore")
    stretched = F.mse_loss(targets[:, None], targets).item()
print(f"perfect predictions, shapes (8, 1) and (8): loss {stretched:.1f}")
try:
    losses.regression(targets[:, None], targets)
except SftError as problem:
    print(problem)

# %% [markdown]
# ### Printed code 3 · `encode_plus`

# %%
code = """
encoded = tokenizer.encode_plus("A fine film.", max_length=16,
                                pad_to_max_length=True, return_tensors="pt")
"""
space = as_printed(code, tokenizer=tokenizer)
assert isinstance(space["error"], AttributeError)

# %% [markdown]
# The method is gone. Whoever only takes the name away gets no error, and no padding either:
# `pad_to_max_length` is read by nobody any more.

# %%
space = as_printed(
    'encoded = tokenizer("A fine film.", max_length=16, pad_to_max_length=True)',
    tokenizer=tokenizer,
)
old = space["encoded"]["input_ids"]
new = tokenizer("A fine film.", max_length=16, padding="max_length", truncation=True)
print(
    len(old), "tokens as printed,", len(new["input_ids"]), 'with padding="max_length"'
)
assert len(old) < 16 == len(new["input_ids"])

# %% [markdown]
# ### Printed code 4 · Every text padded to 512

# %%
code = """
encoded = tokenizer(texts, padding="max_length", max_length=512, truncation=True,
                    return_tensors="pt")
"""
some = list(corpus["validation"]["text"])
space = as_printed(code, tokenizer=tokenizer, texts=some)
wide = space["encoded"]["attention_mask"]
sorted_batches = Batches(tweet_examples["validation"], 8, shuffle=False)
from sftkit.batches import padding_share

shares = [1 - float(wide.float().mean()), padding_share(sorted_batches)]
print(f"padding: {100 * shares[0]:.1f} % as printed, {100 * shares[1]:.1f} % by length")


# %%
def seconds_for(batch):
    """The shortest of three forward passes, in seconds."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with torch.inference_mode():
            logits = minilm.eval()(**losses.model_inputs(batch)).logits
        times.append(time.perf_counter() - begin)
    return min(times), logits


# %%
torch.set_num_threads(threads)
rows = range(4)
narrow = tweet_examples["validation"].batch(rows)
as_shown = {k: space["encoded"][k][:4] for k in ("input_ids", "attention_mask")}
(slow, padded), (quick, tight) = seconds_for(as_shown), seconds_for(narrow)
compare("printed 4: logits padded to 512 vs by length", padded, tight, 1e-4)
print(f"4 tweets: {1000 * slow:.0f} ms padded to 512, {1000 * quick:.0f} ms by length")
print(f"that is {slow / quick:.0f} times as long")

# %% [markdown]
# The numbers are the same, so nothing is gained. **Mend**: pad each batch to its longest row,
# and put rows of similar length together, as `Batches` does.
#
# ### Printed code 5 · `torch.load` of a whole model

# %%
code = """
torch.save(model, path)
model = torch.load(path)
"""
path = folder / "model.pt"
space = as_printed(code, torch=torch, model=nn.Linear(3, 2), path=path)
assert space["error"] is not None

# %% [markdown]
# torch refuses, since a pickled object may do anything when it is loaded. The advice that
# circulates is `weights_only=False`. Here is a file that a stranger might have sent. Its
# payload is harmless: it prints a line.


# %%
class Stranger:
    def __reduce__(self):
        return print, ("   >>> this line was printed by a model file, on loading",)


torch.save({"weights": torch.ones(3), "more": Stranger()}, path)
as_printed("loaded = torch.load(path, weights_only=False)", torch=torch, path=path)
safe = "loaded = torch.load(path, weights_only=True)"
assert as_printed(safe, torch=torch, path=path)["error"] is not None
# %% [markdown]
# **Mend**: safetensors. The file holds names, types, shapes and numbers, and reading it can
# run nothing. The class is code, and comes from where you keep your code.

# %%
from safetensors.torch import load_file, save_file

layer = nn.Linear(3, 2)
save_file(layer.state_dict(), folder / "model.safetensors")
again = nn.Linear(3, 2)
again.load_state_dict(load_file(folder / "model.safetensors"))
compare("printed 5: weights from safetensors vs saved", again.weight, layer.weight, 0)

# %% [markdown]
# ### Printed code 6 · Adam at its default rate on BERT
#
# `torch.optim.Adam(model.parameters())` has a rate of 1e-3. That is right for small networks
# that begin at random. MiniLM begins with what pretraining has put into it. Each rate is tried
# on the same batches of tweets, with the same few seeds.

# %%
code = """
optimizer = torch.optim.Adam(model.parameters())
for inputs, labels in steps:
    loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    log.append(loss.item())
"""


# %%
def fine_tune(program, run_seed):
    """Run the program on a fresh MiniLM; gives the model and its losses."""
    model, _ = models.load("minilm", names, seed=run_seed)
    torch.manual_seed(run_seed)
    batches = Batches(tweet_examples["train"], 16, seed=run_seed)
    drawn = (b for e in range(99) for (b,) in batches.epoch(e))
    steps = (
        (losses.model_inputs(b), b["labels"])
        for b, _ in zip(drawn, range(bert_steps), strict=False)
    )
    log = []
    exec(program, {"torch": torch, "model": model.train(), "steps": steps, "log": log})
    return model, log


# %%
small = tweet_examples["validation"].take(range(160))
default = "Adam(model.parameters())"
curves, scores, tuned = {}, {}, None
for lr in (1e-3, 1e-4, 2e-5):
    program = code.replace(default, f"Adam(model.parameters(), lr={lr})")
    runs = [fine_tune(code if lr == 1e-3 else program, s) for s in range(bert_seeds)]
    curves[lr] = np.array([log for _, log in runs])
    scores[lr] = [100 * evaluate.predict(model, small).accuracy for model, _ in runs]
    tuned = runs[0][0] if lr == 1e-4 else tuned

# %%
fig, ax = show.new_figure(height=2.8)
for k, (lr, log) in enumerate(curves.items()):
    style = dict(color=show.COLOURS[k], marker=show.MARKERS[k], markevery=3 + k)
    smooth = np.array(
        [log[:, max(0, i - 4) : i + 1].mean() for i in range(log.shape[1])]
    )
    ax.plot(range(1, len(smooth) + 1), smooth, label=f"rate {lr:g}", **style)
ax.axhline(math.log(3), color="grey", ls=":", label="guessing")
ax.set(xlabel="step", ylabel="loss, nats (mean of 5 steps)")
ends = {lr: float(log[:, -10:].mean()) for lr, log in curves.items()}
ax.set_title(f"Adam's own 1e-3 ends at {ends[1e-3]:.2f}, 1e-4 at {ends[1e-4]:.2f}")
ax.legend(ncols=2)
alt = "Loss by step for three rates of Adam. That of 1e-3 first rises above guessing; "
show.figure(fig, alt + "that of 1e-4 falls the furthest; that of 2e-5 falls slowly.")

# %%
rows = [
    [f"{lr:g}", float(log[:, -10:].mean()), min(scores[lr]), max(scores[lr])]
    for lr, log in curves.items()
]
header = ["rate", "loss, last ten steps", "accuracy, %, lowest seed", "highest"]
show.table(rows, header, f"160 validation tweets, {bert_steps} steps of 16", digits=2)

# %% [markdown]
# At 1e-3 the loss first rises above guessing. **Mend**: for an encoder of this size a rate
# between 2e-5 and a few 1e-4, with a warm-up, chosen on validation data (notebook 02 has the
# range test). Runs as short as these, and so few of them, set at most 1e-4 apart. At their end
# they do not tell 1e-3, which did harm at first, from 2e-5, which may only need more steps.
#
# ### Printed code 7 · Evaluation without `eval()` and `no_grad`

# %%
code = """
correct = total = loss = 0
for inputs, labels in batches:
    logits = model(**inputs).logits
    loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    correct += (logits.argmax(-1) == labels).sum()
    total += len(labels)
print(f"accuracy {100 * correct / total:.1f} %, loss {loss / total:.4f}")
"""
pairs = [
    (losses.model_inputs(b), b["labels"])
    for (b,) in Batches(small, 32, shuffle=False).epoch(0)
]
tuned.train()  # as the training loop has left it
weights = {p.data_ptr() for p in tuned.parameters()}
kept = [0]


# %%
def count_bytes(tensor):
    """Activations that autograd keeps; the weights are there in any case."""
    if tensor.data_ptr() not in weights:
        kept[0] += tensor.numel() * tensor.element_size()
    return tensor


def watched():
    kept[0] = 0
    return torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor)


# %%
with watched():
    first = as_printed(code, torch=torch, model=tuned, batches=pairs)
print(f"kept for a backward pass that never comes: {kept[0] / 2**20:,.0f} MB")
second = as_printed(code, torch=torch, model=tuned, batches=pairs)
assert kept[0] > 0 and first["loss"].item() != second["loss"].item()

# %% [markdown]
# Two runs, two results, and memory for nothing: here the sum of the losses even keeps the
# graphs of all batches alive. `eval()` ends the first, `no_grad()` the second; neither does the
# other's work. **Mend**: both, or `evaluate.predict`.

# %%
tuned.eval()
with torch.no_grad(), watched():
    right = [
        as_printed(code, torch=torch, model=tuned, batches=pairs) for _ in range(2)
    ]
print("kept:", kept[0], "bytes")
total = right[0]["total"]
compare(
    "printed 7: accuracy by hand vs evaluate.predict",
    int(right[0]["correct"]) / total,
    evaluate.predict(tuned, small).accuracy,
    0.01,
)
assert right[0]["loss"].item() == right[1]["loss"].item() and kept[0] == 0

# %% [markdown]
# ### Printed code 8 · A Keras layer that does not exist

# %%
code = """
from keras import layers
block = layers.Transformer(num_heads=4, intermediate_dim=128)
"""
space = as_printed(code)

# %% [markdown]
# Keras is not part of this course's environment, so what you see above is that it is missing:
# the page cannot show more. With Keras installed the import succeeds and the second line is
# refused instead, because by its documentation `keras.layers` has attention layers
# (`MultiHeadAttention` and others) and no `Transformer`; whole blocks are in another package,
# as `keras_hub.layers.TransformerEncoder`. **Mend**: look a name up before you build on it. In
# torch:

# %%
block = nn.TransformerEncoderLayer(16, 4, 128, dropout=0.0, batch_first=True)
print(tuple(block(torch.zeros(2, 5, 16)).shape))
print("in torch.nn:", [name for name in dir(nn) if name.startswith("Transformer")])

# %% [markdown]
# ### Printed code 9 · Attention with an element-wise product

# %%
code = """
def attention(q, k, v):
    weights = torch.softmax(q * k / q.shape[-1] ** 0.5, dim=-1)
    return weights * v
output = attention(q, k, v)
"""
torch.manual_seed(seed)
q, k, v = (torch.randn(8, 8, dtype=torch.float64) for _ in range(3))
space = as_printed(code, torch=torch, q=q, k=k, v=v)
print("output:", tuple(space["output"].shape))

# %% [markdown]
# The shape is right. But `q * k` pairs each token with itself only, and the softmax runs over
# features. `influence` asks which inputs each output depends on.


# %%
def attention(q, k, v):
    """Scores are (T, T): every pair of tokens."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v


# %%
fig, axes = show.new_figure(height=3.0, columns=2)
reach = {}
methods = {"As printed": space["attention"], "Mended": attention}
for ax, (name, method) in zip(axes, methods.items(), strict=True):
    found = checks.influence(lambda x, method=method: method(x, x, x), q)
    reach[method] = int((found > 0).sum())
    ax.grid(False)
    ax.imshow(found > 0, cmap="Blues", vmin=0, vmax=1.4)
    ax.set(xlabel="token that is read", title=f"{name}: {reach[method]} of 64 pairs")
axes[0].set_ylabel("token that is computed")
show.figure(
    fig, "Left, as printed: only the diagonal. Right: every token reads every other."
)

# %%
ours, theirs = [], []
for shape in [(1, 2, 4), (3, 7, 8), (2, 16, 5)]:
    q, k, v = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    ours.append(attention(q, k, v).flatten())
    theirs.append(F.scaled_dot_product_attention(q, k, v).flatten())
compare(
    "printed 9: attention mended vs torch", torch.cat(ours), torch.cat(theirs), 1e-12
)
assert list(reach.values()) == [8, 64]

# %% [markdown]
# ### Printed code 10 · One example a step, at one rate to the end

# %%
code = """
optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
for x, y in rows:
    loss = torch.nn.functional.cross_entropy(net(x[None]), y[None])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    watch(net)
"""
x = torch.from_numpy(features["train"].columns["x"])
y = torch.from_numpy(features["train"].columns["labels"])
held_x = torch.from_numpy(features["validation"].columns["x"])
held_y = torch.from_numpy(features["validation"].columns["labels"])


# %%
def linear_net(run_seed):
    torch.manual_seed(run_seed)
    return nn.Linear(384, 3)


def watched_loss(log, net):
    log.append(validation_loss(net))


@torch.no_grad()
def validation_loss(net):
    return F.cross_entropy(net(held_x), held_y).item()


# %%
torch.set_num_threads(1)
one, sixteen = [], []
for run_seed in range(seeds):
    log, order = [], np.random.default_rng(run_seed).permutation(len(x))
    space = dict(
        torch=torch, net=linear_net(run_seed), rows=[(x[i], y[i]) for i in order]
    )
    step = as_printed if run_seed == 0 else lambda c, **names: exec(c, names)
    step(code, watch=functools.partial(watched_loss, log), **space)
    one.append(log)
    net = linear_net(run_seed)
    batches = Batches(features["train"], 16, seed=run_seed, by_length=False)

    def of_net(net, batch):
        return losses.cross_entropy(net(batch["x"]), batch["labels"])

    fit(net, batches, of_net, epochs=1, lr=2e-2, precision="fp32")
    sixteen.append(validation_loss(net))

# %%
fig, ax = show.new_figure(height=2.6)
ax.plot(one[0], lw=0.8, color=show.COLOURS[2], label="one a step, one rate")
mean, low, high = evaluate.mean_interval(sixteen)
ax.axhline(mean, label=f"16 a step, warm-up and down to 0: its end, {seeds} seeds")
ax.axhspan(low, high, alpha=0.2)
ax.set(xlabel="step of one example", ylabel="validation loss, nats")
ax.set_title("At one rate to the end the loss never settles")
ax.legend()
show.figure(
    fig, "A ragged line of validation losses, mostly above a level line with a band."
)

# %%
ends = [log[-1] for log in one]
gap = evaluate.mean_interval([a - b for a, b in zip(ends, sixteen, strict=True)])
spread_of_end = float(np.mean([np.std(log[-200:]) for log in one]))
print(
    f"at the end higher by {gap[0]:.3f} nats ({gap[1]:.3f} to {gap[2]:.3f}), "
    f"and spread over its last 200 steps by {spread_of_end:.3f} (standard deviation)"
)

# %% [markdown]
# The last step decides what is saved, and it is drawn by lot. **Mend**: batches, and a rate
# that falls to 0. Batches are quicker, too: an optimizer step moves all weights, however few
# examples it is for. For MiniLM, on this machine:

# %%
torch.set_num_threads(threads)
batches = {
    1: [tweet_examples["validation"].batch([i]) for i in range(8)],
    8: [tweet_examples["validation"].batch(range(8))],
}
found = {size: [seconds_for(batch) for batch in some] for size, some in batches.items()}
compare(
    "printed 10: logits one by one vs in a batch",
    torch.cat([f[1] for f in found[1]]),
    found[8][0][1],
    1e-4,
)

# %%
optimizer = torch.optim.Adam(minilm.parameters(), fused=True)
for p in minilm.parameters():
    p.grad = torch.zeros_like(p)  # no gradient, so no weight moves
optimizer.step()  # the first one makes its memory
begin = time.perf_counter()
optimizer.step()
step = time.perf_counter() - begin
minilm.zero_grad()
for size, some in found.items():
    reading = sum(f[0] for f in some)
    print(
        f"8 tweets, {size} at once: reading {1000 * reading:.0f} ms, "
        f"optimizer steps {1000 * step * len(some):.0f} ms"
    )

# %% [markdown]
# ## Exercises
#
# Each gives the symptoms of a run. You name the fault, or mend it.
#
# **1. Which page?** (medium, 15 minutes). A colleague sends facts about a run: the gradient's
# spread over layouts (`checks.spread`), the leak between packed texts (`checks.leak`), the
# accuracies of two evaluations, the losses of an old text before and after tokens were added,
# and the share of answers whose stop token is supervised. Give the number of the page to send
# back: 1, 5, 6, 18, or 22; 0 if nothing is wrong. Neither rounding errors are faults, nor the
# hundredths by which rightly added tokens move the loss of an old text.
#
# <details><summary>Hint 1</summary>Go through the facts in the order of the arguments. A run
# has at most one fault here.</details>
# <details><summary>Hint 2</summary>Which of these numbers can be 1e-12 in a sound run, and
# which must be exactly equal?</details>
# <details><summary>Hint 3</summary>On page 22 the fault moved the loss by nats, the mend by
# thousandths: anything between 0.05 and 1 will do as a limit.</details>


# %% tags=["exercise"]
def which_page(spread, leak, evaluations, old_text, stop_supervised):
    """The number of the page, from a run's facts.

    spread, leak: as `checks` gives them.
    evaluations: accuracies of two evaluations of one model.
    old_text: losses of a text without new tokens, before and after tokens were added.
    stop_supervised: share of answers whose stop token is supervised.
    """
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
cases = [
    (3e-16, 0.0, (0.81, 0.81), (2.0, 2.0), 1.0),
    (0.94, 0.0, (0.81, 0.81), (2.0, 2.0), 1.0),
    (3e-16, 0.43, (0.77, 0.77), (2.0, 2.0), 1.0),
    (3e-16, 0.0, (0.77, 0.78), (2.0, 2.0), 1.0),
    (1e-13, 0.0, (0.77, 0.77), (2.0, 6.5), 1.0),
    (1e-13, 0.0, (0.77, 0.77), (2.0, 2.01), 0.0),
    (0.02, 0.0, (0.79, 0.79), (2.0, 2.0), 1.0),
    (1e-13, 0.03, (0.79, 0.79), (2.0, 2.01), 1.0),
    (1e-13, 0.0, (0.79, 0.79), (2.0, 2.01), 1.0),
]
right_pages = [0, 1, 6, 18, 22, 5, 1, 6, 0]


def pages_by(spread_limit=1e-6, stop=1, leak_limit=1e-6, apart=0.0, jump=0.5):
    def answer(spread, leak, evaluations, old_text, stop_supervised):
        faults = {
            1: spread > spread_limit,
            6: leak > leak_limit,
            18: abs(evaluations[0] - evaluations[1]) > apart,
            22: old_text[1] > old_text[0] + jump,
            5: stop_supervised < stop,
        }
        return next((page for page, fault in faults.items() if fault), 0)

    return answer


page_exercise = Exercise(
    "which page",
    right_pages,
    cases,
    [
        (pages_by(0.0), "A spread of 1e-16 is rounding: sums in another order."),
        (pages_by(stop=0), "Nothing wrong? No answer's stop token is supervised."),
        (pages_by(apart=0.02), "Two evaluations of one model must be exactly equal."),
        (pages_by(jump=0.0), "A hundredth is no jump: new tokens cost that much."),
        (pages_by(spread_limit=0.1), "A spread of 0.02 is far more than rounding."),
        (pages_by(leak_limit=0.1), "A leak of 0.03 is no rounding: it must be 0."),
    ],
)  # fmt: skip
page_exercise(which_page)


# %% tags=["solution"] jupyter={"source_hidden": true}
def which_page_solution(spread, leak, evaluations, old_text, stop_supervised):
    if spread > 1e-6:
        return 1
    if leak > 1e-6:
        return 6
    if evaluations[0] != evaluations[1]:
        return 18
    if old_text[1] > old_text[0] + 0.5:  # nats; a right mend moves it by hundredths
        return 22
    return 5 if stop_supervised < 1 else 0


page_exercise(which_page_solution)

# %% [markdown]
# **2. "It never stops"** (medium, 15 minutes). A chat model writes on and on. Its padding token
# is its stop token. Mend the labels: given ids padded on the right, the place where the answer
# begins and the number of real tokens of each row, give labels with -100 for prompt and
# padding. The answer's own stop token is judged; a stop token within the prompt is not.
#
# <details><summary>Hint 1</summary>Never look at an id. Two numbers per row say it
# all.</details>
# <details><summary>Hint 2</summary>Places from `begin` up to, not including, `length`.</details>


# %% tags=["exercise"]
def answer_labels(ids, begins, lengths):
    """Ids (B, T), first place of each answer (B,), real tokens (B,): labels (B, T).

    All three are lists; labels may be lists, an array or a tensor.
    """
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def labels_by_numpy(ids, begins, lengths):
    places = np.arange(np.shape(ids)[1])
    keep = (places >= np.reshape(begins, (-1, 1))) & (
        places < np.reshape(lengths, (-1, 1))
    )
    return np.where(keep, ids, -100)


def labels_by_id(ids, begins, lengths):
    labels = labels_by_numpy(ids, begins, lengths)
    return np.where(np.asarray(ids) == 2, -100, labels)


def prompt_too(ids, begins, lengths):
    return labels_by_numpy(ids, np.zeros(len(ids)), lengths)


def padding_too(ids, begins, lengths):
    return labels_by_numpy(ids, begins, np.full(len(ids), np.shape(ids)[1]))


def one_early(ids, begins, lengths):
    return labels_by_numpy(ids, np.asarray(begins) - 1, lengths)


def one_short(ids, begins, lengths):
    return labels_by_numpy(ids, begins, np.asarray(lengths) - 1)


def shifted(ids, begins, lengths):
    labels = labels_by_numpy(ids, begins, lengths)
    return np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=-100)


stop_exercise = Exercise(
    "it never stops",
    labels_by_numpy,
    [
        ([[1, 5, 2, 7, 2, 2, 2], [1, 6, 8, 9, 7, 7, 3]], [3, 2], [5, 7]),
        ([[3, 2, 4, 2], [3, 4, 2, 2]], [2, 3], [4, 3]),
        ([[1, 2, 2, 2]], [1], [2]),
    ],
    [
        (labels_by_id, "You mask by id: the answer's own stop token is masked too."),
        (prompt_too, "The prompt is judged too: begin at the answer."),
        (padding_too, "Padding is judged: end at the row's real length."),
        (one_early, "You begin one place early. Labels are not shifted here."),
        (shifted, "Your labels are shifted. The loss does that: leave them in place."),
        (one_short, "You end one place early: the length counts the stop token."),
    ],
)
stop_exercise(answer_labels)


# %% tags=["solution"] jupyter={"source_hidden": true}
def answer_labels_solution(ids, begins, lengths):
    labels = []
    for row, begin, length in zip(ids, begins, lengths, strict=True):
        judged = list(row[begin:length])
        labels.append(
            [-100] * begin + judged + [-100] * (len(row) - begin - len(judged))
        )
    return labels


stop_exercise(answer_labels_solution)

# %% [markdown]
# **3. "It stalls after a quarter"** (medium, 15 minutes). The loss of a run goes flat after a
# quarter of the time, and its first step did nothing. Write the rates that it should have
# used: one per optimizer step, from the number of micro-batches, rising linearly over `warmup`
# optimizer steps so that the first is above 0 and step number `warmup` (from 0) has the highest
# rate, then linearly towards 0, which the step after the last would have. There may be no
# warm-up, and the last window may be short.
#
# <details><summary>Hint 1</summary>How many optimizer steps do 10 micro-batches in windows of 4
# make?</details>
# <details><summary>Hint 2</summary>Rising: (step + 1) / (warmup + 1). Falling: steps that are
# left, over steps after the warm-up.</details>


# %% tags=["exercise"]
def rates_needed(micro_batches, window, warmup, highest):
    """The rate of each optimizer step, as a list."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def rates_by_sftkit(micro_batches, window, warmup, highest):
    total = -(-micro_batches // window)
    return list(rates("linear", total, highest, warmup / total))


def rates_per_micro(micro_batches, window, warmup, highest):
    return rates_by_sftkit(micro_batches, 1, warmup, highest)[::window]


def one_per_micro(micro_batches, window, warmup, highest):
    return rates_by_sftkit(micro_batches, 1, warmup, highest)


def short_dropped(micro_batches, window, warmup, highest):
    return rates_by_sftkit(micro_batches // window, 1, warmup, highest)


def from_zero(micro_batches, window, warmup, highest):
    found = rates_by_sftkit(micro_batches, window, warmup, highest)
    return [highest * s / max(warmup, 1) for s in range(warmup)] + found[warmup:]


def top_early(micro_batches, window, warmup, highest):
    found = rates_by_sftkit(micro_batches, window, warmup, highest)
    return [highest * (s + 1) / warmup for s in range(warmup)] + found[warmup:]


def down_to_zero(micro_batches, window, warmup, highest):
    found = rates_by_sftkit(micro_batches, window, warmup, highest)
    falling = np.linspace(highest, 0, len(found) - warmup)
    return found[:warmup] + falling.tolist()


rate_exercise = Exercise(
    "it stalls after a quarter",
    rates_by_sftkit,
    [(22, 4, 2, 1.0), (10, 4, 0, 0.5), (12, 3, 1, 2e-5), (5, 1, 3, 1.0)],
    [
        (
            rates_per_micro,
            "That schedule steps per micro-batch. Count optimizer steps.",
        ),
        (one_per_micro, "One rate per optimizer step, not one per micro-batch."),
        (short_dropped, "The short window at the end is a step too."),
        (from_zero, "Your first rate is 0: the first step does nothing."),
        (top_early, "Your highest rate comes a step early: divide by warmup + 1."),
        (down_to_zero, "Your last rate is 0; only the step after it would have 0."),
    ],
    tolerance=1e-9,
)
rate_exercise(rates_needed)


# %% tags=["solution"] jupyter={"source_hidden": true}
def rates_needed_solution(micro_batches, window, warmup, highest):
    total, used = math.ceil(micro_batches / window), []
    for step in range(total):
        rising = (step + 1) / (warmup + 1)
        falling = (total - step) / max(total - warmup, 1)
        used.append(highest * (rising if step < warmup else falling))
    return used


rate_exercise(rates_needed_solution)

# %% [markdown]
# **4. "It helps by a point"** (medium, 15 minutes). A paper compares a trick with a baseline,
# seed by seed. Give `[mean gain, low, high]` with the 95 % interval of the mean over *paired*
# seeds. With the same numbers in front of you: would you have believed the best seed?
#
# <details><summary>Hint 1</summary>One difference per seed first; then forget the
# scores.</details>
# <details><summary>Hint 2</summary>Standard error: standard deviation with n − 1, over the root
# of n.</details>
# <details><summary>Hint 3</summary>Few seeds: the factor is `scipy.stats.t.ppf(0.975, n - 1)`,
# not 1.96.</details>


# %% tags=["exercise"]
def paired_gain(baseline, trick):
    """[mean, low, high] of the gain over paired seeds."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def gain_by_scipy(baseline, trick):
    found = stats.ttest_rel(trick, baseline)
    return [float(np.mean(trick) - np.mean(baseline)), *found.confidence_interval(0.95)]


def unpaired(baseline, trick):
    ends = stats.ttest_ind(trick, baseline).confidence_interval(0.95)
    return [float(np.mean(trick) - np.mean(baseline)), *ends]


def normal(baseline, trick):
    gains = np.subtract(trick, baseline)
    half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    return [gains.mean(), gains.mean() - half, gains.mean() + half]


def of_single_seeds(baseline, trick):
    gains = np.subtract(trick, baseline)
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1)
    return [gains.mean(), gains.mean() - half, gains.mean() + half]


def divided_by_n(baseline, trick):
    gains = np.subtract(trick, baseline)
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std() / len(gains) ** 0.5
    return [gains.mean(), gains.mean() - half, gains.mean() + half]


def other_way(baseline, trick):
    return gain_by_scipy(trick, baseline)


gain_exercise = Exercise(
    "it helps by a point",
    gain_by_scipy,
    [
        ([80.1, 81.5, 79.2, 80.8], [80.9, 81.9, 80.6, 80.7]),
        ([70.0, 72.0], [71.0, 72.5]),
        ([60.2, 64.9, 61.7, 66.0, 63.3], [60.0, 65.1, 61.2, 66.4, 63.2]),
    ],
    [
        (unpaired, "You leave the pairs apart. The seed's own luck cancels in a pair."),
        (normal, "1.96 is for many seeds. With few, t is larger."),
        (
            of_single_seeds,
            "That is the spread of single seeds. Divide by the root of n.",
        ),
        (divided_by_n, "np.std divides by n. With few seeds use n - 1: ddof=1."),
        (other_way, "The sign is wrong: the gain is trick minus baseline."),
    ],
)
gain_exercise(paired_gain)


# %% tags=["solution"] jupyter={"source_hidden": true}
def paired_gain_solution(baseline, trick):
    gains = [b - a for a, b in zip(baseline, trick, strict=True)]
    n, mean = len(gains), sum(gains) / len(gains)
    error = math.sqrt(sum((g - mean) ** 2 for g in gains) / (n - 1) / n)
    half = stats.t.ppf(0.975, n - 1) * error
    return [mean, mean - half, mean + half]


gain_exercise(paired_gain_solution)

# %% [markdown]
# **5. "Its outputs do not depend on the other words"** (hard, 20 minutes). Somebody wrote
# attention with `q * k`. Write it as it should be, causal: token $t$ reads tokens up to $t$.
#
# <details><summary>Hint 1</summary>The scores are a (T, T) matrix: rows are tokens that are
# computed, columns tokens that are read.</details>
# <details><summary>Hint 2</summary>Forbidden scores become minus infinity before the
# softmax.</details>


# %% tags=["exercise"]
def causal_attention(q, k, v):
    """Tensors (T, d) to (T, d)."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def attention_by_torch(q, k, v, **options):
    options = {"is_causal": True} | options
    return F.scaled_dot_product_attention(q[None], k[None], v[None], **options)[0]


def element_wise(q, k, v):
    return torch.softmax(q * k / q.shape[-1] ** 0.5, -1) * v


def masked_after(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1).tril() @ v


def zero_ahead(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).tril().softmax(-1) @ v


def without_itself(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    return (
        scores.masked_fill(torch.ones_like(scores).triu() > 0, -math.inf).softmax(-1)
        @ v
    )


def along_columns(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    return (
        scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf).softmax(0)
        @ v
    )


def attention_case(T, d):
    generator = torch.Generator().manual_seed(T)
    return tuple(
        torch.randn(T, d, dtype=torch.float64, generator=generator) for _ in "qkv"
    )


attention_exercise = Exercise(
    "the other words",
    attention_by_torch,
    [attention_case(*shape) for shape in [(5, 4), (1, 2), (9, 3)]],
    [
        (element_wise, "q * k pairs each token with itself only: use q @ k.T."),
        (lambda q, k, v: attention_by_torch(q, k, v, is_causal=False),
         "Your tokens read ahead: mask the scores above the diagonal."),
        (lambda q, k, v: attention_by_torch(q, k, v, scale=1.0),
         "The scores are not divided by the root of d."),
        (masked_after, "You mask after the softmax: the weights no longer sum to 1."),
        (lambda q, k, v: attention_by_torch(q, k, v, scale=1 / q.shape[-1]),
         "The scores are divided by d: divide by its root."),
        (without_itself, "A token reads itself: mask above the diagonal, not on it."),
        (zero_ahead, "A score of 0 is not forbidden: exp(0) is 1. Use minus infinity."),
        (along_columns, "Your softmax runs down columns, not along rows."),
    ],
)  # fmt: skip
attention_exercise(causal_attention)


# %% tags=["solution"] jupyter={"source_hidden": true}
def causal_attention_solution(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    ahead = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, -math.inf).softmax(-1) @ v


attention_exercise(causal_attention_solution)

# %% [markdown]
# **6. Without code** (easy, 10 minutes). Three runs of other people. (a) The validation
# accuracy is 91.2 % with batches of 64 and 90.7 % with batches of 1. (b) The loss is 0.02 after
# fifty steps, and the model answers every question with the question. (c) Trained on packed
# rows the loss is as good as ever; in the application each first sentence is strange. Which
# pages, and what would you ask for, to be sure?
#
# <details><summary>Hint 1</summary>(a) is about a metric; (b) about what the labels are; (c)
# about what the model could see in training and not afterwards.</details>
# <details><summary>Hint 2</summary>Pages 12 (or padding that is read: check_run), 11, and
# 6.</details>
# <details><summary>An answer</summary>(a) Page 12, or padding that is read. Ask for the loss at
# batch sizes 1 and 7 as sum over count, and for a `check_run`, which compares a row alone and
# padded. (b) Page 11, labels that are not shifted. Ask for the loss on five tokens by hand.
# (c) Page 6. Ask for `checks.leak` on the first packed batch; it must be 0.</details>

# %% [markdown]
# ## Checklist
#
# Every page, with the number that its tool gave on the fault and after the mend. Go through
# the second column before a run that matters; `check_run` does much of it in seconds.

# %%
gallery.checklist()

# %%
from sftkit.course import record

metrics = gallery.metrics()
metrics["seconds"] = {"notebook": time.perf_counter() - started}
record(out, metrics)

# %% [markdown]
# ## Summary
#
# - The 24 faults raise no error (only a warm-up of 0 steps may divide by 0). Each shows in a number, if you ask for it before the
#   run: `check_run` asks for many of them in seconds.
# - Sums over counts, divided once: in gradients, over processes, in metrics.
# - Look at the tokens in colour. The stop token belongs to the answer; the mask goes by place,
#   never by id; one pass makes ids and labels.
# - What should not matter must not matter: the layout of a batch, padding, neighbours in a
#   packed row, the batch size of an evaluation, saving and loading. Test it, to the last bit
#   where nothing is rounded differently.
# - One seed is an anecdote. Pair, repeat, and show the interval.
# - Code that runs is not code that is right. Run it on five tokens, and count.
#
# ## Where to go next
#
# - [01 · Loss](01_loss.ipynb) and [06 · Training loop](06_training_loop.ipynb): why sums and
#   counts stay apart.
# - [03 · Tokenization](03_tokenization.ipynb): where boundaries lie inside tokens.
# - [08 · Evaluation](08_evaluation.ipynb): intervals, and what a comparison needs.
#
# Primary sources: Student (1908), *The Probable Error of a Mean*. Vaswani et al. (2017),
# *Attention Is All You Need*. Loshchilov and Hutter (2019), *Decoupled Weight Decay
# Regularization*. Micikevicius et al. (2018), *Mixed Precision Training*. Krell et al. (2021),
# *Efficient Sequence Packing without Cross-contamination*. Lee et al. (2022), *Deduplicating
# Training Data Makes Language Models Better*. Reimers and Gurevych (2017), *Reporting Score
# Distributions Makes a Difference*. Hewitt (2021), *Initializing New Word Embeddings for
# Pretrained Language Models*. Kapoor and Narayanan (2023), *Leakage and the Reproducibility
# Crisis in Machine-Learning-Based Science*.
