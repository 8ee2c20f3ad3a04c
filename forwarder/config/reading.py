"""Settings from a file and the environment, all checked before any is used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from forwarder.config.kinds import UnfitError, type_name
from forwarder.config.plain import DEFAULT_FILE, SECRET_VARIABLES
from forwarder.config.settings import SECTIONS, SETTINGS, Setting, Settings
from forwarder.errors import ConfigError, NotPermittedError
from forwarder.text import printable

# What Kubernetes injects for a service called forwarder-...: kubernetes.io, "Discovering services".
_OF_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?)$")


class Given(NamedTuple):
    """A value as given, not checked yet."""

    value: object
    source: str


class Problem(NamedTuple):
    """One mistake, with its remedy; *keys* are the settings it is about, *section* is theirs."""

    what: str
    remedy: str
    keys: tuple[str, ...] = ()
    section: str = ""

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}" if self.remedy else self.what


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    used: Collection[str] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Settings:
    """The effective settings.

    The file is *path*, else ``$FORWARDER_CONFIG``, else ``/etc/forwarder/forwarder.toml`` if it exists.
    A file that is named must exist. ``FORWARDER_<SECTION>_<KEY>`` overrides a key of the file; an empty
    variable counts as not set, as in a unit or compose file that passes on what may not be there.

    Args:
        path: A TOML file.
        environ: The environment; the process's own when None.
        used: The sections and keys that the caller needs; None: all. A mistake elsewhere does not fail.
        warn: Called with each such mistake instead; the setting keeps its default.

    Raises:
        ConfigError: names all mistakes at once, with key, value, source and remedy.
        NotPermittedError: this user can't read the file.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    file, table = _read_file(path, environ)
    given = _given_by_file(table, file or "", problems)
    given.update(_given_by_environment(environ, problems))
    values = _check(given, problems)
    settings = Settings(
        **{name: section(**values[name]) for name, section in SECTIONS.items()},
        sources=MappingProxyType({key: given[key].source if key in given else "default" for key in SETTINGS}),
        file=file,
    )
    # A wrong key has its default here: what its value contradicts is not known.
    wrong = {key for problem in problems for key in problem.keys}
    problems += [problem for problem in _contradictions(settings) if not wrong.intersection(problem.keys)]
    for problem in problems:
        if not _matters(problem, used):
            warn(str(problem))
    if fatal := [problem for problem in problems if _matters(problem, used)]:
        raise _error(fatal)
    return settings


def _matters(problem: Problem, used: Collection[str] | None) -> bool:
    if used is None:
        return True
    if problem.keys:
        return any(key in used or key.partition(".")[0] in used for key in problem.keys)
    # A name that is not known may be meant for any of its section.
    return problem.section in {name.partition(".")[0] for name in used}


def _error(problems: list[Problem]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0].what, problems[0].remedy)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"the settings have {len(problems)} mistakes:{lines}")


