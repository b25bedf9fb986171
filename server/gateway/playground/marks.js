// Which parts of the thinking the server put there.
//
// A model may write "Wait" by itself, so text alone can't tell. The receipt's positions can: they are indices
// into the token ids that came with the text. Until the receipt is here, and where it has no positions, a wait
// is marked as no more than possible.

const POSSIBLE = /\b(Wait)\b/;

/** The thinking in parts: `kind` is 'plain', 'injected' or 'possible'. */
export function parts(pieces, receipt) {
  const text = pieces.map((piece) => (piece.kind === 'thinking' ? piece.text : '')).join('');
  if (receipt?.positions) return cut(text, injected(pieces, receipt.positions.waits));
  return receipt && !receipt.waits ? cut(text, []) : guessed(text);
}

export function guessed(text) {
  const kinds = text.split(POSSIBLE).map((part, index) => ({ text: part, kind: index % 2 ? 'possible' : 'plain' }));
  return kinds.filter((part) => part.text);
}

/** Spans of the injected waits in the thinking: from the wait's first token to the end of the word there. */
export function injected(pieces, positions) {
  const spans = [];
  let offset = 0;
  let after = 0;
  const starts = pieces.map((piece) => {
    const start = offset;
    offset += piece.kind === 'thinking' ? piece.text.length : 0;
    return start;
  });
  const text = pieces.map((piece) => (piece.kind === 'thinking' ? piece.text : '')).join('');
  for (const position of positions) {
    const index = holder(pieces, position);
    if (index < 0) continue;
    const span = wordAt(text, Math.max(starts[index], after), pieces[index], position);
    if (span === null) continue;
    spans.push(span);
    after = span.end;
  }
  return spans;
}

/** The piece of the token. A chunk of both thinking and answer counts all of its tokens with the answer. */
function holder(pieces, position) {
  const index = pieces.findIndex(({ first, tokens }) => first <= position && position < first + tokens);
  const before = pieces[index - 1];
  return before?.kind === 'thinking' && before.tokens === 0 ? index - 1 : index;
}

/** In a piece of several tokens the wait is looked for; in a piece of one it is what is there. */
function wordAt(text, from, piece, position) {
  const limit = from + Math.max(piece.text.length, 1) + 16;
  const named = piece.tokens !== 1 ? text.indexOf('Wait', from) : -1;
  const begin = named >= 0 && named < limit ? named : skipSpace(text, from);
  if (begin >= text.length || position < 0) return null;
  const word = /^[^\s,.;:!?]+/.exec(text.slice(begin));
  return { begin, end: begin + (word ? word[0].length : 1) };
}

function skipSpace(text, from) {
  let at = from;
  while (at < text.length && /\s/.test(text[at])) at += 1;
  return at;
}

function cut(text, spans) {
  const found = [];
  let at = 0;
  for (const { begin, end } of spans) {
    if (begin > at) found.push({ text: text.slice(at, begin), kind: 'plain' });
    found.push({ text: text.slice(begin, end), kind: 'injected' });
    at = end;
  }
  if (at < text.length) found.push({ text: text.slice(at), kind: 'plain' });
  return found;
}

const ENDS = {
  model: 'The model ended its thinking.',
  max_thinking_tokens: 'The maximum was reached: the server ended the thinking here.',
  loop: 'The thinking went in circles: the server ended it here.',
  request: 'You asked for the answer: the server ended the thinking here.',
  length: 'All completion tokens were used up here.',
  stop: 'A stop string ended it here.',
};

/** How the thinking ended, in words, and whether it was cut. */
export function ending(receipt) {
  const by = receipt?.ended_by;
  if (!by) return null;
  if (receipt.effective?.max === 0) return { words: 'The maximum is 0: it had to answer at once.', forced: true };
  return { words: ENDS[by] ?? `Ended by ${by}.`, forced: by !== 'model' };
}

const CLAMPS = {
  'policy:server': 'the server’s policy',
  'policy:model': 'the model’s policy',
  'policy:key': 'this key’s policy',
  max_completion_tokens: 'the most tokens in all',
  context: 'the model’s context',
  load: 'the load on the server',
  quota: 'what is left of this key’s quota',
};

export function clampWords(names) {
  return names.map((name) => CLAMPS[name] ?? name).join(' and ');
}
