"""Parts of a page that opens offline: its figures, pictures and style are in it, and every text is escaped."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from PIL import Image

Element = ElementTree.Element
Content = Element | str | None
"""What an element holds; text is escaped when the page is written, whatever it holds."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c1f; --paper: #ffffff; --soft: #59616b; --line: #d5d9de; --card: #f4f6f8; --mark: #b35c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #14171b; --soft: #a4acb6; --line: #363c44; --card: #1d2127; --mark: #f0a04b; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 2rem 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
section { border-top: 1px solid var(--line); padding: 1.6rem 0; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: inherit; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.found { border-left: 4px solid var(--mark); padding: .2rem 0 .2rem .9rem; font-size: 1.06rem; }
.formula { font-family: ui-monospace, monospace; font-size: .86rem; background: var(--card); padding: .5rem .7rem;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
.wide { overflow-x: auto; background:  /* a shadow at an end says that there is more */
  linear-gradient(to right, var(--paper), transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--paper), transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--soft), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(to left, var(--soft), transparent) right / .7rem 100% no-repeat scroll; }
figure svg { display: block; width: 100%; height: auto; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; }
.pair { display: flex; flex-wrap: wrap; gap: .75rem; }
.pair figure { margin: .5rem 0; }
.pair img { height: 14rem; width: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0 .4rem; }
th, td { text-align: right; padding: .22rem .65rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; text-align: left; }
tbody th { white-space: normal; }
tbody th.long { min-width: 10rem; }
tr.expert { background: color-mix(in srgb, var(--mark) 18%, transparent); }
details { margin: .8rem 0; }
summary { cursor: pointer; }
footer { padding: 1rem 1.25rem 3rem; }
"""


def element(tag: str, *content: Content, **attributes: str) -> Element:
    """An HTML element; "class_" stands for class, and None is left out of the content."""
    own = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for part in content:
        if isinstance(part, str):
            if len(own):
                own[-1].tail = (own[-1].tail or "") + part
            else:
                own.text = (own.text or "") + part
        elif part is not None:
            own.append(part)
    return own


def _heading(words: str) -> Element:
    """The heading of a row; a long one keeps a width that does not leave a word to a line."""
    return element("th", words, scope="row", **({"class_": "long"} if len(words) > 20 else {}))


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> Element:
    """A table that scrolls by itself on a narrow screen; the first cell of a row is its heading."""
    lines = [
        element("tr", _heading(first), *(element("td", cell) for cell in others), **({"class_": "expert"} if mark else {}))
        for (first, *others), mark in zip(rows, marked or [False] * len(rows), strict=True)
    ]
    titles = element("tr", *(element("th", title, scope="col") for title in head))
    own = element("table", element("caption", caption), element("thead", titles), element("tbody", *lines))
    return element("div", own, class_="wide", tabindex="0", role="region", aria_label=caption)


def facts(caption: str, rows: Mapping[str, str]) -> Element:
    """A table of names and texts, which break over lines."""
    lines = [element("tr", element("th", name, scope="row"), element("td", text, class_="text")) for name, text in rows.items()]
    return element("div", element("table", element("caption", caption), element("tbody", *lines)), class_="facts")


def drawn(svg: str, name: str, description: str) -> Element:
    """A figure in SVG, inline, so that its text has the colour of the page's text."""
    return element("figure", element("div", inline(svg, name, description), class_="wide"), element("figcaption", description))


def inline(svg: str, name: str, description: str) -> Element:
    """An SVG file as an element of a page: without namespaces, its ids different from those of other figures."""
    unique = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    root = ElementTree.fromstring(unique)
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]
        for key in list(part.attrib):
            if "}" in key:
                part.attrib[key.rpartition("}")[2]] = part.attrib.pop(key)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": description, "style": f"min-width: {width:.0f}px; max-width: {1.35 * width:.0f}px"}
    return root


def photo(picture: Image.Image, description: str) -> Element:
    """A picture with its caption."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    data = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    width, height = map(str, picture.size)
    return element("figure", element("img", src=data, alt=description, width=width, height=height), element("figcaption", description))


def page(title: str, body: Sequence[Element]) -> str:
    """A whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    )
    return "<!DOCTYPE html>\n" + ElementTree.tostring(element("html", head, element("body", *body), lang="en"), "unicode", method="html")
