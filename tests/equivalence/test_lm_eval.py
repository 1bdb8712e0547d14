"""An exported folder in lm-evaluation-harness: it loads, and it scores answers as we do."""

from __future__ import annotations

import json

import pytest

from sftkit.evaluate.answers import multiple_choice
from sftkit.models.export_chat import Card, export_chat
from tests.engine.tiny_chat import llama, tokenizer

QUESTIONS = [("what is 1+1?", ["2", "eleven"], 0), ("say hi", ["hello", "no"], 0)]
QUESTIONS += [("é or a?", ["a", "é 好", "neither of them"], 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported") / "assistant"
    card = Card(base="tiny", licence="MIT", data=["None; the weights are random."])
    export_chat(llama(vocab=len(tokenizer())).float(), tokenizer(), place, card)
    return place


@pytest.fixture(scope="module")
def harness(folder):
    pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: pip install sftkit[harness]"
    )
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)


def ours(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = [[{"role": "user", "content": question}] for question, *_ in QUESTIONS]
    words = AutoTokenizer.from_pretrained(folder)
    return multiple_choice(model, words, asked, [answers for _, answers, _ in QUESTIONS])


def test_the_log_probabilities_are_those_of_the_harness(folder, harness):
    """It counts the line break before the answer, too: one number more per question."""
    import torch
    from lm_eval.api.instance import Instance

    stop, expected = harness.tokenizer.eos_token, ours(folder).log_probs
    for (question, answers, _), scores in zip(QUESTIONS, expected, strict=True):
        prompt = harness.apply_chat_template([{"role": "user", "content": question}])
        requests = [
            Instance("loglikelihood", {}, (prompt, answer + stop), i)
            for i, answer in enumerate(answers)
        ]
        found = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        *before, last = harness.tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logits = harness.model(torch.tensor([before])).logits[0, -1]
        line_break = logits.log_softmax(-1)[last].item()
        assert prompt.endswith("\n") and line_break < -0.1
        assert found == pytest.approx([line_break + score for score in scores], abs=1e-4)


def test_a_task_of_ones_own_runs_from_a_file(folder, harness, tmp_path):
    """Without a network: the task is a dictionary, its data a JSONL file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"q": q, "answers": a, "right": right} for q, a, right in QUESTIONS]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "mine", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "mine.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{q}}",
        "doc_to_choice": "{{answers}}", "doc_to_target": "{{right}}", "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    found = lm_eval.simple_evaluate(
        harness, tasks=[task], apply_chat_template=True, bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    accuracy = found["results"]["mine"]["acc,none"]
    assert accuracy in [n / len(QUESTIONS) for n in range(len(QUESTIONS) + 1)]
    assert found["n-samples"]["mine"]["effective"] == len(QUESTIONS)
