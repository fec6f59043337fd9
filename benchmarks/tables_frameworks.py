"""Tables of the pages of frameworks: half of the data under SFTTrainer."""

from collections.abc import Callable
from typing import Any

from tables_format import source, stored, table
from tables_speed import around, quartiles


def sft() -> str:
    """Time of each run beside the plain Trainer, and how many of the halves reach the bar."""
    rows: list[dict[str, Any]] = stored("sft.json")["rows"]
    body = [
        [
            str(row["ranks"]),
            row["form"],
            row["run"],
            f"{row['samples']:,}",
            f"{row['tokens']:,}",
            around(quartiles(row["seconds"]), ".2f"),
            "1.00" if row["run"] == "SFTTrainer" else around(quartiles(row["of_plain"]), ".2f"),
        ]
        for row in rows
    ]
    halves = [(quartiles(row["of_plain"])["median"], row["bar"]) for row in rows if row["bar"]]
    shares = [share for share, _ in halves]
    reached = sum(share <= bar for share, bar in halves)
    said = (
        f"{reached} of the {len(halves)} halves take at most 0.55 of the plain Trainer's time; they are "
        f"{min(shares):.2f} to {max(shares):.2f} of it. A run of half has 12 steps, so what `train()` costs "
        "beside its steps counts for much."
    )
    heads = ["ranks", "", "", "texts", "tokens", "seconds", "of plain"]
    return "\n\n".join([table(heads, body), said, source("sft.json")])


TABLES: dict[str, Callable[[], str]] = {"sft": sft}
