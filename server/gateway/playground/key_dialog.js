// Where an API key is typed in; `api.js` keeps it for this tab.

import { key } from './api.js';
import { byId } from './dom.js';

export class KeyDialog {
  constructor(changed) {
    this._dialog = byId('key-dialog');
    this._changed = changed;
    byId('open-key').addEventListener('click', () => this.open(''));
    byId('cancel-key').addEventListener('click', () => this._dialog.close());
    byId('forget-key').addEventListener('click', () => this._use(''));
    byId('key-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this._use(byId('key').value.trim());
    });
    this._label();
  }

  open(why) {
    if (this._dialog.open) return;
    byId('key').value = '';
    byId('key-note').textContent = why || (key.get() ? 'A key is set for this tab.' : '');
    byId('forget-key').hidden = !key.get();
    this._dialog.showModal();
    byId('key').focus();
  }

  _use(value) {
    key.set(value);
    byId('key').value = '';
    this._dialog.close();
    this._label();
    this._changed();
  }

  _label() {
    byId('open-key').textContent = key.get() ? 'API key set' : 'API key';
  }
}
