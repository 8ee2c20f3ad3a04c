"""The scripts for the shells, and what they request from the command.

A script runs the command with ``_FORWARDER_COMPLETE=SHELL_complete``, as click has it, and the line up to
the cursor in ``$COMP_LINE``. It gets a line for each completion: type, value and help, with tabs between.
Event names and reasons come from other programs: the scripts quote them in a command line.
"""

from __future__ import annotations

import os
import re
import shlex

from click.shell_completion import ShellComplete, add_completion_class

from forwarder.cli.root import COMPLETE, cli
from forwarder.text import printable

# Not a character of a command line: marks where the line ends, also within quotes.
_END = "\0"

# Not with bash's own quoting, `compopt -o filenames`: it does not quote a $ after a typed one.
# compopt fails where no completion is under way, as in a test.
_BASH = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} kind value help
    [[ $line ]] || line="${COMP_WORDS[*]:0:COMP_CWORD+1}"
    COMPREPLY=()
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            file) compopt -o default 2>/dev/null; continue ;;
            dir) compopt -o dirnames 2>/dev/null; continue ;;
            open) compopt -o nospace 2>/dev/null ;;
        esac
        COMPREPLY+=("$value")
    done < <(%(complete_var)s=bash_complete COMP_LINE=$line COMP_WORD=$2 "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local line kind value help
    local -a values shown open
    line="${(j: :)words[1,CURRENT-1]} ${words[CURRENT]}"
    [[ $PREFIX == --*=* ]] && compset -P '*='
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            file) _files; return ;;
            dir) _files -/; return ;;
            open) open=(-S '') ;;
        esac
        values+=("$value")
        shown+=("$value${help:+  -- $help}")
    done < <(%(complete_var)s=zsh_complete COMP_LINE=$line ${(Q)words[1]} 2>/dev/null)
    compadd -l -V %(prog_name)s "${open[@]}" -d shown -a values
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l line (commandline -cp)
    set -l word (commandline -ct)
    env %(complete_var)s=fish_complete COMP_LINE="$line" %(prog_name)s 2>/dev/null |
    while read -l -d \\t kind value help
        switch $kind
            case file
                __fish_complete_path "$word"
            case dir
                __fish_complete_directories "$word"
            case '*'
                printf '%%s\\t%%s\\n' $value $help
        end
    end
end

complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


class _Shell(ShellComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        _, *arguments, last = split(os.environ.get("COMP_LINE", ""))[0]
        return arguments, last

    def complete(self) -> str:
        arguments, incomplete = self.get_completion_args()
        found = self.get_completions(arguments, incomplete)
        return "\n".join(
            f"{item.type}\t{value}\t{printable(item.help or '')}"
            for item in found
            # Values with a line break or a terminal command can't be shown, so they are not offered.
            if item.value.isprintable() and (value := self.fitted(item.value, incomplete)) is not None
        )

    def fitted(self, value: str, _incomplete: str) -> str | None:
        """The text with which the shell replaces what it considers the incomplete word; None: it can't."""
        return value


@add_completion_class
class _Bash(_Shell):
    name = "bash"
    source_template = _BASH

    def fitted(self, value: str, incomplete: str) -> str | None:
        # For bash, = and : end a word: of `--event=a:b` it replaces only `b`, or what follows a quote.
        quote = split(os.environ.get("COMP_LINE", ""))[1]
        word = os.environ.get("COMP_WORD", incomplete).removeprefix(quote)
        if _is_assigned(incomplete):
            incomplete = incomplete.partition("=")[2]
        if incomplete.endswith(word):
            value = value.removeprefix(incomplete.removesuffix(word))
        return _quoted(value, quote)


@add_completion_class
class _Zsh(_Shell):
    name = "zsh"
    source_template = _ZSH


@add_completion_class
class _Fish(_Shell):
    name = "fish"
    source_template = _FISH

    def fitted(self, value: str, incomplete: str) -> str:
        return f"{incomplete.partition('=')[0]}={value}" if _is_assigned(incomplete) else value


def script(shell: str) -> str:
    """The script for *shell*, one of those that have a class here."""
    kinds: dict[str, type[_Shell]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
    return kinds[shell](cli, {}, "forwarder", COMPLETE).source()


def split(line: str) -> tuple[list[str], str]:
    """The words of an incomplete line, of which the last may be empty, and the open quote."""
    lexer = shlex.shlex(f"{line}{_END}", posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    quote = ""
    try:
        words.extend(lexer)
    except ValueError:
        # The text in an open quote is a word, too.
        words.append(lexer.token or "")
        quote = lexer.state or ""  # type: ignore[attr-defined]
    words[-1] = words[-1].removesuffix(_END)
    return (words if len(words) > 1 else [*words, ""]), quote


def _quoted(value: str, quote: str) -> str | None:
    """*value* as bash reads it after an open *quote* or none; None: it can't be written there."""
    if quote == "'":
        return value.replace("'", "'\\''")
    if quote == '"':
        # Inside them a backslash does not protect a ! from history expansion.
        return None if "!" in value else re.sub(r'([\\"$`])', r"\\\1", value)
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", value)


def _is_assigned(word: str) -> bool:
    return word.startswith("--") and "=" in word
