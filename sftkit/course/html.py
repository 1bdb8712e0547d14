"""An executed notebook as one page that opens anywhere, with no request to the net.

Mathematics becomes MathML, pictures are inside the page with their alt text, and a content
security policy in the page forbids scripts and every outside resource.
"""

from __future__ import annotations

import base64
import html as escaping
import mimetypes
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sftkit.files import write_text

TEMPLATES = Path(__file__).resolve().parent / "templates"
PICTURES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
WIDGET = "application/vnd.jupyter.widget-view+json"
INTERACTIVE = "Interactive: open the notebook in Jupyter."
NO_ALT = "Figure without a description."


def to_html(notebook_path: Path, html_path: Path, parameters: dict | None = None) -> None:
    """Write the page of a notebook.

    Args:
        notebook_path: An executed ``.ipynb``.
        html_path: Where the page goes; written whole or not at all.
        parameters: Shown in a table at the top.
    """
    import nbformat

    notebook = nbformat.read(notebook_path, as_version=4)
    write_text(Path(html_path), page(notebook, Path(notebook_path).parent, parameters))


def page(notebook: Any, folder: Path, parameters: dict | None = None) -> str:
    """The page as text; relative pictures in markdown are looked up in ``folder``."""
    from nbconvert.exporters import HTMLExporter
    from pygments.formatters import HtmlFormatter

    from sftkit.course.notebooks import title

    writer = _Writer(folder)
    cells = [writer.cell(cell) for cell in notebook.cells]
    css = (TEMPLATES / "page" / "page.css").read_text(encoding="utf-8")
    content = {
        "title": title(notebook) or "Notebook",
        "style": css + HtmlFormatter(style="default").get_style_defs(".highlight"),
        "contents": [entry for entry in writer.contents if entry[0] in (2, 3)],
        "parameters": [(name, repr(value)) for name, value in (parameters or {}).items()],
        "cells": [cell for cell in cells if cell],
    }
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    exporter.preprocessors = []  # the cells above are final
    exporter.environment.globals["page"] = content
    text, _ = exporter.from_notebook_node(notebook)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def mathml(latex: str, display: bool) -> str:
    """LaTeX as MathML; as its own source in ``<code>`` when it cannot be converted."""
    from latex2mathml.converter import convert

    # The converter knows align* only; inside $$ MathJax knows aligned only.
    latex = latex.replace("{aligned}", "{align*}")
    try:
        found = convert(latex.strip(), display="block" if display else "inline")
        # Browsers go by the style; the attribute is of an older MathML.
        return re.sub(r'columnalign="(left|right)"', r'style="text-align:\1"', found)
    except Exception:  # the converter raises many kinds; the reader still gets the formula
        return f"<code>{escaping.escape(latex.strip())}</code>"


