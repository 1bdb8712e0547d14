"""The weights and the curves of notebook 05: longer runs of what it does live.

    python benchmarks/pretraining.py encoder      # People's Daily, masked; then the reviews
    python benchmarks/pretraining.py decoder      # Reuters, causal
    python benchmarks/pretraining.py labels       # fine-tuning at 10 to 10,000 labels
    python benchmarks/pretraining.py labels --dry-run

It may be interrupted at any time: training goes on from its last checkpoint, and a finished
run of the curve is in the records. Each record has the command that makes it again.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sftkit import device, encode_lm  # noqa: E402
from sftkit.batches import Batches, Examples  # noqa: E402
from sftkit.batches_lm import MaskedBatches  # noqa: E402
from sftkit.corpora import pretraining  # noqa: E402
from sftkit.evaluate.language import language_evaluation  # noqa: E402
from sftkit.files import sha256_text, write_json  # noqa: E402
from sftkit.fit import fit  # noqa: E402
from sftkit.fit_settings import FitState  # noqa: E402
from sftkit.losses_lm import causal_lm, masked_lm  # noqa: E402
from sftkit.models.decoder import Decoder, DecoderConfig  # noqa: E402
from sftkit.models.encoder import Encoder, EncoderConfig  # noqa: E402
from sftkit.models.starting import set_dropout, sine_positions  # noqa: E402

WEIGHTS = ROOT / "data" / "weights"
LENGTH = 128  # positions of the encoder, and tokens of a labelled review at most
ENCODER = {"width": 128, "layers": 3, "heads": 4, "feed_forward": 512, "dropout": 0.1}
DECODER = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 4, "feed_forward": 384}
RATE = 0.4  # share of hidden tokens in training; losses are measured at 0.15
# Texts; then phases: tokens per piece, pieces per step, epochs, highest learning rate. Short
# pieces first: among few tokens, those that matter are found sooner.
STAGES: dict[str, tuple[str, list[tuple[int, int, int, float]]]] = {
    "zh-char-encoder": ("peoples-daily", [(32, 32, 5, 2e-3), (128, 16, 8, 1e-3)]),
    "zh-char-encoder-reviews": ("zh-reviews", [(128, 16, 4, 1e-3)]),
}
WINDOW = 256  # characters that the decoder sees
BATCH = 16  # pieces of the decoder, or labelled reviews, per step
DECODER_EPOCHS, DECODER_LR = 3, 2e-3


def masked_batches(
    texts: list[str], tokenizer: Any, length: int, size: int, **options: Any
) -> MaskedBatches:
    """Texts, encoded and masked."""
    pieces = encode_lm.masked(texts, tokenizer, length)
    return MaskedBatches(
        Examples.of(pieces, tokenizer.pad_token_id),
        size,
        mask_id=tokenizer.mask_token_id,
        tokens=(len(encode_lm.SPECIAL), len(tokenizer)),
        **options,
    )


def characters_of_both() -> Any:
    """The tokenizer of all Chinese models here, from the texts that they are trained on."""
    texts = [pretraining.load(name).train for name, _ in STAGES.values()]
    return encode_lm.char_tokenizer(
        pretraining.characters(t for part in texts for t in part), LENGTH
    )


def train_encoders(store: Path) -> None:
    """The general encoder, then the one that goes on with the reviews' texts."""
    texts = {name: pretraining.load(name) for name, _ in STAGES.values()}
    tokenizer = characters_of_both()
    import torch

    torch.manual_seed(0)
    sizes = EncoderConfig(vocab=len(tokenizer), max_length=LENGTH, **ENCODER)  # type: ignore
    model = sine_positions(Encoder(sizes, "mlm"))
    for name, (source, phases) in STAGES.items():
        print(name, *texts[source].notes, sep="\n  ", flush=True)
        watch = masked_batches(
            texts[source].validation, tokenizer, LENGTH, 64, shuffle=False, fixed=0
        )
        begin, states = time.process_time(), []
        set_dropout(model, 0.0)
        for i, (length, size, epochs, lr) in enumerate(phases):
            state = fit(
                model,
                masked_batches(texts[source].train, tokenizer, length, size, rate=RATE),
                masked_lm(),
                evaluate=language_evaluation(watch, masked_lm()),
                folder=store / f"{name}-{i}",
                resume=True,
                callbacks=[Tell()],
                epochs=epochs,
                lr=lr,
                metric="-loss",
                schedule="linear",
                warmup=0.05,
                keep=1,
                label=name,
            )
            states.append(state)
        set_dropout(model, ENCODER["dropout"])
        settings = {"texts": source, "rate": RATE, "phases": [list(p) for p in phases]}
        keep(name, model, tokenizer, states, texts[source], settings, begin)


