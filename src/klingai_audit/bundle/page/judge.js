
// --- what the evidence proves ---

const SEQ = /,"seq":(0|[1-9][0-9]{0,15}),"logged_at":"([0-9TZ:.-]{27})","prev_hash":"[0-9a-f]{64}"(,"seal":"[A-Za-z0-9_-]{43}")?\}$/;
const CLOSING = ["signing_key_rotated", "log_closed"];
const HANDOVER = "klingai-audit/handover/v1";

function typeOf(entry) {
  return entry.slice(118, entry.indexOf('"', 118));
}

function metadataOf(entry) {
  let found = null;
  try { found = JSON.parse(entry); } catch { found = null; }
  const inner = found === null ? null : found.metadata;
  return inner !== null && typeof inner === "object" && !Array.isArray(inner) ? inner : {};
}

class Judge {
  constructor(evidence, trust, can) {
    Object.assign(this, { evidence, trust, can });
    this.findings = [];
    this.cannot = [];
    this.unknown = false;
    this.proven = new Map();
    this.keys = [];
    this.ends = [];
    this.rounds = [];
    this.further = new Set();
    this.steps = new Map(evidence.consistency.map((one) => [one.size, one.proof]));
  }

  find(words, ...threats) {
    this.findings.push({ words, threats });
  }

