// A run on the page: its meter, thinking and answer in panes of their own, receipt and buttons.

import { count, el, plural } from './dom.js';
import { ending, guessed, parts } from './marks.js';
import { receiptWords } from './receipt.js';
import { Ruler } from './ruler.js';

const NOT_SPLIT = 'Without a budget, the engine here doesn’t split thinking from answer.';
const STATES = {
  waiting: 'waiting for the first token',
  thinking: 'thinking',
  answering: 'answering',
  done: 'done',
  stopped: 'stopped',
  failed: 'failed',
};

export class RunView {
  /** `actions` has answerNow, thinkMore, again, edit and mark, each given the run; `can` is what the server offers. */
  constructor(run, heading, actions, can) {
    this._run = run;
    this._actions = actions;
    this._can = can;
    this._shown = 0;
    this._frame = null;
    this._ruler = new Ruler();
    this._state = el('span', { class: 'run-state' });
    this._thinking = pane('Thinking', 'thinking', 'Nothing thought yet');
    this._answer = pane('Answer', 'answer', 'No answer yet');
    this._now = this._answerNowButton();
    this._thinking.head.append(this._now);
    this._problem = el('div', { class: 'problem', role: 'alert' });
    this._foot = el('footer', { class: 'run-foot' });
    const head = el('header', { class: 'run-head' }, el('h3', {}, heading), this._state);
    const panes = el('div', { class: 'panes' }, this._thinking.element, this._answer.element);
    this.element = el('section', { class: 'run', tabindex: -1, 'aria-label': heading }, head, this._ruler.element, panes, this._problem, this._foot);
    this.update();
  }

  /** Once per frame at most; a run that has ended is shown at once. */
  update() {
    if (!this._run.isOpen) {
      cancelAnimationFrame(this._frame);
      this._frame = null;
      this._settle();
    } else if (this._frame === null) {
      this._frame = requestAnimationFrame(() => {
        this._frame = null;
        this._grow();
      });
    }
  }

  _grow() {
    const fresh = this._run.pieces.slice(this._shown);
    this._shown = this._run.pieces.length;
    for (const kind of ['thinking', 'answer']) {
      const text = fresh.map((piece) => (piece.kind === kind ? piece.text : '')).join('');
      if (text) following(this[`_${kind}`].text, (into) => append(into, kind === 'thinking' ? guessed(text) : [plain(text)]));
    }
    this._status();
  }

  _settle() {
    const run = this._run;
    const thinking = parts(run.pieces, run.receipt);
    following(this._thinking.text, (into) => {
      into.replaceChildren();
      append(into, thinking);
      const end = ending(run.receipt);
      if (end) into.append(el('p', { class: end.forced ? 'end forced' : 'end' }, end.words));
    });
    following(this._answer.text, (into) => {
      into.replaceChildren();
      append(into, [plain(run.answer.trim())]);
    });
    this._thinking.note.textContent = run.isCounted ? legend(thinking, run.receipt) : NOT_SPLIT;
    this._thinking.text.dataset.empty = run.isCounted ? 'No thinking' : 'Not split from the answer';
    this._answer.text.dataset.empty = 'No answer';
    this._shown = run.pieces.length;
    this._status();
    this._finish();
  }

  _status() {
    const run = this._run;
    this.element.dataset.state = run.state;
    this._state.textContent = STATES[run.state];
    this._ruler.update(run);
    this._hideNow(!['waiting', 'thinking'].includes(run.state));
    this._now.disabled = !this._can.answerNow || run.id === null;
  }

  /** Whoever is on the button goes on with the thinking. */
  _hideNow(hidden) {
    if (hidden && document.activeElement === this._now) this._thinking.text.focus({ preventScroll: true });
    this._now.hidden = hidden;
  }

