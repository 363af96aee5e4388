"""The table that tests/bench/run prints: a section for each subject, a column for each server."""


def at_most(value, limit, words=None):
    """A target, or none where what it compares with was not measured."""
    if value is None or limit is None:
        return None
    return (f"≤ {words} = {limit:.4g}" if words else f"≤ {limit:g}"), value <= limit


def at_least(value, factor, peer, name):
    """A target that is a part of what a peer does."""
    if value is None or peer is None:
        return None
    return f"≥ {factor:g} × {name}", value >= factor * peer


class Section:
    def __init__(self, title, columns):
        self.title, self.columns = title, list(columns)
        self.lines, self.notes, self.missed = [], [], 0

    def row(self, label, values, digits=0, targets=()):
        """A line of what each column's server does; what is missing stays empty."""
        shown = [values.get(name) for name in self.columns]
        cells = [
            value if isinstance(value, str) else "" if value is None else f"{value:,.{digits}f}"
            for value in shown
        ]
        targets = [target for target in targets if target]
        self.missed += sum(not met for _, met in targets)
        said = [f"{text}  {'met' if met else 'NOT MET'}" for text, met in targets]
        self.lines.append((label, cells, said[0] if said else ""))
        self.lines.extend(("", [""] * len(cells), text) for text in said[1:])

    def ratios(self, values, label="  gateway ÷ each"):
        """A line of how many times each column's value the gateway's is."""
        ours = values.get("gateway")
        of = {name: ours / value for name, value in values.items() if value and name != "gateway"}
        if of:
            self.row(label, of, 2)

    def note(self, text):
        self.notes.append(text)

    def __str__(self):
        first = max(map(len, [self.title, *(label for label, _, _ in self.lines)]))
        rows = [(self.title, self.columns, ""), *self.lines]
        widths = [max(len(cells[n]) for _, cells, _ in rows) for n in range(len(self.columns))]
        lines = []
        for label, cells, target in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join([label.ljust(first), *padded, target]).rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), ""])


class Table:
    """Prints each section as soon as it is whole."""

    def __init__(self):
        self.missed = 0

    def add(self, section):
        self.missed += section.missed
        print(section, flush=True)
