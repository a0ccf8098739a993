"use strict";
(() => {
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LOG_MAX = 500;
let report = null, ahead = 0, source = null, newest = 0, waiting = 0;
const held = new Map();

// Everything from outside becomes text here, and nowhere anything else.
function el(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  for (const part of inside) if (part !== null && part !== undefined) made.append(part instanceof Node ? part : String(part));
  return made;
}
function shape(tag, name, at, title) {
  const made = document.createElementNS(SVG, tag);
  made.setAttribute("class", name);
  for (const key in at) made.setAttribute(key, at[key]);
  if (title) { const said = document.createElementNS(SVG, "title"); said.textContent = title; made.append(said); }
  return made;
}
const say = (id, text) => { const place = $(id); if (place.textContent !== text) place.textContent = text; };
const show = (id, shown) => { $(id).hidden = !shown; };
// Builds a part anew only where what it shows has changed: focus and what is unfolded stay.
function part(id, value, build) {
  const key = JSON.stringify(value);
  if (held.get(id) === key) return;
  held.set(id, key);
  $(id).replaceChildren(...build(value));
}
const now = () => Date.now() + ahead;
function span(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 1) return Math.round(s * 1000) + " ms";
  if (s < 10) return (Math.floor(s * 10) / 10) + " s";
  const whole = Math.floor(s), d = Math.floor(whole / 86400), h = Math.floor(whole / 3600) % 24, m = Math.floor(whole / 60) % 60;
  return d ? d + " d " + h + " h" : h ? h + " h " + m + " min" : m ? m + " min " + whole % 60 + " s" : whole + " s";
}
function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0, value = count;
  while (value >= 1024 && unit < 4) { value /= 1024; unit += 1; }
  return (unit ? value.toFixed(1) : value) + " " + units[unit];
}
// A moment that is told again as time goes by; `form` is "ago", "for" or "in".
function when(at, form) {
  const made = el("time");
  made.dateTime = at; made.dataset.form = form; made.title = new Date(at).toLocaleString();
  tell(made);
  return made;
}
function tell(made) {
  const off = now() - Date.parse(made.dateTime), form = made.dataset.form;
  const coarse = span(Math.abs(off) < 1000 ? 0 : Math.floor(Math.abs(off) / 1000) * 1000).replace("0 ms", "0 s");
  const text = form === "for" ? coarse : off >= 0 ? coarse + " ago" : "in " + coarse;
  if (made.textContent !== text) made.textContent = text;
}
// Text with `commands` in it, which are set apart.
function advice(text) {
  return text.split("`").map((piece, index) => index % 2 ? el("code", "", piece) : document.createTextNode(piece));
}
const row = (term, ...inside) => [el("dt", "", term), el("dd", "", ...inside)];
const short = digest => digest && digest.length > 23 ? digest.slice(0, 19) + "…" : digest;
function digest(text) { const made = el("span", "digest", short(text)); made.title = text; return made; }
const words = text => String(text).replaceAll("_", " ");

const HEALTH = { well: ["✓", "Well"], attention: ["!", "Needs attention"], failing: ["✕", "Failing"], stopped: ["■", "Stopped"] };
const READY = { active: "It takes jobs.", starting: "The runtime is starting.", installing: "Models are being installed.", no_configuration: "There is no snapshot in force.", runtime_down: "The runtime is down.", storage_failed: "The store takes no writes.", stopping: "It is stopping." };

function health(it) {
  const [mark, word] = HEALTH[it.health] || ["?", it.health];
  const box = $("health");
  box.className = "health wide " + it.health;
  say("health-mark", mark); say("health-word", word); say("health-why", it.fence && it.agent.readiness === "active" ? "It takes no new jobs until the network was asked about those of its backup." : READY[it.agent.readiness] || "");
  part("todo", it.next[0] || "", text => text ? advice(text[0].toUpperCase() + text.slice(1)) : []);
  show("more-box", it.next.length > 1);
  say("more-line", it.next.length === 2 ? "One more thing to do" : it.next.length - 1 + " more things to do");
  part("more", it.next.slice(1), all => all.map(text => el("li", "", ...advice(text))));
  document.title = word + " · Resultity node";
}

