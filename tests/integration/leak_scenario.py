"""Every path a request can take, with planted content: run as a program by test_leaks.py.

Usage: leak_scenario.py FOLDER. Writes to FOLDER and to both outputs whatever the product writes there; the
planted values themselves are printed nowhere by this script.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
import warnings
from pathlib import Path

import httpx2

from klingai_audit import AuditLog, AuditUnavailable, acting
from klingai_audit.errors import KlingAuditError
from klingai_audit.kling import AsyncKlingAI, KlingAI, KlingError
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import RealClock, Simulator, SimulatorServer

PROMPT = "Wombat-7731 dances in a quarry of glass"
NEGATIVE = "no Zeppelin-4402 anywhere"
FORBIDDEN = f"{PROMPT} forbidden Quokka-9915"
DOOMED = f"{PROMPT} doomed Axolotl-2286"
API_KEY = "api-key-kling-Pangolin5508Pangolin5508"
ACCESS_KEY = "AccessNumbat6617Numbat"
SECRET_KEY = "SecretEchidna3349Echidna3349Echidna3349"
WEBHOOK = "whsec_dGVzdHNlY3JldFBsYXR5cHVzNzcwNFBsYXR5cHVz"
PEOPLE = ("leak.person@example.com", "Leak.Other@example.org", "leak-service-account-5521")
ADDRESSES = ("203.0.113.177", "198.51.100.211", "2001:db8:77:99::beef")
PLANTED = (PROMPT, "Wombat-7731", "Zeppelin-4402", "Quokka-9915", "Axolotl-2286", API_KEY, ACCESS_KEY, SECRET_KEY,
           WEBHOOK, *PEOPLE, *ADDRESSES, "Bandicoot-1178", "Cassowary-6620")  # fmt: skip

FAST = Retries(attempts=2, first=0.01, cap=0.02)


def tell(error: BaseException) -> None:
    """Print an error in every form in which it could reach a log file."""
    print(repr(error), str(error), file=sys.stderr)
    traceback.print_exception(error)


def paths_of_the_client(audit: AuditLog, sim: Simulator, url: str, folder: Path) -> None:
    with KlingAI(api_key=API_KEY, audit=audit, base_url=url, retries=FAST, trust_env=False) as kling:
        print(repr(kling), repr(audit))
        task = kling.text_to_video(PROMPT, model="kling-3.0-turbo", duration=3)
        print(repr(task))
        task.wait(poll_interval=0.05)
        print(repr(task), repr(task.download(folder / "a.mp4")))
        for prompt in (FORBIDDEN, DOOMED):
            try:
                kling.text_to_video(prompt, model="kling-2.6").wait(poll_interval=0.05)
            except KlingError as error:
                tell(error)
        faults = (
            {"status": 500, "message": "{prompt} of " + API_KEY},
            {"status": 503, "code": 5001},
            {"status": 504, "code": 5002, "after_accept": True},
            {"drop": True},
            {"drop": True, "after_accept": True},
            {"body": b'{"code":0,"message":"' + PROMPT.encode() + b'"'},
            {"body": PROMPT.encode() + b" is no JSON", "content_type": "text/html"},
            {"status": 429, "code": 1303, "message": "{prompt}"},
            {"truncate": 20},
        )
        for fault in faults:
            sim.fail_next("POST", "/text-to-video/*", times=3, **fault)
            try:
                kling.text_to_video(PROMPT, model="kling-3.0", duration=3)
            except KlingError as error:
                tell(error)
            sim.faults.clear()
        sim.fail_next("GET", "/media/*", times=5, drop=True)
        try:
            task.download(folder / "b.mp4")
        except KlingError as error:
            tell(error)
        sim.faults.clear()
    with KlingAI(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, audit=audit, base_url=url, retries=FAST, trust_env=False
    ) as kling:
        kling.text_to_video(PROMPT, model="kling-v2-5-turbo", negative_prompt=NEGATIVE).wait(poll_interval=0.05)
        sim.fail_next("POST", "/v1/videos/*", times=2, hang=3.0)
    with KlingAI(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, audit=audit, base_url=url, timeout=0.3, trust_env=False
    ) as kling:
        try:
            kling.text_to_video(PROMPT, model="kling-v2-5-turbo")
        except KlingError as error:
            tell(error)
        sim.faults.clear()
    with KlingAI(api_key=API_KEY + "-revoked", audit=audit, base_url=url, trust_env=False) as kling:
        try:
            kling.text_to_video(PROMPT, model="kling-3.0")
        except KlingError as error:
            tell(error)
    with KlingAI(api_key=API_KEY, audit=audit, base_url="http://127.0.0.1:9", trust_env=False, retries=FAST) as kling:
        try:
            kling.text_to_video(PROMPT, model="kling-3.0")
        except KlingError as error:
            tell(error)


async def paths_of_asyncio(audit: AuditLog, sim: Simulator, url: str) -> None:
    async with AsyncKlingAI(api_key=API_KEY, audit=audit, base_url=url, retries=FAST, trust_env=False) as kling:
        task = await kling.text_to_video(PROMPT, model="kling-3.0", duration=3)
        await task.wait(poll_interval=0.05)
        sim.fail_next("POST", "/text-to-video/*", hang=3.0)
        try:
            async with asyncio.timeout(0.3):
                await kling.text_to_video(PROMPT, model="kling-3.0", duration=3)
        except (TimeoutError, KlingError) as error:
            tell(error)
        sim.faults.clear()


def paths_of_the_transport(audit: AuditLog, url: str) -> None:
    with httpx2.Client(transport=audit.httpx_transport(), trust_env=False) as client:
        reply = client.post(
            f"{url}/text-to-video/kling-3.0",
            headers={"authorization": f"Bearer {API_KEY}"},
            json={
                "prompt": FORBIDDEN,
                "settings": {"duration": 3},
                "options": {"callback_url": f"https://{PEOPLE[0]}/x"},
            },
        )
        print(reply.status_code)
        client.post(f"{url}/unknown/Bandicoot-1178", headers={"authorization": f"Bearer {API_KEY}"}, content=PROMPT)


def own_events(audit: AuditLog) -> None:
    audit.log(
        "x_leak",
        PEOPLE[2],
        resource_type="user",
        resource_id=PEOPLE[1],
        ip_address=ADDRESSES[2],
        user_agent=f"tool/1.2 {PEOPLE[0]} {API_KEY}",
        on_behalf_of=PEOPLE[0],
        metadata={
            "prompt": PROMPT,
            "nested": {
                "negative_prompt": NEGATIVE,
                "list": [{"api_key": API_KEY}, f"mail {PEOPLE[0]} from {ADDRESSES[0]}"],
            },
            "json": f'{{"authorization": "Bearer {API_KEY}", "secret": "{SECRET_KEY}"}}',
            "url": f"https://user:{SECRET_KEY}@example.com/?token={API_KEY}",
            "error": f"failed for {PEOPLE[1]} at {ADDRESSES[1]} with {WEBHOOK}",
            "password": "Cassowary-6620",
        },
    ).wait()  # fmt: skip
    for wrong in ({"metadata": {"a": b"Cassowary-6620"}}, {"outcome": PROMPT}, {"metadata": {"x": PROMPT * 3000}}):
        try:
            audit.log("x_leak", PEOPLE[0], **wrong)
        except KlingAuditError as error:
            tell(error)
    try:
        with acting(PEOPLE[0]):
            audit.log("x_leak", PEOPLE[1])
    except KlingAuditError as error:
        tell(error)


def refused_by_storage(folder: Path, sim: Simulator, url: str) -> None:
    audit = AuditLog.open(folder / "gone")
    (folder / "gone").rename(folder / "moved")
    with KlingAI(api_key=API_KEY, audit=audit, base_url=url, trust_env=False) as kling, acting(PEOPLE[0]):
        before = len(sim.requests)
        try:
            kling.text_to_video(PROMPT, model="kling-3.0")
        except AuditUnavailable as error:
            tell(error)
        assert len(sim.requests) == before, "a request left without a record"


def main() -> None:
    folder = Path(sys.argv[1])
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    logging.getLogger("httpcore2").setLevel(logging.WARNING)  # the HTTP library's own wire log is the user's choice
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    warnings.simplefilter("always")
    sim = Simulator(RealClock(speed=200))
    sim.add_api_key(API_KEY, "leaky")
    sim.credentials.access_keys[ACCESS_KEY] = SECRET_KEY
    with SimulatorServer(sim) as server:
        with AuditLog.open(folder / "audit", text_log=folder / "plain.log") as audit:
            with acting(PEOPLE[0], ip=ADDRESSES[0], user_agent=f"app/1 {PEOPLE[0]}", team="team"):
                paths_of_the_client(audit, sim, server.base_url, folder)
                asyncio.run(paths_of_asyncio(audit, sim, server.base_url))
            with acting(PEOPLE[1], ip=ADDRESSES[1]):
                paths_of_the_transport(audit, server.base_url)
            own_events(audit)
            for entry in audit.query(actor=PEOPLE[0]):
                print(repr(entry))
            print(audit.activity(PEOPLE[0]))
            print(audit.verify())
        refused_by_storage(folder, sim, server.base_url)


if __name__ == "__main__":
    main()
