"""A conversation with a model in a notebook, shown while it is written."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sftkit.teach.widgets import LONGEST


def chat_box(
    answer: Callable[[list[dict[str, str]]], Iterable[str]],
    example: str,
    longest: int = LONGEST,
) -> Any:
    """A conversation with a model, whose answers appear while they are written.

    Args:
        answer: Gives the pieces of the next answer to a conversation (`evaluate.answers.said`).
            What it raises is shown as a sentence, and the question is taken back.
        example: The question to begin with.
        longest: The most characters of a question.

    Returns:
        An ipywidgets box. Its children are the conversation, the text area and the two
        buttons.
    """
    import ipywidgets

    talk: list[dict[str, str]] = []
    page = ipywidgets.HTML(value=talk_html(talk))
    text = ipywidgets.Textarea(value=example, layout={"width": "98%"}, description="you")
    send = ipywidgets.Button(description="send", button_style="primary")
    again = ipywidgets.Button(description="new conversation")

    def on_send(_: Any) -> None:
        question = text.value.strip()
        if not 0 < len(question) <= longest:
            note = f"Type something, at most {longest:,} characters."
            page.value = talk_html(talk, note)
            return
        asked, written = [*talk, {"role": "user", "content": question}], ""
        page.value = talk_html([*asked, {"role": "assistant", "content": "…"}])
        try:
            for piece in answer(asked):
                written += piece
                page.value = talk_html([*asked, {"role": "assistant", "content": written}])
        except Exception as problem:  # as in `rendered`
            page.value = talk_html(talk, f"That was not sent: {problem}")
            return
        talk[:] = [*asked, {"role": "assistant", "content": written}]
        page.value, text.value = talk_html(talk), ""

    def on_again(_: Any) -> None:
        talk.clear()
        page.value = talk_html(talk)

    send.on_click(on_send)
    again.on_click(on_again)
    return ipywidgets.VBox([page, text, ipywidgets.HBox([send, again])])


def talk_html(talk: Sequence[Mapping[str, str]], note: str = "") -> str:
    """A conversation as HTML, all of it escaped."""
    rows = "".join(
        f"<tr><td><b>{html.escape(turn['role'])}</b></td>"
        f'<td style="white-space:pre-wrap">{html.escape(turn["content"])}</td></tr>'
        for turn in talk
    )
    said = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<table>{rows}</table>{said}" if talk else said or "<p>Ask something.</p>"
