// Helpers to create elements.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element '${id}'`);
  return found as T;
}

type Attributes = Record<string, string | boolean | EventListener>;

/** Create an element; `onclick` and the like are listeners; true sets an attribute without a value, false omits it. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** Create an icon defined in index.html. */
export function icon(name: string): SVGSVGElement {
  const made = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  made.append(use);
  made.setAttribute("aria-hidden", "true");
  return made;
}

export function iconButton(name: string, label: string, onclick: () => void, more: Attributes = {}): HTMLButtonElement {
  return el("button", { class: "ghost icon", "aria-label": label, title: label, onclick, ...more }, icon(name));
}

export function colored(color: string, ...children: (Node | string)[]): HTMLElement {
  const made = el("i", { class: "swatch" }, ...children);
  made.style.backgroundColor = color;
  made.style.color = readable(color);
  return made;
}

/** Choose black or white text, whichever is more readable on a color. */
function readable(color: string): string {
  const [r, g, b] = [1, 3, 5].map((at) => (Number.parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.36 ? "#16161a" : "#ffffff";
}

export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
