"""What to type to get the same run again, and the config it had."""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def reproduce(command: str, overrides: Sequence[str], summary: Mapping[str, Any]) -> str:
    commit, seed = summary.get("git_commit"), summary.get("seed")
    version = (summary.get("versions") or {}).get("vitfw")
    lines, notes = [command], []
    if commit:
        lines = [f"git checkout {shlex.quote(str(commit))}", "make setup", command]
        notes.append("make setup installs the versions that constraints.txt pins.")
    elif version:
        notes.append(f"From an installed vitfw {version}.")
    if seed is not None:
        notes.append(f"The seed is {seed}: order, augmentation and initialisation follow from it.")
    if any(text.startswith("run_dir=") for text in overrides):
        notes.append("This run_dir is taken: give another.")
    chips = "".join(f"<code>{escape(text)}</code>" for text in overrides)
    typed = f'<div class="chips">{chips}</div>' if chips else '<p class="muted">No overrides.</p>'
    return (
        f'<section><h2>Reproduce</h2><pre class="command">{escape(chr(10).join(lines))}</pre>'
        f'{typed}<p class="muted">{escape(" ".join(notes))}</p></section>'
    )


def config(config_text: str) -> str:
    if not config_text:
        return ""
    return (
        "<section><details><summary>Resolved config</summary>"
        f'<pre tabindex="0">{escape(config_text)}</pre></details></section>'
    )
