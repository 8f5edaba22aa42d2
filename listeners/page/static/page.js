// Names and reasons are whatever somebody has uploaded: they become text nodes, never markup.
"use strict";

const POLL = 2000, LONGEST_WAIT = 30000, MESSAGE = 8000;
const FATES = {
  pending: ["…", "waits to be sent"], dispatched: ["→", "being prepared"], processed: ["✓", "done"],
  rejected: ["✗", "its content cannot be prepared"], ignored: ["–", "in no dataset, or gone"], failed: ["!", "given up"],
};
const $ = (id) => document.getElementById(id);
const asked = { search: "", dataset: "", fate: "" };
let places = [""];  // where each page that was turned begins; the last is the one shown
let known = { etag: "", body: null, setup: null };
let skew = 0, timer = 0, wait = POLL, turn = 0;
const rows = new Map();

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function show(id, text, hideAfter = 0) {
  const place = $(id);
  place.textContent = text;
  place.hidden = !text;
  clearTimeout(place.hide);
  if (hideAfter) place.hide = setTimeout(() => { place.hidden = true; }, hideAfter);
}

async function call(method, path, body) {
  const headers = { "X-Dropflow": "1" };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin" });
  if (answer.status === 401) signedOut();
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

// Signing in

function signedOut() {
  stop();
  $("page").hidden = true;
  $("logout").hidden = true;
  $("login").hidden = false;
  $("state").textContent = "";
  $("token").focus();
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  show("login-error", "");
  try {
    await call("POST", "login", { token: $("token").value });
    $("token").value = "";
    begin();
  } catch (error) {
    show("login-error", error.message);
  }
});

$("logout").addEventListener("click", async () => {
  await call("POST", "logout").catch(() => {});
  signedOut();
});

async function begin() {
  stop();
  const mine = ++turn;
  try {
    const answer = await fetch("setup", { headers: { "X-Dropflow": "1" } });
    if (answer.status === 401) return signedOut();
    if (!answer.ok) throw new Error(await answer.text());
    known.setup = await answer.json();
  } catch (error) {
    $("state").textContent = `The listener does not answer: ${error.message}`;
    wait = Math.min(2 * wait, LONGEST_WAIT);
    timer = setTimeout(begin, wait);
    return;
  }
  if (mine !== turn) return;
  $("login").hidden = true;
  $("page").hidden = false;
  $("logout").hidden = !known.setup.signed_in;
  $("drop").hidden = !known.setup.upload_bytes || !known.setup.datasets.length;
  options($("into"), known.setup.datasets.map((d) => [d.name, d.name]));
  tellWhatIsTaken();
  known.etag = "";
  poll();
}

// Polling: only while somebody looks

function stop() {
  clearTimeout(timer);
  turn += 1;
}

async function poll() {
  stop();
  if (document.hidden || $("page").hidden) return;
  const mine = turn;
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) if (value) query.set(name, value);
  if (places.at(-1)) query.set("after", places.at(-1));
  try {
    const answer = await fetch(`objects?${query}`, {
      headers: { "X-Dropflow": "1", ...(known.etag && { "If-None-Match": known.etag }) },
      signal: AbortSignal.timeout(LONGEST_WAIT),
    });
    if (mine !== turn) return;
    if (answer.status === 401) return signedOut();
    if (answer.status !== 304 && !answer.ok) throw new Error(await answer.text());
    skew = Date.parse(answer.headers.get("date")) - Date.now() || 0;
    if (answer.status !== 304) {
      const body = await answer.json();
      if (mine !== turn) return;
      known.etag = answer.headers.get("etag") || "";
      known.body = body;
      render(body);
    }
    wait = POLL;
    $("state").textContent = "Live";
    ages();
  } catch (error) {
    if (mine !== turn) return;
    wait = Math.min(2 * wait, LONGEST_WAIT);
    $("state").textContent = `Not live: ${error.message || "the listener does not answer"}; trying again`;
  }
  timer = setTimeout(poll, wait);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stop(); $("state").textContent = "Paused"; }
  else if (!$("page").hidden) poll();
});

function ask(changed) {
  Object.assign(asked, changed);
  places = [""];
  fresh();
}

function fresh() {
  known.etag = "";
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) if (value) query.set(name, value);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  poll();
}

// The table

function render(body) {
  const focus = document.activeElement && document.activeElement.dataset.focus;
  counts(body);
  const shown = body.objects.map(row);
  const kept = new Set(body.objects.map((object) => object.id));
  for (const id of rows.keys()) if (!kept.has(id)) rows.delete(id);
  const there = $("rows").children;
  if (shown.length !== there.length || shown.some((tr, at) => tr !== there[at])) $("rows").replaceChildren(...shown);
  const active = document.activeElement;
  if (focus && (!active || active.dataset.focus !== focus)) {
    const again = document.querySelector(`[data-focus="${CSS.escape(focus)}"]`);
    if (again) again.focus();
  }
  const some = asked.search || asked.dataset || asked.fate;
  show("none", shown.length ? "" : some ? "No object is like that." : "No object yet: drop a file.");
  $("objects").hidden = !shown.length;
  document.querySelector(".pager").hidden = places.length === 1 && !body.next;
  $("newer").disabled = places.length === 1;
  $("older").disabled = !body.next;
  $("where").textContent = places.length > 1 || body.next ? `page ${places.length}` : "";
}

