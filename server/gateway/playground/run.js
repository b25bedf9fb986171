// One answer as it comes: what the stream said, counted, and the receipt that settles it.

import { Failure, brokenOff, described, post, unreachable } from './api.js';
import { events } from './sse.js';

const HEADERS = {
  max: 'x-thinking-budget-max',
  min: 'x-thinking-budget-min',
  num_waits: 'x-thinking-budget-num-waits',
};

/** The budget that the response's headers name: known before generation; the room may lower it further. */
function announced(headers) {
  const found = Object.entries(HEADERS).map(([name, header]) => [name, headers.get(header)]);
  const known = found.filter(([, value]) => value !== null).map(([name, value]) => [name, Number(value)]);
  if (!known.length) return null;
  const by = headers.get('x-thinking-budget-clamped-by');
  return { ...Object.fromEntries(known), clamped_by: by ? by.split(', ') : [] };
}

export class Run {
  /**
   * `asked` is the budget in `max`, `min` and `waits`, null where nothing was asked; one that `continues`
   * thinks on from where another run ended.
   */
  constructor(question, asked, { title = null, continues = false } = {}) {
    this.question = question;
    this.asked = asked;
    this.title = title;
    this.continues = continues;
    this.state = 'waiting';
    this.id = null;
    this.pieces = [];
    this.thinkingTokens = 0;
    this.answerTokens = 0;
    this.announced = null;
    this.receipt = null;
    this.usage = null;
    this.failure = null;
    this.notice = null;
    this.right = null;
    this.startedAt = performance.now();
    this.endedAt = null;
    this._seen = 0;
    this._unplaced = 0;
    this._aborter = new AbortController();
  }

  get thinking() {
    return this.textOf('thinking');
  }

  get answer() {
    return this.textOf('answer');
  }

  get isOpen() {
    return ['waiting', 'thinking', 'answering'].includes(this.state);
  }

  /** Whether it is known how much was thought: without a receipt, an engine may not split thinking from answer. */
  get isCounted() {
    return this.state !== 'done' || this.receipt !== null || this.thinkingTokens > 0;
  }

  textOf(kind) {
    return this.pieces.map((piece) => (piece.kind === kind ? piece.text : '')).join('');
  }

  stop() {
    this._aborter.abort();
  }

  /** Ask, and read the stream to its end; `changed` is called as things come. Never throws. */
  async ask(path, body, changed) {
    try {
      const response = await post(path, body, this._aborter.signal);
      this.announced = announced(response.headers);
      changed();
      await this._read(response.body, changed);
      this.state = 'done';
    } catch (error) {
      this.state = error.name === 'AbortError' ? 'stopped' : 'failed';
      if (this.state === 'failed') this.failure = this._failureOf(error);
    }
    this.endedAt = performance.now();
    changed();
  }

  async _read(body, changed) {
    let ended = false;
    for await (const data of events(body)) {
      if (data === '[DONE]') {
        ended = true;
        continue;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw described(chunk.error, 0);
      this.take(chunk);
      changed();
    }
    if (!ended) throw brokenOff();
  }

  _failureOf(error) {
    if (error instanceof Failure) return error;
    return this._seen ? brokenOff() : unreachable();
  }

  take(chunk) {
    this.id = chunk.id ?? this.id;
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    if (choice.thinking_budget) this._settle(choice.thinking_budget);
    const delta = choice.delta ?? {};
    const thinking = delta.reasoning ?? delta.reasoning_content ?? '';
    const ids = choice.token_ids?.length ?? 0;
    // Without ids, a chunk with text stands for one token until the receipt says better.
    const tokens = ids || (thinking || delta.content ? 1 : 0);
    if (thinking) this._add('thinking', thinking, delta.content ? 0 : tokens);
    if (delta.content) this._add('answer', delta.content, tokens);
    if (!thinking && !delta.content && tokens) this._add('none', '', tokens);
  }

  /** Tokens without text of their own are markers, or half a character that belongs to the text after them. */
  _add(kind, text, tokens) {
    this.pieces.push({ kind, text, first: this._seen, tokens });
    this._seen += tokens;
    if (kind === 'none') this._unplaced += tokens;
    if (kind === 'thinking') {
      this.state = 'thinking';
      this.thinkingTokens += tokens + this._unplaced;
      this._unplaced = 0;
    }
    if (kind === 'answer') {
      this.state = 'answering';
      this.answerTokens += tokens;
      this._unplaced = 0;
    }
  }

  _settle(receipt) {
    this.receipt = receipt;
    this.thinkingTokens = receipt.thinking_tokens;
    this.answerTokens = receipt.answer_tokens ?? this.answerTokens;
  }
}
