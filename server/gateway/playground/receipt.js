// A run's receipt in sentences.

import { count, el, plural } from './dom.js';
import { clampWords } from './marks.js';

export function receiptWords(run) {
  const { receipt } = run;
  const sentences = [tokens(receipt), waits(receipt)];
  if (receipt.continues) sentences.push(`It went on from ${count(receipt.continues.thinking_tokens)} thinking tokens.`);
  if (receipt.clamped_by.length) sentences.push(`The budget was changed by ${clampWords(receipt.clamped_by)}.`);
  sentences.push(`${((run.endedAt - run.startedAt) / 1000).toFixed(1)} s in all.`);
  return el('p', { class: 'run-words receipt' }, sentences.filter(Boolean).join(' '));
}

function tokens({ thinking_tokens: thinking, answer_tokens: answer, marker_tokens: markers }) {
  const thought = thinking ? `It thought for ${plural(thinking, 'token')}` : 'It didn’t think';
  if (answer === undefined) return `${thought}.`;
  const between = markers ? `; ${count(markers)} more mark where one ends and the other begins` : '';
  return `${thought} and answered in ${plural(answer, 'token')}${between}.`;
}

/** The first of the waits are those that were asked for; further ones keep the minimum. */
function waits({ waits: injected, effective }) {
  if (!injected) return '';
  const asked = effective?.num_waits ?? 0;
  if (injected < asked) return `${were(injected)} injected, of ${count(asked)} asked for.`;
  if (injected === asked) return `${were(injected)} injected, as asked.`;
  if (!asked) return `${were(injected)} injected to keep the minimum.`;
  return `${were(injected)} injected: ${count(asked)} as asked, ${count(injected - asked)} more to keep the minimum.`;
}

const were = (waits) => `${plural(waits, 'wait')} ${waits === 1 ? 'was' : 'were'}`;
