// The conversation: turns of one question and, for each budget, the runs that answer it.

import { post } from './api.js';
import { budgetFields, budgetWords } from './budget.js';
import { byId, count, el, say } from './dom.js';
import { Run } from './run.js';
import { RunView } from './run_view.js';

const CHAT = 'v1/chat/completions';

export class Talk {
  /**
   * `connection` knows the model; `settings()` gives temperature, maxCompletion and remember;
   * `showing(column, run)` is told of every change; `settled(run)` of runs that ended well; `edit(question)` of
   * one that is to be asked otherwise; `busy(whether)` whether anything runs.
   */
  constructor({ connection, settings, showing, settled, marked, edit, busy }) {
    Object.assign(this, { connection, settings, showing, settled, marked, edit, busy });
    this._turns = [];
  }

  get isBusy() {
    return this._turns.some((turn) => turn.columns.some(({ runs }) => runs.some((run) => run.isOpen)));
  }

  get lastQuestion() {
    return this._turns.at(-1)?.question ?? '';
  }

  clear() {
    this.stop();
    for (const turn of this._turns) turn.element.remove();
    this._turns = [];
  }

  stop() {
    for (const turn of this._turns) for (const { runs } of turn.columns) runs.forEach((run) => run.isOpen && run.stop());
  }

  /** The fields of a request for `question` in a column, as they are sent but for streaming. */
  body(question, budget, column, before = this._turns) {
    const { temperature, maxCompletion, remember } = this.settings();
    const earlier = remember ? before.flatMap((turn) => messagesOf(turn, column)) : [];
    return {
      model: this.connection.model?.id ?? '',
      messages: [...earlier, { role: 'user', content: question }],
      ...(temperature === null ? {} : { temperature }),
      ...(maxCompletion === null ? {} : { max_completion_tokens: maxCompletion }),
      ...budgetFields(budget),
    };
  }

  /** `note` is said below the question, if anything. */
  ask(question, budgets, note = null) {
    const columns = budgets.map(({ letter, value }) => ({ letter, budget: value, runs: [], element: el('div', { class: 'column' }) }));
    const holder = el('div', { class: 'columns', 'data-count': columns.length }, ...columns.map(({ element }) => element));
    const asked = el('h2', { class: 'question' }, question);
    const element = el('article', { class: 'turn' }, asked, note, holder);
    const before = [...this._turns];
    const turn = { question, columns, element, unsaid: [] };
    this._turns.push(turn);
    byId('talk').append(element);
    // A long one scrolls, also by keyboard.
    if (asked.scrollHeight > asked.clientHeight) asked.tabIndex = 0;
    columns.forEach((column, index) => {
      const body = this.body(question, column.budget, index, before);
      this._start(turn, index, new Run(question, column.budget), { path: CHAT, body: this._streamed(body) });
    });
    element.scrollIntoView({ block: 'start', behavior: calm() ? 'auto' : 'smooth' });
  }

  _streamed(body) {
    // Ids make live counts and the places of waits exact. Without our plugin or a budget they may be refused.
    const budgeted = ['max_thinking_tokens', 'min_thinking_tokens', 'num_waits'].some((name) => name in body);
    const exact = this.connection.model?.thinking?.enforcement === 'native' || budgeted;
    return { ...body, stream: true, ...(exact ? { return_token_ids: true } : {}) };
  }

  async _start(turn, index, run, request, { instead = null } = {}) {
    const column = turn.columns[index];
    const actions = {
      answerNow: () => this._answerNow(run, view),
      thinkMore: (_, waits) => this._thinkMore(turn, index, run, waits),
      again: () => {
        const { title, continues } = run;
        this._start(turn, index, new Run(turn.question, run.asked, { title, continues }), request, { instead: { run, view } });
      },
      edit: () => this.edit(turn.question),
      mark: (_, right) => {
        run.right = right;
        this.marked(run);
      },
    };
    const view = new RunView(run, `${letterOf(turn, index)}${run.title ?? budgetWords(run.asked)}`, actions, this.connection.can);
    if (instead) {
      column.runs.splice(column.runs.indexOf(instead.run), 1, run);
      instead.view.element.replaceWith(view.element);
      view.element.focus({ preventScroll: true });
    } else {
      column.runs.push(run);
      column.element.append(view.element);
    }
    if (run.continues) view.element.scrollIntoView({ block: 'nearest' });
    this.busy(true);
    await run.ask(request.path, request.body, () => {
      view.update();
      this.showing(index, run);
    });
    this._ended(turn, index, run);
  }

  _ended(turn, index, run) {
    if (run.state === 'done') this.settled(run);
    if (run.failure) this.connection.doubt(run.failure);
    turn.unsaid.push({ index, words: endWords(run) });
    if (!turn.columns.some(({ runs }) => runs.some((other) => other.isOpen))) this._announce(turn);
    if (!this.isBusy) this.busy(false);
  }

  /** What became of a turn's runs, together: each announcement takes the place of the one before. */
  _announce(turn) {
    const inOrder = turn.unsaid.splice(0).sort((one, other) => one.index - other.index);
    say(inOrder.map(({ index, words }) => `${letterOf(turn, index)}${words}`).join(' '));
  }

  async _answerNow(run, view) {
    try {
      await post(`${CHAT}/${encodeURIComponent(run.id)}/answer_now`, {});
      say('The thinking ends here.');
    } catch (failure) {
      view.tell(failure);
    }
  }

  _thinkMore(turn, index, run, waits) {
    const title = `thought further, ${waits === 1 ? '1 more wait' : `${count(waits)} more waits`}`;
    const further = new Run(turn.question, { max: null, min: null, waits }, { title, continues: true });
    const path = `${CHAT}/${encodeURIComponent(run.id)}/think_more`;
    this._start(turn, index, further, { path, body: { num_waits: waits, stream: true, return_token_ids: true } });
  }
}

/** Which of two budgets, where there are two. */
function letterOf(turn, index) {
  return turn.columns.length > 1 ? `${turn.columns[index].letter}: ` : '';
}

function endWords(run) {
  if (run.state === 'stopped') return 'Stopped.';
  if (run.failure) return `${run.failure.title}. ${run.failure.message}`;
  const after = run.isCounted ? ` after ${count(run.thinkingTokens)} thinking tokens` : '';
  return `Answer${after}: ${run.answer.trim()}`;
}

/** A turn as messages, as the column of a budget has it; nothing of a turn without an answer. */
function messagesOf(turn, column) {
  const runs = (turn.columns[column] ?? turn.columns[0]).runs;
  const answer = runs.findLast((run) => run.state === 'done')?.answer;
  if (!answer) return [];
  return [{ role: 'user', content: turn.question }, { role: 'assistant', content: answer }];
}

const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
