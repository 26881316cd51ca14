"""Compares what slither found with what contracts/SLITHER.md answers: neither may have what the other has not.

A finding is named `detector: subject`, the subject as slither writes it. In SLITHER.md a detector is a heading of the
second level, and the subjects that its answer covers are the items of a list below it.
"""

import json
import re
import sys
from pathlib import Path


def findings(report: str) -> set[str]:
    """The findings of slither's JSON report. Raises ValueError if it has failed."""
    parsed = json.loads(report)
    if not parsed["success"]:
        raise ValueError(f"slither: {parsed['error']}")
    return {
        f"{finding['check']}: {_subject(finding['description'])}" for finding in parsed["results"].get("detectors", [])
    }


def answered(document: str) -> set[str]:
    """The findings that the document answers."""
    found: set[str] = set()
    detector = ""
    for line in document.splitlines():
        if line.startswith("## "):
            detector = line[3:].strip()
        elif item := re.match(r"- `(.+)`$", line):
            found.add(f"{detector}: {item[1]}")
    return found


def _subject(description: str) -> str:
    """What a finding is about: the first thing that its description names, less the place."""
    return re.sub(r"^(Variable|Function|Event|Contract|Parameter) ", "", description.split(" (", 1)[0])


def main() -> None:
    """Compare two files: the report and the document."""
    report, document = map(Path, sys.argv[1:3])
    found, known = findings(report.read_text(encoding="utf-8")), answered(document.read_text(encoding="utf-8"))
    for finding in sorted(found - known):
        print(f"not answered: {finding}")
    for finding in sorted(known - found):
        print(f"answered, but not found any more: {finding}")
    if found != known:
        sys.exit(1)
    print(f"slither: {len(found)} findings, all answered in contracts/{document.name}")


if __name__ == "__main__":
    main()
