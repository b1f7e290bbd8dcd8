
// --- the zip file: stored members only, each with its checksum ---

const MAX_BYTES = 1 << 30;
const UNPROVEN = ["README.txt", "evidence.json", "format.md", "klingai_audit_verify.py", "verify.html"];

const CRC = Uint32Array.from({ length: 256 }, (_, number) => {
  let value = number;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = (value >>> 8) ^ CRC[(value ^ byte) & 255];
  return (value ^ 0xffffffff) >>> 0;
}

function readZip(data) {
  must(data.length >= 22 && data.length <= MAX_BYTES, "The file is no whole zip file: it was cut short.");
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const end = data.length - 22;
  must(view.getUint32(end, true) === 0x06054b50, "The file is no whole zip file: it was cut short, or packed by something else.");
  const [number, bytes, start] = [view.getUint16(end + 10, true), view.getUint32(end + 12, true), view.getUint32(end + 16, true)];
  must(start + bytes === end, "The zip file is not whole.");
  const found = new Map();
  let at = start;
  for (let member = 0; member < number; member++) {
    must(at + 46 <= end && view.getUint32(at, true) === 0x02014b50, "The table of the zip file is damaged.");
    const [method, sum, size, full] = [view.getUint16(at + 10, true), view.getUint32(at + 16, true), view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const [nameBytes, extra, comment, place] = [view.getUint16(at + 28, true), view.getUint16(at + 30, true), view.getUint16(at + 32, true), view.getUint32(at + 42, true)];
    const name = new TextDecoder().decode(data.subarray(at + 46, at + 46 + nameBytes));
    must(method === 0 && size === full, "A member of the zip file is compressed, which bundles are not: give the file as you got it.");
    must(place + 30 <= start && view.getUint32(place, true) === 0x04034b50, "A member of the zip file is not where it should be.");
    const begin = place + 30 + view.getUint16(place + 26, true) + view.getUint16(place + 28, true);
    must(begin + size <= start && !found.has(name), "A member of the zip file is cut short, or there twice.");
    const content = data.subarray(begin, begin + size);
    must(crc32(content) === sum, `The member ${name.slice(0, 80)} of the zip file is damaged.`);
    found.set(name, content);
    at += 46 + nameBytes + extra + comment;
  }
  return found;
}

// Returns the text of the evidence, and whether the files for other software say the same.
function evidenceOf(data) {
  if (data[0] === 0x7b) return { text: new TextDecoder().decode(data), members: null };
  const members = readZip(data);
  must(members.has("evidence.json"), "The zip file is no bundle: it holds no evidence.json.");
  return { text: new TextDecoder().decode(members.get("evidence.json")), members };
}

function checkMembers(members, evidence) {
  const lines = new Map(evidence.entries.map((one) => [one.seq, one.entry]));
  const chosen = new Set(evidence.chosen);
  const wanted = new Map([
    ["checkpoint", evidence.checkpoint],
    ["entries.jsonl", evidence.chosen.map((seq) => `${lines.get(seq)}\n`).join("")],
    ["history.jsonl", evidence.entries.filter((one) => !chosen.has(one.seq)).map((one) => `${one.entry}\n`).join("")],
  ]);
  for (const one of evidence.entries) {
    const head = ["c2sp.org/tlog-proof@v1", `extra ${toBase64(bytesOf(one.entry))}`, `index ${one.seq}`, ...one.proof];
    wanted.set(`proofs/${String(one.seq).padStart(20, "0")}.tlog-proof`, `${head.join("\n")}\n\n${evidence.checkpoint}`);
  }
  const held = { signing_key_rotated: ["handovers", "handover"], checkpoint_witnessed: ["cosigned", "note"] };
  for (const one of evidence.entries) {
    const [folder, member] = held[typeOf(one.entry)] || [];
    const note = folder === undefined ? undefined : metadataOf(one.entry)[member];
    if (typeof note === "string") wanted.set(`${folder}/${String(one.seq).padStart(20, "0")}.note`, note);
  }
  const found = new Map([...wanted].map(([name, text]) => [name, bytesOf(text)]));
  for (const one of evidence.stamps) {
    const name = `checkpoints/${String(one.size).padStart(20, "0")}`;
    found.set(name, bytesOf(one.checkpoint));
    found.set(`${name}.tsr`, fromBase64(one.token));
  }
  for (const [name, content] of found) {
    must(members.has(name) && same(members.get(name), content), `The file ${name} in the bundle is not what its evidence says.`);
  }
  for (const name of members.keys()) {
    must(found.has(name) || UNPROVEN.includes(name), `The bundle holds a file ${name.slice(0, 80)} that its evidence does not speak of.`);
  }
}