def _read_file(path: str | None, environ: Mapping[str, str]) -> tuple[str | None, dict[str, Any]]:
    """The settings file's path and content; None: there is none, and none was named."""
    named = path if path is not None else environ.get("FORWARDER_CONFIG") or None
    by = "--config" if path is not None else "$FORWARDER_CONFIG"
    file = DEFAULT_FILE if named is None else os.path.abspath(named)
    try:
        # utf-8-sig: some editors write a byte order mark first, which tomllib takes for a syntax error.
        with open(file, encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except PermissionError:
        raise NotPermittedError(
            f"this user can't read the settings file {printable(file)}",
            "Run as a user or group that can read it",
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        if named is None:
            return None, {}
        raise ConfigError(
            f"the settings file {printable(file)}, named by {by}, does not exist", "Name another one"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"the settings file {printable(file)} is not UTF-8", "Save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"the settings file {printable(file)} can't be read: {reason}") from None
    return file, _parse(text, file)


def _parse(text: str, file: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError names line and column, and shows no value; int() refuses 4300 digits.
        raise ConfigError(
            f"the settings file {printable(file)} is not TOML: {printable(str(error))}",
            'Put text in quotes: region = "eu"',
        ) from None


def _given_by_file(table: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Given]:
    given = {}
    for section, content in table.items():
        if section not in SECTIONS:
            problems.append(_unknown_section(section, content, file))
        elif not isinstance(content, dict):
            what = f"{section} ({printable(file)}) is {type_name(content)}, not a section"
            remedy = f"Write [{section}] on its own line, and its keys below it"
            problems.append(Problem(what, remedy, section=section))
        else:
            for name, value in content.items():
                key = f"{section}.{name}"
                if key in SETTINGS:
                    given[key] = Given(value, file)
                else:
                    problems.append(_unknown_key(section, name, file))
    return given


def _given_by_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Given]:
    variables = {setting.variable: setting for setting in SETTINGS.values()}
    prefixes = tuple(f"FORWARDER_{section}_".upper() for section in SECTIONS)
    given = {}
    for name, text in environ.items():
        if name in variables:
            setting = variables[name]
            if text:
                given[setting.key] = Given(setting.kind.read(text), f"${name}")
        elif name.startswith(prefixes) and name not in SECRET_VARIABLES and not _OF_KUBERNETES.search(name):
            remedy = _did_you_mean(name, (*variables, *SECRET_VARIABLES)) or "Unset it"
            what = f"the environment variable {printable(name)} names no setting"
            problems.append(Problem(what, remedy, section=name.split("_")[1].lower()))
    return given


def _check(given: Mapping[str, Given], problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """Checked values by section and name. Wrong ones are left out and go to *problems*."""
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, (value, source) in given.items():
        setting = SETTINGS[key]
        try:
            if isinstance(value, int) and abs(value) >= 2**63:
                raise UnfitError("is larger than a number in TOML may be")
            values[setting.section][setting.name] = setting.kind.check(value)
        except UnfitError as wrong:
            what = f"{key}{_value(setting, value)} ({printable(source)}) {wrong.what}"
            problems.append(Problem(what, wrong.remedy or setting.kind.remedy, (key,)))
    return values


def _contradictions(settings: Settings) -> Iterator[Problem]:
    def name(key: str) -> str:
        return f"{key} ({printable(settings.source(key))})"

    account, project = "mixpanel.service_account", "mixpanel.project_id"
    secret, token = "mixpanel.secret_file", "mixpanel.token_file"
    initial, most = "delivery.retry_initial_s", "delivery.retry_max_s"
    mixpanel, delivery = settings.mixpanel, settings.delivery
    if mixpanel.token_file:
        for key in (account, secret):
            if SETTINGS[key].of(settings):
                what = f"{name(key)} and {name(token)} are both set"
                yield Problem(what, "Keep the service account or the token, not both", (key, token))
    if mixpanel.service_account and not mixpanel.project_id:
        what = f"{name(account)} is set without {project}"
        yield Problem(what, "Give the project's number, from Mixpanel's project settings", (account, project))
    if mixpanel.secret_file and not mixpanel.service_account and not mixpanel.token_file:
        what = f"{name(secret)} is set without {account}"
        yield Problem(what, "Give the service account's username, or leave both out", (secret, account))
    if delivery.retry_max_s < delivery.retry_initial_s:
        what = (
            f"{most} = {delivery.retry_max_s} ({printable(settings.source(most))}) is below "
            f"{initial} = {delivery.retry_initial_s} ({printable(settings.source(initial))})"
        )
        yield Problem(what, "Raise the longest wait, or lower the first", (most, initial))


def _unknown_section(section: str, content: object, file: str) -> Problem:
    shown = printable(section)
    if not isinstance(content, dict):
        homes = [setting.section for setting in SETTINGS.values() if setting.name == section]
        remedy = f"Put it below [{homes[0]}]" if homes else "Put each key below its [section]"
        what = f"{shown} ({printable(file)}) is outside of any section"
        return Problem(what, remedy, section=homes[0] if homes else "")
    meant = _close(section, SECTIONS)
    known = ", ".join(f"[{name}]" for name in SECTIONS)
    remedy = f"Did you mean [{meant}]?" if meant else f"There are {known}"
    return Problem(f"[{shown}] ({printable(file)}) is not a section", remedy, section=meant)


def _unknown_key(section: str, name: str, file: str) -> Problem:
    what = f"{section}.{printable(name)} ({printable(file)}) is not a setting"
    if section in ("mixpanel", "queue") and name in ("secret", "token", "password", "api_secret"):
        files = "password_file" if section == "queue" else "secret_file or token_file"
        remedy = f"Secrets don't belong in the settings: name their file with {files}"
        return Problem(what, remedy, section=section)
    names = [setting.name for setting in SETTINGS.values() if setting.section == section]
    homes = [setting.section for setting in SETTINGS.values() if setting.name == name]
    remedy = f"It belongs below [{homes[0]}]" if homes else _did_you_mean(name, names)
    return Problem(what, remedy or f"[{section}] has {', '.join(names)}", section=section)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = _close(word, known)
    return f"Did you mean {close}?" if close else ""


def _close(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1)), "")


def _value(setting: Setting, value: object) -> str:
    """`` = VALUE`` for a message: on one line, cut short. A possible secret is not shown."""
    if setting.kind.hides(value):
        return " = (not shown)"
    if isinstance(value, list | dict) or (isinstance(value, int) and abs(value) >= 2**63):
        return ""
    shown = (
        str(value).lower()
        if isinstance(value, bool)
        else repr(value)
        if isinstance(value, str)
        else str(value)
    )
    return f" = {shown if len(shown) <= 80 else shown[:77] + '...'}"
