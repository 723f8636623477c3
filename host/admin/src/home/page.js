// Shows alerts as they come. Everything from outside is set as text, never as markup.
"use strict";
const rows = document.getElementById("alerts");
const told = document.getElementById("told");
const form = document.getElementById("key-form");
const MOST = 200;
let listening = null;

function show(event) {
  const alert = JSON.parse(event.data);
  const row = rows.insertRow(0);
  const cells = [alert.detected_at, alert.severity, `${alert.stream}/${alert.plugin?.name}`, alert.key, alert.message];
  for (const cell of cells) row.insertCell().textContent = cell ?? "";
  if (alert.severity === "critical") row.className = "bad";
  while (rows.rows.length > MOST) rows.deleteRow(-1);
}

function lines(text) {
  const event = { name: "message", data: "" };
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

// Not EventSource: that cannot send a key.
async function listen(key) {
  listening?.abort();
  const mine = listening = new AbortController();
  for (let pause = 1000; !mine.signal.aborted; pause = Math.min(pause * 2, 30000)) {
    try {
      const headers = key ? { "X-API-Key": key } : {};
      const answer = await fetch("/v1/events?kind=alert", { headers, signal: mine.signal });
      if (!answer.ok) {
        const problem = await answer.json();
        told.textContent = `${problem.detail} (${problem.code})`;
        form.hidden = answer.status !== 401;
        if (answer.status < 500 && answer.status !== 429) return;
      } else {
        told.textContent = "listening";
        form.hidden = true;
        pause = 1000;
        await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      }
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    told.textContent = "the host is not reachable: trying again";
    await new Promise((wake) => setTimeout(wake, pause));
  }
}

async function read(reader) {
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events.map(lines)) {
      if (event.name === "alert") show(event);
      if (event.name === "lagged") told.textContent = `missed ${JSON.parse(event.data).missed} alerts: this page was too slow`;
    }
  }
}

form.addEventListener("submit", (submit) => {
  submit.preventDefault();
  listen(document.getElementById("key").value);
});
document.getElementById("live").hidden = false;
listen(null);
