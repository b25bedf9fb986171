// Whether the server is there, which models it serves, and what its routes can do.

import { getJson, readiness } from './api.js';
import { byId, write } from './dom.js';

const CALM_MS = 15_000;
const HURRIED_MS = 2_000;
const WORDS = {
  ready: 'Ready',
  starting: 'The engine is starting…',
  offline: 'Can’t reach the server. Trying again…',
  locked: 'An API key is needed',
};

export class Connection {
  /** `changed` is called when models or abilities are known anew; `locked` when a key is asked for. */
  constructor({ changed, locked }) {
    this.models = [];
    this.can = { answerNow: false, thinkMore: false };
    this._changed = changed;
    this._locked = locked;
    this._state = 'starting';
    this._told = false;
    this._timer = null;
    addEventListener('online', () => this.look());
    addEventListener('offline', () => this._enter('offline'));
    byId('model').addEventListener('change', () => this._changed());
  }

  get model() {
    return this.models.find(({ id }) => id === byId('model').value) ?? null;
  }

  /** Look after a failure: at once, and again soon, as the server itself may not know yet. */
  async doubt({ status }) {
    if (status === 401) await this.learn();
    else await this.look(HURRIED_MS);
  }

  async look(calmMs = CALM_MS) {
    clearTimeout(this._timer);
    const found = await readiness();
    if (found !== 'ready') this._enter(found);
    else if (this._state !== 'ready' || !this.models.length) await this.learn();
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.look(), this._state === 'ready' ? calmMs : HURRIED_MS);
  }

  /** With another key: a refusal is told again. */
  async tryKey() {
    this._told = false;
    await this.learn();
  }

  /** Models and abilities; without a key that is needed, the person is asked for one, once. */
  async learn() {
    try {
      const [models, can] = await Promise.all([getJson('v1/models'), abilities()]);
      this.models = models.data;
      this.can = can;
      this._list();
      this._told = false;
      this._enter('ready');
      this._changed();
    } catch (error) {
      this._enter(error.status === 401 ? 'locked' : 'offline');
      if (error.status !== 401 || this._told) return;
      this._told = true;
      this._locked(error);
    }
  }

  _enter(state) {
    this._state = state;
    byId('status').dataset.state = state;
    write(byId('status-text'), WORDS[state]);
  }

  _list() {
    const select = byId('model');
    const chosen = select.value;
    select.replaceChildren(...this.models.map(({ id }) => new Option(id, id, false, id === chosen)));
    select.disabled = !this.models.length;
  }
}

/** Told by the API's own description, so that no route has to be tried to know whether it is there. */
async function abilities() {
  const paths = Object.keys((await getJson('openapi.json')).paths);
  const has = (action) => paths.some((path) => path.endsWith(`/${action}`));
  return { answerNow: has('answer_now'), thinkMore: has('think_more') };
}
