
// --- forms: everything is read strictly; what is not in its one form is refused ---

class Broken extends Error {}

const encoder = new TextEncoder();

function must(condition, words) {
  if (!condition) throw new Broken(words);
}

function bytesOf(text) {
  const data = encoder.encode(text);
  must(new TextDecoder().decode(data) === text, "A text of the evidence is no proper Unicode.");
  return data;
}

function fromBase64(text) {
  let raw = null;
  try { raw = atob(text); } catch { raw = null; }
  must(raw !== null && btoa(raw) === text, "Something that should be base64 is not.");
  return Uint8Array.from(raw, (char) => char.charCodeAt(0));
}

function toBase64(data) {
  let raw = "";
  for (const byte of data) raw += String.fromCharCode(byte);
  return btoa(raw);
}

function toHex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function join(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { out.set(part, at); at += part.length; }
  return out;
}

function same(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

function hashFrom(text) {
  const data = fromBase64(text);
  must(data.length === 32, "A hash of the evidence has not 32 bytes.");
  return data;
}

function decimal(text) {
  must(/^(0|[1-9][0-9]{0,15})$/.test(text) && Number.isSafeInteger(Number(text)), "A number of the evidence is not written as one.");
  return Number(text);
}

function parseNote(text) {
  const at = text.lastIndexOf("\n\n");
  must(at > 0 && text.endsWith("\n") && text.length <= 1000000, "A signed note is not in its form.");
  must(!/[\u0000-\u0009\u000b-\u001f]/.test(text), "A signed note holds control characters.");
  const lines = text.slice(at + 2, -1).split("\n").map((line) => {
    const found = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})$/u.exec(line);
    must(found !== null, "A signature line is not in its form.");
    const data = fromBase64(found[2]);
    must(data.length > 4, "A signature line holds no signature.");
    return { name: found[1], id: toHex(data.slice(0, 4)), blob: data.slice(4) };
  });
  must(lines.length <= 100, "A signed note has too many signatures.");
  return { text: text.slice(0, at + 1), lines };
}

function parseCheckpoint(note) {
  const items = note.text.split("\n");
  must(items.length === 4 && items[3] === "" && items[0] !== "", "A checkpoint has not three lines.");
  const size = decimal(items[1]);
  must(size >= 1, "A checkpoint covers nothing.");
  return { origin: items[0], size, root: hashFrom(items[2]) };
}

const KINDS = { 1: 32, 4: 32, 6: 1312 };

async function parseKey(text) {
  const parts = String(text).split("+");
  must(parts.length >= 3 && parts[0] !== "" && !/\s/u.test(parts[0]), "This is no public key of the form name+id+base64.");
  const data = fromBase64(parts.slice(2).join("+"));
  must(KINDS[data[0]] === data.length - 1, "This key is of a kind that is not known.");
  const digest = await sha256(join(bytesOf(parts[0] + "\n"), data));
  must(toHex(digest.slice(0, 4)) === parts[1], "The id in the public key is not that of the key: a character is wrong.");
  return { name: parts[0], id: parts[1], kind: data[0], bytes: data.slice(1), text: String(text) };
}

function isList(value, test) {
  return Array.isArray(value) && value.every(test);
}

function isMember(value, members) {
  return value !== null && typeof value === "object" && Object.keys(value).sort().join() === members;
}

function isSeq(value) {
  return Number.isSafeInteger(value) && value >= 0;
}

function rising(numbers) {
  return numbers.every((value, at) => isSeq(value) && (at === 0 || numbers[at - 1] < value));
}

function readEvidence(text) {
  let found = null;
  try { found = JSON.parse(text); } catch { throw new Broken("The evidence is no whole JSON document: it was cut short or changed."); }
  const texts = (value) => isList(value, (one) => typeof one === "string");
  must(isMember(found, "checkpoint,chosen,consistency,entries,format,made_by,stamps"), "The evidence does not have the members that it should have.");
  must(found.format === "klingai-audit/bundle/v1", "The evidence is in a form that this page does not know.");
  must(typeof found.checkpoint === "string" && typeof found.made_by === "string", "The evidence holds no checkpoint.");
  must(isList(found.entries, (one) => isMember(one, "entry,proof,seq") && typeof one.entry === "string" && texts(one.proof)), "An entry of the evidence is not in its form.");
  must(isList(found.consistency, (one) => isMember(one, "proof,size") && texts(one.proof)), "A proof of the evidence is not in its form.");
  must(isList(found.stamps, (one) => isMember(one, "checkpoint,size,token") && typeof one.checkpoint === "string" && typeof one.token === "string" && isSeq(one.size)), "A time stamp of the evidence is not in its form.");
  const seqs = found.entries.map((one) => one.seq);
  must(Array.isArray(found.chosen) && rising(found.chosen) && rising(seqs) && rising(found.consistency.map((one) => one.size)), "The parts of the evidence are not in order.");
  const there = new Set(seqs);
  must(found.chosen.length > 0 && there.has(0) && found.chosen.every((seq) => there.has(seq)), "The evidence lacks entries that it names.");
  return found;
}
