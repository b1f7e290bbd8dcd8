"""What credentials look like: names they go by, shapes they have, places in URLs. Pure functions over text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

__all__ = [
    "QUOTED",
    "REMOVED",
    "SIGN",
    "has_shape",
    "is_secret_name",
    "keeps_number",
    "replace_values",
    "scrub_shapes",
    "squash",
    "withheld",
]

REMOVED: Final = "[removed]"
"""What stands where something was withheld and not even a commitment is kept."""

# --- names -------------------------------------------------------------------------------------------

_NAME_ENDS: Final = (
    *("apikey", "accesskey", "accesskeyid", "secretkey", "privatekey", "encryptionkey", "masterkey", "authkey"),
    *("secret", "token", "password", "passwd", "passphrase", "passcode", "pwd", "jwt", "bearer"),
    *("authorization", "cookie", "credential", "sessionid", "sessionkey", "webhooksignature", "signerkey"),
)
_NAMES: Final = frozenset({"auth", "ak", "sk", "otp", "skey"})
_PLURALS: Final = tuple(f"{name}s" for name in _NAME_ENDS)
_NAMES_IN_URLS: Final = frozenset(
    {
        *("signature", "sig", "sign", "hmac", "mac", "key", "code", "ticket", "policy", "keypairid", "nonce", "tk"),
        *("xamzcredential", "xamzsignature", "xgoogsignature", "xgoogcredential", "xosssignature", "xosscredential"),
    }
)


def squash(name: str) -> str:
    """Return a name as it is compared: lowercase letters and digits only, so `X-Api-Key` and `apiKey` meet."""
    return "".join(character for character in name.casefold() if character.isalnum())


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Tell whether values under `name` are credentials, as under `api_key`, `Authorization` or `clientSecret`."""
    squashed = squash(name[-128:])
    return squashed in _NAMES or squashed.endswith(_NAME_ENDS + _PLURALS)


def keeps_number(name: str) -> bool:
    """Tell whether a number under `name` is a count (`max_tokens`), not a credential."""
    return squash(name[-128:]).endswith(_PLURALS)


# --- shapes ------------------------------------------------------------------------------------------

_SHAPES: Final = re.compile(
    r"eyJ[\w-]{4,512}+(?:\.|%2[Ee])[\w-]{4,}+(?:(?:\.|%2[Ee])[\w-]*+){0,3}"  # JWT; JWE has five parts
    r"|api-key-\w{2,16}-[\w-]{3,}+"
    r"|sim-(?:api|access|secret)-key[\w-]*+"  # the simulator's own
    r"|whsec_[\w+/=-]{6,}+"
    r"|PRIVATE\+KEY\+[^\s\"'\\]++"  # Go note signer
    r"|AGE-SECRET-KEY-1[0-9A-Z]++"
    r"|(?<![A-Za-z0-9])[sr]k[-_](?=[A-Za-z_-]{0,64}+\d)[\w-]{12,}+"
    r"|gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+|glpat-[\w-]{16,}+"
    r"|xox[a-z]-[\w-]{10,}+"
    r"|(?<![A-Za-z0-9])A(?:KIA|SIA)[0-9A-Z]{16}(?![A-Za-z0-9])"
    r"|(?<![A-Za-z0-9])(?:LTAI|AKID)[0-9A-Za-z]{12,}+"
    r"|AIza[\w-]{30,}+|ya29\.[\w-]{20,}+"
    r"|(?<![A-Za-z0-9])(?:hf|npm|r8)_[A-Za-z0-9]{20,}+|pypi-[\w-]{40,}+",
    re.ASCII,
)
_SCHEME: Final = re.compile(
    r"\b(?P<scheme>bearer|basic)(?P<gap>(?:\s|%20|\+){1,4})(?P<bare>[\w.~+/=%-]{6,}+)", re.ASCII | re.IGNORECASE
)

