// The server's API as this page uses it. Paths are relative, so that the page works behind any prefix.

const KEY = 's1-api-key';

export class Failure extends Error {
  /** `title` and `message` are for people; `status` is HTTP's, or 0 when no answer came. */
  constructor(title, message, { status = 0, param = null } = {}) {
    super(message);
    this.title = title;
    this.status = status;
    this.param = param;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export async function getJson(path) {
  return readJson(await ask(path, { headers: headers() }));
}

/** The response of a POST whose answer has begun well; its body is still to be read. */
export async function post(path, body, signal) {
  const sent = { method: 'POST', headers: headers({ 'content-type': 'application/json' }), signal };
  const response = await ask(path, { ...sent, body: JSON.stringify(body) });
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Whether an engine is ready: 'ready', 'starting' or 'offline'. */
export async function readiness() {
  try {
    const response = await fetch('ready', { cache: 'no-store', signal: AbortSignal.timeout(8000) });
    return response.ok ? 'ready' : 'starting';
  } catch {
    return 'offline';
  }
}

function headers(more = {}) {
  const secret = key.get();
  return secret ? { ...more, authorization: `Bearer ${secret}` } : more;
}

async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw unreachable();
  }
}

async function readJson(response) {
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export function unreachable() {
  return new Failure(
    'The server can’t be reached',
    'It may be restarting, or this machine is offline. Nothing is lost: your question is still here.',
  );
}

export function brokenOff() {
  return new Failure('The answer broke off', 'The connection ended before the answer did. What came is shown.');
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not ours: a proxy's page, for example.
  }
  return described(error, response.status, response.headers.get('retry-after'));
}

/** An error envelope in plain words; `status` is 0 for one inside a stream that had begun well. */
export function described(error, status, retryAfter = null) {
  const said = typeof error.message === 'string' ? error.message : `The server answered ${status}.`;
  return new Failure(titleOf(status, error, retryAfter), said, { status, param: error.param ?? null });
}

function titleOf(status, error, retryAfter) {
  const { param } = error;
  const later = retryAfter ? ` Try again in ${retryAfter} s.` : '';
  if (status === 0) return 'The answer broke off';
  if (status === 401) return key.get() ? 'This key is not accepted' : 'This server asks for an API key';
  if (status === 403) return 'This key is not for that';
  if (status === 404) return 'The server doesn’t know this';
  if (status === 405) return 'This server can’t do that yet';
  if (status === 409) return 'Too late for that';
  if (status === 429) return `This key’s quota is used up.${later}`;
  if (status === 503) return `No engine can answer just now.${later}`;
  if (status >= 500) return 'The server failed';
  if (param === 'input_tokens') return 'The question is too long';
  return param ? `The server refuses ${param}` : 'The server refuses this request';
}
