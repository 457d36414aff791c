// Elements, made and filled. Text is always set as text: labels come from elsewhere.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (class, href …) and children: elements or texts. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace the children only where something differs, so that a focus or a selection stays. */
export function fill(element, ...children) {
  const draft = make("div", {}, ...children);
  if (draft.innerHTML !== element.innerHTML) element.replaceChildren(...draft.childNodes);
}

export function outside(url, ...children) {
  return make("a", { href: url, target: "_blank", rel: "noopener" }, ...children);
}
