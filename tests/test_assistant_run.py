"""One command from a JSONL of messages to an assistant folder."""

from __future__ import annotations

import json
import math
import random
import re

import pytest

from sftkit.course.notebooks import find, header, read
from sftkit.course.run import run


def _words(rng):
    """Six words that no other conversation has: near-copies would count as one."""
    return ["".join(rng.choices("abdeiklmnoprstuz", k=6)) for _ in range(6)]


@pytest.mark.slow
def test_a_file_of_messages_becomes_a_folder(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng = random.Random(0)
    talks = [
        [
            {"role": "user", "content": f"Where is the {' '.join(words[:4])}?"},
            {"role": "assistant", "content": f"No idea about {words[0]}.", "weight": 0},
            {"role": "user", "content": f"Look again near {words[4]}."},
            {"role": "assistant", "content": f"It is in drawer {words[5]}."},
        ]
        for words in (_words(rng) for _ in range(33))
    ]
    talks += [[*talk[:-1], talk[-1] | {"content": "so " * 300}] for talk in talks[:8]]
    file = tmp_path / "my.jsonl"
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    source = find("13")
    fast = header(read(source), source.name).fast
    given = {"data": str(file), "recompute": True, "batch_tokens": 256, "whole": True}
    done = run("13", fast | given, store=tmp_path / "runs").data
    assert math.isfinite(done["metrics"]["answer_loss"])
    assert done["metrics"]["train_rows"] < len(talks) - 8
    page = next((tmp_path / "runs").rglob("notebook.ipynb")).read_text()
    assert "without the stop token at the end (rows" in page
    learnt = re.search(r"conversations of 'my.jsonl', ([\d,]+) tokens learnt", page)
    assert learnt and int(learnt[1].replace(",", "")) < 10 * done["metrics"]["train_rows"]
    (folder,) = (tmp_path / "runs").rglob("assistant")
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = words.apply_chat_template(
        talks[0][:1], add_generation_prompt=True, return_tensors="pt"
    )
    written = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= asked["input_ids"].shape[1] + 4
    card = (folder / "README.md").read_text()
    assert "my.jsonl" in card and str(tmp_path) not in card
    assert "batch tokens" in card and "of the course's notes, not of the data" in card