_STRONG: Final = (
    r"(?:api|access|secret|private|auth|encryption|master)[_\- ]?key(?:[_\- ]?id)?|pass(?:word|wd|phrase|code)|pwd"
)
_HEADERS: Final = r"authorization|cookie|webhook-signature"
_WEAK: Final = r"secret|token|credential|jwt|session[_\-]?(?:id|key)"
QUOTED: Final = r'"(?:[^"\\\n]|\\.)*+|\'(?:[^\'\\\n]|\\.)*+|\\{1,63}"[^"\n]*+|\\{1,63}\'[^\'\n]*+'
"""Pattern of a quoted value in running text, from its opening quotation mark up to the closing one."""

# Atomic and possessive where a value begins: otherwise a `>` or a space would be taken for the value.
SIGN: Final = r"\\{0,63}[\"']?\s{0,8}(?P<sign>(?>=>|[:=\uff1a\uff1d]))(?P<space>\s{0,8}+)(?:b(?=\\{0,63}[\"']))?"
"""Pattern of what stands between a name and its value in running text, closing quotation mark of the name included."""

_KEYED: Final = re.compile(
    rf"(?:(?P<strong>{_STRONG})|(?P<header>{_HEADERS})|(?P<weak>{_WEAK})){SIGN}"
    rf"(?:(?P<quoted>{QUOTED})|(?P<line>(?(header)[^\"'\n]++|(?!)))|(?P<bare>[^\s\"'&;]++))",
    re.IGNORECASE,
)
# ('authorization', 'Bearer …'): a header as a pair, as programs print it.
_PAIR: Final = re.compile(
    rf"[\[(]\s{{0,4}}b?\\{{0,63}}[\"'][\w-]{{0,40}}?(?:{_STRONG}|{_HEADERS}|{_WEAK})\\{{0,63}}[\"']"
    rf"\s{{0,4}},\s{{0,4}}b?(?P<quoted>{QUOTED})(?=[\"']?\s{{0,4}}(?:[\])]|$))",
    re.IGNORECASE,
)
_COLONS: Final = (":", "\uff1a")
# Short names, which are syllables of words too: `=` tells, a colon only before something like a key.
_BRIEF: Final = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?P<header>x-[\w-]{{0,40}}signature)|(?P<key>key)|sig|signature|hmac|otp|ak|sk|skey){SIGN}"
    rf"(?:(?P<quoted>{QUOTED})|(?P<bare>[^\s\"'&;]++))",
    re.IGNORECASE,
)
_BRIEF_SYLLABLES: Final = ("sig", "key", "ak", "sk", "hmac", "otp")
# A name, then the value without any sign: `'x-api-key' value`, `apikey value`.
_PHRASE: Final = re.compile(
    rf"(?:[\"'][\w-]{{0,40}}?(?:{_STRONG}|{_HEADERS}|{_WEAK})\\{{0,63}}[\"']\s{{1,8}}(?P<quoted>{QUOTED})?"
    r"|(?<![A-Za-z0-9])(?:x-)?(?:api|access|secret|private)[_\-]?key\s{1,4}(?=[^\W_]))"
    r"(?P<bare>(?(quoted)|[\w.~+/=-]{6,}+))",
    re.IGNORECASE,
)
_ELEMENT: Final = re.compile(
    rf"<((?:[\w.-]{{1,32}}:)?[\w.-]{{0,40}}?(?:{_STRONG}|{_HEADERS}|{_WEAK}|signature)(?:\s[^<>]{{0,200}})?)>"
    r"(?:<!\[CDATA\[)?+([^<]++)(?=</)",
    re.IGNORECASE,
)
# `-u name:password` of programs that fetch; `-u 1000:1000` is a user and a group.
_LOGIN: Final = re.compile(
    r"(?<![\w-])((?:-u|--(?:proxy-)?user)(?:=|\s{1,4})[\"']?)(?!\d++:\d++(?!\S))[^\s:\"'@/]{1,64}:(?!//)[^\s\"']++",
    re.IGNORECASE,
)
_KEY_PAIR: Final = re.compile(r"(?<![\w/+.-])([A-Za-z0-9]{16,64})(?::|%3[Aa])([A-Za-z0-9]{16,64})(?![\w:+/])", re.ASCII)
_MIXED: Final = re.compile(r"(?=[^0-9]*[0-9])(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])").match
_MIN_BRIEF: Final = 6
_MIN_PHRASE: Final = 10
_MIN_KEY: Final = 12
_PEM_BEGIN: Final = "-----BEGIN "
_PEM_END: Final = "-----END "


