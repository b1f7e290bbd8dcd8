
// --- the page: text only; nothing of the evidence ever becomes markup ---

const PAGE_OF_ENTRIES = 200;
const SHOWN = [["timestamp", "When"], ["event_type", "What"], ["actor_id", "Who"], ["outcome", "Outcome"], ["on_behalf_of", "For"], ["team", "Team"],
  ["project", "Project"], ["resource_type", "Resource type"], ["resource_id", "Resource"], ["action", "Action"], ["ip_address", "Address"],
  ["user_agent", "Program"], ["correlation_id", "Act"], ["request_id", "Request"], ["event_id", "Event"], ["logged_at", "Logged"]];
const TONES = { out: ["ruled out", "good"], detected: ["detected", "bad"], open: ["not ruled out", "warn"], cannot: ["cannot check", "dim"] };
const SUSPECT = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;

let loaded = null;
let running = 0;

function byId(id) {
  return document.getElementById(id);
}

// Characters that hide or turn text are shown as their numbers.
function inert(value) {
  return String(value).replace(SUSPECT, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

function make(tag, text, name) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = inert(text);
  if (name) found.className = name;
  return found;
}

function clear(element) {
  element.replaceChildren();
  return element;
}

function verdict(tone, words, more) {
  byId("result").hidden = false;
  const place = byId("verdict");
  place.className = `verdict ${tone}`;
  place.children[0].textContent = inert(words);
  place.children[1].textContent = inert(more);
}

function forget() {
  for (const id of ["facts", "findings", "cannot", "entries"]) clear(byId(id));
  clear(byId("threats").tBodies[0]);
  byId("wrong").hidden = true;
  byId("reading").hidden = true;
  byId("more").hidden = true;
  delete document.body.dataset.state;
}

function refuse(words) {
  forget();
  drawFindings([{ words }]);
  drawUnknown();
  verdict("bad", "This evidence does not hold", "Keep the file as it is, and ask for another copy by another way.");
  document.body.dataset.state = "bad";
}

function drawUnknown() {
  for (const [name, words] of THREATS) addThreat({ name, words, state: "cannot", by: "nothing could be checked" });
}

function drawFindings(findings) {
  byId("wrong").hidden = findings.length === 0;
  for (const finding of findings.slice(0, 100)) byId("findings").append(make("li", finding.words));
  if (findings.length > 100) byId("findings").append(make("li", `… and ${findings.length - 100} more`));
}

function addThreat(threat) {
  const row = byId("threats").tBodies[0].insertRow();
  row.dataset.threat = threat.name;
  row.dataset.state = threat.state;
  const [words, tone] = TONES[threat.state];
  row.append(make("th", threat.words), make("td", words, tone), make("td", threat.by.endsWith(".") ? threat.by : `${threat.by}.`));
  row.cells[0].scope = "row";
}

function readTrust() {
  const entered = byId("key").value.trim();
  const plain = entered.toLowerCase().replace(/^sha-?256:/, "").replace(/[\s:]/g, "");
  const fingerprint = /^[0-9a-f]{64}$/.test(plain) ? plain : "";
  must(!/^[0-9a-f]{1,63}$/.test(plain), "What you entered as the key is too short for a fingerprint: it has 64 digits.");
  const witnesses = byId("witnesses").value.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  return { vkey: fingerprint === "" ? entered : "", fingerprint, witnesses, needed: byId("needed").value };
}

async function trusted() {
  const { vkey, fingerprint, witnesses, needed } = readTrust();
  const key = vkey === "" ? null : await parseKey(vkey);
  must(key === null || key.kind === 1, "The key that you entered is not the key of a log.");
  const keys = [];
  for (const text of witnesses) keys.push(await parseKey(text));
  must(keys.every((one) => one.kind !== 1), "A key entered for a witness is none of a witness (type 0x04).");
  const raw = new Set(keys.map((one) => toBase64(one.bytes)));
  must(raw.size === keys.length, "The same key is entered for two witnesses.");
  const enough = needed === "" ? keys.length : decimal(needed);
  must(keys.length === 0 || (enough >= 1 && enough <= keys.length), "So many witnesses were not entered.");
  return { key, fingerprint, witnesses: keys, needed: Math.max(1, enough) };
}

async function examine() {
  if (loaded === null) return;
  const mine = ++running;
  forget();
  verdict("dim", "Checking …", "");
  const can = await abilities();
  if (!can.sha256) {
    drawUnknown();
    byId("cannot").append(make("li", "Anything: this browser gives this page no WebCrypto."));
    verdict("dim", "Cannot check", "This browser gives this page no WebCrypto: open it as a local file, in a newer browser.");
    document.body.dataset.state = "cannot";
    return;
  }
  let trust = null;
  try {
    trust = await trusted();
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    drawUnknown();
    verdict("warn", "Key not confirmed", error.message);
    document.body.dataset.state = "unconfirmed";
    return;
  }
  try {
    const evidence = readEvidence(loaded.text);
    if (loaded.members !== null) checkMembers(loaded.members, evidence);
    const judge = new Judge(evidence, trust, can);
    await judge.run(async (done) => {
      verdict("dim", "Checking …", `${done} of ${evidence.entries.length} entries`);
      await new Promise((resolve) => { setTimeout(resolve); });
    });
    if (mine === running) draw(judge);
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    if (mine === running) refuse(error.message);
  }
}

function draw(judge) {
  forget();
  const [number, state] = [judge.evidence.chosen.length, judge.state];
  const those = count(number, "entry", "entries");
  if (state === "good") {
    verdict("good", `${those} proven`, `Byte for byte in the log ${judge.head.origin}, signed by the key that you entered. What that rules out, and what not, says the table.`);
  } else if (state === "unconfirmed") {
    verdict("warn", "Key not confirmed", "All parts of the evidence fit together, which proves nothing until you enter the key or fingerprint that you got elsewhere.");
  } else if (state === "cannot") {
    verdict("dim", "Cannot check", "The hashes fit together, but this browser cannot check the signatures above them: it has no Ed25519. Use a newer one, or klingai-audit check.");
  } else {
    verdict("bad", "This evidence does not hold", "Keep the file as it is. Ask for another copy by another way, and for the log itself.");
  }
  drawFindings(judge.findings);
  for (const threat of judge.threats()) addThreat(threat);
  for (const words of judge.unchecked()) byId("cannot").append(make("li", words));
  drawFacts(judge);
  drawEntries(judge);
  document.body.dataset.state = state;
}

function drawFacts(judge) {
  const latest = judge.rounds.slice().sort((a, b) => b.size - a.size)[0];
  const rows = [
    ["Log", judge.head.origin, false],
    ["Key named by the evidence", judge.logKey ? judge.logKey.text : "none", true],
    ["Its fingerprint (SHA-256)", judge.fingerprint || "none", true],
    ["Checkpoint", `${count(judge.head.size, "entry", "entries")}, root ${toHex(judge.head.root)}`, true],
    ["Epochs of signing keys", String(judge.keys.length), false],
    ["Witnessed", judge.state === "bad" ? "not told: the evidence does not hold" : latest ? `size ${latest.size.toLocaleString("en")} by ${latest.names.join(", ")}, ${moment(latest.time)}` : "by nobody whose key you entered", false],
  ];
  for (const [name, value, mono] of rows) {
    const told = make("dd");
    told.append(make(mono ? "code" : "bdi", value));
    byId("facts").append(make("dt", name), told);
  }
}

function drawEntries(judge) {
  const chosen = new Set(judge.evidence.chosen);
  const all = [...judge.evidence.entries.filter((one) => chosen.has(one.seq)), ...judge.evidence.entries.filter((one) => !chosen.has(one.seq))];
  byId("reading").hidden = false;
  byId("counted").textContent = `${count(chosen.size, "entry was", "entries were")} chosen; ${count(all.length - chosen.size, "more tells", "more tell")} of keys, witnesses and time stamps.`;
  let at = 0;
  const next = () => {
    for (const one of all.slice(at, at + PAGE_OF_ENTRIES)) byId("entries").append(drawEntry(judge, one, chosen.has(one.seq)));
    at += PAGE_OF_ENTRIES;
    byId("more").hidden = at >= all.length;
  };
  byId("more").onclick = next;
  next();
}

function drawEntry(judge, one, asked) {
  let members = {};
  try { members = JSON.parse(one.entry); } catch { members = {}; }
  if (members === null || typeof members !== "object") members = {};
  const box = make("details");
  box.dataset.seq = one.seq;
  const good = judge.proven.get(one.seq) === true;
  const mark = !good ? ["not proven", "bad"] : judge.state === "good" ? ["proven", "good"] : ["in the tree", "dim"];
  const head = make("summary");
  const who = [members.actor_id, members.outcome].filter((value) => typeof value === "string").join(" · ");
  head.append(make("span", one.seq, "no"), make("span", String(members.event_type ?? "?"), "type"), make("span", String(members.timestamp ?? ""), "when"), make("span", who, "who"), make("span", asked ? mark[0] : `${mark[0]}, history`, `mark ${mark[1]}`));
  box.append(head);
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    const facts = make("dl", undefined, "facts");
    for (const [name, words] of SHOWN) {
      if (members[name] === undefined) continue;
      const told = make("dd");
      told.append(make("bdi", members[name]));
      facts.append(make("dt", words), told);
    }
    const more = members.metadata === undefined ? [] : [make("h4", "More"), pre(members.metadata)];
    box.append(facts, ...more, make("h4", "The entry’s bytes"), make("pre", one.entry));
  });
  return box;
}

