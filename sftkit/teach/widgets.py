"""Interactive boxes for notebooks. Beside each, a notebook shows a static example.

No reader's input ends in a traceback: what cannot be used gives a sentence instead.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

LONGEST = 5_000  # characters that a box takes


def text_box(
    render: Callable[[str], str], example: str, button: str, longest: int = LONGEST
) -> Any:
    """A text box, a button, and what a function makes of the text.

    Args:
        render: Gives HTML for a text; what it takes from the text must be escaped.
        example: The text to begin with.
        button: What the button says.
        longest: The most characters taken.

    Returns:
        An ipywidgets box. Its children are the text area, the button and the result.
    """
    import ipywidgets

    text = ipywidgets.Textarea(
        value=example, layout={"width": "98%"}, description="text", continuous_update=False
    )
    press = ipywidgets.Button(description=button, button_style="primary")
    result = ipywidgets.HTML(value=rendered(render, example, longest))

    def on_click(_: Any) -> None:
        result.value = rendered(render, text.value, longest)

    press.on_click(on_click)
    return ipywidgets.VBox([text, press, result])


def rendered(render: Callable[[str], str], text: str, longest: int = LONGEST) -> str:
    """``render(text)``, or a sentence that says why there is nothing to show."""
    if not text.strip():
        return "<p>Type a sentence first.</p>"
    if len(text) > longest:
        return f"<p>{len(text):,} characters are too many; at most {longest:,}.</p>"
    try:
        return render(text)
    except Exception as problem:  # a box in front of a class must not show a traceback
        return f"<p>That cannot be shown: {html.escape(str(problem)) or 'no reason given'}</p>"


def classify_box(classify: Callable[[str], dict[str, float]], example: str) -> Any:
    """A text box that shows a model's probabilities for what is typed.

    Args:
        classify: Gives probabilities by class name for a text.
        example: The text to begin with.

    Returns:
        As `text_box`.
    """
    return text_box(lambda text: bars_html(classify(text.strip())), example, "classify")


def figure_box(draw: Callable[..., Any], controls: Mapping[str, Any]) -> Any:
    """Controls, and a figure that is drawn again when one of them moves.

    Args:
        draw: Gives a matplotlib figure for the controls' values, passed by name. What it
            raises is shown as a sentence under the last good figure.
        controls: Name to ipywidgets control (slider, dropdown, ...).

    Returns:
        An ipywidgets box. Its children are the controls' box, the image and the message.
    """
    import ipywidgets
    import matplotlib.pyplot as plt

    image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    message = ipywidgets.HTML()

    def redraw(_: Any = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        try:
            figure = draw(**values)
        except Exception as problem:  # as in `rendered`
            message.value = f"<p>That cannot be drawn: {html.escape(str(problem))}</p>"
            return
        stream = BytesIO()
        figure.savefig(stream, format="png")
        plt.close(figure)
        image.value, message.value = stream.getvalue(), ""

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.VBox(list(controls.values())), image, message])


def bars_html(probs: dict[str, float]) -> str:
    """Probabilities as bars; names are escaped."""
    rows = "".join(
        f'<tr><td style="text-align:right">{html.escape(name)}</td>'
        f'<td style="width:16em"><div style="background:#3f90da;height:0.8em;'
        f'width:{100 * p:.1f}%"></div></td><td>{100 * p:.1f} %</td></tr>'
        for name, p in sorted(probs.items(), key=lambda item: -item[1])
    )
    return f"<table>{rows}</table>"
