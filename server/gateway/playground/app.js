// The page put together.

import { BudgetControls } from './budget.js';
import { Chart } from './chart.js';
import { Connection } from './connection.js';
import { byId, el } from './dom.js';
import { key } from './api.js';
import { KeyDialog } from './key_dialog.js';
import { curl, python } from './snippets.js';
import { Talk } from './talk.js';
import { followTheme } from './theme.js';

const DEMO = 'tiny-reasoner';
/** What the first example compares, A beside B. */
const COMPARED_WORDS = 'Asked twice, side by side: without thinking, and with up to 256 tokens and one wait';
const COMPARED = [{ max: 0, min: null, waits: null }, { max: 256, min: null, waits: 1 }];
const EXAMPLES = {
  [DEMO]: [
    'How many r in raspberry?',
    'Start at 5. a: +2 -1; b: +8 *7. Last digit?',
    'The ball is under P. Swap a: PQ QR RS; b: RS PR QS. Which cup?',
  ],
  any: [
    'How many r in raspberry?',
    'What is the smallest prime above 200?',
    'A bat and a ball cost 1.10 in all. The bat costs 1.00 more than the ball. What does the ball cost?',
  ],
};

function start() {
  followTheme(byId('theme'));
  const controls = [
    new BudgetControls('A', { max: 256, min: null, waits: 1 }, () => page.refresh()),
    new BudgetControls('B', { max: 32, min: null, waits: null }, () => page.refresh()),
  ];
  const page = new Page(controls);
  page.begin();
}

class Page {
  constructor(controls) {
    this._controls = controls;
    this._language = 'curl';
    this._chosen = null;
    this._chart = new Chart();
    this._connection = new Connection({
      changed: () => this._learned(),
      locked: (failure) => this._keys.open(failure.title),
    });
    this._keys = new KeyDialog(() => this._connection.tryKey());
    this._talk = new Talk({
      connection: this._connection,
      settings: readSettings,
      // A continuation's budget is not the one that is set here.
      showing: (column, run) => run.continues || this._controls[column]?.show(run),
      settled: (run) => this._chart.add(run),
      marked: () => this._chart.draw(),
      edit: (question) => this._put(question),
      busy: (busy) => this._busy(busy),
    });
  }

