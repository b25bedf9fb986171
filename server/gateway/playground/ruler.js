// The meter of a run: thinking tokens against the budget, to scale, with waits and minimum where they are.

import { count, el } from './dom.js';

const NOT_COUNTED = 'thinking not counted by this server';

export class Ruler {
  constructor() {
    this._fill = el('div', { class: 'ruler-fill' });
    this._off = el('div', { class: 'ruler-off', title: 'Asked for, but not enforced' });
    this._ticks = el('div', { class: 'ruler-ticks' });
    this._used = el('span', { class: 'ruler-used' });
    this._of = el('span', { class: 'ruler-of' });
    this._rest = el('span', { class: 'ruler-rest' });
    const track = el('div', { class: 'ruler-track' }, this._off, this._fill, this._ticks);
    const figures = el('p', { class: 'ruler-figures', 'aria-hidden': 'true' }, this._used, this._of, this._rest);
    this._meter = el('div', { class: 'ruler-meter', role: 'meter', 'aria-label': 'Thinking tokens', 'aria-valuemin': 0 }, track);
    this.element = el('div', { class: 'ruler' }, figures, this._meter);
  }

  update(run) {
    const budget = limits(run);
    const scale = budget.shownTo ?? roundUp(Math.max(64, run.thinkingTokens));
    const used = run.thinkingTokens;
    const percent = (tokens) => `${Math.min(100, (100 * tokens) / Math.max(1, scale))}%`;
    this._fill.style.inlineSize = percent(used);
    this._off.style.insetInlineStart = percent(run.asked.max === 0 ? scale : budget.max ?? scale);
    this._used.textContent = run.isCounted ? count(used) : '';
    this._of.textContent = run.isCounted ? ofWords(budget) : NOT_COUNTED;
    this._rest.textContent = run.answerTokens ? `${count(run.answerTokens)} in the answer` : '';
    this._meter.setAttribute('aria-valuenow', Math.min(used, scale));
    this._meter.setAttribute('aria-valuemax', scale);
    this._meter.setAttribute('aria-valuetext', `${this._used.textContent}${this._of.textContent}`);
    this._meter.classList.toggle('full', budget.max !== null && used >= budget.max);
    this._ticks.replaceChildren(...ticks(run, budget, percent));
  }
}

function ofWords({ max }) {
  return max === null ? ' thinking tokens' : ` of ${count(max)} thinking tokens`;
}

/** `max` is what holds, `shownTo` the end of the scale: what was asked, if that was more. */
function limits(run) {
  const enforced = run.receipt ? run.receipt.effective : run.announced;
  const max = enforced?.max ?? run.asked.max;
  const min = enforced?.min ?? run.asked.min ?? 0;
  // A maximum that nobody asked for is only the room there is; the scale follows the thinking then.
  const shownTo = run.asked.max === null ? null : Math.max(max, run.asked.max, 1);
  return { max: run.asked.max === null && !clamped(run) ? null : max, min, shownTo };
}

function clamped(run) {
  return ((run.receipt ?? run.announced)?.clamped_by ?? []).length > 0;
}

function ticks(run, budget, percent) {
  const found = [];
  if (budget.min) found.push(tick('min', budget.min, percent, `minimum ${count(budget.min)}`));
  const positions = run.receipt?.positions;
  for (const wait of positions?.waits ?? []) {
    const at = wait - positions.thinking_begin;
    found.push(tick('wait', at, percent, `wait injected after ${count(at)} tokens`));
  }
  return found;
}

function tick(kind, at, percent, words) {
  const element = el('span', { class: `tick tick-${kind}`, title: words });
  element.style.insetInlineStart = percent(at);
  return element;
}

function roundUp(tokens) {
  return 2 ** Math.ceil(Math.log2(tokens));
}
