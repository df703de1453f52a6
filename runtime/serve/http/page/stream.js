// One request for an answer: the chunks of its stream, or a Failure whose message is for people.

export class Failure extends Error {
  constructor(words, needsKey = false) {
    super(words);
    this.needsKey = needsKey;
  }
}

const GONE = "The server does not answer: it has ended, or the connection to it is gone. Try again when it is back.";
const BROKEN = "The connection broke before the answer was complete.";

// What an answer with another status than 200 means. Proxies send pages of their own, without our error object.
async function refusal(response) {
  const { status } = response;
  let said = "";
  try {
    said = (await response.json()).error.message || "";
  } catch (error) { /* not ours */ }
  if (status === 401)
    return new Failure("The server asks for a key: enter a valid one under Parameters, then try again.", true);
  const seconds = Number(response.headers.get("Retry-After"));
  const wait = seconds ? ` It asks to try again after ${seconds} s.` : "";
  if (status === 429) return new Failure(`The server has too much to do: ${said || "429"}.${wait}`);
  if (status === 503) return new Failure(`The server takes no requests now: ${said || "503"}.${wait}`);
  if ((status === 502 || status === 504) && !said)
    return new Failure(`A proxy answered ${status} for the server: it has ended, or is still starting.${wait}`);
  return new Failure(said || `The server answered ${status} ${response.statusText}.`);
}

function parse(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch (error) {
    throw new Failure("The stream holds what is no JSON: " + data.slice(0, 100));
  }
  if (chunk.error) throw new Failure(chunk.error.message || "The server gave up on this answer.");
  return chunk;
}

export async function* chatStream(body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = "Bearer " + key;
  let response;
  try {
    response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw signal.aborted ? error : new Failure(GONE);
  }
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : new Failure(BROKEN);
    }
    if (part.done) throw new Failure(BROKEN);
    const lines = (text + part.value).split("\n");
    text = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield parse(data);
    }
  }
}
