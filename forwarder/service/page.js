"use strict";
// Replaces what has changed, while somebody looks: panels in which nothing is focused, scrolled or opened.
const EVERY_MS = 5000, PATIENCE_MS = 10000;
const byId = (id) => document.getElementById(id);
const { dataset } = document.querySelector("main"), lost = byId("lost"), said = byId("said"), shown = {};
let reachedAt = new Date(), isAsking = false;

function show(found) {
  for (const [id, html] of Object.entries(found.panels)) {
    const old = byId(id);
    if (old && shown[id] !== html) old.innerHTML = shown[id] = html;
  }
  if (found.state !== dataset.state || !lost.hidden) said.textContent = found.sentence;
  dataset.state = found.state;
  dataset.mark = found.mark;
  document.title = found.title;
}

async function refresh() {
  if (document.hidden || isAsking) return;
  isAsking = true;
  try {
    const query = new URLSearchParams({ range: dataset.range, seen: dataset.mark });
    const answer = await fetch(`live?${query}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    reachedAt = new Date();
    lost.hidden = true;
  } catch {
    lost.textContent = `Not reached since ${reachedAt.toISOString().slice(11, 16)} UTC`;
    if (lost.hidden) said.textContent = lost.textContent;
    lost.hidden = false;
  }
  isAsking = false;
}

setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
