"""What the PTX of a kernel says about its speed: loads in flight, and instructions per store."""

from __future__ import annotations

import re

LABEL = re.compile(r"(\$L\w+):")
BRANCH = re.compile(r"(?:@!?%p\d+ )?bra(?:\.uni)? (\$L\w+);")
INSTRUCTION = re.compile(r"(?:@!?%p\d+ )?[a-z][\w.]*\s.*;|ret;")


def kernels(text: str) -> dict[str, str]:
    """The text of each kernel in a PTX module, by its mangled name."""
    return dict(re.findall(r"\.entry (\w+)\((.*?)\n}\n", text, re.DOTALL))


def instructions(lines: list[str]) -> int:
    """The number of instructions, without declarations."""
    return sum(bool(INSTRUCTION.fullmatch(line)) for line in lines)


def loops(kernel: str) -> list[list[str]]:
    """The lines of every loop that is left only at its end, once for all of its unrolled steps."""
    lines = [line.strip() for line in kernel.splitlines()]
    labels = {found[1]: i for i, line in enumerate(lines) if (found := LABEL.match(line))}
    targets = {i: labels[found[1]] for i, line in enumerate(lines) if (found := BRANCH.match(line))}
    return [
        lines[start : end + 1]
        for end, start in targets.items()
        if start <= end and all(start <= to <= end for i, to in targets.items() if start <= i < end)
    ]


def count(lines: list[str], prefix: str) -> int:
    """How many of the instructions begin with this text, conditions left out."""
    return sum(re.sub(r"^@!?%p\d+ ", "", line).startswith(prefix) for line in lines)


def loads_in_flight(kernel: str) -> int:
    """Loads from global memory of one pass through the loop that has most: none of them waits for
    a decision about another."""
    return max((count(loop, "ld.global") for loop in loops(kernel)), default=0)


def per_wide_store(lines: list[str]) -> float:
    """Instructions per 16 bytes that are stored."""
    return instructions(lines) / count(lines, "st.global.v4")
