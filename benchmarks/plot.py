"""docs/performance.svg: how far each measure of the table in docs/performance.md is from its goal.

    pip install matplotlib
    python benchmarks/plot.py

A bar is the ratio in units of the goal; better is to the left, whichever way the goal points.
"""

import re
import sys
from pathlib import Path

from matplotlib import pyplot  # type: ignore[import-not-found]

DOCS = Path(__file__).parent.parent / "docs"
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
REACHED, NOT_YET, GOAL = "#2a7f62", "#c8553d", "#444444"
LONGEST = 62


def measures(text: str) -> list[tuple[str, float]]:
    """Name of each row with a goal, and its ratio in units of the goal: 1 or less is reached."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        goal = len(cells) == 6 and re.match(rf"([≤≥]) {NUMBER}", cells[4])
        ratio = len(cells) == 6 and re.match(NUMBER, cells[3])
        if goal and ratio:
            reached = float(ratio[1]) / float(goal[2])
            found.append((cells[0], reached if goal[1] == "≤" else 1 / reached))
    return found


def main() -> int:
    rows = measures((DOCS / "performance.md").read_text())
    names = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name, _ in rows]
    values = [value for _, value in rows]
    pyplot.rcParams["svg.hashsalt"] = "dropflow"
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1))
    bars = axes.barh(names, values, color=[REACHED if value <= 1 else NOT_YET for value in values])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color=GOAL, linestyle="--", label="goal")
    axes.set_xlim(0, max(values) * 1.15)
    axes.invert_yaxis()
    axes.set_xlabel("of the goal; shorter is better")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(DOCS / "performance.svg", bbox_inches="tight", metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
