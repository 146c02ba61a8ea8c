"""Runs the command `tcpdconf-migrate`, which finds couriertcpd's command lines and writes them as TOML.

TOML goes to standard output or into a directory; notes and the next steps go to standard error. Exit status:
0 for success, with or without notes; 2 for wrong usage, or a command line that couriertcpd would refuse; 1
for any other failure.
"""

import argparse
import os
import sys
from collections.abc import Collection, Sequence

from tcpdconf import usage
from tcpdconf.config.model import fields
from tcpdconf_migrate import accessrules, discover, plan, report, write


def main(argv: Sequence[str] | None = None) -> int:
    """Run one form and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    taken = parser()
    arguments = taken.parse(_forcing(sys.argv[1:] if argv is None else argv))
    if arguments.access == "toml" and arguments.output is None:
        taken.error("--access toml needs -o: it writes files")
    if arguments.diff and arguments.output is None:
        taken.error("--diff needs -o: it shows what would change in a directory")
    try:
        found: discover.Found = arguments.find(arguments)
        return _migrate(arguments, found)
    except (discover.DiscoverError, write.WriteError) as error:
        sys.stderr.write(f"tcpdconf-migrate: {error}\n".replace("\n\n", "\n"))
        return 2 if arguments.form == "argv" and isinstance(error, discover.DiscoverError) else 1


def parser() -> usage.Parser:
    """Return the parser; `find` in its result finds the command lines of the chosen form."""
    made = usage.Parser(
        prog="tcpdconf-migrate", description="Translate command lines of couriertcpd into TOML for tcpdconf."
    )
    usage.add_version(made)
    forms = made.add_subparsers(title="forms", metavar="FORM", required=True, dest="form")
    form = _form(forms, "argv", "a command line: tcpdconf-migrate argv -- couriertcpd ...")
    form.add_argument("words", metavar="WORD", nargs="+", help="couriertcpd and its arguments, after --")
    form.set_defaults(find=lambda arguments: discover.in_argv(arguments.words))

    form = _form(forms, "courier", "Courier's own configuration: esmtpd, imapd, pop3d, ...")
    form.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default="/etc/courier",
        help="directory of the configuration (default: %(default)s)",
    )
    form.set_defaults(find=lambda arguments: discover.in_courier(arguments.directory))

    form = _form(forms, "script", "a shell script, a run file, or a systemd unit")
    form.add_argument("file", metavar="FILE", help="the file, which is read and not run")
    form.add_argument(
        "--set",
        metavar="NAME=VALUE",
        type=_variable,
        action="append",
        default=[],
        help="value of a variable that the script itself does not set (repeatable)",
    )
    form.set_defaults(find=lambda arguments: discover.in_script(arguments.file, dict(arguments.set)))

    form = _form(forms, "running", "all couriertcpd processes that run now")
    form.set_defaults(find=lambda _: discover.in_processes())
    return made


def _form(forms: "argparse._SubParsersAction[usage.Parser]", name: str, text: str) -> argparse.ArgumentParser:
    form = forms.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    form.add_argument("-o", "--output", metavar="DIR", help="write DIR/NAME.toml instead of printing it")
    form.add_argument(
        "--name", metavar="NAME", type=_name, help="name of the service (default: from port and program)"
    )
    form.add_argument(
        "--exact",
        action="store_true",
        help="treat DNS lists, PROXY headers and IPv6 networks as couriertcpd does, even where unsafe",
    )
    form.add_argument(
        "--access",
        choices=("as-is", "toml"),
        default="as-is",
        help="toml: also write access databases as DIR/access/NAME.toml (default: keep using the databases)",
    )
    form.add_argument(
        "--force",
        metavar="FILE.toml",
        nargs="?",
        const="",
        action="append",
        default=[],
        help="replace this file of DIR, or all, even if edited or written by another program (repeatable)",
    )
    form.add_argument(
        "--diff", action="store_true", help="print the changes to the files of DIR, and write nothing"
    )
    form.add_argument(
        "--add-to-ports",
        metavar="N",
        type=int,
        default=0,
        help="add N to each port, to try the services beside couriertcpd",
    )
    return form


def _name(text: str) -> str:
    if not fields.NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a name of letters, digits, '.', '_' and '-', not {text!r}")
    return text


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _forcing(words: Sequence[str]) -> list[str]:
    """Let --force take the next word only if that is a TOML file; otherwise it may be DIR or FILE."""
    options = list(words[: words.index("--")] if "--" in words else words)
    for index, word in enumerate(options):
        if word == "--force" and not "".join(options[index + 1 : index + 2]).endswith(".toml"):
            options[index] = "--force="
    return [*options, *words[len(options) :]]


def _migrate(arguments: argparse.Namespace, found: discover.Found) -> int:
    planned = plan.plan(
        found.commands, exact=arguments.exact, name=arguments.name, more_ports=arguments.add_to_ports
    )
    if arguments.name and len(planned.services) > 1:
        sys.stderr.write("tcpdconf-migrate: --name is for one service, and these are several\n")
        return 2
    rules: dict[str, str] = {}
    if arguments.access == "toml":
        planned, rules = accessrules.replace(planned, os.path.abspath(arguments.output))
    sys.stderr.write(report.notes(planned, found.unread))
    if not planned.services:
        return 2 if arguments.form == "argv" else 1
    services = {each.name: each.service for each in planned.services}
    texts = {f"{each.name}.toml": report.toml(each) for each in planned.services}
    if arguments.output is None:
        write.check(texts, services)
        sys.stdout.write("\n".join(texts.values()))
    else:
        directory = os.path.normpath(arguments.output)
        texts |= rules
        if arguments.diff:
            sys.stdout.write(write.diff(directory, texts))
            return 0
        forced = _forced(arguments.force, directory, texts)
        done = write.write(directory, texts, services, forced=forced, private=found.private)
        sys.stderr.write("".join(f"written: {directory}/{name}\n" for name in done.written))
        sys.stderr.write("".join(f"kept: {why}\n" for why in done.kept))
    sys.stderr.write(report.next_steps(planned, arguments.output, _again(arguments)))
    return 0


def _forced(given: Sequence[str], directory: str, paths: Collection[str]) -> frozenset[str]:
    """Return the paths below a directory that are replaced whoever wrote them.

    Raises:
        WriteError: --force names a file that is not written.
    """
    found = set(paths if "" in given else ())
    for file in filter(None, given):
        names = {os.path.normpath(file), os.path.relpath(file, directory)} & set(paths)
        if not names:
            raise write.WriteError(f"--force {file}: is not one of {', '.join(paths)}")
        found |= names
    return frozenset(found)


def _again(arguments: argparse.Namespace) -> report.Again:
    """Return the words that run the same command again."""
    words = ["tcpdconf-migrate", arguments.form, *["--exact"] * arguments.exact]
    words += ["--access", "toml"] if arguments.access == "toml" else []
    match arguments.form:
        case "argv":
            return report.Again(words, ["--", *arguments.words])
        case "courier":
            return report.Again(words, [arguments.directory])
        case "script":
            given = [word for name, value in arguments.set for word in ("--set", f"{name}={value}")]
            return report.Again([*words, *given], [arguments.file])
    return report.Again(words, [])


if __name__ == "__main__":
    sys.exit(main())
