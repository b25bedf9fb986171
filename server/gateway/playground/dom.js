// Elements are made by calls, and text is only ever text: nothing here, or anywhere else on this page,
// turns a string into markup.

export const byId = (id) => document.getElementById(id);

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes (`on…` are listeners, booleans are present or not) and children or text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Write only what differs: a live region tells each writing anew. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function say(text) {
  byId('announce').textContent = text;
}

export const count = (number) => number.toLocaleString('en-US');

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