def has_shape(text: str) -> bool:
    """Tell whether `text` holds something of the shape of a key (`sk-…`, a JWT), whatever stands around it."""
    return _SHAPES.search(text) is not None


def scrub_shapes(text: str) -> str:
    """Return `text` with everything that looks like a credential replaced by `[removed]`, in one pass."""
    if _PEM_BEGIN in text:
        text = _scrub_pem(text)
    if "://" in text:
        text = _URL.sub(_clean_url, text)
    text = _SHAPES.sub(REMOVED, text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = replace_values(_SCHEME, _clean_scheme, text)
    if "=" in text or ":" in text or '"' in text or "'" in text or "\uff1a" in text or "\uff1d" in text:
        text = replace_values(_KEYED, _clean_keyed, text)
        if any(syllable in lowered for syllable in _BRIEF_SYLLABLES):
            text = replace_values(_BRIEF, _clean_brief, text)
        if ":" in text or "%3" in text:
            text = _KEY_PAIR.sub(_clean_pair, _LOGIN.sub(rf"\1{REMOVED}", text) if "-u" in lowered else text)
        if "=" in text and ("?" in text or "&" in text):
            text = _QUERY.sub(_clean_query, text)
    if "key" in lowered or "'" in text or '"' in text:
        text = replace_values(_PHRASE, _clean_phrase, text)
    if "</" in text:
        text = _ELEMENT.sub(_clean_element, text)
    if "(" in text or "[" in text:
        text = replace_values(_PAIR, withheld, text)
    return text


def _scrub_pem(text: str) -> str:
    """Remove private key blocks; one without an end is removed up to the end of the text."""
    out, position = [], 0
    while (begin := text.find(_PEM_BEGIN, position)) >= 0:
        if "PRIVATE KEY" not in text[begin : begin + 64]:
            out.append(text[position : begin + len(_PEM_BEGIN)])
            position = begin + len(_PEM_BEGIN)
            continue
        out += (text[position:begin], REMOVED)
        end = text.find(_PEM_END, begin)
        close = -1 if end < 0 else text.find("-----", end + len(_PEM_END))
        position = len(text) if close < 0 else close + 5
    return "".join(out) + text[position:]


def _clean_scheme(found: re.Match[str]) -> str | None:
    # "Bearer well-known" is more likely a key than "basic text-to-video".
    hyphen = found["scheme"].lower() == "bearer"
    return found["scheme"] + found["gap"] + REMOVED if _looks_secret(found["bare"], hyphen=hyphen) else None


def _looks_secret(value: str, *, hyphen: bool = True) -> bool:
    """Tell a credential from a word: a digit, an inner capital, a sign that words do not have, or 20 characters."""
    core = value.strip(".,;:!?()[]{}<>\"'")
    if len(core) >= 20 or any(character in "0123456789_=+%@#$&*" for character in core):
        return True
    if hyphen and "-" in core:
        return True
    return core[1:] != core[1:].lower() and core != core.upper()


def _clean_keyed(found: re.Match[str]) -> str | None:
    bare = found["bare"]
    if bare is not None and found["weak"] and found["sign"] in _COLONS and found["space"]:
        # Prose: "the secret: love conquers all". At the end of a line it is taken for a value.
        followed = found.string[found.end() : found.end() + 2].strip(" \t")
        if followed and not _looks_secret(bare):
            return None
    return withheld(found)


def _clean_brief(found: re.Match[str]) -> str | None:
    bare = found["bare"]
    if bare is None or found["header"]:
        return withheld(found)
    if found["key"]:
        return withheld(found) if len(bare) >= _MIN_KEY and bare.isalnum() and _MIXED(bare) else None
    if found["sign"] in _COLONS and (len(bare) < _MIN_BRIEF or not _looks_secret(bare)):
        return None
    return withheld(found)


def _clean_phrase(found: re.Match[str]) -> str | None:
    bare = found["bare"]
    if found["quoted"] is not None:
        return withheld(found)
    if found.group()[0] in "\"'":
        return withheld(found) if _looks_secret(bare, hyphen=False) else None
    return withheld(found) if len(bare) >= _MIN_PHRASE and _OPAQUE_WORD(bare) and not _UUID(bare) else None


def _clean_element(found: re.Match[str]) -> str:
    return f"<{found[1]}>{REMOVED}" if found[2].strip() else found.group()


def _clean_pair(found: re.Match[str]) -> str:
    return REMOVED if _MIXED(found[1]) and _MIXED(found[2]) else found.group()


def withheld(found: re.Match[str]) -> str | None:
    """Return the text of a match with its group `quoted`, `line` or `bare` replaced by `[removed]`.

    Quotation marks stay. None for blank values, and for those that were replaced before.
    """
    form = _form(found)
    value = found[form]
    begin, end = 0, len(value)
    if form == "quoted":
        begin = len(value) - len(value.lstrip("\\\"'"))
        end = max(begin, len(value.rstrip("\\")))
    content = value[begin:end]
    if not content.strip() or content == REMOVED:
        return None
    kept = found.group()[: found.start(form) - found.start()]
    return kept + value[:begin] + REMOVED + value[end:]


def _form(found: re.Match[str]) -> str:
    groups = found.groupdict()
    return next(name for name in ("quoted", "line", "bare") if groups.get(name) is not None)


def replace_values(pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str | None], text: str) -> str:
    """Replace matches that have a group `quoted`, `line` or `bare`; where `replacement` is None, go on in that group.

    So in `token: secret: x` the declined value `secret:` is still seen as the name that it is.
    """
    out: list[str] = []
    kept = position = 0
    while (found := pattern.search(text, position)) is not None:
        fresh = replacement(found)
        if fresh is None:
            position = max(found.start(_form(found)), found.start() + 1)
            continue
        out += (text[kept : found.start()], fresh)
        kept = position = found.end()
    return "".join(out) + text[kept:] if out else text


