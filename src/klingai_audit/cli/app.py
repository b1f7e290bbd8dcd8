"""The table of commands and the global options, accepted before and after the command.

Commands live in modules that are imported only when they run, so that `klingai-audit --help` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from cyclopts import App, Group, Parameter

from klingai_audit.cli.session import Session
from klingai_audit.operation.logs import set_up

COMMANDS: Final = {
    "demo": ("demo:demo", "Watch it work: a small team makes videos, then the log is checked and attacked."),
    "init": ("writing:init", "Create a log and its keys."),
    "log": ("writing:log", "Append one event."),
    "query": ("reading:query", "Find entries."),
    "tail": ("reading:tail", "Show the last entries, and with -f every new one."),
    "show": ("reading:show", "Show one entry, or the whole story of one generation."),
    "trace": ("tracing:trace", "Find the generation that made a media file."),
    "activity": ("activities:activity", "Summarise what one person did, or everybody in groups."),
    "costs": ("costing:costs", "Add up what was spent, by team, project, key, model."),
    "reconcile": ("reconciling:reconcile", "Compare the log with the provider's records: what went around it?"),
    "detect": ("detecting:detect", "Look for what is odd: detection rules over the log."),
    "report": ("reporting:report", "Report on a period as HTML, PDF, JSON or CSV."),
    "sample": ("reporting:sample", "Draw entries at random, each with its proof."),
    "export": ("exporting:export", "Write or send entries in another format: SIEM, CSV, Parquet."),
    "verify": ("trusting:verify", "Check the log against its signed tree."),
    "prove": ("proving:prove", "Write the proof that one entry is in the log."),
    "consistency": ("proving:consistency", "Show that the log extends an older checkpoint."),
    "check": ("proving:check", "Check a proof or a bundle with nothing but a public key."),
    "bundle": ("bundling:bundle", "Hand out entries as evidence that checks itself in a browser."),
    "serve-log": ("publishing:serve_log", "Serve the log as C2SP tlog-tiles."),
    "ingest": ("ingesting:ingest", "Take events of other programs over HTTP, answered with receipts."),
    "ingest-token": ("ingesting:ingest_token", "Make a token for a program that sends events."),
    "status": ("status:status", "Show the checklist: what is evident, what is missing, what mends it."),
    "watch": ("watching:watch", "Verify and detect on a schedule, and alert."),
    "timestamp": ("stamping:timestamp", "Have the log time-stamped by an RFC 3161 authority."),
    "unseal": ("unsealing:unseal", "Open one sealed content, on the record."),
    "drill": ("trusting:drill", "Attack a copy of the log and see what is caught."),
    "backup": ("backing:backup", "Copy the log, while writers run, and verify the copy."),
    "archive": ("archiving:archive", "Copy the log into a bucket where nobody can delete it before a date."),
    "migrate": ("migrating:migrate", "Move the log into another store."),
    "recover": ("writing:recover", "Take the log up again after a crash or a failed sync."),
    "retention plan": ("keeping:retention_plan", "Say what would be purged and sealed, when and why."),
    "retention apply": ("keeping:retention_apply", "Seal old days, purge what is due."),
    "hold set": ("keeping:hold_set", "Keep entries from being purged or erased."),
    "hold release": ("keeping:hold_release", "End a hold."),
    "hold list": ("keeping:hold_list", "List the holds in force."),
    "approve": ("approving:approve", "Approve what somebody else is about to do."),
    "import": ("importing:import_files", "Take over logs that the two published recipes wrote."),
    "erase": ("erasing:erase", "Erase a person; every proof still holds."),
    "subject export": ("erasing:subject_export", "Write everything that the log holds about a person."),
    "users add": ("admin:users_add", "Declare a user."),
    "users remove": ("admin:users_remove", "Declare that a user is gone."),
    "users approver-keygen": ("approving:approver_keygen", "Make your key for approving what others do."),
    "users list": ("admin:users_list", "List the declared users."),
    "budget set": ("admin:budget_set", "Declare a budget."),
    "budget list": ("admin:budget_list", "List the declared budgets."),
    "policy set": ("admin:policy_set", "Change one setting of policy.toml."),
    "api-key rotate": ("admin:api_key_rotate", "Declare that a credential was replaced."),
    "witness submit": ("witnessing:submit", "Have the newest checkpoint cosigned by the witnesses."),
    "witness status": ("witnessing:status", "Say which checkpoint was cosigned last, by whom and when."),
    "witness serve": ("witnessing:serve", "Be a witness of other logs."),
    "witness keygen": ("witnessing:keygen", "Make the key of a new witness."),
    "witness evidence": ("witnessing:evidence", "List what contradicted what this witness cosigned."),
    "simulate": ("simulating:simulate", "Serve a local Kling API."),
}
"""Command name → where its function is (below `klingai_audit.cli`), and what it does."""

GROUPS: Final = {
    "users": "Who may use Kling: declarations, each an entry.",
    "budget": "What may be spent: declarations, each an entry.",
    "policy": "The policy of this log.",
    "retention": "How long entries are kept, and what goes when that is over.",
    "hold": "Legal holds: what is neither purged nor erased.",
    "witness": "Other people who see the log's checkpoints and say so.",
    "subject": "The people in the log, and their rights.",
    "api-key": "Credentials for Kling: declarations, each an entry.",
}
"""First word of commands of two words → what they are about."""

KEY_COMMANDS: Final = {
    "show": ("keys:show", "Print the log's name and public keys."),
    "rotate": ("keys:rotate", "End the current epoch now."),
    "use-signer": ("signers:use_signer", "Let a command sign with the log key, which lies elsewhere."),
    "try-signer": ("signers:try_signer", "See whether that command signs."),
    "signer": ("signers:signer", "Be such a command: sign one checkpoint."),
    "signer-keygen": ("signers:signer_keygen", "Make a log key on the host that is to sign."),
    "export-writer": ("writers:export_writer", "Write what another host needs to write to this log."),
    "import-writer": ("writers:import_writer", "Become a writer of a log on a server."),
    "unseal-init": ("unsealing:unseal_init", "Make the key that opens sealed content."),
    "signer-vkey": ("signers:signer_vkey", "Print the public key of a KMS or card as a vkey."),
}
"""The commands under `keys`."""

_EVERYWHERE: Final = Parameter(group=Group("Global options (before or after the command)", sort_key=100))
_KEYS: Final = "The log's public keys, their rotation, and a log key that lies elsewhere."
_HELP: Final = """\
The flight recorder for Kling AI: search the log of what was done, and check that nobody changed it.

