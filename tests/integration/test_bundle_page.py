"""The page that checks evidence, in a real browser: good bundles, each kind of bad one, no Ed25519."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.bundle import build_bundle, empty_page, gather
from klingai_audit.bundle.archive import read_bundle
from klingai_audit.config import Places, open_reader
from klingai_audit.event.record import decode_event
from klingai_audit.ledger.purged import purged_line
from klingai_audit.tlog.keys import SignerKey
from klingai_audit.tlog.merkle import leaf_hash
from tests.support.bundles import BAD, HOSTILE, STRANGER, WITNESS, Made, changed, foreign, make, with_member
from tests.support.forged import FORGED, LOG, Forgery
from tests.support.purged import old_log

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
NO_ED25519 = """
const real = SubtleCrypto.prototype.importKey;
SubtleCrypto.prototype.importKey = function (form, data, algorithm, ...more) {
  if (String(algorithm.name || algorithm) === "Ed25519")
    return Promise.reject(new DOMException("no", "NotSupportedError"));
  return real.call(this, form, data, algorithm, ...more);
};
"""
NO_SUBTLE = "Object.defineProperty(Crypto.prototype, 'subtle', { get() { return undefined; } });"
LYING = "SubtleCrypto.prototype.verify = () => Promise.resolve(true);"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        yield found
        found.close()


@dataclass
class Reader:
    """Somebody with the page open; what the page said or asked for beside itself is kept."""

    page: Any
    folder: Path
    url: str = ""
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, content: bytes) -> None:
        self.page.set_default_timeout(120_000)
        file = self.folder / "verify.html"
        file.write_bytes(content)
        self.url = file.as_uri()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(self.url)

    def give(self, data: bytes, name: str = "evidence.zip") -> str:
        """Give the page a file and return what it came to."""
        (self.folder / name).write_bytes(data)
        self.page.evaluate("delete document.body.dataset.state")
        self.page.set_input_files("#file", self.folder / name)
        return self.state()

    def trust(self, key: str, *witnesses: SignerKey, needed: str = "") -> str:
        """Enter keys and check again."""
        self.page.fill("#key", key)
        self.page.fill("#witnesses", "\n".join(signer.verifier.format() for signer in witnesses))
        self.page.fill("#needed", needed)
        self.page.evaluate("delete document.body.dataset.state")
        self.page.click("#check")
        return self.state()

    def state(self) -> str:
        self.page.wait_for_selector("body[data-state]")
        return str(self.page.evaluate("document.body.dataset.state"))

    def threats(self) -> dict[str, str]:
        script = "[...document.querySelectorAll('#threats tbody tr')].map(r => [r.dataset.threat, r.dataset.state])"
        return dict(self.page.evaluate(script))

    def greens(self) -> int:
        """Count what is green on the page."""
        return int(self.page.evaluate("document.querySelectorAll('.good').length"))

    def findings(self) -> str:
        return str(self.page.inner_text("#findings"))


@pytest.fixture
def reader(browser: Any, tmp_path: Path) -> Iterator[Reader]:
    """A reader with the empty page; at the end the page has said nothing and asked for nothing but itself."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    found = Reader(page, tmp_path)
    found.open(empty_page())
    yield found
    page.close()
    assert ([], {found.url}) == (found.said, set(found.asked))


def test_a_good_bundle_is_green_only_with_the_key(reader: Reader, made: Made) -> None:
    """Without a key from elsewhere nothing is green; with the key, and with its fingerprint, the entries are proven."""
    assert ("unconfirmed", 0) == (reader.give(made.data), reader.greens())
    assert "out" not in reader.threats().values()
    fingerprint = hashlib.sha256(made.vkey.encode()).hexdigest()
    spaced = " ".join(fingerprint[at : at + 4].upper() for at in range(0, 64, 4))
    for key in (made.vkey, fingerprint, f"SHA256:{fingerprint}", spaced):
        assert ("good", "") == (reader.trust(key), reader.findings())
        shown = reader.threats()
        assert {"edit", "insert", "reorder", "head_cut", "foreign_key"} == {n for n, s in shown.items() if s == "out"}
        assert ("cannot", "open", 13) == (shown["delete"], shown["fork"], len(shown))


def test_the_page_in_the_bundle_checks_its_own_evidence(reader: Reader, made: Made) -> None:
    """At once, and it tells the reader to use the released page instead."""
    (reader.folder / "own.html").write_bytes(read_bundle(made.data)["verify.html"])
    reader.url = (reader.folder / "own.html").as_uri()
    reader.asked.clear()
    reader.page.goto(reader.url)
    assert ("unconfirmed", True) == (reader.state(), reader.page.is_visible("#embedded"))
    assert "good" == reader.trust(made.vkey)
    assert "good" == reader.give(made.data)
    assert not reader.page.is_visible("#embedded")


