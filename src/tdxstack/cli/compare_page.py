"""A comparison as one HTML page that needs nothing else: two logs side by side, on screen or on paper."""

from __future__ import annotations

from html import escape

from tdxstack.measurement.comparison.alignment import Kind
from tdxstack.measurement.comparison.compare import Comparison, Difference
from tdxstack.measurement.comparison.side import Entry
from tdxstack.measurement.comparison.values import PRESENT
from tdxstack.terminal import printable

MARKS = {
    Kind.ADDED: ("added", "only in B"),
    Kind.REMOVED: ("removed", "only in A"),
    Kind.CHANGED: ("changed", "differs"),
    Kind.MOVED: ("moved", "moved"),
}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --paper: #fff; --line: #d0d7de;
  --head: #f6f8fa; --added: #dafbe1; --removed: #ffebe9; --changed: #fff8c5; --moved: #ddf4ff;
  --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --paper: #0d1117;
  --line: #3d444d; --head: #151b23; --added: #12361d; --removed: #4a1a1a; --changed: #3d3110;
  --moved: #10304d; --good: #56d364; --bad: #ff8b82; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 90rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
code { font-family: ui-monospace, monospace; font-size: .86em; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
th, td { padding: .35rem .55rem; border: 1px solid var(--line); text-align: left; vertical-align: top; }
li, td { overflow-wrap: anywhere; }
th { background: var(--head); }
td small { display: block; color: var(--dim); }
.narrow { width: 6.5rem; }
.added { background: var(--added); } .removed { background: var(--removed); }
.changed { background: var(--changed); } .moved { background: var(--moved); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; } .dim { color: var(--dim); }
.emulated { display: inline-block; padding: 0 .5rem; border: 1px solid var(--bad); border-radius: .25rem;
  color: var(--bad); font-size: .9rem; }
.causes li { margin-bottom: .6rem; } ul { padding-left: 1.2rem; } td ul { margin: .2rem 0; }
@media print { body { padding: 0; max-width: none; font-size: 10px; } tr, li { break-inside: avoid; }
  thead { display: table-header-group; } * { print-color-adjust: exact; } }
"""


def render_page(comparison: Comparison) -> str:
    """The whole page. All text of the evidence is escaped; the page holds no script and no link."""
    a, b = comparison.a, comparison.b
    title = f"{_text(a.name)} and {_text(b.name)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Measurements of {title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Measurements of {title}</h1>
<p>A is {_text(a.name)}, {_text(a.kind)}. B is {_text(b.name)}, {_text(b.kind)}. {_emulated(comparison)}</p>
<p>{_summary(comparison)} Nothing here was verified: this page says what differs, not what is genuine.</p>
{_causes(comparison)}
{_registers(comparison)}
{_logs(comparison)}
</body>
</html>
"""


def _emulated(comparison: Comparison) -> str:
    names = [side.name for side in (comparison.a, comparison.b) if side.emulated]
    return (
        f'<span class="emulated">emulated, not protected: {_text(", ".join(names))}</span>' if names else ""
    )


def _summary(comparison: Comparison) -> str:
    if comparison.equal:
        return '<span class="good">No difference was found.</span>'
    events = len(comparison.differences)
    names = [register.name.upper() for register in comparison.registers if register.equal is False]
    words = f"Registers that differ: {', '.join(names) or 'none'}. Events that differ: {events}."
    return f'<span class="bad">{words}</span>'


def _causes(comparison: Comparison) -> str:
    items = [
        f"<li><strong>{_text(cause.sentence)}</strong> <code>{_text(cause.id)}</code><br>"
        f'<span class="dim">{_text(cause.advice)}</span></li>'
        for cause in comparison.causes
    ]
    items += [
        f'<li class="bad">{register.upper()} differs for no known cause.</li>'
        for register in comparison.unexplained_registers
    ]
    items += [
        f'<li class="bad">Event {number} differs for no known cause.</li>'
        for number in comparison.unexplained_differences
    ]
    return f'<h2>Why</h2>\n<ul class="causes">\n{chr(10).join(items)}\n</ul>' if items else ""


def _registers(comparison: Comparison) -> str:
    words = {
        True: '<span class="good">equal</span>',
        False: '<span class="bad">differs</span>',
        None: '<span class="dim">not known</span>',
    }
    rows = [
        f"<tr><th>{register.name.upper()}</th><td>{_digest(register.a)}</td><td>{_digest(register.b)}</td>"
        f"<td>{words[register.equal]}</td></tr>"
        for register in comparison.registers
    ]
    return (
        '<h2>Registers</h2>\n<table>\n<thead><tr><th class="narrow"></th><th>A</th><th>B</th>'
        f'<th class="narrow"></th></tr></thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>'
    )


def _logs(comparison: Comparison) -> str:
    if not comparison.pairs:
        return '<h2>Events</h2>\n<p class="dim">One side has no event log.</p>'
    different = {item.number: item for item in comparison.differences}
    rows = []
    for number, pair in enumerate(comparison.pairs):
        item = different.get(number)
        entry = pair.b or pair.a
        assert entry is not None
        style, words = MARKS[item.kind] if item else ("", "equal")
        head = f"{number}<small>{entry.register.upper()}</small><small>{words}</small>"
        cells = (head, _entry(pair.a), _entry(pair.b) + _values(item))
        rows.append(f'<tr class="{style}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return (
        "<h2>Events</h2>\n<table>\n"
        '<thead><tr><th class="narrow">Event</th><th>A</th><th>B</th></tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>"
    )


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return '<span class="dim">not there</span>'
    text = f"<br><code>{_text(entry.text)}</code>" if entry.text is not None else ""
    return (
        f"{_text(entry.meaning)}{text}<small>{_text(entry.register.upper())} {_text(entry.type)}</small>"
        f"<small>{_digest(entry.digest)}</small>"
    )


def _values(item: Difference | None) -> str:
    if item is None or not item.values:
        return ""
    rows = []
    for value in item.values:
        if PRESENT in (value.a, value.b):
            rows.append(f"<li>only in {'A' if value.b is None else 'B'}: {_text(value.name)}</li>")
        else:
            rows.append(f"<li>{_text(value.name)}: A {_value(value.a)}, B {_value(value.b)}</li>")
    return f"<ul>{''.join(rows)}</ul>"


def _value(text: str | None) -> str:
    return f"<code>{_text(text)}</code>" if text else "none"


def _digest(digest: bytes | None) -> str:
    return f"<code>{digest.hex()}</code>" if digest is not None else '<span class="dim">not known</span>'


def _text(text: str) -> str:
    return escape(printable(text))
