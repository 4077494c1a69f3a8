"""Elements of our own in viser's panel that say what was clicked: small HTML with one way back to the server.

viser shows HTML but doesn't listen to it. A hidden text field carries the words: our elements put them into it, and viser sends
what is in its fields. What comes is text from a browser, to be read as such.
"""

from __future__ import annotations

import html
from collections.abc import Callable

import viser
from viser import GuiEvent

_MARK = "sirenscape:"

# `send` gives the words to the field as if they were typed; a number makes each message another text. Of elements with data-do,
# a click sends that; rows with data-node can be dragged onto each other. The list keeps its place when it is drawn anew.
_SCRIPT = """
window.sirenscape = window.sirenscape || {
  n: 0, top: 0,
  send(words) {
    const field = [...document.querySelectorAll('input')].find(i => i.value.startsWith('MARK'));
    if (!field) return;
    const put = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
    put.call(field, 'MARK' + (++this.n) + '.' + Math.floor(1e9 * Math.random()) + ' ' + words);
    field.dispatchEvent(new Event('input', { bubbles: true }));
  },
  click(event) {
    const at = event.target.closest('[data-do]');
    const key = event.ctrlKey || event.metaKey ? ' more' : event.shiftKey ? ' shift' : '';
    if (at) { event.stopPropagation(); this.send(at.dataset.do + key); }
  },
  drag(event) {
    const row = event.target.closest('[data-node]');
    event.dataTransfer.setData('text/plain', row ? row.dataset.node : '');
    event.dataTransfer.effectAllowed = 'move';
  },
  over(event) {
    const row = event.target.closest('[data-node]');
    if (!row) return;
    event.preventDefault();
    if (this.last && this.last !== row) this.last.classList.remove('ss-over');
    this.last = row; row.classList.add('ss-over');
  },
  leave() { if (this.last) this.last.classList.remove('ss-over'); this.last = null; },
  drop(event) {
    event.preventDefault(); this.leave();
    const row = event.target.closest('[data-node]'), node = event.dataTransfer.getData('text/plain');
    if (row && /^[0-9]+$/.test(node) && node !== row.dataset.node) this.send('drop ' + node + ' ' + row.dataset.node);
  },
  again() {
    const list = document.querySelector('.ss-tree'), row = list && list.querySelector('.selected');
    if (list) list.scrollTop = this.top;
    if (row && row.dataset.node !== this.seen) row.scrollIntoView({ block: 'nearest' });
    this.seen = row ? row.dataset.node : null;
  }
};
window.sirenscape.again();
""".replace("MARK", _MARK)

_STYLE = """
div:has(> .mantine-Flex-root input[value^="MARK"]) { display: none; }
.ss { padding: 2px 10px 8px; font-size: 13px; user-select: none; }
.ss svg { width: 17px; height: 17px; fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linecap: round;
  stroke-linejoin: round; display: block; }
.ss-bar { display: flex; flex-wrap: wrap; gap: 3px; }
.ss-bar button { all: unset; cursor: pointer; padding: 4px 3px; border-radius: 5px; color: var(--mantine-color-text); }
.ss-bar button:hover { background: rgba(128, 140, 160, 0.18); }
.ss-bar button:active { background: rgba(128, 140, 160, 0.34); }
.ss-bar button[disabled] { opacity: 0.3; pointer-events: none; }
.ss-bar button.on { background: var(--mantine-primary-color-light); color: var(--mantine-primary-color-filled); }
.ss-bar small { font-size: 11.5px; line-height: 17px; display: block; }
.ss-bar .gap { width: 1px; margin: 4px 2px; background: rgba(128, 140, 160, 0.35); }
.ss-tree { max-height: 34vh; overflow: auto; border: 1px solid rgba(128, 140, 160, 0.3); border-radius: 6px; padding: 3px 0; }
.ss-row { display: flex; align-items: center; gap: 5px; padding: 2px 6px; cursor: pointer; white-space: nowrap; line-height: 19px; }
.ss-row svg { width: 14px; height: 14px; flex: none; opacity: 0.65; }
.ss-row .name { overflow: hidden; text-overflow: ellipsis; flex: 1; }
.ss-row .fold { width: 14px; text-align: center; opacity: 0.6; flex: none; }
.ss-row .eye { visibility: hidden; }
.ss-row:hover { background: rgba(128, 140, 160, 0.14); }
.ss-row:hover .eye, .ss-row.hidden .eye { visibility: visible; }
.ss-row.hidden .name { opacity: 0.45; }
.ss-row.selected { background: var(--mantine-primary-color-light); color: var(--mantine-primary-color-filled); font-weight: 600; }
.ss-row.ss-over { outline: 2px solid var(--mantine-primary-color-filled); outline-offset: -2px; }
.ss-note { opacity: 0.65; font-size: 12px; padding-top: 4px; line-height: 1.45; font-variant-numeric: tabular-nums; }
""".replace("MARK", _MARK)


class Channel:
    """The hidden field. Made before the first of our elements, in the same panel.

    Args:
        take: Told the words of each click: what to do, and numbers.
    """

    def __init__(self, gui: viser.GuiApi, take: Callable[[int | None, list[str]], None]) -> None:
        load = html.escape(_SCRIPT, quote=True)
        gui.add_html(f'<style onload="{load}">{_STYLE}</style>')
        self._field = gui.add_text("", initial_value=f"{_MARK}0")

        @self._field.on_update
        async def _(event: GuiEvent) -> None:
            mark, *words = str(event.target.value).split()
            if mark.startswith(_MARK) and 1 <= len(words) <= 4:
                take(event.client_id, words)


def button(do: str, title: str, icon: str, *, disabled: bool = False, on: bool = False) -> str:
    """A small button that sends words."""
    state = " disabled" * disabled + ' class="on"' * on
    return (
        f'<button data-do="{escaped(do)}" title="{escaped(title)}" aria-label="{escaped(title)}"{state}>{icon}</button>'
    )


def bar(buttons: list[str]) -> str:
    """Buttons side by side; empty text stands for a gap."""
    parts = "".join(button or '<span class="gap"></span>' for button in buttons)
    return f'<div class="ss ss-bar" onclick="sirenscape.click(event)">{parts}</div>'


def escaped(text: str) -> str:
    return html.escape(text, quote=True)
