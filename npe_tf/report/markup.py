"""Numbers, text and tables as HTML; all text from outside goes through `text` or `prose`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["flagged", "number", "pairs", "paragraphs", "prose", "table", "text", "time"]

_FLAG = re.compile(r"(--\w+(?:=(?:'[^']*'|[^\s,;:()']*[^\s,;:().']))?|\bnpe-\w+)")
_UTC = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\+00:00")


def text(value: Any) -> str:
    """Any text, with nothing in it that HTML would act upon or a browser show in another order.

    Args:
        value: what `str` makes a text of.

    Returns:
        HTML, for an element or a quoted attribute.
    """
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                   for c in str(value))  # fmt: skip
    return html.escape(kept, quote=True)


def prose(sentence: str) -> str:
    """Text in which the names of flags and programs stand out."""
    pieces = [text(piece) for piece in _FLAG.split(sentence)]
    pieces[1::2] = [f'<code class="flag">{flag}</code>' for flag in pieces[1::2]]
    return "".join(pieces)


def paragraphs(sentences: Iterable[str]) -> str:
    """One for each sentence, of which the first letter and the full stop are added."""
    return "".join(f"<p>{prose(s[:1].upper() + s[1:])}.</p>" for s in sentences)


def time(iso: str) -> str:
    """A time in UTC, given as ISO 8601, as people write it."""
    return _UTC.sub(r"\1 \2 UTC", text(iso))


def number(value: Any, form: str) -> str:
    """A number.

    Args:
        value: the number; ``None`` if it is not known.
        form: as in `format`; an exponent is set as a power of ten.

    Returns:
        It, with a true minus sign; a dash if it is not known.
    """
    if value is None:
        return "–"
    mantissa, exponent, power = format(value, form).partition("e")
    written = f"{mantissa}&times;10<sup>{int(power)}</sup>" if exponent else mantissa
    return written.replace("-", "−")


def flagged(content: str, beyond: bool) -> str:
    """HTML that stands out if it is beyond a limit."""
    return f'<span class="beyond">{content}</span>' if beyond else content


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """A list of names and values, both HTML."""
    inside = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in items)
    return f'<dl class="pairs">{inside}</dl>'


def table(
    name: str,
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    texts: Sequence[int] = (),
) -> str:
    """A table that scrolls by itself.

    Args:
        name: of the table, in the page alone.
        caption: HTML.
        header: HTML of the columns' names.
        rows: HTML of the cells, the first of which names the row.
        texts: columns that are no numbers.
    """

    def cell(column: int, content: str) -> str:
        if column == 0:
            return f'<th scope="row">{content}</th>'
        return f'<td class="text">{content}</td>' if column in texts else f"<td>{content}</td>"

    head = "".join(
        f'<th scope="col"{" class=text" if i in texts else ""}>{title}</th>'
        for i, title in enumerate(header)
    )
    body = "\n".join(
        "<tr>" + "".join(cell(i, content) for i, content in enumerate(row)) + "</tr>"
        for row in rows
    )
    # not <caption>, which would be as narrow or as wide as the table
    return (
        f'<p class="caption" id="table-{name}">{caption}</p>\n<div class="scroll" role="region" '
        f'aria-labelledby="table-{name}" tabindex="0"><table aria-labelledby="table-{name}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