  _finish() {
    const run = this._run;
    const problems = [run.failure, run.notice].filter(Boolean).map((failure) => this._told(failure));
    this._problem.replaceChildren(...problems);
    const foot = [];
    if (run.receipt) foot.push(receiptWords(run));
    if (run.state === 'done') foot.push(this._marking(), this._more());
    if (run.state === 'stopped') foot.push(el('p', { class: 'run-words' }, 'You stopped it.'), this._anewButtons());
    this._foot.replaceChildren(...foot);
  }

  /** Something to say while the run goes on, such as a button that did not work. */
  tell(failure) {
    this._run.notice = failure;
    this._problem.replaceChildren(this._told(failure));
  }

  _told(failure) {
    const said = [el('strong', {}, failure.title), el('p', {}, failure.message)];
    if (failure === this._run.failure) said.push(this._anewButtons());
    return el('div', { class: 'told' }, ...said);
  }

  _anewButtons() {
    const button = (action, words) => el('button', { type: 'button', class: 'quiet', onclick: () => this._actions[action](this._run) }, words);
    return el('div', { class: 'anew' }, button('again', 'Try again'), button('edit', 'Edit'));
  }

  _answerNowButton() {
    const why = this._can.answerNow ? 'End the thinking here and answer' : 'This server has no route to end the thinking early';
    return el('button', { type: 'button', class: 'quiet now', title: why, onclick: () => this._actions.answerNow(this._run) }, 'Answer now');
  }

  _more() {
    const waits = el('input', { type: 'number', min: 1, max: 32, value: 1, 'aria-label': 'Waits to add', class: 'small-number' });
    const more = el('button', { type: 'button', class: 'quiet more-button', disabled: !this._can.thinkMore }, 'Think more');
    more.addEventListener('click', () => this._actions.thinkMore(this._run, Math.max(1, Number(waits.value) || 1)));
    if (this._can.thinkMore) return el('div', { class: 'run-more' }, more, el('span', {}, 'with '), waits, el('span', {}, ' more waits'));
    return el('div', { class: 'run-more' }, more, el('span', { class: 'why' }, 'This server can’t continue an answer’s thinking.'));
  }

  _marking() {
    const values = [true, false];
    const buttons = values.map((value) => el('button', {
      type: 'button',
      onclick: () => {
        this._actions.mark(this._run, this._run.right === value ? null : value);
        press();
      },
    }, value ? 'Right' : 'Wrong'));
    const press = () => buttons.forEach((button, index) => button.setAttribute('aria-pressed', String(this._run.right === values[index])));
    press();
    return el('div', { class: 'segments marking', role: 'group', 'aria-label': 'Is this answer right?' }, ...buttons);
  }
}

function pane(title, kind, empty) {
  const text = el('div', { class: 'pane-text', tabindex: 0, role: 'group', 'aria-label': title, 'data-empty': empty });
  const head = el('div', { class: 'pane-head' }, el('h4', {}, title));
  const note = el('p', { class: 'pane-note' });
  return { element: el('div', { class: `pane pane-${kind}` }, head, text, note), head, text, note };
}

const plain = (text) => ({ kind: 'plain', text });

function append(into, pieces) {
  for (const { kind, text } of pieces) {
    if (!text) continue;
    const last = into.lastChild;
    if (kind !== 'plain') into.append(el('mark', { class: kind }, text));
    else if (last?.nodeType === Node.TEXT_NODE) last.appendData(text);
    else into.append(text);
  }
}

/** Change a pane and stay at its end, if that is where the reader is. */
function following(pane, change) {
  const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 24;
  change(pane);
  if (atEnd) pane.scrollTop = pane.scrollHeight;
}

function legend(thinking, receipt) {
  const injected = thinking.filter((part) => part.kind === 'injected').length;
  if (injected) return `${plural(injected, 'marked wait')} injected by the server, exactly where the receipt says.`;
  if (!thinking.some((part) => part.kind === 'possible')) return '';
  if (!receipt) return 'Underlined words may be injected waits: there is no receipt to tell.';
  return `${plural(receipt.waits, 'wait')} injected; which of the underlined words they are is not told.`;
}
