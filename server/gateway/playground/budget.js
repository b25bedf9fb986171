// The controls of one budget: a slider and a number for each limit, and what came of it.

import { count, el, write } from './dom.js';
import { clampWords } from './marks.js';

const STOPS = [0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768];
const ROWS = [
  { name: 'max', label: 'Maximum', blank: 'what fits', limit: 16777216, hint: 'The most tokens it may think: there the server ends the thinking.' },
  { name: 'min', label: 'Minimum', blank: 'none', limit: 16777216, hint: 'The fewest: if it wants to stop earlier, the server writes “Wait”.' },
  { name: 'waits', label: 'Waits', blank: 'none', limit: 1024, hint: 'How often, when it wants to stop, the server writes “Wait” and it thinks on.' },
];
const WIRE = { max: 'max_thinking_tokens', min: 'min_thinking_tokens', waits: 'num_waits' };
const EFFECTIVE = { max: 'max', min: 'min', waits: 'num_waits' };

/** The request's fields of a budget; what is not set is left to the server. */
export function budgetFields(budget) {
  const set = Object.entries(budget).filter(([, value]) => value !== null);
  return Object.fromEntries(set.map(([name, value]) => [WIRE[name], value]));
}

export function budgetWords(budget) {
  const words = [];
  if (budget.max === 0) return 'no thinking';
  if (budget.max !== null) words.push(`at most ${count(budget.max)}`);
  if (budget.min !== null) words.push(`at least ${count(budget.min)}`);
  if (budget.waits !== null) words.push(budget.waits === 1 ? '1 wait' : `${count(budget.waits)} waits`);
  return words.length ? words.join(', ') : 'no budget';
}

export class BudgetControls {
  /** `letter` is null unless two budgets are compared. */
  constructor(letter, initial, changed) {
    this.letter = letter;
    this._changed = changed;
    this._largest = 2048;
    this._rows = Object.fromEntries(ROWS.map((row) => [row.name, this._row(row)]));
    this._legend = el('legend', {}, `Budget ${letter}`);
    this._warning = el('p', { class: 'budget-warning', role: 'status' });
    this._clamped = el('p', { class: 'budget-clamped' });
    const rows = ROWS.map(({ name }) => this._rows[name].element);
    const children = [this._legend, ...rows, this._warning, this._clamped];
    this.element = el('fieldset', { class: 'budget', 'data-letter': letter }, ...children);
    this.value = initial;
  }

  get value() {
    return Object.fromEntries(ROWS.map(({ name }) => [name, this._read(name)]));
  }

  set value(budget) {
    for (const [name, value] of Object.entries(budget)) this._write(name, value);
    this._check();
  }

  /** The model's context: no slider goes beyond it. */
  fit(modelLength) {
    this._largest = modelLength ?? 32768;
    for (const { name } of ROWS) this._write(name, this._read(name));
  }

  name(shown) {
    this._legend.classList.toggle('visually-hidden', !shown);
  }

  /** What was enforced, from the receipt or, before it, from the response's headers. */
  show(run) {
    const known = run?.receipt ? run.receipt.effective : run?.announced;
    for (const { name } of ROWS) {
      const enforced = known?.[EFFECTIVE[name]];
      const inForce = this._rows[name].enforced;
      write(inForce, enforced === undefined || enforced === null ? '' : `enforced ${count(enforced)}`);
      inForce.classList.toggle('changed', enforced !== undefined && run.asked[name] !== null && enforced !== run.asked[name]);
    }
    const by = (run?.receipt ?? run?.announced)?.clamped_by ?? [];
    const unlimited = run?.receipt && !known ? 'No budget was asked: the thinking was counted, not limited.' : '';
    write(this._clamped, by.length ? `Changed by ${clampWords(by)}.` : unlimited);
  }

  _stops(name) {
    if (name === 'waits') return [0, 1, 2, 3, 4, 5, 6, 7, 8];
    const within = STOPS.filter((stop) => stop <= this._largest);
    // The last stop of the maximum is "none set".
    return name === 'max' ? [...within, null] : within;
  }

  _row({ name, label, blank, limit, hint }) {
    const id = `budget-${this.letter}-${name}`;
    // One explanation is enough for both budgets.
    const explained = `budget-A-${name}-hint`;
    const slider = el('input', { type: 'range', id: `${id}-slider`, min: 0, step: 1, 'aria-label': `${label}, slider`, 'aria-describedby': explained });
    const number = el('input', { type: 'number', id, min: 0, max: limit, step: 1, placeholder: blank, inputmode: 'numeric', 'aria-describedby': `${explained} ${id}-enforced` });
    const enforced = el('span', { class: 'enforced', id: `${id}-enforced` });
    slider.addEventListener('input', () => {
      this._write(name, this._stops(name)[Number(slider.value)]);
      this._edited();
    });
    number.addEventListener('input', () => {
      this._place(name);
      this._edited();
    });
    const head = el('div', { class: 'row-head' }, el('label', { for: id }, label), enforced, number);
    const words = this.letter === 'A' ? el('p', { class: 'hint', id: explained }, hint) : null;
    return { element: el('div', { class: 'row' }, head, slider, words), slider, number, enforced, blank };
  }

  _edited() {
    this._check();
    this._changed();
  }

  _read(name) {
    const { number } = this._rows[name];
    if (number.value.trim() === '') return null;
    const value = Number(number.value);
    // 0 of these is what the server does anyway.
    return value === 0 && name !== 'max' ? null : value;
  }

  _write(name, value) {
    this._rows[name].number.value = value === null || (value === 0 && name !== 'max') ? '' : value;
    this._place(name);
  }

  /** Put the slider where the number is. */
  _place(name) {
    const { slider, blank } = this._rows[name];
    const stops = this._stops(name);
    const value = this._read(name);
    slider.max = stops.length - 1;
    if (value === null) slider.value = name === 'max' ? stops.length - 1 : 0;
    else slider.value = stops.findLastIndex((stop) => stop !== null && stop <= value);
    slider.setAttribute('aria-valuetext', value === null ? blank : count(value));
    const share = (100 * Number(slider.value)) / Math.max(1, stops.length - 1);
    slider.style.setProperty('--filled', `${share}%`);
  }

  _check() {
    const { max, min } = this.value;
    const beyond = max !== null && min !== null && min > max;
    write(this._warning, beyond ? 'The minimum is above the maximum: the server will refuse this.' : '');
  }
}