function jobs(it) {
  const j = it.jobs;
  part("counts", [j.queued, j.running, j.unsent, j.expired], ([queued, running, unsent, expired]) => [["queued", queued], ["running", running], ["to be acknowledged", unsent], ["expired ever", expired]].map(([name, number]) => el("div", "", el("dt", "", name), el("dd", "", number))));
  show("work-none", !j.at_work.length); show("work-table", j.at_work.length > 0);
  part("work", j.at_work, all => all.map(work => el("tr", "", el("td", "mono", work.job, work.attempt > 1 ? el("small", "", "attempt " + work.attempt) : null), el("td", "", work.model), el("td", "num", when(work.since, "for")))));
  show("chart-none", !j.lately.length); show("chart-box", j.lately.length > 0); show("legend", j.lately.length > 0); show("lately-box", j.lately.length > 0);
  part("chart", j.lately, chart);
  part("lately", j.lately, all => all.map(job => el("tr", "", el("td", "", when(job.ended_at, "ago")), el("td", "mono", job.job), el("td", "", job.model), el("td", job.outcome === "answered" ? "" : "bad", job.outcome + (job.failure ? ": " + words(job.failure) : "")), el("td", "num", job.waited_ms === null ? "–" : span(job.waited_ms)), el("td", "num", job.duration_ms === null ? "–" : span(job.duration_ms)), el("td", "num", job.completion_tokens === null ? "–" : job.completion_tokens))));
}
function chart(all) {
  if (!all.length) return [];
  const ran = all.map(job => job.duration_ms).filter(ms => ms !== null).sort((one, other) => one - other);
  const most = Math.max(1, ...ran), median = ran[Math.floor(ran.length / 2)];
  const count = outcome => all.filter(job => job.outcome === outcome).length;
  const text = (all.length === 1 ? "The last job" : "The last " + all.length + " jobs, the newest on the right") + (ran.length ? ": median " + span(median) + ", longest " + span(most) : "") + "; " + count("answered") + " answered, " + count("failed") + " failed, " + count("expired") + " expired.";
  say("chart-text", text);
  $("chart").setAttribute("aria-label", "Durations of jobs. " + text);
  const room = 600 / Math.max(20, all.length), first = 600 - room * all.length;
  return all.slice().reverse().map((job, index) => {
    const height = job.duration_ms === null ? 4 : Math.max(4, 112 * job.duration_ms / most);
    return shape("rect", job.outcome, { x: first + index * room + 1, y: 119 - height, width: Math.max(1, room - 3), height }, job.model + ", " + job.outcome + (job.duration_ms === null ? "" : " in " + span(job.duration_ms)));
  });
}

function snapshot(it) {
  const s = it.snapshot;
  part("snapshot", s, s => {
    if (!s) return row("version", "none yet");
    const tone = { fresh: "good", refresh_due: "good", stale: "warn", out_of_force: "bad" }[s.validity] || "";
    return [...row("version", s.version), ...row("state", el("span", tone, words(s.validity)), s.good ? "" : ", its health check is not passed yet"), ...(s.taken_back_version === null ? [] : row("taken back", "version " + s.taken_back_version + " failed its health check")), ...row("made", when(s.issued_at, "ago")), ...row("applied", when(s.applied_at, "ago")), ...row("valid until", when(s.valid_until, "in"), ", then ", "a grace until ", when(s.grace_until, "in")), ...row("digest", digest(s.digest))];
  });
  show("changes-head", !!s && s.previous_version !== null); show("changes", !!s && s.previous_version !== null);
  if (s && s.previous_version !== null) {
    say("changes-head", "What it changed since version " + s.previous_version);
    part("changes", s.changes || [], all => (all.length ? all : ["Nothing that the node does."]).map(text => el("li", "", text)));
  }
}

function models(it) {
  const list = it.models.list;
  show("models-none", !list.length); show("models-table", list.length > 0);
  part("models", list, all => all.map(model => {
    const tone = { active: "good", failed: "bad", pending: "warn", inactive: "warn" }[model.state] || "";
    const here = model.bytes ? Math.floor(100 * model.bytes_here / model.bytes) + " % of " + bytes(model.bytes) : "–";
    return el("tr", "", el("td", "", model.model, model.listed ? null : el("small", "", "not listed any more")), el("td", "", el("span", tone, model.state), model.reason ? el("small", "", model.reason) : null), el("td", "num", here));
  }));
  const kinds = Object.entries(it.artifacts).map(([state, number]) => number + " " + state).join(", ");
  say("drift", it.drifted.length ? it.drifted.length + " drifted from what was installed:" : kinds ? "No drift. Artifacts: " + kinds + "." : "No artifact is known yet.");
  $("drift").className = it.drifted.length ? "bad" : "none";
  part("drifted", it.drifted, all => all.map(name => el("li", "mono", name)));
}