# --- URLs --------------------------------------------------------------------------------------------

_URL: Final = re.compile(r"://([^\s\"'<>`\\]++)")
_AUTHORITY: Final = re.compile(r"[^/?#]*").match
_SLASHED_PASSWORD: Final = re.compile(r"[^/@:?#]*+:(?!\d{1,5}(?:[/?#]|$))[^@]*+@").match
_PARAMETER: Final = re.compile(r"([?&;#])([^=&;?#]{1,64})=([^&;?#]*+)")
_OPAQUE: Final = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[\w.~+/=%-]{16,}", re.ASCII).fullmatch
_OPAQUE_WORD: Final = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])").match
# Without a scheme before it, a parameter goes by its name only.
_QUERY: Final = re.compile(r"(?<=[?&])([\w.-]{1,64})=([^\s\"'<>&;#\\]++)")
_NOT_WITHOUT_URL: Final = frozenset({"code", "policy", "nonce"})
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


def _clean_url(found: re.Match[str]) -> str:
    rest = found.group(1)
    authority = _AUTHORITY(rest)
    end = 0 if authority is None else authority.group().rfind("@") + 1
    if not end and (slashed := _SLASHED_PASSWORD(rest)) is not None:
        end = slashed.end()
    if end:
        rest = f"{REMOVED}@{rest[end:]}"
    if "=" in rest:
        rest = _PARAMETER.sub(_clean_parameter, rest)
    return "://" + rest


def _clean_parameter(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    if not value or not (_is_url_secret(name) or (_OPAQUE(value) and not _UUID(value))):
        return found.group()
    return f"{mark}{name}={REMOVED}"


def _clean_query(found: re.Match[str]) -> str:
    name = found[1]
    if not _is_url_secret(name) or squash(name) in _NOT_WITHOUT_URL:
        return found.group()
    return f"{name}={REMOVED}"


@lru_cache(maxsize=1024)
def _is_url_secret(name: str) -> bool:
    return is_secret_name(name) or squash(name) in _NAMES_IN_URLS
