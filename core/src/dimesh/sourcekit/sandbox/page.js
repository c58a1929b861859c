"use strict";

const byId = (id) => document.getElementById(id);

async function send(method, command, body) {
  const request = { method };
  if (method !== "GET") {
    request.headers = { "content-type": "application/json" };
    request.body = JSON.stringify(body);
  }
  const response = await fetch("/_sandbox/" + command, request);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

function filled(template, values) {
  if (typeof template === "string") {
    return template.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
  }
  if (Array.isArray(template)) return template.map((item) => filled(item, values));
  if (template !== null && typeof template === "object") {
    return Object.fromEntries(Object.entries(template).map(([key, item]) => [key, filled(item, values)]));
  }
  return template;
}

async function guarded(work) {
  try {
    await work();
    byId("error").textContent = "";
  } catch (error) {
    byId("error").textContent = String(error.message || error);
  }
}

function button(action, row, reload) {
  const made = document.createElement("button");
  made.textContent = action.label;
  made.addEventListener("click", () => {
    const value = action.prompt ? prompt(action.prompt) : "";
    if (action.prompt && !value) return;
    const values = { ...row, value, random: Math.floor(Math.random() * 1000) };
    guarded(async () => {
      await send(action.method, action.command, filled(action.body, values));
      await reload();
    });
  });
  return made;
}

function cell(...content) {
  const made = document.createElement("td");
  made.append(...content);
  return made;
}

async function showRows(page) {
  const objects = await send("GET", "objects");
  const shown = [];
  for (const [object, rows] of Object.entries(objects)) {
    for (const row of rows) {
      const id = row[page.id];
      const name = page.labels.map((field) => row[field]).find(Boolean) || "";
      const actions = [...(page.row_actions[object] || []), ...(page.row_actions["*"] || [])];
      const line = document.createElement("tr");
      const buttons = actions.map((action) => button(action, { object, id }, () => showRows(page)));
      line.append(cell(object), cell(id), cell(name), cell(...buttons));
      shown.push(line);
    }
  }
  byId("rows").replaceChildren(...shown);
}

guarded(async () => {
  const page = await send("GET", "page");
  byId("note").textContent = page.note;
  byId("actions").append(...page.actions.map((action) => button(action, {}, () => showRows(page))));
  await showRows(page);
});