class _Writer:
    """Turns cells into HTML, and collects the headings on its way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents: list[tuple[int, str, str]] = []
        self._anchors: dict[str, int] = {}

    def cell(self, cell: Any) -> dict[str, Any] | None:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            attachments = cell.get("attachments", {})
            return {"kind": "markdown", "html": self.markdown(cell.source, attachments)}
        if cell.cell_type != "code":
            return None
        outputs = [self.output(output) for output in cell.outputs]
        hidden = "remove-input" in tags or not cell.source.strip()
        return {
            "kind": "code",
            "count": f"[{cell.execution_count}]" if cell.execution_count else "",
            "folded": bool(cell.metadata.get("jupyter", {}).get("source_hidden")),
            "html": "" if hidden else self.python(cell.source),
            "outputs": [output for output in outputs if output["html"]],
        }

    def python(self, source: str) -> str:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import get_lexer_by_name

        return highlight(source, get_lexer_by_name("ipython3"), HtmlFormatter())

    def output(self, output: Any) -> dict[str, str]:
        from nbconvert.filters import ansi2html, strip_ansi

        if output.output_type == "stream":
            return {"kind": output.name, "html": f"<pre>{ansi2html(output.text)}</pre>"}
        if output.output_type == "error":
            text = strip_ansi("\n".join(output.traceback)) or f"{output.ename}: {output.evalue}"
            return {"kind": "error", "html": f"<pre>{escaping.escape(text)}</pre>"}
        data = output.data
        if WIDGET in data:
            bar = re.search(r"\d%\|", data.get("text/plain", ""))  # of a library, finished
            return {"kind": "note", "html": "" if bar else INTERACTIVE}
        for kind in PICTURES:
            if kind in data:
                about = output.metadata.get(kind, {})
                return {"kind": "picture", "html": picture(kind, data[kind], about)}
        if "text/html" in data:
            return {"kind": "html", "html": offline(data["text/html"])}
        if "text/markdown" in data:
            return {"kind": "text", "html": self.markdown(data["text/markdown"], {})}
        if "text/latex" in data:
            return {"kind": "text", "html": mathml(data["text/latex"].strip("$ \n"), True)}
        text = escaping.escape(strip_ansi(data.get("text/plain", "")))
        return {"kind": "text", "html": f"<pre>{text}</pre>" if text else ""}

    def markdown(self, source: str, attachments: Any) -> str:
        from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

        writer = self

        class Renderer(IPythonRenderer):
            def block_math(self, body: str) -> str:
                return mathml(body, display=True)

            def inline_math(self, body: str) -> str:
                return mathml(body, display=False)

            def latex_environment(self, name: str, body: str) -> str:
                return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

            def block_mermaidjs(self, code: str) -> str:
                return f"<pre>{escaping.escape(code.strip())}</pre>"

            def heading(self, text: str, level: int, **attrs: Any) -> str:
                anchor = writer.anchor(text, level)
                return (
                    f'<h{level} id="{anchor}">{text}'
                    f'<a class="anchor" href="#{anchor}" aria-hidden="true">¶</a></h{level}>\n'
                )

            def image(self, text: str, url: str, title: str | None = None) -> str:
                return writer.embedded(text, url, self.attachments)

        renderer = Renderer(escape=False, attachments=attachments)
        return offline(MarkdownWithMath(renderer=renderer).render(source))

    def anchor(self, heading: str, level: int) -> str:
        """A unique id for a heading, remembered for the table of contents."""
        words = escaping.unescape(re.sub(r"<[^>]*>", "", heading)).strip()
        anchor = re.sub(r"[^\w]+", "-", words.lower()).strip("-") or "section"
        self._anchors[anchor] = self._anchors.get(anchor, 0) + 1
        if self._anchors[anchor] > 1:
            anchor = f"{anchor}-{self._anchors[anchor]}"
        self.contents.append((level, anchor, words))
        return anchor

    def embedded(self, alt: str, url: str, attachments: Any) -> str:
        """A markdown picture inside the page; one on the net becomes a link."""
        if url.startswith("attachment:"):
            bundle = attachments.get(url.removeprefix("attachment:"), {})
            for kind, data in bundle.items():
                return picture(kind, data, {"alt": alt})
        if url.startswith("data:image/"):
            return f'<img src="{escaping.escape(url)}" alt="{escaping.escape(alt or NO_ALT)}">'
        path = self.folder / unquote(url)
        kind = mimetypes.guess_type(url)[0] or ""
        if "://" in url or not kind.startswith("image/") or not path.is_file():
            return f'<a href="{escaping.escape(url)}">{escaping.escape(alt or url)}</a>'
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return f'<img src="data:{kind};base64,{data}" alt="{escaping.escape(alt or NO_ALT)}">'


def picture(kind: str, data: str, about: Any) -> str:
    """An output picture inside the page, with its alt text and size."""
    if kind == "image/svg+xml" and data.lstrip().startswith("<"):
        data = base64.b64encode(data.encode("utf-8")).decode("ascii")
    size = "".join(f' {side}="{about[side]}"' for side in ("width", "height") if side in about)
    alt = escaping.escape(about.get("alt") or NO_ALT)
    return f'<img src="data:{kind};base64,{"".join(data.split())}" alt="{alt}"{size}>'


def offline(text: str) -> str:
    """HTML without scripts and without anything that would be fetched."""
    cleaner = _Offline()
    cleaner.feed(text)
    cleaner.close()
    return "".join(cleaner.parts)


class _Offline(HTMLParser):
    """Copies HTML, leaving out scripts, frames, handlers and outside resources."""

    DROPPED = {"script", "iframe", "object", "embed", "link", "meta", "base", "video", "audio"}
    VOID = {"link", "meta", "base", "embed"}
    FETCHING = {"src", "srcset", "poster", "background", "data", "xlink:href"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.DROPPED:
            if tag not in self.VOID:
                self._skipping.append(tag)
        elif not self._skipping:
            self.parts.append(self._tag(tag, attrs, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.DROPPED and not self._skipping:
            self.parts.append(self._tag(tag, attrs, "/"))

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.pop()
        elif tag not in self.DROPPED:
            self.parts.append(f"</{tag}>")

    def _tag(self, tag: str, attrs: list[tuple[str, str | None]], end: str) -> str:
        kept = []
        for name, value in attrs:
            inside = (value or "").strip().lower().startswith("data:image/")
            if name.startswith("on") or (name in self.FETCHING and not inside):
                continue
            if name == "href" and (value or "").strip().lower().startswith("javascript:"):
                continue
            kept.append(name if value is None else f'{name}="{escaping.escape(value)}"')
        if tag == "img" and not any(part.startswith('alt="') for part in kept):
            kept.append(f'alt="{NO_ALT}"')
        return f"<{' '.join([tag, *kept])}{end}>"

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.parts.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        """Comments are dropped: a conditional one may hide a resource."""