function row(object) {
  const text = JSON.stringify(object);
  const old = rows.get(object.id);
  if (old && old.text === text) return old.tr;
  const [sign, meaning] = FATES[object.fate] || ["?", ""];
  const tr = make("tr", {},
    make("td", { class: "key" }, make("bdi", {}, object.key), make("small", {}, make("bdi", {}, object.bucket), sized(object.size))),
    make("td", {}, make("span", { class: `fate ${object.fate in FATES ? object.fate : ""}`, title: meaning }, `${sign} ${object.fate}`)),
    make("td", { class: "dataset" }, object.dataset),
    make("td", { class: "age" }, make("time", { datetime: object.updated, title: `${local(object.updated)}; first seen ${local(object.first_seen)}` })),
    make("td", { class: "reason", title: object.reason }, ...(object.reason ? [make("span", { dir: "auto" }, object.reason)] : [])),
    make("td", { class: "see" }, ...links(object)),
    make("td", { class: "do" }, ...buttons(object)),
  );
  rows.set(object.id, { text, tr });
  return tr;
}

function links(object) {
  const link = (path, name, attributes) => make("a", {
    href: `${path}?object=${encodeURIComponent(object.id)}`, rel: "noopener noreferrer",
    "aria-label": `${name} of ${object.key}`, "data-focus": `${path} ${object.id}`, ...attributes,
  }, name);
  return [
    ...(object.run ? [link("run", "Run", { target: "_blank" })] : []),
    ...(object.report ? [link("report", "Report", { target: "_blank" })] : []),
    ...(object.output ? [link("output", "Output", { download: true })] : []),
    ...(object.quarantine ? [link("quarantine", `${object.quarantine} set aside`, { download: true })] : []),
  ];
}

function buttons(object) {
  const button = (name, title, click) => make("button", {
    type: "button", title, "aria-label": `${name} ${object.key}`, "data-focus": `${name} ${object.id}`, click,
  }, name);
  const made = [button("Explain", "Its whole story, and what happens next", () => explain(object))];
  if (object.again) {
    made.push(button("Replay", "Deliver it again; what is done under the present recipe stays so", () => replay(object, false)));
    made.push(button("Rerun", "Prepare it again and replace its output, although nothing has changed", () => replay(object, true)));
  }
  return made;
}

function counts(body) {
  const all = {};
  for (const [dataset, fates] of Object.entries(body.counts)) {
    if (asked.dataset && (asked.dataset === "-" ? "" : asked.dataset) !== dataset) continue;
    for (const [fate, number] of Object.entries(fates)) all[fate] = (all[fate] || 0) + number;
  }
  const chip = (fate, number, kind) => make("button", {
    type: "button", class: kind, "aria-pressed": String(asked.fate === fate), "data-focus": `chip ${fate}`, title: fate ? FATES[fate][1] : "",
    click: () => { $("fate").value = fate; ask({ fate }); },
  }, make("b", {}, number.toLocaleString()), make("span", {}, fate ? `${FATES[fate][0]} ${fate}` : "all"));
  const unaccounted = body.unaccounted;
  $("fates").replaceChildren(
    chip("", Object.values(all).reduce((sum, number) => sum + number, 0), ""),
    ...Object.keys(FATES).map((fate) => chip(fate, all[fate] || 0, all[fate] && (fate === "failed" || fate === "rejected") ? "bad" : "")),
    make("div", { class: unaccounted ? "bad" : unaccounted === 0 ? "good" : "", title: "Objects that the last sweep saw in the bucket and that have no recorded fate" },
      make("b", {}, unaccounted === null ? "?" : unaccounted.toLocaleString()), make("span", {}, "unaccounted")),
  );
  const names = new Set([...known.setup.datasets.map((d) => d.name), ...Object.keys(body.counts).filter(Boolean)]);
  options($("dataset"), [["", "all"], ...[...names].sort().map((name) => [name, name]), ["-", "(none)"]], asked.dataset);
}

function options(select, wanted, chosen = select.value) {
  if (JSON.stringify(wanted) !== select.made) {
    select.made = JSON.stringify(wanted);
    select.replaceChildren(...wanted.map(([value, name]) => make("option", { value }, name)));
  }
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}