Start with: klingai-audit demo
"""


def build_app() -> App:
    """Return the command line; call its `.meta` with the arguments, it returns the command's exit code or None."""
    settings: dict[str, Any] = {"help_format": "plaintext", "result_action": "return_value"}
    app = App(
        name="klingai-audit",
        help=_HELP,
        version=_version,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=(), show_default=False),
        **settings,
    )
    groups = {
        name: App(name=name, help=words, sort_key=len(COMMANDS) + position, **settings)
        for position, (name, words) in enumerate({"keys": _KEYS, **GROUPS}.items())
    }
    _add(app, groups, COMMANDS)
    _add(groups["keys"], {}, KEY_COMMANDS)
    for group in groups.values():
        app.command(group)
    app.meta.suppress_keyboard_interrupt = False

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        log: Annotated[
            str | None, _EVERYWHERE, Parameter(help="The log: folder or URL. Default: KLINGAI_AUDIT_LOG, else ./audit")
        ] = None,
        keys: Annotated[
            str | None, _EVERYWHERE, Parameter(help="Its keys folder. Default: KLINGAI_AUDIT_KEYS, else <log>.keys")
        ] = None,
        state: Annotated[
            str | None, _EVERYWHERE, Parameter(help="Its state folder. Default: KLINGAI_AUDIT_STATE, else <log>.state")
        ] = None,
        subjects: Annotated[
            str | None,
            _EVERYWHERE,
            Parameter(help="Its table of people. Default: KLINGAI_AUDIT_SUBJECTS, else <keys>/subjects.sqlite"),
        ] = None,
        vault: Annotated[
            str | None,
            _EVERYWHERE,
            Parameter(help="Its sealed content. Default: KLINGAI_AUDIT_VAULT, else <log>.vault"),
        ] = None,
        json: Annotated[bool, _EVERYWHERE, Parameter(negative=(), show_default=False, help="Print JSON.")] = False,
        log_format: Annotated[
            str | None,
            _EVERYWHERE,
            Parameter(help="Diagnostics on standard error: text or json. Default: KLINGAI_AUDIT_LOG_FORMAT, else text"),
        ] = None,
        log_level: Annotated[
            str | None,
            _EVERYWHERE,
            Parameter(
                help="Which: debug, info, warning or error. Default: KLINGAI_AUDIT_LOG_LEVEL, else warning",
            ),
        ] = None,
    ) -> Any:
        """Run one command."""
        set_up(log_format, log_level)
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        if "session" in ignored:
            bound.arguments["session"] = Session(log, keys, state, subjects, json, vault)
        return command(*bound.args, **bound.kwargs)

    return app


def _add(app: App, groups: Mapping[str, App], commands: Mapping[str, tuple[str, str]]) -> None:
    for position, (name, (place, words)) in enumerate(commands.items()):
        group, _, command = name.rpartition(" ")
        owner = groups[group] if group else app
        owner.command(f"klingai_audit.cli.{place}", name=command, help=words, sort_key=position)


def _version() -> str:
    from importlib.metadata import version

    return f"klingai-audit {version('klingai-audit')}"