def test_entries_can_be_read_and_do_nothing(reader: Reader, made: Made) -> None:
    """A hostile text is shown as text, its direction marks as numbers."""
    reader.give(made.data)
    first = made.evidence.chosen[0]
    reader.page.click(f"details[data-seq='{first}'] summary")
    shown = reader.page.inner_text(f"details[data-seq='{first}']")
    assert (True, True) == (HOSTILE[:-1] in shown, "\\u{202e}" in shown)
    assert "Check evidence of an audit log" == reader.page.title()
    assert len(made.evidence.entries) == reader.page.evaluate("document.querySelectorAll('#entries details').length")


def test_witnesses_that_the_reader_enters_count(reader: Reader, made: Made) -> None:
    """As many as the reader demands; a stranger's key counts nothing; two are needed if two are entered."""
    nobody = SignerKey("witness.example/none", b"\x29" * 32, WITNESS.algorithm)
    reader.give(made.data)
    answers = [
        (reader.trust(made.vkey, *signers, needed=needed), reader.threats()["fork"], reader.threats()["key_holder"])
        for signers, needed in (((WITNESS, STRANGER), ""), ((WITNESS, nobody), ""), ((WITNESS, nobody), "1"))
    ]
    assert [("good", "out", "out"), ("good", "open", "open"), ("good", "out", "out")] == answers
    assert ("unconfirmed", "open") == (reader.trust("", WITNESS), reader.threats()["fork"])
    same_name = SignerKey(WITNESS.name, b"\x30" * 32, WITNESS.algorithm)
    assert ("good", "open") == (reader.trust(made.vkey, same_name), reader.threats()["fork"])


@pytest.mark.parametrize("name", BAD)
def test_what_was_changed_is_found(reader: Reader, made: Made, name: str) -> None:
    """Evidence that is whole in its form and false in one place is red, key or no key."""
    first = reader.give(changed(made, BAD[name]))
    assert ("bad", "bad", True) == (first, reader.trust(made.vkey), len(reader.findings()) > 20)
    assert (True, 0) == ("detected" in reader.threats().values(), reader.greens())
    assert "out" not in reader.threats().values()


def test_a_log_made_by_hand_is_green(reader: Reader) -> None:
    """What the forgeries depart from is good, its witness included."""
    reader.give(build_bundle(Forgery().evidence()))
    assert ("good", "out") == (reader.trust(LOG.verifier.format(), WITNESS), reader.threats()["key_theft"])
    assert "2026-09-21 14:13:20 UTC" in reader.page.inner_text("#facts")


@pytest.mark.parametrize("name", FORGED)
def test_what_was_forged_is_found(reader: Reader, name: str) -> None:
    """All hashes are right, and what was signed is a lie: red, at the threat that it is."""
    forgery, threat = FORGED[name]
    reader.give(build_bundle(forgery().evidence()))
    found = reader.trust(LOG.verifier.format(), WITNESS)
    assert ("bad", "detected", 0) == (found, reader.threats()[threat], reader.greens())


def test_evidence_of_another_log_is_found(reader: Reader, made: Made, other: Made) -> None:
    """An entry of another log with its own proof; all of another log under the key that the reader trusts."""
    assert "bad" == reader.give(foreign(made, other))
    assert "unconfirmed" == reader.give(other.data)
    assert ("bad", "detected") == (reader.trust(made.vkey), reader.threats()["foreign_key"])
    assert ("bad", "detected") == (
        reader.trust(hashlib.sha256(made.vkey.encode()).hexdigest()), reader.threats()["foreign_key"],
    )  # fmt: skip
    twin = SignerKey(made.vkey.split("+")[0], b"\x01" * 32).verifier.format()
    assert "unconfirmed" == reader.trust("")
    assert "unconfirmed" == reader.give(made.data)
    assert ("bad", True) == (reader.trust(twin), "you entered" in reader.findings())


@pytest.mark.parametrize(
    "entered", ["c56986a9", "no key", "log.example.com+00000000+AXnBS7pJN5g5cBwZEUZt0DN5Qm0lpQUdiQbhtollSOMs"]
)
def test_what_is_no_key_confirms_nothing(reader: Reader, made: Made, entered: str) -> None:
    """Too short, no key, or one whose id is not its own."""
    reader.give(made.data)
    assert ("unconfirmed", 0) == (reader.trust(entered), reader.greens())


@pytest.mark.parametrize("cut", [1, 30, 5000, 200_000])
def test_a_file_cut_short_is_found(reader: Reader, made: Made, cut: int) -> None:
    """Wherever it was cut; and the next file is looked at as if nothing had been."""
    reader.page.fill("#key", made.vkey)
    assert ("bad", 0) == (reader.give(made.data[:-cut]), reader.greens())
    assert "good" == reader.give(made.data)