// JSON over several lines; only the line feeds of the layout itself are left as they are.
function pre(value) {
  const element = make("pre");
  element.textContent = JSON.stringify(value, null, 2).split("\n").map(inert).join("\n");
  return element;
}

async function take(file) {
  const mine = ++running;
  byId("source").textContent = inert(file.name);
  byId("embedded").hidden = true;
  let data = null;
  try {
    must(file.size <= MAX_BYTES, "The file is too long for a bundle.");
    data = new Uint8Array(await file.arrayBuffer());
    if (mine !== running) return;
    loaded = evidenceOf(data);
  } catch (error) {
    if (mine !== running) return;
    loaded = null;
    refuse(error instanceof Broken ? error.message : "The file cannot be read.");
    return;
  }
  await examine();
}

function start() {
  const block = byId("evidence").textContent;
  byId("trust").addEventListener("submit", (event) => { event.preventDefault(); examine(); });
  byId("file").addEventListener("change", (event) => {
    const file = event.target.files[0];
    event.target.value = ""; // so that the same name chosen again is looked at again
    if (file !== undefined) take(file);
  });
  const drop = byId("drop");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files[0]);
  });
  if (block !== "") {
    byId("embedded").hidden = false;
    byId("source").textContent = "The evidence inside this page.";
    loaded = { text: block, members: null };
    examine();
  }
}

start();
