"""Interactive boxes for notebooks. Beside each, a notebook shows a static example."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

LONGEST = 5_000  # characters that a box takes


def classify_box(classify: Callable[[str], dict[str, float]], example: str) -> Any:
    """A text box that shows a model's probabilities for what is typed.

    Args:
        classify: Gives probabilities by class name for a text.
        example: The text to begin with.

    Returns:
        An ipywidgets box. Its children are the text area, the button and the result.
    """
    import ipywidgets

    text = ipywidgets.Textarea(
        value=example, layout={"width": "100%"}, description="text", continuous_update=False
    )
    button = ipywidgets.Button(description="classify", button_style="primary")
    result = ipywidgets.HTML(value=bars_html(classify(example)))

    def on_click(_: Any) -> None:
        typed = text.value.strip()
        if not typed:
            result.value = "<p>Type a sentence first.</p>"
        elif len(typed) > LONGEST:
            result.value = (
                f"<p>{len(typed):,} characters are too many; at most {LONGEST:,}.</p>"
            )
        else:
            result.value = bars_html(classify(typed))

    button.on_click(on_click)
    return ipywidgets.VBox([text, button, result])


def bars_html(probs: dict[str, float]) -> str:
    """Probabilities as bars; names are escaped."""
    rows = "".join(
        f'<tr><td style="text-align:right">{html.escape(name)}</td>'
        f'<td style="width:16em"><div style="background:#3f90da;height:0.8em;'
        f'width:{100 * p:.1f}%"></div></td><td>{100 * p:.1f} %</td></tr>'
        for name, p in sorted(probs.items(), key=lambda item: -item[1])
    )
    return f"<table>{rows}</table>"
