// Keeps conversations in the browser's IndexedDB, or, where there is none, only until the page is left.
const NAME = "ktmpi", TABLE = "conversations";

const finished = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return finished(request);
}

// {conversations: newest first, save, remove, trouble: "" or why nothing is kept}
export async function openStore() {
  try {
    const database = await open();
    const table = mode => database.transaction(TABLE, mode).objectStore(TABLE);
    const conversations = await finished(table("readonly").getAll());
    for (const { turns } of conversations)
      for (const turn of turns) if (turn.end === "running") turn.end = "stopped";  // the page was left meanwhile
    return {
      conversations: conversations.sort((a, b) => b.changed - a.changed),
      save: conversation => finished(table("readwrite").put(conversation)),
      remove: id => finished(table("readwrite").delete(id)),
      trouble: "",
    };
  } catch (error) {
    const nothing = async () => {};
    return { conversations: [], save: nothing, remove: nothing, trouble: String(error?.message || error) };
  }
}
