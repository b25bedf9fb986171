// The request as code to paste: what it says is what this page sends, less what only streaming needs.

/** For a shell: the body in single quotes. The key is the reader's to fill in. */
export function curl(url, body, withKey) {
  const key = withKey ? ' \\\n  -H "authorization: Bearer $S1_API_KEY"' : '';
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${url}/chat/completions \\\n  -H 'content-type: application/json'${key} \\\n  -d '${quoted}'`;
}

const OPENAI_FIELDS = ['model', 'messages', 'temperature', 'max_completion_tokens'];

export function python(url, body, withKey) {
  const key = withKey ? 'os.environ["S1_API_KEY"]' : '"none"';
  const known = Object.entries(body).filter(([name]) => OPENAI_FIELDS.includes(name));
  const extra = Object.entries(body).filter(([name]) => !OPENAI_FIELDS.includes(name));
  const lines = known.map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  if (extra.length) lines.push(`    extra_body=${literal(Object.fromEntries(extra), 1)},`);
  return [
    ...(withKey ? ['import os', ''] : []),
    'from openai import OpenAI',
    '',
    `client = OpenAI(base_url=${literal(url)}, api_key=${key})`,
    'completion = client.chat.completions.create(',
    ...lines,
    ')',
    'choice = completion.choices[0]',
    'print(choice.message.reasoning)',
    'print(choice.message.content)',
    'print(choice.thinking_budget)',
  ].join('\n');
}

/** A Python literal. JSON's strings and numbers are Python's, too; a lone surrogate is escaped in both. */
export function literal(value, depth = 0) {
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null) return 'None';
  if (Array.isArray(value)) return block('[', value.map((item) => literal(item, depth + 1)), ']', depth);
  if (typeof value !== 'object') return JSON.stringify(value);
  const items = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth)}`);
  return `{${items.join(', ')}}`;
}

function block(open, items, close, depth) {
  const indent = '    '.repeat(depth + 1);
  return `${open}\n${items.map((item) => `${indent}${item},\n`).join('')}${'    '.repeat(depth)}${close}`;
}
