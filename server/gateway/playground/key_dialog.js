// Where an API key is typed in; `api.js` keeps it for this tab.

import { key } from './api.js';
import { byId, el } from './dom.js';

const SENDABLE = /^[\x20-\x7e]*$/;

export class KeyDialog {
  constructor(changed) {
    this._dialog = byId('key-dialog');
    this._changed = changed;
    byId('open-key').addEventListener('click', () => this.open(''));
    byId('cancel-key').addEventListener('click', () => this._dialog.close());
    byId('forget-key').addEventListener('click', () => this._use(''));
    byId('key-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this._submit(byId('key').value.trim());
    });
    this._label();
  }

  get isOpen() {
    return this._dialog.open;
  }

  open(why) {
    if (this._dialog.open) return;
    byId('key').value = '';
    byId('key-note').textContent = why || (key.get() ? 'A key is set for this tab.' : '');
    byId('forget-key').hidden = !key.get();
    this._dialog.showModal();
    byId('key').focus();
  }

  /** No header can hold other characters; a key with them was copied wrong. */
  _submit(value) {
    if (SENDABLE.test(value)) this._use(value);
    else byId('key-note').textContent = 'This has characters that no key has. Copy the key again.';
  }

  _use(value) {
    key.set(value);
    byId('key').value = '';
    this._dialog.close();
    this._label();
    this._changed();
  }

  _label() {
    byId('open-key').replaceChildren('API key', ...(key.get() ? [el('span', { class: 'only-wide' }, ' set')] : []));
  }
}
