// What the server says of its API in openapi.json, for people. Nothing is sent from here.

import { byId, count, el, plural } from './dom.js';

const SCHEMAS = '#/components/schemas/';
const HEADINGS = ['Name', 'Type', 'Meaning'];

async function show() {
  let api;
  try {
    const response = await fetch('openapi.json');
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    api = await response.json();
  } catch (error) {
    byId('status').textContent = `The API’s description can’t be read: ${error.message}`;
    return;
  }
  const schemas = api.components?.schemas ?? {};
  byId('operations').append(...byTag(api.paths).map(([tag, operations]) => section(tag, operations, schemas)));
  byId('types').append(...Object.entries(schemas).map(([name, schema]) => type(name, schema)));
  byId('types').hidden = false;
  byId('status').textContent = `${api.info.title} ${api.info.version}`;
  reveal();
  addEventListener('hashchange', reveal);
}

function byTag(paths) {
  const found = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? 'other';
      found.set(tag, [...(found.get(tag) ?? []), { path, method, operation }]);
    }
  }
  return [...found];
}

function section(tag, operations, schemas) {
  return el('section', {}, el('h2', {}, tag), ...operations.map((each) => operationOf(each, schemas)));
}

function operationOf({ path, method, operation }, schemas) {
  const parameters = Object.fromEntries(
    (operation.parameters ?? []).map(({ name, schema, description }) => [name, { description, ...schema }]),
  );
  const required = (operation.parameters ?? []).filter((each) => each.required).map(({ name }) => name);
  const body = operation.requestBody?.content?.['application/json']?.schema;
  return el('details', { id: `${method}${path}`.replace(/[^\w]+/g, '-') },
    el('summary', {},
      el('span', { class: 'method' }, method.toUpperCase()),
      el('code', {}, path),
      el('span', { class: 'summary' }, ...prose(operation.summary ?? ''))),
    el('div', { class: 'inside' },
      operation.description ? el('p', {}, ...prose(operation.description)) : null,
      ...(required.length ? [el('h3', {}, 'Path'), fields({ properties: parameters, required })] : []),
      ...(body ? bodyOf(body, schemas) : []),
      el('h3', {}, 'Responses'),
      el('ul', {}, ...Object.entries(operation.responses).map(([status, response]) => responseOf(status, response)))));
}

function bodyOf(schema, schemas) {
  const known = schema.$ref ? schemas[schema.$ref.slice(SCHEMAS.length)] : schema;
  const heading = el('h3', {}, 'Body: ', ...typeOf(schema));
  return known?.properties ? [heading, described(known), fields(known)] : [heading];
}

function responseOf(status, response) {
  const schema = response.content?.['application/json']?.schema;
  const isKnown = schema && Object.keys(schema).length > 0;
  return el('li', {}, `${status}: ${response.description}`, ...(isKnown ? [', ', ...typeOf(schema)] : []));
}

function type(name, schema) {
  return el('details', { id: `type-${name}` },
    el('summary', {}, el('code', {}, name)),
    el('div', { class: 'inside' },
      described(schema),
      schema.properties ? fields(schema) : el('p', {}, ...typeOf(schema))));
}

function described({ description }) {
  return description ? el('p', {}, ...prose(description)) : null;
}

function fields({ properties, required = [] }) {
  const head = el('tr', {}, ...HEADINGS.map((heading) => el('th', { scope: 'col' }, heading)));
  const rows = Object.entries(properties).map(([name, schema]) => field(name, schema, required.includes(name)));
  return el('table', {}, el('thead', {}, head), el('tbody', {}, ...rows));
}

function field(name, schema, isRequired) {
  const usual = schema['x-default'] ?? (schema.default == null ? null : JSON.stringify(schema.default));
  return el('tr', {},
    el('th', { scope: 'row' },
      el('code', {}, name), isRequired ? el('span', { class: 'required' }, ' required') : null),
    el('td', {}, ...typeOf(schema)),
    el('td', {},
      ...prose(schema.description ?? ''),
      fact('Default', usual),
      fact('Limits', schema['x-limits']),
      schema.properties ? fields(schema) : null));
}

function fact(name, said) {
  return said == null ? null : el('div', { class: 'fact' }, `${name}: `, ...prose(said));
}

/** A schema in a few words, the names of types being links. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.slice(SCHEMAS.length);
    return [el('a', { href: `#type-${name}` }, name)];
  }
  if ('const' in schema) return [el('code', {}, JSON.stringify(schema.const))];
  if (schema.enum) return between(schema.enum.map((value) => [el('code', {}, JSON.stringify(value))]));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return between(choices.map(typeOf));
  if (schema.type === 'array') return ['array of ', ...typeOf(schema.items ?? {}), limits(schema)];
  return [[schema.type ?? 'anything'].flat().join(' or '), limits(schema)];
}

const between = (parts) => parts.flatMap((part, index) => (index ? [' or ', ...part] : part));

function limits(schema) {
  const found = [
    range(schema.minimum, schema.maximum),
    schema.exclusiveMinimum === undefined ? null : `more than ${schema.exclusiveMinimum}`,
    schema.exclusiveMaximum === undefined ? null : `less than ${schema.exclusiveMaximum}`,
    range(schema.minLength, schema.maxLength, 'character'),
    range(schema.minItems, schema.maxItems, 'item'),
    schema.pattern ?? null,
  ].filter((limit) => limit !== null);
  return found.length ? ` (${found.join(', ')})` : '';
}

function range(least, most, unit = null) {
  if (least === undefined && most === undefined) return null;
  const inWords = (number) => (unit ? plural(number, unit) : count(number));
  if (most === undefined) return `at least ${inWords(least)}`;
  return least === undefined ? `at most ${inWords(most)}` : `${count(least)} to ${inWords(most)}`;
}

/** Text in which what stands between backticks is code. */
const prose = (text) =>
  text.split('`').map((part, index) => (index % 2 ? el('code', {}, part) : part));

function reveal() {
  const named = byId(location.hash.slice(1));
  if (named?.tagName !== 'DETAILS') return;
  named.open = true;
  named.scrollIntoView();
}

show();
