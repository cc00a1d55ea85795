// Asks the server; where it wants a key, the user is asked for it once.

const KEY = "rar-key";
const SECONDS = 60;

function typedKey() {
  const dialog = document.getElementById("key");
  const text = document.getElementById("key-text");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, text.value.trim());
      text.value = "";
      resolve();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

let asking = null;

/** The response; an error that the server explains is thrown with its words. */
export async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(options.headers ?? {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(1000 * SECONDS) });
    } catch (error) {
      throw new Error(error.name === "TimeoutError" ? "The server took too long." : "The server cannot be reached.");
    }
    if (response.status !== 401) return response;
    asking ??= typedKey().finally(() => { asking = null; });
    await asking;
  }
}

/** The JSON of a response; where `partly`, also that of pictures that could not be read. */
export async function askJson(path, options = {}, partly = false) {
  const response = await ask(path, options);
  let content = {};
  try {
    content = await response.json();
  } catch {
    content = { error: `The server answered ${response.status}.` };
  }
  if (!response.ok && !(partly && content.results)) throw new Error(content.error ?? `Error ${response.status}`);
  return content;
}

const MOST = 400;
const thumbnails = new Map();

/** An address of an entry's small picture, or null. */
export function thumbnail(source) {
  if (!thumbnails.has(source)) {
    if (thumbnails.size >= MOST) {
      const [oldest, address] = thumbnails.entries().next().value;
      thumbnails.delete(oldest);
      address.then((url) => url && URL.revokeObjectURL(url));
    }
    const address = ask(`/thumbnail?${new URLSearchParams({ source })}`)
      .then(async (response) => (response.ok ? URL.createObjectURL(await response.blob()) : null))
      .catch(() => null);
    thumbnails.set(source, address);
  }
  return thumbnails.get(source);
}
