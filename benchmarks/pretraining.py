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
from sftkit.losses_lm import causal_lm, masked_lm  # noqa: E402
from sftkit.models.decoder import Decoder, DecoderConfig  # noqa: E402
from sftkit.models.encoder import Encoder, EncoderConfig  # noqa: E402

WEIGHTS = ROOT / "data" / "weights"
LENGTH = 128  # tokens per piece, and positions of the encoder
ENCODER = {"width": 128, "layers": 3, "heads": 4, "feed_forward": 512, "dropout": 0.1}
DECODER = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 4, "feed_forward": 384}
WINDOW = 256  # characters that the decoder sees
BATCH = 16  # pieces per step: small models need many steps more than quiet ones
STAGES = {  # texts, epochs, highest learning rate
    "zh-char-encoder": ("peoples-daily", 5, 1e-3),
    "zh-char-encoder-reviews": ("zh-reviews", 4, 7e-4),
}
DECODER_EPOCHS, DECODER_LR = 3, 2e-3


def masked_batches(texts: list[str], tokenizer: Any, **options: Any) -> MaskedBatches:
    """Texts, encoded and masked."""
    pieces = encode_lm.masked(texts, tokenizer, LENGTH)
    return MaskedBatches(
        Examples.of(pieces, tokenizer.pad_token_id),
        BATCH,
        mask_id=tokenizer.mask_token_id,
        tokens=(len(encode_lm.SPECIAL), len(tokenizer)),
        **options,
    )


def characters_of_both() -> Any:
    """The tokenizer of all Chinese models here, from the texts that they are trained on."""
    texts = [pretraining.load(name).train for name, _, _ in STAGES.values()]
    return encode_lm.char_tokenizer(
        pretraining.characters(t for part in texts for t in part), LENGTH
    )


def train_encoders(store: Path) -> None:
    """The general encoder, then the one that goes on with the reviews' texts."""
    texts = {name: pretraining.load(name) for name, _, _ in STAGES.values()}
    tokenizer = characters_of_both()
    import torch

    torch.manual_seed(0)
    sizes = EncoderConfig(vocab=len(tokenizer), max_length=LENGTH, **ENCODER)  # type: ignore
    model = Encoder(sizes, "mlm")
    for name, (source, epochs, lr) in STAGES.items():
        print(name, *texts[source].notes, sep="\n  ", flush=True)
        train = masked_batches(texts[source].train, tokenizer)
        watch = masked_batches(texts[source].validation, tokenizer, shuffle=False, fixed=0)
        begin = time.process_time()
        state = fit(
            model,
            train,
            masked_lm(),
            evaluate=language_evaluation(watch, masked_lm()),
            folder=store / name,
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
        settings = {"texts": source, "epochs": epochs, "lr": lr, "batch_size": BATCH}
        keep(name, model, tokenizer, state, texts[source], settings, begin)


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
    keep("en-char-decoder", model, tokenizer, state, texts, settings, begin)


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
    state: Any,
    texts: pretraining.Texts,
    settings: dict[str, Any],
    begin: float,
) -> None:
    """Half-precision weights, sizes, vocabulary, and how they came about."""
    folder = WEIGHTS / name
    copy.deepcopy(model).half().save(folder, tokenizer)
    every = max(1, len(state.losses) // 200)
    losses = [sum(part) / len(part) for part in _parts(state.losses, every)]
    command = "decoder" if name.endswith("decoder") else "encoder"
    record = {
        "command": f"python benchmarks/pretraining.py {command}",
        "settings": settings,
        "texts": {"notes": texts.notes, "sha256": sha256_text("\n".join(texts.train))},
        "steps": state.step,
        "tokens": sum(row["tokens"] for row in state.history),
        "losses_every": every,
        "losses": [round(loss, 4) for loss in losses],
        "evaluations": state.evaluations,
        "seconds": state.seconds,
        "processor_seconds": time.process_time() - begin,
        "machine": device.facts(),
    }
    write_json(folder / "record.json", record)
    print(f"{name}: {state.evaluations[-1]}", flush=True)


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("encoder", "decoder", "labels"))
    parser.add_argument("--start", nargs="*", help="of labels: svm, scratch, pretrained, ...")
    parser.add_argument("--dry-run", action="store_true", help="of labels: what is missing")
    parser.add_argument("--minutes", type=float, help="of labels: begin no run after so many")
    options = parser.parse_args(arguments)
    store = ROOT / "runs" / "pretraining"
    if options.what == "encoder":
        train_encoders(store)
    elif options.what == "decoder":
        train_decoder(store)
    else:
        from benchmarks.label_curve import label_curve

        label_curve(options.start, options.dry_run, options.minutes)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
