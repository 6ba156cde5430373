// SPDX-License-Identifier: Apache-2.0
// Builds and updates elements. Text only ever enters as text nodes: nothing from a server is parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; `on…` attributes are listeners, children are nodes or text. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The element with this id, which index.html has. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set text only when it changed, so that a selection or a screen reader is not disturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace the children only when `signature` changed since the last time. */
export function redraw(element, signature, build) {
  if (element.dataset.signature === signature) return;
  element.dataset.signature = signature;
  element.replaceChildren(...build());
}

/**
 * Make the children of `parent` match `items` by key, keeping elements (and so focus, and open details) that stay.
 * `create(item)` makes an element, `update(element, item)` brings it up to date.
 */
export function reconcile(parent, items, key, create, update) {
  const existing = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let position = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = existing.get(name);
    if (element === undefined) {
      element = create(item);
      element.dataset.key = name;
    }
    existing.delete(name);
    update(element, item);
    if (element === position) position = position.nextElementSibling;
    else parent.insertBefore(element, position);
  }
  for (const leftover of existing.values()) leftover.remove();
}
