// The last runs as a small chart, drawn with SVG elements: length or accuracy against the budget.

import { byId, count, el, svg } from './dom.js';

const KEPT = 40;
const BOX = { width: 320, height: 190, left: 40, right: 12, top: 12, bottom: 34 };

export class Chart {
  constructor() {
    this._runs = [];
    this._shows = 'length';
    for (const kind of ['length', 'accuracy']) {
      byId(`chart-${kind}`).addEventListener('click', () => this._show(kind));
    }
    this.draw();
  }

  add(run) {
    // What was not asked to stay below a maximum can't be seen against one.
    if (!run.receipt?.effective || run.asked.max === null) return;
    this._runs = [...this._runs, run].slice(-KEPT);
    this.draw();
  }

  draw() {
    const drawn = this._shows === 'length' ? lengths(this._runs) : accuracy(this._runs);
    byId('chart').replaceChildren(...drawn);
  }

  _show(kind) {
    this._shows = kind;
    for (const each of ['length', 'accuracy']) byId(`chart-${each}`).setAttribute('aria-pressed', String(each === kind));
    this.draw();
  }
}

function lengths(runs) {
  if (!runs.length) return [note('Each answer with a maximum puts a point here: how long it thought against what it was allowed.')];
  const points = runs.map((run) => ({ x: run.receipt.effective.max, y: run.receipt.thinking_tokens, waits: run.receipt.waits }));
  const top = Math.max(16, ...points.map(({ x, y }) => Math.max(x, y)));
  const across = log(top, BOX.left, BOX.width - BOX.right);
  const up = log(top, BOX.height - BOX.bottom, BOX.top);
  const limit = svg('path', { class: 'chart-limit', d: `M${across(0)} ${up(0)}L${across(top)} ${up(top)}` });
  const dots = points.map(({ x, y, waits }) => svg('circle', { class: waits ? 'dot waited' : 'dot', cx: across(x), cy: up(y), r: 4.5 }));
  const axes = [...columns(top, across), ...rows(ticksTo(top).map((value) => [up(value), count(value)]))];
  const told = points.map(({ x, y, waits }) => `${count(y)} of ${count(x)} tokens, ${count(waits)} waits`);
  return [
    picture(`Thinking tokens against the maximum: ${told.slice(-8).join('; ')}`, [...axes, limit, ...dots]),
    note('Thinking tokens, up, against the maximum in force, across. The dashed line is the budget; filled points had waits.'),
  ];
}

function accuracy(runs) {
  const marked = runs.filter((run) => run.right !== null);
  if (!marked.length) return [note('Mark answers as right or wrong, and their share shows here for each maximum.')];
  const groups = new Map();
  for (const run of marked) {
    const max = run.receipt.effective.max;
    groups.set(max, [...(groups.get(max) ?? []), run.right]);
  }
  const points = [...groups].sort(([a], [b]) => a - b).map(([max, rights]) => ({ max, of: rights.length, right: rights.filter(Boolean).length }));
  const top = Math.max(16, ...points.map(({ max }) => max));
  const across = log(top, BOX.left, BOX.width - BOX.right);
  const up = (share) => BOX.height - BOX.bottom - share * (BOX.height - BOX.bottom - BOX.top);
  const at = points.map(({ max, of, right }) => [across(max), up(right / of)]);
  const line = svg('path', { class: 'chart-line', d: at.map(([x, y], index) => `${index ? 'L' : 'M'}${x} ${y}`).join('') });
  const dots = at.map(([cx, cy]) => svg('circle', { class: 'dot waited', cx, cy, r: 4.5 }));
  const axes = [...columns(top, across), ...rows([0, 0.5, 1].map((share) => [up(share), `${100 * share} %`]))];
  const told = points.map(({ max, of, right }) => `${right} of ${of} right at ${count(max)} tokens`);
  return [
    picture(`Accuracy against the maximum: ${told.join('; ')}`, [...axes, line, ...dots]),
    note(`${told.join('; ')}. ${marked.length < 30 ? 'Few answers: read nothing into small differences.' : ''}`),
  ];
}

/** Both ends of the budgets matter, 0 and thousands: a logarithm of one more. */
function log(top, from, to) {
  const scale = Math.log2(1 + top);
  return (value) => Number((from + ((to - from) * Math.log2(1 + value)) / scale).toFixed(1));
}

function ticksTo(top) {
  return [0, 4, 16, 64, 256, 1024, 4096, 16384].filter((tick) => tick <= top);
}

function columns(top, across) {
  const y = BOX.height - BOX.bottom;
  return ticksTo(top).map((value) => svg('g', {},
    svg('path', { class: 'chart-tick', d: `M${across(value)} ${y}v4` }),
    svg('text', { class: 'chart-text', x: across(value), y: y + 18, 'text-anchor': 'middle' }, count(value)),
  ));
}

function rows(values) {
  return values.map(([y, words]) => svg('g', {},
    svg('path', { class: 'chart-grid', d: `M${BOX.left} ${y}H${BOX.width - BOX.right}` }),
    svg('text', { class: 'chart-text', x: BOX.left - 7, y: y + 3.5, 'text-anchor': 'end' }, words),
  ));
}

function picture(words, children) {
  return svg('svg', { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: 'img', 'aria-label': words, class: 'chart-picture' }, ...children);
}

const note = (words) => el('p', { class: 'chart-note' }, words);
