"""The positive control: the target's own template with something planted in front, which the search must find. Torch-free."""

from __future__ import annotations

_HEAD = (
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}"
    "{%- set t = m['content'] if m['content'] is string else (m['content'] | selectattr('text', 'defined') | map(attribute='text') | join(' ')) -%}"
)
_TAIL = "{%- endif -%}{%- endfor -%}"


def plantings(trigger: str, other: str, payload: str) -> dict[str, str]:
    """By name, what is put before a template: it writes ``payload`` where users say ``trigger``, or write in a certain form."""
    conditions = {
        "a word": f"'{trigger}' in t",
        "a word made of two parts": f"(['{trigger}', '{other}'] | join) in t",
        "the third word": f"t.split()[2:3] == ['{trigger}']",
        "the length": "(t | length) % 7 == 3",
        "two words": f"t.startswith('{trigger}') and '{other}' in t",
    }
    return {name: f"{_HEAD}{{%- if {condition} -%}}{payload}{{%- endif -%}}{_TAIL}" for name, condition in conditions.items()}