  begin() {
    byId('budgets').append(...this._controls.map(({ element }) => element));
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this._ask();
    });
    byId('prompt').addEventListener('keydown', (event) => this._typed(event));
    byId('prompt').addEventListener('input', () => this.refresh());
    byId('stop').addEventListener('click', () => this._talk.stop());
    byId('new-chat').addEventListener('click', () => this._clear());
    byId('compare').addEventListener('change', () => this._compared());
    byId('copy').addEventListener('click', () => copyCode());
    byId('open-panel').addEventListener('click', (event) => togglePanel(event.currentTarget));
    addEventListener('keydown', (event) => this._escaped(event));
    for (const id of ['temperature', 'max-completion', 'remember']) byId(id).addEventListener('input', () => this.refresh());
    for (const language of ['curl', 'python']) byId(`code-${language}`).addEventListener('click', () => this._speak(language));
    this._compared();
    this._connection.look();
  }

  /** What depends on the question and the controls. */
  refresh() {
    const prompt = byId('prompt');
    prompt.style.blockSize = 'auto';
    prompt.style.blockSize = `${Math.min(prompt.scrollHeight, 240)}px`;
    const question = prompt.value.trim() || this._talk.lastQuestion || 'How many r in raspberry?';
    const body = this._talk.body(question, this._controls[0].value, 0, prompt.value.trim() ? undefined : []);
    const url = new URL('v1', document.baseURI).href;
    const write = this._language === 'curl' ? curl : python;
    byId('code').textContent = write(url, body, key.get() !== null);
  }

  _ask(note = null) {
    const prompt = byId('prompt');
    const question = prompt.value.trim();
    if (!question || this._talk.isBusy) return;
    byId('welcome').hidden = true;
    this._talk.ask(question, this._shown().map(({ letter, value }) => ({ letter, value })), note);
    prompt.value = '';
    this.refresh();
  }

  _shown() {
    return byId('compare').checked ? this._controls : this._controls.slice(0, 1);
  }

  _compared() {
    const both = byId('compare').checked;
    this._controls[0].name(both);
    this._controls[1].name(both);
    this._controls[1].element.hidden = !both;
    this.refresh();
  }

  /** Ask and Stop are in one place; whoever is on the one that goes is not left on nothing. */
  _busy(busy) {
    const [shown, gone] = busy ? [byId('stop'), byId('ask')] : [byId('ask'), byId('stop')];
    const wasOnIt = document.activeElement === gone;
    shown.hidden = false;
    gone.hidden = true;
    if (wasOnIt) byId(busy ? 'stop' : 'prompt').focus();
    if (!busy) this.refresh();
  }

  _escaped(event) {
    if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing || this._keys.isOpen) return;
    this._talk.stop();
  }

  _clear() {
    this._talk.clear();
    byId('welcome').hidden = false;
    this._busy(false);
    byId('prompt').focus();
  }

  _typed(event) {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this._ask();
  }

  _learned() {
    const model = this._connection.model;
    this._controls.forEach((control) => control.fit(model?.max_model_len));
    // The demo model knows single questions only; an earlier turn confuses it.
    if (this._chosen !== model?.id) byId('remember').checked = model?.id !== DEMO;
    this._chosen = model?.id;
    const questions = EXAMPLES[model?.id] ?? EXAMPLES.any;
    const [first, ...others] = questions;
    // Without enforcement there is nothing to compare.
    const beginning = model?.thinking?.enforcement === 'none' ? this._example(first) : this._comparison(first);
    const items = [beginning, ...others.map((question) => this._example(question))];
    byId('examples').replaceChildren(...items.map((item) => el('li', {}, item)));
    this.refresh();
  }

  _example(question) {
    return el('button', { type: 'button', class: 'example', onclick: () => this._put(question) }, question);
  }

  _comparison(question) {
    const note = el('span', { class: 'example-note' }, COMPARED_WORDS);
    return el('button', { type: 'button', class: 'example', onclick: () => this._compareOn(question) }, question, note);
  }

  _compareOn(question) {
    byId('compare').checked = true;
    this._controls.forEach((control, index) => {
      control.value = COMPARED[index];
    });
    this._compared();
    this._put(question);
    const side = [el('span', { class: 'beside' }, 'right side'), el('span', { class: 'below' }, 'second answer')];
    this._ask(el('p', { class: 'turn-note' }, 'Same model, same question; the ', ...side, ' was made to reconsider.'));
  }

  _put(question) {
    byId('prompt').value = question;
    this.refresh();
    byId('prompt').focus();
  }

  _speak(language) {
    this._language = language;
    for (const each of ['curl', 'python']) byId(`code-${each}`).setAttribute('aria-pressed', String(each === language));
    this.refresh();
  }
}

function readSettings() {
  const number = (id) => (byId(id).value.trim() === '' ? null : Number(byId(id).value));
  return { temperature: number('temperature'), maxCompletion: number('max-completion'), remember: byId('remember').checked };
}

/** Without a clipboard, which a page over plain HTTP doesn't have, the code is selected to be copied by hand. */
async function copyCode() {
  const [button, code] = [byId('copy'), byId('code')];
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(code);
    code.focus();
    button.textContent = 'Selected: copy it with your keyboard';
  }
  setTimeout(() => {
    button.textContent = 'Copy';
  }, 2500);
}

function togglePanel(button) {
  const open = byId('panel').classList.toggle('open');
  button.setAttribute('aria-expanded', String(open));
  if (open) byId('panel').scrollIntoView({ block: 'start' });
}

start();
