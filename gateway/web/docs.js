"use strict";
// Renders this node's OpenAPI document. Text enters the page as text, never as markup.
const el = (tag, attrs, ...children) => {
  const node = Object.assign(document.createElement(tag), attrs);
  node.append(...children);
  return node;
};
const state = document.getElementById("state");
const list = document.getElementById("operations");
const find = document.getElementById("find");

function deref(doc, schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((at, name) => at[name], doc);
}

function sample(doc, schema, depth = 0) {
  const s = deref(doc, schema);
  if (s.examples) return s.examples[0];
  if (s.enum) return s.enum[0];
  const type = Array.isArray(s.type) ? s.type[0] : s.type;
  switch (type) {
    case "object": {
      const out = {};
      if (depth < 6) for (const [name, p] of Object.entries(s.properties || {})) out[name] = sample(doc, p, depth + 1);
      return out;
    }
    case "array": return depth < 6 ? [sample(doc, s.items, depth + 1)] : [];
    case "integer": return s.minimum > 0 ? s.minimum : 0;
    case "boolean": return false;
    case "string": return s.format || "string";
  }
  return null;
}

function curl(method, path, body) {
  const parts = [`curl -X ${method} '${location.origin}${path}'`, `-H "Authorization: Bearer $WISPGATE_KEY"`];
  if (method !== "GET") parts.push(`-H "Idempotency-Key: $(uuidgen)"`);
  if (body) parts.push(`-H 'Content-Type: application/json'`, `-d '${JSON.stringify(body)}'`);
  return parts.join(" \\\n  ");
}

function operation(doc, path, method, op) {
  const rows = (op.parameters || []).map((p) => deref(doc, p)).map((p) => el("tr", {},
    el("td", {}, el("code", { textContent: p.name })),
    el("td", { textContent: p.in + (p.required ? ", required" : "") }),
    el("td", { textContent: p.description || "" })));
  const content = op.requestBody && op.requestBody.content["application/json"];
  const body = content && sample(doc, content.schema);
  const box = el("details", {},
    el("summary", {}, el("span", { className: "verb", textContent: method.toUpperCase() }), el("code", { textContent: path }), " ",
      el("span", { className: "about", textContent: op.summary || "" })),
    el("p", { textContent: (op.description || "").replaceAll("`", "") }));
  if (rows.length) box.append(el("table", {}, ...rows));
  box.append(el("pre", { textContent: curl(method.toUpperCase(), path, body) }));
  box.dataset.text = `${method} ${path} ${op.summary} ${op.operationId}`.toLowerCase();
  return box;
}

function show(doc) {
  list.replaceChildren();
  for (const tag of doc.tags) {
    const found = [];
    for (const [path, item] of Object.entries(doc.paths))
      for (const [method, op] of Object.entries(item))
        if (op.tags.includes(tag.name)) found.push(operation(doc, path, method, op));
    if (found.length) list.append(el("section", {}, el("h2", { textContent: tag.name }), el("p", { textContent: tag.description }), ...found));
  }
  find.hidden = false;
}

document.getElementById("open").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.textContent = "Asking …";
  try {
    const answer = await fetch("/api/v1/openapi.json", { headers: { Authorization: `Bearer ${document.getElementById("key").value}` } });
    const doc = await answer.json();
    if (!answer.ok) {
      state.textContent = `${doc.detail}. ${doc.fix}.`;
      return;
    }
    show(doc);
    state.textContent = `${doc.info.title} ${doc.info.version}`;
  } catch {
    state.textContent = "The node did not answer. Check the connection and try again.";
  }
});

find.addEventListener("input", () => {
  const word = find.value.toLowerCase();
  for (const box of list.querySelectorAll("details")) box.hidden = !box.dataset.text.includes(word);
});