function use(name, used, limit, free) {
  const whole = limit || (free === undefined ? 0 : used + free), share = whole ? Math.min(1, used / whole) : 0;
  const said = whole ? bytes(used) + " of " + bytes(whole) : bytes(used);
  const box = el("div", "use", el("p", "", el("span", "", name), el("span", "", said)));
  if (!whole) return box;
  const fill = el("div", "fill" + (share > .95 ? " full" : share > .8 ? " high" : "")), track = el("div", "track", fill);
  fill.style.width = 100 * share + "%";
  track.setAttribute("role", "meter"); track.setAttribute("aria-label", name);
  track.setAttribute("aria-valuemin", "0"); track.setAttribute("aria-valuemax", "100");
  track.setAttribute("aria-valuenow", String(Math.round(100 * share))); track.setAttribute("aria-valuetext", said);
  box.append(track);
  return box;
}
function storage(it) {
  const disk = it.hardware && it.hardware.disk;
  part("storage", [it.storage, disk], ([all, disk]) => {
    const rows = all.map(one => use(one.class, one.bytes, one.limit_bytes));
    if (disk && disk.total_bytes) rows.push(use("disk of the volume", disk.total_bytes - disk.free_bytes, disk.total_bytes));
    return rows;
  });
}

function connection(it) {
  const c = it.connection;
  if (!c) { say("connection", "Nothing is known of it."); return; }
  part("connection", [c.connected, c.since, c.why], ([connected, since, why]) => [el("span", connected ? "good" : "bad", connected ? "Connected" : "Not connected"), " for ", when(since, "for"), why ? ": " + why : "."]);
  const start = Date.parse(it.agent.started_at), end = now(), all = Math.max(1, end - start);
  const gaps = c.outages.map(outage => [Date.parse(outage.from), Date.parse(outage.to), outage.why]);
  if (!c.connected) gaps.push([Date.parse(c.since), end, c.why || ""]);
  const place = at => 1000 * Math.min(1, Math.max(0, (at - start) / all));
  const gone = gaps.reduce((sum, [from, to]) => sum + to - from, 0);
  const text = "Since the start " + span(Math.floor(all / 1000) * 1000) + " ago: " + (gaps.length === 1 ? "1 outage" : gaps.length + " outages") + (gaps.length ? ", " + span(gone) + " in all." : ".");
  say("timeline-text", text);
  $("timeline").setAttribute("aria-label", "Connection. " + text);
  $("timeline").replaceChildren(shape("rect", "up", { x: 0, y: 0, width: 1000, height: 24 }), ...gaps.map(([from, to, why]) => shape("rect", "down", { x: place(from), y: 0, width: Math.max(2, place(to) - place(from)), height: 24 }, span(to - from) + (why ? ": " + why : ""))));
  part("outages", c.outages, all => all.slice().reverse().map(outage => el("li", "", when(outage.from, "ago"), ", for " + span(Date.parse(outage.to) - Date.parse(outage.from)) + ": " + outage.why)));
}

