// A chat over /v1/chat/completions, streamed.

const $ = (id) => document.getElementById(id);
const messages = [];
let running = null; // the AbortController of the answer that is coming

const headers = () => ({
  "content-type": "application/json",
  ...($("key").value && { authorization: `Bearer ${$("key").value}` }),
});

async function loadModels() {
  const response = await fetch("/v1/models", { headers: headers() });
  const told = await response.json();
  if (!response.ok) throw new Error(told.error.message);
  const chatty = told.data.filter((model) => model.task === "generate");
  $("model").replaceChildren(...chatty.map((model) => new Option(model.id)));
}

function parameters() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    model: $("model").value,
    max_tokens: number("max_tokens"), temperature: number("temperature"),
    top_p: number("top_p"), top_k: number("top_k"), min_p: number("min_p"), seed: number("seed"),
    stop: $("stop_text").value || null, priority: $("priority").value,
    stream: true, stream_options: { include_usage: true },
  };
}

function show(role, text) {
  const bubble = document.createElement("div");
  bubble.className = `message ${role}`;
  bubble.textContent = text;
  $("chat").append(bubble);
  $("chat").scrollTop = $("chat").scrollHeight;
  return bubble;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

// Time to the first token, and tokens per second after it.
class Stats {
  start = performance.now();
  first = null;
  last = null;
  chunks = 0;
  usage = null;
  reason = "";

  take(event) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices[0];
    if (!choice) return;
    this.last = performance.now();
    this.first ??= this.last;
    this.chunks += 1;
    this.reason = choice.finish_reason ?? this.reason;
  }

  toString() {
    if (this.first === null) return "";
    const tokens = this.usage?.completion_tokens ?? this.chunks;
    const seconds = (this.last - this.first) / 1000;
    const speed = tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    const counts = this.usage ? `${this.usage.prompt_tokens} tokens in, ${tokens} out` : "";
    return [`first token after ${(this.first - this.start).toFixed(0)} ms`, speed, counts,
            this.reason && `ended by ${this.reason}`].filter(Boolean).join(" · ");
  }
}

async function answer(stats, bubble) {
  const system = $("system").value.trim();
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), signal: running.signal,
    body: JSON.stringify({
      ...parameters(),
      messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    stats.take(event);
    const isAtEnd = $("chat").scrollHeight - $("chat").scrollTop - $("chat").clientHeight < 40;
    bubble.append(event.choices[0]?.delta.content ?? "");
    if (isAtEnd) $("chat").scrollTop = $("chat").scrollHeight;
    $("stats").textContent = stats;
  }
}

async function send(text) {
  messages.push({ role: "user", content: text });
  show("user", text);
  const bubble = show("assistant", "");
  const stats = new Stats();
  running = new AbortController();
  toggle(true);
  try {
    await answer(stats, bubble);
  } catch (error) {
    if (error.name !== "AbortError") show("error", error.message);
  } finally {
    running = null;
    toggle(false);
  }
  if (!bubble.isConnected) return; // another chat has begun
  if (bubble.textContent) messages.push({ role: "assistant", content: bubble.textContent });
  else {
    messages.pop();
    bubble.remove();
  }
}

function toggle(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("stats").dataset.running = isRunning;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  $("text").value = "";
  send(text);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("reset").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  $("chat").replaceChildren();
  $("stats").textContent = "";
});
const load = () => loadModels().catch((error) => show("error", error.message));
$("key").addEventListener("change", load);
load();
