#!py
"""Two states that the others require: they fail for what would be refused, before anything is changed.

tcpdconf-check-pillar judges the pillar, and names the keys that were probably meant. tcpdconf-check-config
fails for what TOML cannot say. In a test run, in which no check_cmd is run, it also fails for what
`tcpdconf check` refuses.
"""

import difflib
import os
import tempfile

from salt.exceptions import CommandExecutionError

_ACCOUNTS = ("user", "group")  # numbers are good as well
_WANTED = {
    bool: "true or false",
    str: "a string, in quotes (YAML reads 0640 and 1.10 without them as other numbers)",
}


def run():
    """Return the states."""
    given = __pillar__.get("tcpdconf")
    defaults = __salt__["slsutil.renderer"]("salt://tcpdconf/defaults.yaml", default_renderer="yaml")
    found, refused = list(_unknown(given, defaults["tcpdconf"], "tcpdconf")), []
    if not found:
        settings = __salt__["slsutil.merge"](defaults["tcpdconf"], given)
        found = [*_ways(settings["package"]), *_empty(settings)]
        refused = _refused(settings)
    required = {"require": [{"test": "tcpdconf-check-pillar"}]}
    return {
        "tcpdconf-check-pillar": {"test": _fail_for(found)},
        "tcpdconf-check-config": {"test": [*_fail_for(refused), required]},
    }


def _fail_for(problems):
    """Return a function of `test` and its arguments; fail_without_changes has no comment in a test run."""
    if not problems:
        return ["nop"]
    comment = "\n".join(problems)
    arguments = {"result": False, "changes": False, "allow_test_mode_failure": True, "comment": comment}
    return ["configurable_test_state", *({key: value} for key, value in arguments.items())]


def _unknown(given, defaults, place):
    """Yield what is wrong with a table of the pillar; `config` is for tcpdconf to judge."""
    if given is None and place == "tcpdconf":
        near = difflib.get_close_matches(place, [name for name in __pillar__ if isinstance(name, str)], 1)
        yield "the pillar has no key tcpdconf" + "".join(f" (is {name} meant?)" for name in near)
        return
    if not isinstance(given, dict):
        yield f"{place}: must be a table of keys and values"
        return
    for key, value in given.items():
        here = f"{place}:{key}"
        if key not in defaults:
            near = difflib.get_close_matches(str(key), defaults, 1)
            yield f"{here}: unknown key" + "".join(f" (did you mean {name}?)" for name in near)
        elif isinstance(defaults[key], dict):
            if not isinstance(value, dict):
                yield f"{here}: must be a table of keys and values"
            elif here != "tcpdconf:config":
                yield from _unknown(value, defaults[key], here)
        elif not isinstance(value, (str, int) if key in _ACCOUNTS else type(defaults[key])):
            yield f"{here}: must be {_WANTED[type(defaults[key])]}, not {value!r}"


def _ways(package):
    """Yield that a Debian package goes with no other way to install."""
    if package["deb"] and (package["wheel"] or package["version"] or package["venv"] != "/opt/tcpdconf"):
        yield (
            "tcpdconf:package:deb: goes with neither wheel nor version, and needs venv as it is by default:"
            " the package has its own version and is below /opt/tcpdconf"
        )


def _empty(settings):
    """Yield that no service would run, if none is described and no other file is there that may do so."""
    config, directory = settings["config"], settings["directory"]
    daemon = config.get("daemon")
    if config.get("services") or (isinstance(daemon, dict) and daemon.get("allow_empty")):
        return
    names = set(os.listdir(directory) if os.path.isdir(directory) else ()) - {settings["file"]}
    if not [name for name in names if name.endswith(".toml") and name[0] not in ".#"]:
        yield (
            f"no service would run: tcpdconf:config:services is empty, and {directory} has no other file."
            " Describe one in tcpdconf:config:services"
        )


def _refused(settings):
    """Return what is wrong with the configuration as it would be, as if it were in place already."""
    header = __salt__["cp.get_file_str"]("salt://tcpdconf/files/header.txt")
    try:
        text = __salt__["slsutil.serialize"]("tcpdconf_toml", settings["config"], header=header)
    except ValueError as error:
        return [f"tcpdconf:config: {error}"]
    except CommandExecutionError:
        return []  # the minion does not have the serializer, and file.serialize says so
    command = settings["package"]["venv"] + "/bin/tcpdconf"
    if not (__opts__["test"] and os.path.exists(command)):
        return []
    with tempfile.TemporaryDirectory() as folder:  # 0700
        draft, directory = os.path.join(folder, "draft.toml"), settings["directory"]
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        if not os.path.isdir(directory):
            directory = os.path.join(folder, "conf.d")
            os.mkdir(directory)
        stand_in = os.path.join(directory, settings["file"]) + "=" + draft
        words = [command, "check", "--replace", stand_in, directory]
        quiet = {"output_loglevel": "quiet", "ignore_retcode": True}
        done = __salt__["cmd.run_all"](words, python_shell=False, **quiet)
    if done["retcode"] == 0:
        return []
    if not settings["show_changes"]:
        return ["tcpdconf check refuses it, and tcpdconf:show_changes hides why"]
    said = (done["stdout"] + "\n" + done["stderr"]).strip().replace(directory, settings["directory"])
    return ["tcpdconf check refuses it:", said.replace(draft, settings["directory"] + "/" + settings["file"])]
