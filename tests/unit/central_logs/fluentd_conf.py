"""A reader of Fluentd's configuration, as far as ours goes: sections, parameters, comments, strings in quotes."""

import re
from dataclasses import dataclass, field


@dataclass
class Section:
    name: str
    argument: str = ""
    values: dict[str, str] = field(default_factory=dict)
    sections: list["Section"] = field(default_factory=list)

    def all(self, name):
        """Sections of a name at any depth."""
        for one in self.sections:
            if one.name == name:
                yield one
            yield from one.all(name)

    def one(self, name):
        (found,) = [one for one in self.sections if one.name == name]
        return found


def parse(text):
    root = Section("")
    stack = [root]
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw.strip())
        if not line:
            continue
        if match := re.fullmatch(r"</(\w+)>", line):
            assert stack.pop().name == match[1], f"line {number}: {line} closes another section"
        elif match := re.fullmatch(r"<(\w+)(?:\s+([^>]+))?>", line):
            made = Section(match[1], match[2] or "")
            stack[-1].sections.append(made)
            stack.append(made)
        else:
            name, _, value = line.partition(" ")
            assert re.fullmatch(r"@?[a-z_0-9]+", name), f"line {number}: {line}"
            assert name not in stack[-1].values, f"line {number}: {name} twice"
            stack[-1].values[name] = value.strip()
    assert len(stack) == 1, f"<{stack[-1].name}> is not closed"
    return root


def _without_comment(line):
    """A `#` begins a comment at the start, or after a space; a value in double quotes holds Ruby (`#{…}`)."""
    if line.startswith("#"):
        return ""
    return line if '"' in line else re.sub(r"\s#.*", "", line)
