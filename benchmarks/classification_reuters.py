"""Our loop against Hugging Face Trainer, on news (Reuters R8): speed, accuracy, memory.

    python benchmarks/classification_reuters.py            # 200 news
    python benchmarks/classification_reuters.py --full     # 600, five times
    python benchmarks/classification_reuters.py --quick    # a smoke test

News are some three times as long as tweets: more of the time is matrix products, which all
contestants need alike, and more of an unsorted batch is padding.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import classification

if __name__ == "__main__":
    classification.main(data="reuters-r8", script=Path(__file__).stem, doc=__doc__)
