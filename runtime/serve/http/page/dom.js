// The few things that all parts of the page do with the document.
export const $ = id => document.getElementById(id);

export function element(parent, tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

export function button(parent, text, act, label = "") {
  const made = element(parent, "button", "", text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// Only what differs is set: a screen reader says what is set.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// For screen readers.
export const announce = text => setText($("announce"), text);

// The clipboard is for pages of HTTPS and localhost; elsewhere a selection does.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element(document.body, "textarea", "unseen");
  area.value = text;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("this browser does not let the page copy");
}

export async function copyBy(pressed, text) {
  const before = pressed.textContent;
  try {
    await copyText(text);
    pressed.textContent = "Copied";
  } catch (error) {
    pressed.textContent = "Not copied";
  }
  setTimeout(() => { pressed.textContent = before; }, 1500);
}

export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
