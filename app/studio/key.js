/** The key, once the service has asked for one. It is kept for this tab only: sessionStorage ends with it. */

const NAME = "kinora.key";
const dialog = document.querySelector("#key-dialog");
const field = dialog.querySelector("input");
const said = dialog.querySelector("#key-said");

/** Whoever waits for a key waits for the same one. */
let asking = null;

export const key = () => sessionStorage.getItem(NAME);

export function forgetKey() {
  sessionStorage.removeItem(NAME);
  location.reload();
}

/** @param {string | null} refused the key that was just refused, if there was one */
export function askForKey(refused) {
  if (key() !== refused) return Promise.resolve(); // somebody has been given one meanwhile
  asking ??= new Promise((resolve) => {
    said.textContent = refused ? "It does not know that one." : "Whoever runs it can make you one.";
    field.value = "";
    dialog.showModal();
    dialog.onclose = () => {
      if (!field.value.trim()) return dialog.showModal(); // nothing here works without
      sessionStorage.setItem(NAME, field.value.trim());
      asking = null;
      document.dispatchEvent(new Event("key"));
      resolve();
    };
  });
  return asking;
}