  // Run one part; what is out of form is a finding of that part.
  async part(what, threats, run) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      this.find(`${what}: ${error.message}`, ...threats);
      return null;
    }
  }

  sig(good, words, ...threats) {
    if (good === null) this.unknown = true;
    if (good === false) this.find(words, ...threats);
    return good === true;
  }

  async run(progress) {
    this.note = parseNote(this.evidence.checkpoint);
    this.head = parseCheckpoint(this.note);
    let done = 0;
    for (const one of this.evidence.entries) {
      await this.part(`Entry ${one.seq}`, ["edit"], () => this.inclusion(one));
      if (++done % 200 === 0) await progress(done);
    }
    await this.part("The log’s first entry", ["head_cut"], () => this.first());
    if (this.logKey) {
      await this.part("The trusted key", ["foreign_key"], () => this.confirm());
      await this.part("The log’s keys", ["key_theft"], () => this.epochs());
      await this.part("The checkpoint", ["edit"], () => this.signatures(this.note, this.head, "The checkpoint"));
      for (const one of this.evidence.entries.filter((entry) => typeOf(entry.entry) === "checkpoint_witnessed")) {
        await this.part(`Entry ${one.seq}, on witnesses`, ["fork"], () => this.witnessed(one));
      }
      for (const one of this.evidence.stamps) {
        await this.part(`The time stamp of size ${one.size}`, ["back_dating"], () => this.stamp(one));
      }
    }
    return this;
  }

  async inclusion(one) {
    const data = bytesOf(one.entry);
    const leaf = await sha256(join(LEAF, data));
    const stated = SEQ.exec(one.entry);
    const good = await included(one.seq, this.head.size, leaf, one.proof.map(hashFrom), this.head.root);
    this.proven.set(one.seq, false);
    if (!good) {
      this.find(`Entry ${one.seq} is not in the tree under the checkpoint: the entry, its proof or its place was changed.`, "edit", "insert", "reorder");
    } else if (stated === null || Number(stated[1]) !== one.seq) {
      this.find(`The entry proven at index ${one.seq} states another one.`, "reorder");
    } else {
      this.proven.set(one.seq, true);
    }
  }

  async first() {
    const entry = this.evidence.entries[0].entry;
    const metadata = metadataOf(entry);
    must(typeOf(entry) === "log_created" && metadata.format === 1 && metadata.epoch === 0, "it is not a log_created entry of a known form.");
    must(metadata.origin === this.head.origin, "it is of another log than the checkpoint.");
    const [logKey, epochKey] = [await parseKey(metadata.log_key), await parseKey(metadata.epoch_key)];
    must(logKey.kind === 1 && logKey.name === metadata.origin, "it names no key of this log.");
    must(epochKey.kind === 1 && epochKey.name === `${metadata.origin}/epoch-0`, "it names no key of epoch 0.");
    const second = metadata.mldsa_key === undefined ? null : await parseKey(metadata.mldsa_key);
    must(second === null || (second.kind === 6 && second.name === metadata.origin), "it names an ML-DSA-44 key that is none.");
    Object.assign(this, { logKey, created: metadata, second });
    this.keys.push(epochKey);
    this.fingerprint = toHex(await sha256(bytesOf(logKey.text)));
  }

  async confirm() {
    this.confirmed = false;
    const { key, fingerprint } = this.trust;
    if (key !== null) {
      if (key.text !== this.logKey.text) {
        this.find(`The evidence is of a log with the key ${this.logKey.id} of ${this.logKey.name}; you entered ${key.id} of ${key.name}.`, "foreign_key");
      } else this.confirmed = true;
    } else if (fingerprint !== "") {
      if (fingerprint !== this.fingerprint) {
        this.find("The evidence is of a log with another key than the fingerprint that you entered.", "foreign_key");
      } else this.confirmed = true;
    }
  }

  async extends(size, root) {
    must(size === this.head.size || this.steps.has(size), `nothing proves that the log extends its first ${size} entries.`);
    const proof = (this.steps.get(size) || []).map(hashFrom);
    must(await extended(size, this.head.size, root, this.head.root, proof), `the log does not extend its first ${size} entries as they were signed.`);
  }

  async epochs() {
    for (const one of this.evidence.entries) {
      if (typeOf(one.entry) !== "signing_key_rotated") continue;
      const epoch = this.keys.length;
      const metadata = metadataOf(one.entry);
      must(Object.keys(metadata).join() === "epoch,epoch_key,handover" && metadata.epoch === epoch, `entry ${one.seq} does not describe the change to epoch ${epoch}.`);
      const key = await parseKey(metadata.epoch_key);
      must(key.kind === 1 && key.name === `${this.head.origin}/epoch-${epoch}`, `entry ${one.seq} names no key of epoch ${epoch}.`);
      const note = parseNote(String(metadata.handover));
      const [outgoing, line] = [this.keys[epoch - 1], note.lines[0]];
      must(note.lines.length === 1 && line.name === outgoing.name && line.id === outgoing.id, `the handover in entry ${one.seq} is not signed by epoch ${epoch - 1}.`);
      const good = await signed(outgoing, bytesOf(note.text), line.blob, this.can);
      this.sig(good, `The handover in entry ${one.seq} is not signed by the key of epoch ${epoch - 1}.`, "key_theft");
      const items = note.text.split("\n");
      must(items.length === 7 && items.join("\n") === [HANDOVER, this.head.origin, epoch, one.seq, items[4], key.text, ""].join("\n"), `the handover in entry ${one.seq} is about another place or key.`);
      await this.extends(one.seq, hashFrom(items[4]));
      this.keys.push(key);
      this.ends.push(one.seq + 1);
    }
    this.chained = true;
  }

  async signatures(note, head, what) {
    must(head.origin === this.logKey.name, "it is of another log.");
    must(note.lines.length >= 2, "it lacks one of its two signatures.");
    const epoch = this.ends.filter((end) => end < head.size).length;
    const message = bytesOf(note.text);
    let all = true;
    const wanted = [[note.lines[0], this.logKey, "the log’s key"]];
    if (this.chained) wanted.push([note.lines[1], this.keys[epoch], `epoch ${epoch}`]); // else that is the finding
    for (const [line, key, whose] of wanted) {
      const named = key !== undefined && line.name === key.name && line.id === key.id;
      const good = named ? await signed(key, message, line.blob, this.can) : false;
      all = this.sig(good, `${what} is not signed by ${whose}.`, "edit", "insert", "reorder", "head_cut") && all;
    }
    this.countersigned(note, head, what);
    if (note === this.note) this.headSigned = all;
  }

  // The line by ML-DSA-44: that it stands where it has to, and whose it says it is; its signature is not checked here.
  countersigned(note, head, what) {
    const line = note.lines[2];
    if (this.second === null) {
      for (const other of note.lines.slice(2)) this.further.add(other.name);
    } else if (line === undefined) {
      const closing = this.evidence.entries.some((one) => one.seq === head.size - 1 && CLOSING.includes(typeOf(one.entry)));
      if (head.size % 4096 === 0 || closing) this.find(`${what} lacks the ML-DSA-44 line that a checkpoint of its size has.`, "quantum");
    } else if (!this.isSecond(line)) {
      this.find(`The third line of ${what.toLowerCase()} is not by the ML-DSA-44 key that the log’s first entry names.`, "quantum");
    } else this.further.add(`${line.name} (ML-DSA-44)`);
  }

  isSecond(line) {
    return this.second !== null && line.name === this.second.name && line.id === this.second.id && line.blob.length === 2428;
  }

  async witnessed(one) {
    const metadata = metadataOf(one.entry);
    const note = parseNote(String(metadata.note));
    const head = parseCheckpoint(note);
    must(head.origin === this.head.origin && head.size === metadata.size, "it holds a checkpoint of another log or size.");
    const line = note.lines[0];
    must(line.name === this.logKey.name && line.id === this.logKey.id, "its checkpoint is not signed by the log.");
    const good = await signed(this.logKey, bytesOf(note.text), line.blob, this.can);
    this.sig(good, `The checkpoint in entry ${one.seq} is not signed by the log’s key.`, "fork");
    await this.extends(head.size, head.root);
    const found = new Map();
    for (const cosignature of note.lines.slice(2)) {
      const key = this.trust.witnesses.find((known) => known.name === cosignature.name && known.id === cosignature.id);
      if (key === undefined) { this.strangers = this.strangers || !this.isSecond(cosignature); continue; }
      must(!found.has(key.text), `two lines are by the witness ${key.name}.`);
      const told = await cosigned(key, note, cosignature, this.can);
      if (told.good === null && key.kind === 6) { this.further.add(key.name); continue; }
      if (this.sig(told.good, `The cosignature by ${key.name} in entry ${one.seq} does not verify.`, "fork", "key_holder")) found.set(key.text, [key.name, told.time]);
    }
    if (good === true && found.size > 0 && found.size >= this.trust.needed) {
      const names = [...found.values()].map((pair) => pair[0]).sort();
      this.rounds.push({ size: head.size, names, time: Math.max(...[...found.values()].map((pair) => pair[1])) });
    }
  }

  async stamp(one) {
    const note = parseNote(one.checkpoint);
    const head = parseCheckpoint(note);
    must(head.size === one.size, "its checkpoint is of another size.");
    await this.signatures(note, head, `The stamped checkpoint of size ${one.size}`);
    await this.extends(head.size, head.root);
    const [token, digest] = [fromBase64(one.token), await sha256(bytesOf(one.checkpoint))];
    let there = false;
    for (let at = 0; at + 32 <= token.length && !there; at++) there = token[at] === digest[0] && same(token.slice(at, at + 32), digest);
    must(there, "it is a time stamp of something else.");
  }

  // --- answers ---

  get state() {
    if (this.findings.length > 0) return "bad";
    if (!this.can.ed25519 || this.unknown) return "cannot";
    if (!this.headSigned || !this.logKey) return "bad";
    return this.confirmed ? "good" : "unconfirmed";
  }

  threats() {
    const shown = new Map();
    for (const finding of this.findings) for (const threat of finding.threats) if (!shown.has(threat)) shown.set(threat, finding.words);
    return THREATS.map(([name, words]) => {
      if (shown.has(name)) return { name, words, state: "detected", by: shown.get(name) };
      return { name, words, ...this.answer(name) };
    });
  }

  answer(name) {
    const open = (by) => ({ state: "open", by });
    const [chosen, size] = [this.evidence.chosen, this.head.size];
    const what = `the root over ${count(size, "entry", "entries")}${this.logKey ? `, signed by key ${this.logKey.id}` : ""}`;
    const tree = (by) => {
      if (this.state === "cannot") return { state: "cannot", by: `${by}, but this browser cannot check the signatures` };
      if (this.state === "bad") return open("other parts of the evidence do not hold");
      return this.confirmed ? { state: "out", by } : open(`key not confirmed: ${by}, but whoever made the evidence may have made the key`);
    };
    const last = chosen[chosen.length - 1];
    const covering = this.rounds.filter((round) => round.size > last).sort((a, b) => a.time - b.time)[0];
    const seen = (did) => {
      const answer = tree(`${covering.names.join(", ")} ${did} up to size ${covering.size.toLocaleString("en")} by ${moment(covering.time)}, which covers every entry here`);
      return answer;
    };
    const nobody = this.trust.witnesses.length === 0
      ? (this.strangers ? "there are cosignatures, but you entered no witness that you trust" : "no witness that you trust is known here")
      : "the witnesses that you entered did not cosign what covers all entries here";
    switch (name) {
      case "edit": return tree(`each entry here is, byte for byte, under ${what}`);
      case "insert": return tree(`each entry here has its place under ${what}`);
      case "reorder": return tree(`each entry’s index is proven, and states the same number, under ${what}`);
      case "head_cut": return tree(`the log’s first entry is at index 0 under ${what}`);
      case "delete": return chosen.length === size ? tree(`all entries under the checkpoint are here, ${what}`)
        : { state: "cannot", by: `here are ${chosen.length.toLocaleString("en")} of ${count(size, "entry", "entries")}: what was not chosen is not here. Numbers that are missing can be asked for` };
      case "tail_cut": return open(`the log may go on after size ${size.toLocaleString("en")}; a newer checkpoint from elsewhere would show it`);
      case "rollback": return open("this page remembers no earlier checkpoint; compare with one that you kept: klingai-audit consistency");
      case "fork": return covering ? seen("saw one history") : open(`others may have been shown another history: ${nobody}`);
      case "key_holder": return covering ? seen("cosigned this history, which no key of the log can undo,") : open(`whoever holds all keys can sign another history: ${nobody}`);
      case "key_theft": return covering ? seen("cosigned this history, which no stolen key can undo,") : open(`${this.ends.length === 0 ? "no epoch has ended" : `entries below ${this.ends[this.ends.length - 1]} were closed by ${count(this.ends.length, "handover", "handovers")}`}; what the current keys signed, a thief of them can sign anew`);
      case "back_dating": return this.evidence.stamps.length > 0
        ? { state: "cannot", by: `there are ${count(this.evidence.stamps.length, "time stamp", "time stamps")} of checkpoints of this log; who issued them and when, only openssl ts or klingai-audit verify can check` }
        : open(covering && this.state === "good" ? `only that they existed by ${moment(covering.time)} is known; there are no time stamps` : "there are no time stamps; the log’s own clock never goes back");
      case "foreign_key": return this.confirmed && this.state === "good" ? { state: "out", by: `key ${this.logKey.id} is the one that you entered` }
        : this.state === "cannot" ? { state: "cannot", by: "this browser cannot check the signatures" }
        : this.state === "bad" ? open("other parts of the evidence do not hold")
        : open("key not confirmed: enter the key or fingerprint that you got elsewhere");
      default: return this.further.size > 0 || (this.created && this.created.mldsa_key !== undefined)
        ? { state: "cannot", by: "there are further signature lines, such as ML-DSA-44, which this page cannot check" }
        : open("the signatures are Ed25519, which a large quantum computer could forge");
    }
  }

  unchecked() {
    const words = [];
    if (!this.can.ed25519) words.push("Signatures: this browser has no Ed25519 in WebCrypto, or no WebCrypto for this page. Use a newer one.");
    words.push("Whether the choice leaves anything out: this page sees only what was chosen.");
    if (this.strangers) words.push("Cosignatures by witnesses whose keys you did not enter.");
    if (this.evidence.stamps.length > 0) words.push("RFC 3161 time stamps: only that each is over a checkpoint of this log was checked, not who issued it or when.");
    if (this.further.size > 0) words.push(`Further signature lines (ML-DSA-44 or unknown): ${[...this.further].sort().join(", ")}.`);
    words.push("Seals at the end of batches: they need a secret of the log’s writers.");
    return words;
  }
}

const THREATS = [
  ["edit", "changing an entry"],
  ["insert", "slipping an entry in"],
  ["delete", "taking an entry out"],
  ["reorder", "reordering entries"],
  ["head_cut", "cutting off the beginning"],
  ["tail_cut", "cutting off the end"],
  ["rollback", "putting back an older state"],
  ["fork", "showing two histories to two readers"],
  ["back_dating", "dating entries back"],
  ["foreign_key", "rewriting all under another key"],
  ["key_holder", "rewriting by whoever holds the keys"],
  ["key_theft", "rewriting the past with stolen keys"],
  ["quantum", "forging by quantum computer"],
];

function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "an impossible time" : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