function ages() {
  for (const time of $("rows").querySelectorAll("time")) {
    const text = age((Date.now() + skew - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function age(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

const local = (moment) => new Date(moment).toLocaleString();

function sized(bytes) {
  if (bytes === null) return "";
  const power = bytes < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3));
  return ` · ${power ? (bytes / 1000 ** power).toFixed(1) : bytes} ${["bytes", "kB", "MB", "GB", "TB"][power]}`;
}

// What the buttons do

async function replay(object, force) {
  if (force && !confirm(`Prepare ${object.key} again and replace its output?`)) return;
  try {
    await call("POST", "replay", { object: object.id, force });
    show("message", `${object.key} will be delivered again.`, MESSAGE);
    fresh();
  } catch (error) {
    show("message", `${object.key}: ${error.message}`, MESSAGE);
  }
}

async function explain(object) {
  $("story-title").textContent = object.key;
  $("story-next").textContent = "Asking bucket, ledger, receipts and Prefect …";
  $("story-lines").replaceChildren();
  $("story-now").replaceChildren();
  $("story").showModal();
  try {
    const told = await (await call("GET", `explain?object=${encodeURIComponent(object.id)}`)).json();
    $("story-title").textContent = `${told.object}: ${told.fate}`;
    $("story-next").textContent = `Next: ${told.next}`;
    $("story-lines").replaceChildren(...told.story.map((line) => make("li", {}, make("time", { datetime: line.at }, local(line.at)), make("bdi", {}, line.what))));
    $("story-now").replaceChildren(...told.now.map((line) => make("li", {}, make("time", {}, "now"), make("bdi", {}, line))));
  } catch (error) {
    $("story-next").textContent = error.message;
  }
}

// Filters and pages

let typing = 0;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => ask({ search: $("search").value.trim() }), 250);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("dataset").addEventListener("change", () => ask({ dataset: $("dataset").value }));
$("fate").addEventListener("change", () => ask({ fate: $("fate").value }));
$("older").addEventListener("click", () => turnPage([...places, known.body.next]));
$("newer").addEventListener("click", () => turnPage(places.slice(0, -1)));

function turnPage(to) {
  places = to;
  fresh();
  $("objects").scrollIntoView();
  $("objects").focus({ preventScroll: true });
}

// Uploads: one after the other

const chosen = () => known.setup.datasets.find((dataset) => dataset.name === $("into").value);

function tellWhatIsTaken() {
  const dataset = chosen();
  if (dataset) $("takes").textContent = `${dataset.name} takes ${dataset.match}; up to ${(known.setup.upload_bytes / 2 ** 20).toLocaleString()} MiB a file.`;
}

$("into").addEventListener("change", tellWhatIsTaken);
$("files").addEventListener("change", () => { take([...$("files").files]); $("files").value = ""; });
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
$("drop").addEventListener("dragover", () => $("drop").classList.add("over"));
for (const name of ["dragleave", "drop"]) $("drop").addEventListener(name, () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => take([...event.dataTransfer.files]));

let queue = Promise.resolve();

function take(files) {
  const dataset = chosen();
  if (!dataset) return;
  const folder = $("folder").value.trim().replace(/^\/+|\/+$/g, "");
  for (const file of files) {
    const key = dataset.prefix + (folder ? `${folder}/` : "") + file.name;
    const state = make("span", {}, "waits");
    const progress = make("progress", { max: 100, value: 0, "aria-label": `Upload of ${file.name}` });
    const item = make("li", {}, make("bdi", {}, file.name), progress, state);
    $("uploads").prepend(item);
    while ($("uploads").children.length > 100) $("uploads").lastChild.remove();
    queue = queue.then(() => upload(dataset, key, file, progress, state)).catch((error) => {
      state.textContent = error.message;
      state.className = "error";
    }).finally(() => progress.remove());
  }
}

async function upload(dataset, key, file, progress, state) {
  if (file.size > known.setup.upload_bytes) throw new Error("too large for this page");
  let answer = await put(dataset, key, file, progress, state, false);
  if (answer.status === 409) {
    if (!confirm(`${answer.text}. Replace it?`)) throw new Error("not replaced");
    answer = await put(dataset, key, file, progress, state, true);
  }
  if (answer.status === 401) signedOut();
  if (answer.status !== 201) throw new Error(answer.text);
  state.textContent = `uploaded as ${JSON.parse(answer.text).key}`;
  known.etag = "";
  poll();
}

function put(dataset, key, file, progress, state, replace) {
  const query = new URLSearchParams({ dataset: dataset.name, key, ...(replace && { replace: "1" }) });
  return new Promise((resolve, reject) => {
    // Not fetch, which does not tell how far an upload is.
    const request = new XMLHttpRequest();
    request.open("PUT", `upload?${query}`);
    request.setRequestHeader("X-Dropflow", "1");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      progress.value = event.total ? (100 * event.loaded) / event.total : 100;
      state.textContent = event.loaded < event.total ? `${Math.floor(progress.value)} %` : "is being stored";
    };
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = () => reject(new Error("the connection was cut: refused, too large, or the listener is away"));
    request.send(file);
  });
}

const given = new URLSearchParams(location.search);
options($("fate"), [["", "all"], ...Object.keys(FATES).map((fate) => [fate, fate])]);
for (const name of Object.keys(asked)) asked[name] = given.get(name) || "";
if (!(asked.fate in FATES)) asked.fate = "";
$("search").value = asked.search;
$("fate").value = asked.fate;
begin();
