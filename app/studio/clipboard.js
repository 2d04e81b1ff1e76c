/** Copies what an element says. Where the page came without TLS there is no clipboard: then the text is selected. */

/**
 * @param {HTMLElement} element
 * @param {HTMLButtonElement} button says for a moment what became of it
 */
export async function copy(element, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(element.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = before), 2000);
}
