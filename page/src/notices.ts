// Notices: toasts of one line, and a banner.
import { byId, el } from "./dom";

const SHOWN = 6000; // milliseconds

export function toast(text: string, kind: "error" | "done" = "error"): void {
  const toasts = byId("toasts");
  text = text.charAt(0).toUpperCase() + text.slice(1); // the server's messages start in lower case
  for (const old of toasts.querySelectorAll("p")) if (old.textContent === text) old.remove();
  const made = el("p", { class: kind }, text);
  made.addEventListener("click", () => made.remove());
  toasts.append(made);
  while (toasts.children.length > 3) toasts.firstElementChild?.remove();
  setTimeout(() => made.remove(), SHOWN);
}

let pressed: () => void = () => undefined;

/** Show a banner with a button; null hides it. */
export function banner(text: string | null, button = "", press: () => void = () => undefined): void {
  const box = byId("banner");
  const [words, control] = [box.querySelector("span"), box.querySelector("button")] as [HTMLElement, HTMLElement];
  pressed = press;
  control.onclick = () => pressed();
  if (text !== null && words.textContent !== text) words.textContent = text;
  if (text !== null) control.textContent = button;
  box.hidden = text === null;
}