function machine(it) {
  part("machine", it.hardware, h => {
    if (!h) return row("", "unknown");
    const p = h.processor, rows = [...row("processor", p.name || "unknown", p.threads ? ", " + p.threads + " threads" : "")];
    if (p.load_1m_milli !== undefined) rows.push(...row("load", (p.load_1m_milli / 1000).toFixed(2), p.threads ? " on " + p.threads : ""));
    rows.push(...row("memory", bytes(h.memory.free_bytes) + " free of " + bytes(h.memory.total_bytes)));
    for (const card of h.graphics || []) rows.push(...row("graphics", card.name + ", " + bytes(card.memory.free_bytes) + " free of " + bytes(card.memory.total_bytes) + (card.busy_percent === undefined ? "" : ", " + card.busy_percent + " % busy") + (card.celsius === undefined ? "" : ", " + card.celsius + " °C")));
    if (!(h.graphics || []).length) rows.push(...row("graphics", "none that can be asked"));
    return rows;
  });
}
function about(it) {
  part("about", [it.node, it.address, it.protection, it.account, it.agent, it.folder, it.runtime, it.release, it.fence, it.time_held, it.logs, it.traces, it.incidents], () => {
    const a = it.agent, lost = Object.entries(it.logs.lost).map(([level, number]) => number + " " + level).join(", ");
    const rows = [...row("node", el("span", "mono", it.node || "its key is missing")), ...row("address", el("span", "mono", it.address || "unknown")), ...row("key", words(it.protection || "missing")), ...row("account", it.account ? it.account.account : "none"), ...row("Agent", (a.version || "") + (a.pid ? ", process " + a.pid : "")), ...row("running", "for ", when(a.started_at, "for")), ...row("start", el("span", "mono", a.boot || ""))];
    if (it.runtime) rows.push(...row("runtime", it.runtime.engine + " (" + it.runtime.kind + ")" + (it.runtime.restarts ? ", fell " + (it.runtime.restarts === 1 ? "once" : it.runtime.restarts + " times") + " in this start" : "")));
    if (it.release) rows.push(...row("release", el("span", it.release.approved ? "" : "warn", it.release.version + " is approved" + (it.release.approved ? "" : ", this one is not"))));
    if (it.fence) rows.push(...row("restored", el("span", "warn", "the backup of ", when(it.fence.backed_up_at, "ago"), "; " + (it.fence.jobs === 1 ? "1 job waits" : it.fence.jobs + " jobs wait") + " for the network's word")));
    rows.push(...row("folder", el("span", "mono", it.folder)), ...row("clock", el("span", it.time_held ? "bad" : "", it.time_held ? "in doubt: nothing is ended by time" : "trusted")), ...row("log lost", el("span", lost ? "warn" : "", lost || "nothing")));
    if (it.logs.unreadable) rows.push(...row("log", el("span", "bad", it.logs.unreadable)));
    for (const found of it.incidents) rows.push(...row("incident", when(found.at, "ago"), " " + found.database + ": " + found.cause));
    return rows;
  });
}

function draw(it) {
  report = it; ahead = Date.parse(it.time) - Date.now();
  say("network", it.network); say("node", it.node || "");
  health(it); jobs(it); snapshot(it); models(it); storage(it); connection(it); machine(it); about(it);
}

function record(it) {
  const at = new Date(it.at), made = el("time", "", at.toLocaleTimeString([], { hour12: false }));
  made.dateTime = it.at; made.title = at.toLocaleString();
  const tone = { error: "bad", warn: "warn", info: "" }[it.level];
  const facts = Object.entries(it.fields || {}).map(([name, value]) => " " + name + "=" + (typeof value === "string" ? value : JSON.stringify(value))).join("") + (it.job ? " job=" + it.job : "");
  return el("li", "", made, el("span", tone === undefined ? "kind" : tone, it.level), el("span", "kind", words(it.kind)), el("span", "what", it.message, facts ? el("span", "about", facts) : null));
}
function records(all) {
  const list = $("log"), fresh = all.filter(it => it.seq > newest);
  if (fresh.length) {
    newest = fresh[fresh.length - 1].seq;
    list.prepend(...fresh.map(record).reverse());
    while (list.children.length > LOG_MAX) list.lastChild.remove();
  }
  show("log-none", !list.children.length);
}

function live(on, text) { $("live-dot").className = "dot " + (on ? "on" : "off"); say("live", text); }
function listen() {
  if (source) source.close();
  const asked = new URLSearchParams({ level: $("level").value });
  if ($("text").value) asked.set("text", $("text").value);
  if ($("job").value.trim()) asked.set("job", $("job").value.trim());
  if (newest) asked.set("after", newest);
  source = new EventSource("/v1/events?" + asked);
  const mine = source;
  source.addEventListener("report", event => { if (mine === source) { live(true, "live"); draw(JSON.parse(event.data)); } });
  source.addEventListener("log", event => { if (mine === source) records(JSON.parse(event.data)); });
  source.onerror = () => {
    if (mine !== source) return;
    live(false, "the Agent does not answer; what is shown is of " + (report ? new Date(report.time).toLocaleTimeString() : "before"));
    // A browser gives up on an answer that is no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (mine === source) listen(); }, 3000);
  };
}
function filter() { newest = 0; $("log").replaceChildren(); listen(); }
$("filter").addEventListener("submit", event => { event.preventDefault(); filter(); });
$("level").addEventListener("change", filter);
for (const id of ["text", "job"]) $(id).addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 250); });

const data = JSON.parse($("data").textContent);
draw(data.report); records(data.records); live(false, "connecting"); listen();
setInterval(() => { for (const made of document.querySelectorAll("time[data-form]")) tell(made); if (report) connection(report); }, 1000);
})();
