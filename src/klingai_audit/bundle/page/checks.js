
// --- hashes, trees and signatures ---

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

async function sha256(data) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

function nodeHash(left, right) {
  return sha256(join(NODE, left, right));
}

async function included(index, size, leaf, proof, root) {
  if (!(index >= 0 && index < size)) return false;
  let [at, last, hash] = [BigInt(index), BigInt(size) - 1n, leaf];
  for (const step of proof) {
    if (last === 0n) return false;
    if ((at & 1n) === 1n || at === last) {
      hash = await nodeHash(step, hash);
      while ((at & 1n) === 0n && at !== 0n) { at >>= 1n; last >>= 1n; }
    } else {
      hash = await nodeHash(hash, step);
    }
    at >>= 1n;
    last >>= 1n;
  }
  return last === 0n && same(hash, root);
}

async function extended(old, size, oldRoot, root, given) {
  if (old > size || old < 1) return false;
  if (old === size) return given.length === 0 && same(oldRoot, root);
  if (given.length === 0) return false;
  let [at, last] = [BigInt(old) - 1n, BigInt(size) - 1n];
  const proof = (BigInt(old) & at) === 0n ? [oldRoot, ...given] : given;
  while ((at & 1n) === 1n) { at >>= 1n; last >>= 1n; }
  let [before, after] = [proof[0], proof[0]];
  for (const step of proof.slice(1)) {
    if (last === 0n) return false;
    if ((at & 1n) === 1n || at === last) {
      before = await nodeHash(step, before);
      after = await nodeHash(step, after);
      while ((at & 1n) === 0n && at !== 0n) { at >>= 1n; last >>= 1n; }
    } else {
      after = await nodeHash(after, step);
    }
    at >>= 1n;
    last >>= 1n;
  }
  return last === 0n && same(before, oldRoot) && same(after, root);
}

// True, false, or null where this browser cannot tell.
async function signed(key, message, signature, can) {
  if (!can.ed25519) return null;
  if (key.kind === 6) return null;
  if (signature.length !== 64) return false;
  let handle = null;
  try {
    handle = await crypto.subtle.importKey("raw", key.bytes, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    return error.name === "NotSupportedError" ? null : false;
  }
  return crypto.subtle.verify({ name: "Ed25519" }, handle, signature, message);
}

// What this browser can: tried on RFC 8032, 7.1, test 2, and on a signature that is none.
async function abilities() {
  const can = { sha256: false, ed25519: false };
  try {
    const digest = await crypto.subtle.digest("SHA-256", encoder.encode("abc"));
    can.sha256 = toHex(new Uint8Array(digest)).startsWith("ba7816bf8f01cfea414140de5dae2223");
    const key = { kind: 1, bytes: fromBase64("PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=") };
    const good = fromBase64("kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA==");
    const bad = good.slice();
    bad[3] ^= 1;
    can.ed25519 = true;
    const first = await signed(key, Uint8Array.of(0x72), good, can);
    const second = await signed(key, Uint8Array.of(0x72), bad, can);
    can.ed25519 = first === true && second === false;
  } catch {
    can.ed25519 = false;
  }
  can.ed25519 = can.ed25519 && can.sha256;
  return can;
}

async function cosigned(key, note, line, can) {
  if (key.kind === 6 || key.kind === 1) return { good: key.kind === 1 ? false : null, time: 0 };
  if (line.blob.length !== 72) return { good: false, time: 0 };
  const time = new DataView(line.blob.buffer, line.blob.byteOffset, 8).getBigUint64(0);
  if (time >= 1n << 53n) return { good: false, time: 0 };
  const message = bytesOf(`cosignature/v1\ntime ${time}\n${note.text}`);
  return { good: await signed(key, message, line.blob.slice(8), can), time: Number(time) };
}