def test_damage_and_other_files_are_found(reader: Reader, made: Made, other: Made) -> None:
    """A flipped byte; a list of entries that is not the evidence's; a file that is no bundle at all."""
    reader.page.fill("#key", made.vkey)
    at = made.data.index(b'{"format":"klingai-audit/bundle/v1"') + 100
    flipped = made.data[:at] + bytes([made.data[at] ^ 1]) + made.data[at + 1 :]
    listed = with_member(made.data, "entries.jsonl", read_bundle(other.data)["entries.jsonl"])
    more = with_member(made.data, "entries-2.jsonl", b"{}\n")
    given = [reader.give(data) for data in (flipped, listed, more, b"PK\x03\x04", b"", b"{}", b"[" * 5000)]
    assert ["bad"] * 7 == given
    assert 0 == reader.greens()
    assert "good" == reader.give(read_bundle(made.data)["evidence.json"], "evidence.json")


def test_a_dropped_file_is_taken(reader: Reader, made: Made) -> None:
    """Drag and drop on the page does what the field does."""
    reader.page.evaluate(
        """(text) => {
          const data = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([data], "evidence.zip"));
          const how = { dataTransfer: carried, bubbles: true, cancelable: true };
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", how));
        }""",
        base64.b64encode(made.data).decode(),
    )
    assert ("unconfirmed", "evidence.zip") == (reader.state(), reader.page.inner_text("#source"))


@pytest.mark.parametrize(
    "script", [NO_ED25519, NO_SUBTLE, LYING], ids=["no Ed25519", "no WebCrypto", "says yes to all"]
)
def test_a_browser_that_cannot_check_says_so(browser: Any, tmp_path: Path, made: Made, script: str) -> None:
    """Never green, whatever the reader enters; what the hashes alone show is still found."""
    page = browser.new_page()
    page.add_init_script(script)
    reader = Reader(page, tmp_path)
    reader.open(empty_page())
    assert "cannot" == reader.give(made.data)
    assert ("cannot", 0) == (reader.trust(made.vkey, WITNESS), reader.greens())
    assert "out" not in reader.threats().values()
    assert "Cannot check" in page.inner_text("#verdict")
    if script != NO_SUBTLE:
        assert "bad" == reader.give(changed(made, BAD["entry changed"]))
    page.close()
    assert ([], {reader.url}) == (reader.said, set(reader.asked))


def test_a_time_stamp_is_told_and_not_believed(reader: Reader, tmp_path: Path) -> None:
    """The page checks that it is over a checkpoint of the log, and says that it cannot check the rest."""
    stamped = make(tmp_path / "stamped", stamped=True)
    reader.give(stamped.data)
    assert ("good", "cannot") == (reader.trust(stamped.vkey), reader.threats()["back_dating"])

    def move(evidence: dict[str, Any]) -> None:
        token = bytearray(base64.b64decode(evidence["stamps"][0]["token"]))
        at = token.index(hashlib.sha256(evidence["stamps"][0]["checkpoint"].encode()).digest())
        token[at] ^= 1
        evidence["stamps"][0]["token"] = base64.b64encode(token).decode()

    assert ("bad", "detected") == (reader.give(changed(stamped, move)), reader.threats()["back_dating"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_screen(browser: Any, tmp_path: Path, made: Made, scheme: str, width: int) -> None:
    """Nothing is wider than the screen, with every entry open."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    reader = Reader(page, tmp_path)
    reader.open(empty_page())
    reader.give(made.data)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert width == page.evaluate("Math.max(document.documentElement.scrollWidth, window.innerWidth)")
    page.close()


def test_entries_of_a_log_that_purges(reader: Reader, tmp_path: Path) -> None:
    """Whole entries of sealed days and what authorised the purge are proven; a purged line proves no entry."""
    log, purged = old_log(tmp_path / "kept")
    opened = open_reader(Places.resolve(log.path))
    lines = dict(enumerate(opened.lines()))
    told = [seq for seq, line in lines.items() if line.startswith(b'retention_applied"', 118)]
    whole = min(seq for seq in lines if seq > purged[0] and seq not in purged)
    kept = Made(log.path.parent, decode_event(lines[0]).details["log_key"], gather(opened, [whole, *told]), b"")
    assert 1 < len(told)
    assert "unconfirmed" == reader.give(build_bundle(kept.evidence))
    assert ("good", "") == (reader.trust(kept.vkey), reader.findings())

    def swap(evidence: dict[str, Any]) -> None:
        one = next(one for one in evidence["entries"] if one["seq"] == whole)
        one["entry"] = purged_line(leaf_hash(one["entry"].encode()), told[0]).decode()

    assert "bad" == reader.give(changed(kept, swap), "purged.zip")
    assert f"Entry {whole} is not in the tree" in reader.findings()