def train_decoder(store: Path) -> None:
    """The causal model of Reuters."""
    texts = pretraining.load("reuters")
    print(*texts.notes, sep="\n  ", flush=True)
    tokenizer = encode_lm.char_tokenizer(pretraining.characters(texts.train), 2 * WINDOW)
    import torch

    torch.manual_seed(0)
    sizes = DecoderConfig(vocab=len(tokenizer), max_length=2 * WINDOW, **DECODER)  # type: ignore
    model = Decoder(sizes)
    train, watch = (
        Examples.of(encode_lm.causal(part, tokenizer, WINDOW), tokenizer.pad_token_id)
        for part in (texts.train, texts.validation)
    )
    begin = time.process_time()
    state = fit(
        model,
        Batches(train, BATCH),
        causal_lm(),
        evaluate=language_evaluation(Batches(watch, 64, shuffle=False), causal_lm()),
        folder=store / "en-char-decoder",
        resume=True,
        callbacks=[Tell()],
        epochs=DECODER_EPOCHS,
        lr=DECODER_LR,
        metric="-loss",
        schedule="linear",
        warmup=0.05,
        keep=1,
        label="en-char-decoder",
    )
    settings = {"texts": "reuters", "epochs": DECODER_EPOCHS, "lr": DECODER_LR}
    settings |= {"batch_size": BATCH}
    keep("en-char-decoder", model, tokenizer, [state], texts, settings, begin)


class Tell:
    """Prints evaluations."""

    def on_step(self, model: Any, state: Any) -> None:
        pass

    def on_evaluate(self, model: Any, state: Any) -> None:
        row = state.evaluations[-1]
        recent = state.losses[-200:]
        print(
            f"  {time.strftime('%H:%M')} step {row['step']:.0f}: loss {row['loss']:.4f}, "
            f"in training {sum(recent) / len(recent):.4f}",
            flush=True,
        )


def keep(
    name: str,
    model: Any,
    tokenizer: Any,
    states: list[FitState],
    texts: pretraining.Texts,
    settings: dict[str, Any],
    begin: float,
) -> None:
    """Half-precision weights, sizes, vocabulary, and how they came about."""
    folder = WEIGHTS / name
    copy.deepcopy(model).half().save(folder, tokenizer)
    history = [row for state in states for row in state.history]
    losses = [row["loss"] for row in history]
    every = max(1, len(losses) // 200)
    command = "decoder" if name.endswith("decoder") else "encoder"
    record = {
        "command": f"python benchmarks/pretraining.py {command}",
        "settings": settings,
        "texts": {"notes": texts.notes, "sha256": sha256_text("\n".join(texts.train))},
        "steps": len(history),
        "tokens": sum(row["tokens"] for row in history),
        "losses_every": every,
        "losses": [round(sum(part) / len(part), 4) for part in _parts(losses, every)],
        "evaluations": [row for state in states for row in state.evaluations],
        "seconds": sum(state.seconds for state in states),
        "processor_seconds": time.process_time() - begin,
        "machine": device.facts(),
    }
    write_json(folder / "record.json", record)
    print(f"{name}: {states[-1].evaluations[-1]}", flush=True)


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["labels"]:
        from benchmarks import label_curve

        label_curve.CAMPAIGN.main(label_curve.__doc__, given[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("encoder", "decoder", "labels"))
    options = parser.parse_args(given)
    store = ROOT / "runs" / "pretraining"
    if options.what == "encoder":
        train_encoders(store)
    else:
        train_decoder(store)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
