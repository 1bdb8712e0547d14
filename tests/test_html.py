"""The page: whole, readable without the net, with descriptions and mathematics."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sftkit.course.html import INTERACTIVE, mathml, offline, page, to_html

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAA"
    "C0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
TEXT = r"""# A page & its parts

A loss $\mathcal{L} = -\log p_y$ and a price of \$5.

$$\frac{1}{n}\sum_{i=1}^{n} x_i < \begin{pmatrix} a & b \\ c & d \end{pmatrix}$$

## Part one

| name | formula |
|---|---|
| mean | $\bar{x}$ |

![inside](pixel.png) ![outside](https://example.org/a.png)

```python
x = "<b>"
```

<script src="https://example.org/x.js"></script><img src="https://example.org/y.png">

```mermaid
graph LR; a --> b
```

## Part one

[A link](https://example.org) is fine."""


class Parsed(HTMLParser):
    """Tags with attributes, and what is visible."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    import base64

    folder = tmp_path_factory.mktemp("page")
    (folder / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    outputs = [
        new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m <i>\n"),
        new_output("stream", name="stderr", text="a warning\n"),
        new_output(
            "display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": 'say "hi"'}}
        ),
        new_output("display_data", {"image/svg+xml": "<svg onload='x()'></svg>"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"a": 1}}),
        new_output(
            "display_data",
            {"text/html": "<table><tr><td>&lt;b&gt; a</td></tr></table><iframe src='//x'>"},
        ),
        new_output("display_data", {"text/latex": r"$\alpha$"}),
        new_output("display_data", {"text/markdown": "**bold** $z$"}),
        new_output(
            "error", ename="ValueError", evalue="no", traceback=["\x1b[31mline <1>\x1b[0m"]
        ),
    ]
    code = new_code_cell("print('<&>')", execution_count=3, outputs=outputs)
    folded = new_code_cell("answer = 42", metadata={"jupyter": {"source_hidden": True}})
    notebook = new_notebook(cells=[new_markdown_cell(TEXT), code, new_code_cell(""), folded])
    path = folder / "n.ipynb"
    nbformat.write(notebook, path)
    to_html(path, folder / "n.html", {"data": "<tweets>"})
    return (folder / "n.html").read_text(encoding="utf-8")


def test_nothing_is_fetched(text: str) -> None:
    parsed = Parsed(text)
    for tag in ("script", "link", "iframe", "object", "embed", "base"):
        assert parsed.all(tag) == []
    for tag, attributes in parsed.tags:
        for name in ("src", "srcset", "poster", "data", "background", "xlink:href"):
            if name in attributes:
                assert (attributes[name] or "").startswith("data:image/"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert tag == "a"
    assert "@import" not in text and not re.search(r"url\(", text)
    policy = parsed.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_every_picture_has_a_description(text: str) -> None:
    pictures = Parsed(text).all("img")
    assert [picture["alt"] for picture in pictures] == [
        "inside",
        "Figure without a description.",  # of the picture that lost its address
        'say "hi"',
        "Figure without a description.",
    ]
    assert '<a href="https://example.org/a.png">outside</a>' in text


def test_mathematics_is_mathml(text: str) -> None:
    assert len(Parsed(text).all("math")) == 5
    assert len([m for m in Parsed(text).all("math") if m.get("display") == "block"]) == 2
    assert "<mtable>" in text and "$" not in text.replace("$5", "")
    assert mathml(r"\badcommand{", display=False).startswith(("<math", "<code"))
    assert mathml(r"\left( x < 1", display=False) == r"<code>\left( x &lt; 1</code>"
    lines = mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", display=True)
    assert lines.count("<mtr>") == 2 and "<mi>&" not in lines
    assert "text-align:right" in lines and "columnalign" not in lines


def test_headings_can_be_linked_to(text: str) -> None:
    ids = [a["id"] for tag, a in Parsed(text).tags if tag in ("h1", "h2")]
    assert ids == ["a-page-its-parts", "part-one", "part-one-2"]
    for anchor in ids[1:]:
        assert f'<li class="level2"><a href="#{anchor}">Part one</a></li>' in text
    assert "<title>A page &amp; its parts</title>" in text


def test_outputs_are_shown_and_escaped(text: str) -> None:
    assert 'class="output stderr"' in text and "a warning" in text
    assert "red</span> &lt;i&gt;" in text
    assert "line &lt;1&gt;" in text and "\x1b" not in text
    assert INTERACTIVE in text
    assert "<td>&lt;b&gt; a</td>" in text
    assert "<strong>bold</strong>" in text
    assert "'&lt;tweets&gt;'" in text
    assert text.count("<summary>Folded code</summary>") == 1


def test_cleaning_leaves_harmless_html_alone() -> None:
    fine = '<p class="a">1 &lt; 2 &amp; <b>x</b><br/><a href="https://x.org">y</a> &#8364;</p>'
    assert offline(fine) == fine
    assert offline('<a href=" JavaScript:x()" onclick="y()">z</a>') == "<a>z</a>"
    assert offline("a<script>if (a < b) { c(); }</script>b<!-- [if IE] -->c") == "abc"
    assert offline('<img src="data:image/png;base64,AA" alt="x">').endswith('alt="x">')


def test_a_notebook_without_cells_is_a_page(tmp_path: Path) -> None:
    assert "<title>Notebook</title>" in page(new_notebook(), tmp_path)
